"""Templates environment into pages: everything escaped, one style sheet under a strict content policy, no script."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from vitbench.report.row_values import setting_label
from vitbench.report.tables import p_cell

LONGEST_WORD = 16
"""Characters that a narrow column must hold on one line."""


def render(template: str, **content: Any) -> str:
    """The page of a template; a name that it lacks is an error of ours."""
    css = (Path(__file__).parent / "templates/style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return _environment().get_template(template).render(css=Markup(css), css_hash=f"sha256-{digest}", **content)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vitbench.report.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "minus": true_minus,
        "p_value": p_cell,
        "breakable": breakable,
        "setting": setting_label,
        "after_name": after_name,
    }
    return environment


def true_minus(text: object) -> str:
    """`text` with a true minus sign before numbers, and between two arms."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", str(text)).replace(" - ", " − ")


def after_name(title: str, name: str) -> str:
    """A table's title without the experiment's name, which stands at the head of the page."""
    rest = title.removeprefix(f"{name}: ")
    return "The arms" if rest == name else rest[:1].upper() + rest[1:]


def breakable(name: object) -> Markup:
    """A name, escaped, that may be broken after `+`, and inside a long word after `_`."""

    def joints(word: re.Match[str]) -> str:
        return re.sub("_(?=.)", "_<wbr>", word[0]) if len(word[0]) > LONGEST_WORD else word[0]

    return Markup(re.sub(r"\+(?=.)", "+<wbr>", re.sub("[^+ ]+", joints, str(escape(name)))))
