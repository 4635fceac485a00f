"""Pages in a real browser: silent, asking for nothing, as wide as a phone, readable in both themes, linked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from golden_report import rebuild
from sample_rows import class_token_experiment, class_token_rows, position_experiment, position_rows, store_run

from vitbench.report.scoreboard.board import scoreboard

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the path")

PAGES = ("index.html", "class_token_vs_gap/index.html")


def _axe() -> Path | None:
    """axe-core's script, out of the package that carries it; the package's own driver is not used."""
    package = find_spec("axe_playwright_python")
    path = Path(package.origin).parent / "axe.min.js" if package and package.origin else None
    return path if path and path.is_file() else None


AXE = _axe()
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
    .filter(node => node.localName !== 'title' && contrast(node) < LEAST).map(node => node.textContent.trim());
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


@pytest.mark.slow
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


def landed(browser: Browser) -> str:
    """Name of the element that the address points to; empty where it takes no room, as in a folded part."""
    return str(
        browser.value(
            "(t => t.getBoundingClientRect().height > 0 ? t.localName : '')(document.querySelector(':target'))"
        )
    )


def trial_of(arm: str, seed: int) -> str:
    """Id of the trial that reports an arm's seed at its chosen rate, 0.002."""
    (row,) = [
        row
        for row in class_token_rows()
        if (row["arm"], row["seed"], row["role"], row["setting"]) == (arm, seed, "reporting", {"train.lr": 0.002})
    ]
    return str(row["trial_id"])


def test_clicks_lead_from_the_scoreboard_to_the_trials(browser: Browser, root: Path) -> None:
    browser.open(root / "index.html", 390, "light")
    browser.value("document.querySelector('.line td[data-head=Effect] a').click()")
    browser.wait("Page.loadEventFired")
    assert landed(browser) == "tbody"
    assert trial_of("avg", 3) in browser.value("document.querySelector(':target').textContent")


def test_clicks_lead_from_a_claim_and_from_a_dot_to_the_trials(browser: Browser, root: Path) -> None:
    browser.open(root / "index.html", 1100, "light")
    browser.value("document.querySelector('.line th a').click()")
    browser.wait("Page.loadEventFired")
    assert landed(browser) == "article"
    browser.value("document.querySelector(':target a[href^=\"#arm-\"]').click()")
    assert landed(browser) == "tbody"
    dot = "document.querySelector('#plot-differences a')"
    assert browser.value(f"{dot}.querySelector('title').textContent") == "seed 0: +1.39"
    assert browser.value(f"{dot}.tabIndex") == -1
    browser.value(f"{dot}.dispatchEvent(new MouseEvent('click', {{bubbles: true, cancelable: true}}))")
    assert landed(browser) == "tr"
    assert browser.value("document.querySelector(':target').id") == f"trial-{trial_of('avg', 0)}"


@pytest.mark.slow
def test_the_filter_leaves_the_verdicts_asked_for(browser: Browser, tmp_path: Path) -> None:
    runs = [(class_token_experiment(), class_token_rows()), (position_experiment(), position_rows())]
    scoreboard(tmp_path, [store_run(tmp_path, experiment, rows) for experiment, rows in runs])
    browser.open(tmp_path / "index.html", 1100, "light")
    seen = "[...document.querySelectorAll('.line')].filter(row => row.offsetHeight).map(row => row.className)"
    states = Counter(browser.value(seen))
    assert set(states) == {"line is-supported", "line is-inconclusive"}
    for state in ("supported", "inconclusive"):
        browser.value(f"document.getElementById('show-{state}').click()")
        assert Counter(browser.value(seen)) == {f"line is-{state}": states[f"line is-{state}"]}


@pytest.mark.slow
@pytest.mark.skipif(AXE is None, reason="no axe-playwright-python, which carries axe-core")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(browser: Browser, root: Path, name: str, theme: str) -> None:
    assert AXE is not None
    browser.open(root / name, 1100, theme)
    browser.value(AXE.read_text(encoding="utf-8") + ";0")
    browser.value("document.querySelectorAll('details').forEach(part => part.open = true)")
    found = browser.value("axe.run().then(r => r.violations.map(v => [v.id, v.impact, v.nodes[0].html.slice(0, 200)]))")
    assert found == []


@pytest.mark.skipif(AXE is None, reason="no axe-playwright-python, which carries axe-core")
def test_axe_finds_what_is_planted(browser: Browser, tmp_path: Path) -> None:
    assert AXE is not None
    (tmp_path / "planted.html").write_text(PLANTED)
    browser.open(tmp_path / "planted.html", 390, "light")
    browser.value(AXE.read_text(encoding="utf-8") + ";0")
    found = browser.value("axe.run().then(r => r.violations.map(v => v.id))")
    assert {"color-contrast", "html-has-lang", "document-title"} <= set(found)
