"""matplotlib's SVG made fit for a page: no styles (a strict content policy forbids them), ids of its own, a caption."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

_KEPT = frozenset((
    "fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray",
    "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "opacity", "font-size", "font-weight", "text-anchor",
))  # fmt: skip


def inline_svg(svg: str, name: str, words: str) -> Markup:
    """The drawing to be put into HTML; `name` prefixes its ids, `words` are read out in its place.

    Colours stay as attributes, so that the page's style sheet can replace the neutral ones in its dark theme.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'style="([^"]*)"', _attributes, body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    opening = re.match(r"<svg[^>]*>", body)
    assert opening is not None
    box = re.search(r'viewBox="[^"]*"', opening[0])
    assert box is not None
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img"'
    return Markup(f'{head} aria-label="{escape(words)}">{body[opening.end() :].strip()}')


def _attributes(style: re.Match[str]) -> str:
    """`fill: #fff; stroke: none` as presentation attributes; what no attribute can say is dropped."""
    pairs = (declaration.split(":", 1) for declaration in style[1].split(";") if ":" in declaration)
    named = {key.strip(): value.strip() for key, value in pairs}
    if "font" in named and (size := re.search(r"[\d.]+px", named["font"])):
        named["font-size"] = size[0]
    return " ".join(f'{key}="{value}"' for key, value in named.items() if key in _KEPT)
