# SPDX-License-Identifier: BSD-3-Clause
# Everything a developer types. Needs root on Debian (or a child of it) for the cluster, and nothing else: each
# target installs what it needs, once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
SUITE ?= bookworm
SECONDS ?= 60
# Where `make releases-test` runs what meets Slurm; tests/cluster/conftest.py says what that is.
RELEASES ?= bullseye trixie sid

SYSTEM := /usr/bin/python3
PYTHON := .venv/bin/python
MYPY := $(CURDIR)/.venv/bin/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache
CLUSTER := $(SYSTEM) slurm-test-cluster/cluster

# A file that is there when the package is.
PACKAGES := python3:/usr/bin/python3 python3-venv:/usr/share/doc/python3-venv python3-dev:/usr/bin/python3-config \
	python3-cffi:/usr/share/doc/python3-cffi python3-yaml:/usr/share/doc/python3-yaml gcc:/usr/bin/gcc libc6-dev:/usr/include/stdio.h \
	squashfs-tools:/usr/bin/mksquashfs squashfuse:/usr/bin/squashfuse git:/usr/bin/git \
	e2fsprogs:/sbin/mkfs.ext3 groff-base:/usr/bin/groff openssl:/usr/bin/openssl \
	gpg:/usr/bin/gpg gpgv:/usr/bin/gpgv gpg-agent:/usr/bin/gpg-agent gpgconf:/usr/bin/gpgconf
BUILD_PACKAGES := debootstrap:/usr/sbin/debootstrap fakeroot:/usr/bin/fakeroot uidmap:/usr/bin/newuidmap \
	skopeo:/usr/bin/skopeo umoci:/usr/bin/umoci sks:/usr/sbin/sks strace:/usr/bin/strace rpm:/usr/bin/rpmbuild \
	db-util:/usr/bin/db_load rclone:/usr/bin/rclone openssh-client:/usr/bin/ssh-keygen \
	prometheus:/usr/bin/promtool prometheus-node-exporter:/usr/bin/prometheus-node-exporter
TOOLS := pytest moto[server,s3] rich spdx-tools hypothesis pexpect cffi cryptography ruff mypy import-linter codespell psutil types-psutil PyYAML types-PyYAML types-cffi types-pexpect types-setuptools

.PHONY: $(RELEASES:%=release-%) help machine packages dev demo test unit build-test cluster-test hostile-test releases-test engines engines-test fuzz fuzz-c sanitize peers stress bench dist deb rpm packages-test lint format clean

help:
	@echo 'make demo          bring a Slurm cluster up on this machine and run MPI in a container on it'
	@echo 'make test          every test: without a cluster, then on the clusters of four releases'
	@echo 'make unit          tests that need no cluster (seconds)'
	@echo 'make build-test    definition files built without root (minutes; Debian mirror, PyPI)'
	@echo 'make cluster-test  tests on the cluster; SUITE=trixie for another Slurm'
	@echo 'make hostile-test  the attacks of tests/hostile alone, on a cluster of their own'
	@echo 'make releases-test what meets Slurm, on the other releases: $(RELEASES)'
	@echo 'make engines       workflow engines run three steps each in an image: all; writes docs/engines.md'
	@echo 'make engines-test  the same, those that install within a minute'
	@echo 'make fuzz          damaged input for the readers of definitions and images, and for those in C; SECONDS=60'
	@echo 'make fuzz-c        the C alone, with sanitizers; SECONDS=60'
	@echo 'make sanitize      tests of the C with sanitizers: unit tests, and some on the cluster'
	@echo 'make peers         bollard and Apptainer run the same lines, and are compared'
	@echo 'make stress        thousands of steps, cancelled at any moment, and flows (an hour); STRESS=--cancels=20 for less'
	@echo 'make bench         what a container costs, as a table and as JSON'
	@echo 'make dist          the source release, dist/bollard-VERSION.tar.gz'
	@echo 'make deb           Debian packages for SUITES="$(SUITES)", in dist/SUITE; lintian checks them'
	@echo 'make rpm           RPM packages for EL and SUSE, built by rpmbuild of Debian 12, in dist/rpm'
	@echo 'make packages-test install, upgrade under running steps and purge the packages of SUITES; SUITES=bookworm'
	@echo 'make docs          the documentation as a site, in build/site; links and anchors are checked'
	@echo 'make lint          ruff, mypy, import-linter, codespell and ShellCheck'
	@echo 'make format        let ruff format what it formats'
	@echo 'make clean         remove what make made here; the cluster: slurm-test-cluster/cluster down --purge'

packages:
	@missing=; for pair in $(PACKAGES); do test -e "$${pair#*:}" || missing="$$missing $${pair%%:*}"; done; \
	if test -n "$$missing"; then \
	    echo "installing on this machine:$$missing"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    apt-get -q update > /dev/null; \
	    apt-get -q -y --no-install-recommends install $$missing > /dev/null; \
	fi

# All that any target below installs on this machine, at once; `.ci/run` starts with it.
machine: PACKAGES += $(BUILD_PACKAGES) iproute2:/usr/sbin/ip
machine: packages

.venv/.done: Makefile | packages
	@echo 'making .venv with $(TOOLS)'
	@$(SYSTEM) -m venv .venv
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check $(TOOLS)
	@touch $@

dev: packages .venv/.done
	@$(PYTHON) tests/dev_tree.py > /dev/null

unit: dev
	$(PYTHON) -m pytest -q tests/unit

build-test: PACKAGES += $(BUILD_PACKAGES)
build-test: dev
	$(PYTHON) -m pytest -q tests/builds

# Sixteen ranks and five nodes share two CPUs: MPI and Slurm may give up for want of time. What failed is run once
# more, alone, and has to pass then; both runs are in the log.
AGAIN := --last-failed --last-failed-no-failures none

# A cache for each suite, for clusters run beside each other.
ON = $(PYTHON) -m pytest -q -o cache_dir=.pytest_cache/$(1) --suite $(1) $(2)
CLUSTER_TESTS ?= tests/cluster tests/hostile

cluster-test: PACKAGES += $(BUILD_PACKAGES)
cluster-test: dev
	$(call ON,$(SUITE),$(CLUSTER_TESTS)) || $(call ON,$(SUITE),$(AGAIN) $(CLUSTER_TESTS))

# On a cluster of their own, beside the others.
HOSTILE = $(PYTHON) -m pytest -q -o cache_dir=.pytest_cache/hostile --suite $(SUITE)
hostile-test: export BOLLARD_CLUSTER := hostile
hostile-test: PACKAGES += $(BUILD_PACKAGES)
hostile-test: dev
	@status=0; $(HOSTILE) tests/hostile || $(HOSTILE) $(AGAIN) tests/hostile || status=$$?; \
	$(CLUSTER) down --suite $(SUITE) || status=$$?; exit $$status

# STRESS='--cancels=20 --crowd=20 --named=10 --seed=1': tests/stress/conftest.py has them all.
stress: PACKAGES += $(BUILD_PACKAGES) qemu-system-x86:/usr/bin/qemu-system-x86_64 cpio:/usr/bin/cpio
stress: dev
	$(PYTHON) -m pytest -q -rP --suite $(SUITE) $(STRESS) tests/stress

EVERY := -m every_release tests/cluster tests/hostile
releases-test: $(RELEASES:%=release-%)

$(RELEASES:%=release-%): release-%: dev
	@status=0; $(call ON,$*,$(EVERY)) || $(call ON,$*,$(AGAIN) $(EVERY)) || status=$$?; \
	$(CLUSTER) down --suite $* || status=$$?; exit $$status

# Workflow engines of PyPI and of Debian 12, on a cluster of their own; kept in /var/cache/bollard-engines.
ENGINES = $(PYTHON) -m pytest -q -o cache_dir=.pytest_cache/engines --suite bookworm tests/engines
engines-test: dev
	@status=0; $(ENGINES) || $(ENGINES) $(AGAIN) || status=$$?; \
	BOLLARD_CLUSTER=engines $(CLUSTER) down --suite bookworm || status=$$?; exit $$status

engines: dev
	@status=0; $(ENGINES) --all-engines || status=$$?; $(SYSTEM) docs/engines_page.py; \
	BOLLARD_CLUSTER=engines $(CLUSTER) down --suite bookworm || status=$$?; exit $$status

# Beside Debian's Apptainer, in a tree of its own (tests/peers/tree.py); terminals under load are asked twice as well.
# With a cache of its own, for the other tests run beside it.
PEERS := $(PYTHON) -m pytest -q -o cache_dir=.pytest_cache/peers tests/peers \
	--apptainer-tree=$${BOLLARD_PEERS:-/var/cache/bollard-peers}
peers: PACKAGES += debootstrap:/usr/sbin/debootstrap
peers: dev
	$(SYSTEM) tests/peers/tree.py
	$(PEERS) || $(PEERS) $(AGAIN)

# Packages, built in the trees of the test cluster.
SUITES ?= bookworm bullseye trixie sid
dist: packages
	@$(SYSTEM) packaging/source_release.py

deb: PACKAGES += $(BUILD_PACKAGES)
deb: packages
	@packaging/packages deb $(SUITES)

rpm: PACKAGES += $(BUILD_PACKAGES)
rpm: packages
	@packaging/packages rpm

# On clusters of their own; what only reads the RPM packages is run once.
packages-test: PACKAGES += $(BUILD_PACKAGES) iproute2:/usr/sbin/ip
packages-test: dev
	@status=0; for suite in $(SUITES); do \
	    $(PYTHON) -m pytest -q -o cache_dir=.pytest_cache/packages --suite $$suite tests/packages/test_debian.py || status=$$?; \
	done; $(PYTHON) -m pytest -q -o cache_dir=.pytest_cache/packages tests/packages/test_rpm.py || status=$$?; exit $$status

# All even when one fails, and then a failure. First what needs no cluster, then the clusters, which mostly wait. A
# third beside them saves no time: MPI gives up more often. Each target shows its output at its end.
BESIDE := $(MAKE) --no-print-directory -k --output-sync=target
test: machine
	@status=0; $(BESIDE) -j2 build-test unit fuzz peers docs || status=$$?; \
	$(BESIDE) -j2 SUITES=$(SUITE) CLUSTER_TESTS=tests/cluster cluster-test $(RELEASES:%=release-%) hostile-test \
	    packages-test engines-test || status=$$?; exit $$status

fuzz: dev
	$(PYTHON) tests/fuzz/run.py --seconds $(SECONDS)

fuzz-c: dev
	$(PYTHON) tests/fuzz/run.py --seconds $(SECONDS) --only c

# The unit tests of C with AddressSanitizer, which static programs cannot have. Then, on a cluster of its own, Slurm's
# plugin with AddressSanitizer, inside slurmstepd and srun (slurm-test-cluster/daemons.py). Then a plugin in which
# undefined behaviour ends the process; the usual plugin is installed again at the end.
WITH_ASAN = LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 BOLLARD_SANITIZE=address
C_TESTS := $(patsubst %,tests/unit/test_%.py,enter entry inside program multiprog image_probe spec_text privilege job_cgroup \
	job_end job_folder job_place)
sanitize: dev
	$(WITH_ASAN) $(PYTHON) -m pytest -q $(wildcard $(C_TESTS))
	export BOLLARD_CLUSTER=asan BOLLARD_SANITIZE=slurmstepd; $(CLUSTER) up --suite $(SUITE) --plugin; \
	status=0; $(PYTHON) -m pytest -q --suite $(SUITE) --installed tests/cluster/test_running.py || status=$$?; \
	$(CLUSTER) down --suite $(SUITE); exit $$status
	BOLLARD_SANITIZE=undefined $(CLUSTER) up --suite $(SUITE) --plugin
	BOLLARD_SANITIZE=undefined $(CLUSTER) plugin --suite $(SUITE)
	status=0; $(PYTHON) -m pytest -q --suite $(SUITE) --installed tests/cluster/test_running.py \
	    tests/cluster/test_container_*.py tests/hostile/test_spec.py tests/hostile/test_job_end.py || status=$$?; $(CLUSTER) plugin --suite $(SUITE); exit $$status

# The documentation as a site, in build/site. Fails when a link or an anchor leads nowhere.
docs: dev
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check mkdocs-material
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --quiet
	@echo 'read build/site/index.html'

bench: packages
	$(SYSTEM) bench/run.py

# Shell: what an editor's ShellCheck would say. SC2016 is left out: scripts for another shell stand between single quotes.
SHELL_SCRIPTS := .ci/run $(wildcard debian/*.postinst debian/*.prerm debian/*.postrm) tests/gpu/check.sh slurm-test-cluster/node-init.sh tests/demo.sh tests/peers/images/seen tests/peers/make-images \
	contrib/warewulf/image_exit.sh contrib/warewulf/overlays/bollard/rootfs/warewulf/init.d/60-bollard
# Tests of functions need not say their types, and use what a module imports.
LOOSE := --allow-untyped-defs --allow-untyped-calls --allow-incomplete-defs --allow-any-generics --implicit-reexport \
	--no-warn-return-any
lint: PACKAGES += shellcheck:/usr/bin/shellcheck
lint: dev
	.venv/bin/ruff check .
	.venv/bin/codespell
	shellcheck -x -e SC2016 $(SHELL_SCRIPTS)
	cd .dev && ../.venv/bin/lint-imports ../pyproject.toml | tail -n +12
	cd .dev && $(MYPY) -p bollard
	cd slurm-test-cluster && $(MYPY) *.py && $(MYPY) --scripts-are-modules cluster && $(MYPY) --scripts-are-modules images
	cd tests && $(MYPY) building.py conftest.py dev_tree.py tarballs.py
	cd tests/cluster && MYPYPATH=..:../builds $(MYPY) .
	cd tests/unit && MYPYPATH=.. $(MYPY) $(LOOSE) .
	cd tests/peers && MYPYPATH=../../spank_plugin:..:../builds $(MYPY) $(LOOSE) .
	cd tests/engines && MYPYPATH=../cluster:..:../../slurm-test-cluster $(MYPY) $(LOOSE) .
	cd tests/gpu && MYPYPATH=../../spank_plugin $(MYPY) $(LOOSE) .
	cd bench && MYPYPATH=../tests/peers:../tests/builds:../tests $(MYPY) $(LOOSE) *.py
	cd tests/fuzz && MYPYPATH=.. $(MYPY) .
	cd tests/builds && MYPYPATH=.. $(MYPY) .
	cd tests/stress && MYPYPATH=../cluster:.. $(MYPY) .
	cd tests/hostile && MYPYPATH=../cluster:.. $(MYPY) .
	cd tests/packages && MYPYPATH=../cluster:.. $(MYPY) .
	cd packaging && MYPYPATH=../slurm-test-cluster $(MYPY) source_release.py && MYPYPATH=../slurm-test-cluster $(MYPY) --scripts-are-modules packages

format: dev
	.venv/bin/ruff check --fix-only --quiet .
	.venv/bin/ruff format .

demo: packages
	@tests/demo.sh

clean:
	rm -rf .venv .dev build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
