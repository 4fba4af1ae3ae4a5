# SPDX-License-Identifier: BSD-3-Clause
"""The requests of users and sites: options, the spec made of them, the plan for a node.

options.py: the table of options, and the spec, the record that they fill.
forms.py: replaces environment variables, --container-opts and --env-file by options.
envfile.py: reads files for --env-file.
command_line.py: parses the command line and makes its help.
command_options.py: options of single commands.
docker.py: what commands and options of docker are here.
spec.py: parses and validates the options of one container.
binds.py: reads binds and mounts.
spec_text.py: the spec as text, from the client to the nodes.
plan.py: everything that a node makes for a spec: namespaces, layers, mounts.
plan_records.py: the records of a plan.
site.py: the site's settings, as a node reads them.
site_config.py: bollard.yaml: its keys, its check, the text compiled from it.
trust_rule.py: a site's policy of images, as data.
trust_config.py: reads it from bollard.yaml.
trust_ecl.py: converts Apptainer's ecl.toml.
fabric_config.py: reads the site's fabrics from bollard.yaml.
variables_config.py: reads variables from bollard.yaml.
yaml_node.py: checks of single nodes of bollard.yaml.
"""
