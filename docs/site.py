# SPDX-License-Identifier: BSD-3-Clause
"""Fits the pages, which are written for a reader of the repository, into the site that mkdocs.yml describes."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TOP = Path(__file__).resolve().parent.parent
# Pages that stand beside docs/ in the repository, and in it on the site.
_MOVED = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand beside docs/."""
    for name in _MOVED:
        text = (TOP / name).read_text()
        files.append(File.generated(config, name, content=re.sub(r"\]\(docs/", "](", text)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links that leave docs/: to moved pages into links on the site, to other files into their names."""
    for name in _MOVED:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
    return re.sub(r"\[([^\]]+)\]\(((?:\.\./|README|LICENSE|slurm-test-cluster|tests/)[^)]*)\)", _plain, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Colour the matrix of mpi.md and the ticks of engines.md: a cell works, or says how it fails."""
    if page.file.src_uri == "engines.md":
        return html.replace("<td>✓</td>", '<td class="works">✓</td>')
    if page.file.src_uri == "mpi.md":
        html = html.replace("<td>ok</td>", '<td class="works">ok</td>')
        return re.sub(r"<td>(?=(?:exit|hangs|jobs of 1 rank|1 node: |invalid))", '<td class="fails">', html)
    return html


def _plain(link: re.Match[str]) -> str:
    """The text of a link to a file that the site does not have."""
    return link[1] if "`" in link[1] else f"`{link[2].lstrip('./')}`"
