# SPDX-License-Identifier: BSD-3-Clause
"""What a user and a site ask for: options, the spec made of them, the plan for a node.

options.py: the table of options, and the record that they fill.
forms.py: environment variables, --container-opts and --env-file, as options.
envfile.py: files for --env-file.
command_line.py: parses the command line, renders its help.
command_options.py: options of single commands.
spec.py: the options of one container, parsed and validated.
spec_text.py: the spec as text, from the client to the nodes.
plan.py: all that a node makes for a spec: namespaces, layers, mounts.
site.py: the site's settings, as a node reads them.
site_config.py: bollard.yaml: its keys, its check, the text compiled from it.
"""
