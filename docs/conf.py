"""The documentation site: `uv run --extra docs sphinx-build -W docs site`.

Why Sphinx: a team maintains it and releases it regularly, it reads docstrings itself, and it can treat every warning as
an error. MkDocs has had no release for two years; its successor Zensical is still at version 0.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

project = "vitbench"
author = "The vitbench developers"
copyright = "The vitbench developers"
version = release = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
exclude_patterns = ["site"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"npt.ArrayLike": "ArrayLike"}

html_theme = "furo"
html_title = "vitbench"
html_copy_source = False

OUTER_PAGES = {"README": "index", "CONTRIBUTING": "contributing", "CHANGELOG": "changelog", "SECURITY": "security"}
"""Pages in the root of the repository, and the pages of the site that show them."""


def link_outer_pages(_app: Any, _name: str, source: list[str]) -> None:
    """Point links that leave this folder to the pages of the site; other outer pages become plain text."""
    for outer, inner in OUTER_PAGES.items():
        source[0] = re.sub(rf"\]\(\.\./{outer}\.md\)", f"]({inner}.md)", source[0])
    source[0] = re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\.md\)", r"\1", source[0])


def setup(app: Any) -> None:
    app.connect("source-read", link_outer_pages)
