"""Pages in a real browser: silent, asking for nothing, as wide as a phone, readable in both themes, linked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from golden_report import rebuild

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the path")

PAGES = ("index.html", "class_token_vs_gap/index.html")
LEAST_CONTRAST = 4.5
"""Source: WCAG 2.1, 1.4.3, text of ordinary size."""

# Text of elements whose own text stands out too little from the first opaque background behind it.
FAINT = """(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = colour => colour.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const contrast = node => {
    const style = getComputedStyle(node), drawn = node.namespaceURI.endsWith('svg');
    const [low, high] = [light(rgb(drawn ? style.fill : style.color)), light(behind(node))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  return [...document.body.querySelectorAll('*')]
    .filter(node => [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()))
    .filter(node => contrast(node) < LEAST).map(node => node.textContent.trim());
})()""".replace("LEAST", str(LEAST_CONTRAST))

PLANTED = """<!doctype html><meta http-equiv="Content-Security-Policy" content="script-src 'none'">
<meta name="viewport" content="width=device-width"><body style="background: #fff"><script>1</script>
<img src="missing.png" alt=""><p style="width: 500px; color: #bbb">faint</p>"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("results")
    rebuild(made)
    return made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def overflow(browser: Browser) -> int:
    """Pixels by which the page can be scrolled sideways."""
    return int(browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1100])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_silent_fits_and_can_be_read(browser: Browser, root: Path, name: str, width: int, theme: str) -> None:
    browser.open(root / name, width, theme)
    assert browser.value("innerWidth") == width
    assert browser.value("matchMedia('(prefers-color-scheme: dark)').matches") == (theme == "dark")
    assert overflow(browser) == 0
    assert browser.value(FAINT) == []
    assert browser.complaints == []
    assert browser.requests == [(root / name).as_uri()]


def test_what_these_tests_look_for_is_found_where_it_is_planted(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "planted.html").write_text(PLANTED)
    browser.open(tmp_path / "planted.html", 390, "light")
    assert overflow(browser) > 100
    assert browser.value(FAINT) == ["faint"]
    assert any("Content Security Policy" in text for text in browser.complaints)
    assert [url.rpartition("/")[2] for url in browser.requests] == ["planted.html", "missing.png"]


def test_clicks_lead_from_the_scoreboard_to_a_trial(browser: Browser, root: Path) -> None:
    browser.open(root / "index.html", 390, "light")
    browser.value("document.querySelector('.claim .verdict a').click()")
    browser.wait("Page.loadEventFired")
    assert browser.value("document.querySelector(':target').textContent").strip().startswith("inconclusive")
    browser.value("document.querySelector('#verdicts ~ article a[href^=\"#trial-\"]').click()")
    assert browser.value("document.querySelector(':target').localName") == "tr"
    assert browser.value("document.querySelector(':target').getBoundingClientRect().height") > 0
