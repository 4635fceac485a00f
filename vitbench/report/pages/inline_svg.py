"""matplotlib's SVG for a page: no styles (a strict content policy forbids them), unique ids, links.

A dot's link is drawn as `#trial-ID|words`: on the page it leads to the trial, and a browser shows the words.
"""

from __future__ import annotations

import re

from markupsafe import Markup

_KEPT = frozenset((
    "fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray",
    "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "opacity", "font-size", "font-weight", "text-anchor",
))  # fmt: skip


_DOT = re.compile(r'<a xlink:href="(#trial-[^"|]*)\|([^"]*)"[^>]*>')
_HASHED_ID = re.compile(r'(?<=["#])[mp][0-9a-f]{10}(?=[")])')
_MARKER = re.compile(r'<defs>\s*<path id="([^"]+)" ([^>]*)/>\s*</defs>')


def slim(svg: str) -> str:
    """The drawing in half its bytes: equal markers once, hundredths of a point, no names of groups, no indentation.

    A machine without matplotlib's font takes its own sans-serif.
    """
    first: dict[str, str] = {}
    same: dict[str, str] = {}

    def once(marker: re.Match[str]) -> str:
        same[marker[1]] = first.setdefault(marker[2], marker[1])
        return marker[0] if same[marker[1]] == marker[1] else ""

    svg = _MARKER.sub(once, svg)
    svg = re.sub(r'(?<=xlink:href="#)[^"]+', lambda name: same.get(name[0], name[0]), svg)
    svg = _numbered_ids(svg)
    svg = re.sub(r">\s*\n\s*<", ">\n<", svg).replace("'DejaVu Sans'", "'DejaVu Sans', sans-serif")
    return re.sub(r"<[^>]+>", _slim_tag, svg)


def _numbered_ids(svg: str) -> str:
    """The drawing with numbers as ids: matplotlib hashes floats, whose last bits depend on the processor."""
    numbers: dict[str, str] = {}
    return _HASHED_ID.sub(lambda name: numbers.setdefault(name[0], f"{name[0][0]}{len(numbers)}"), svg)


def _slim_tag(tag: re.Match[str]) -> str:
    words = " ".join(tag[0].split())
    if words.startswith("<a "):
        return words
    words = re.sub(r'^<g id="[^"]*"', "<g", words)
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", words)


def linked(svg: str, page: str, more: str = "") -> str:
    """The drawing with its dots' links leading to trials on `page` (empty: the page that it stands on)."""
    return _DOT.sub(rf'<a xlink:href="{page}\g<1>"{more}><title>\g<2></title>', svg)


def inline_svg(svg: str, name: str) -> Markup:
    """The drawing to be put into HTML, its ids prefixed by `name`; hidden from screen readers, which have the tables.

    Colours stay as attributes, so that the page's style sheet can replace the neutral ones in its dark theme. The dots
    are reached with a pointer alone: hundreds of them would bury the links of a keyboard's user.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'style="([^"]*)"', _attributes, body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'((?<!<a xlink:)href="#|url\(#)', rf"\g<1>{name}-", body)
    body = linked(body, "", ' tabindex="-1"')
    opening = re.match(r"<svg[^>]*>", body)
    assert opening is not None
    box = re.search(r'viewBox="[^"]*"', opening[0])
    assert box is not None
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]}'
    return Markup(f'{head} aria-hidden="true">{body[opening.end() :].strip()}')


def _attributes(style: re.Match[str]) -> str:
    """`fill: #fff; stroke: none` as presentation attributes; what no attribute can say is dropped."""
    pairs = (declaration.split(":", 1) for declaration in style[1].split(";") if ":" in declaration)
    named = {key.strip(): value.strip() for key, value in pairs}
    if "font" in named and (size := re.search(r"[\d.]+px", named["font"])):
        named["font-size"] = size[0]
    return " ".join(f'{key}="{value}"' for key, value in named.items() if key in _KEPT)
