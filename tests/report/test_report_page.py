"""Pages: self-contained, escaped, their links lead somewhere, and the scoreboard says what the judges said."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from golden_report import rebuild
from sample_rows import class_token_experiment, class_token_rows, position_experiment, position_rows, row, store_run

from vitbench.report.pages.page import report
from vitbench.report.scoreboard.board import scoreboard
from vitbench.report.verdict_text import facts_of, glyph, region_text
from vitbench.spec.experiment import Experiment
from vitbench.stats import judge_all

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Tags, ids, links and text of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


def write_run(root: Path, experiment: Experiment, rows: list[dict[str, object]]) -> Path:
    folder = store_run(root, experiment, rows)
    report(experiment, rows, folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("results")
    runs = [
        write_run(made, class_token_experiment(), class_token_rows()),
        write_run(made, position_experiment(), position_rows()),
    ]
    scoreboard(made, runs)
    return made


PAGES = ("index.html", "class_token_vs_gap/index.html", "position_encoding/index.html")


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_for_nothing_and_runs_nothing(root: Path, name: str) -> None:
    text = (root / name).read_text()
    page = Page(text)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "img", "form", "base"}
    assert not page.values("style")
    assert not page.values("onload")
    outside = [link for link in page.values("href") + page.values("src") if re.match(r"\w+:|//", link)]
    assert outside == []
    css = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert css is not None
    digest = base64.b64encode(hashlib.sha256(css[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in text
    assert "url(http" not in css[1]
    assert "@import" not in css[1]


@pytest.mark.parametrize("name", PAGES)
def test_ids_are_unique_and_every_link_leads_somewhere(root: Path, name: str) -> None:
    pages = {path: Page((root / path).read_text()) for path in PAGES}
    page = pages[name]
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for link in page.values("href") + page.values("xlink:href"):
        path, _, anchor = link.partition("#")
        target = (root / name).parent / path if path else root / name
        assert target.exists(), link
        if anchor:
            assert anchor in pages[str(target.resolve().relative_to(root.resolve()))].values("id"), link


@pytest.mark.parametrize("name", PAGES)
def test_no_nan_and_no_none_on_a_page(root: Path, name: str) -> None:
    words = " ".join(Page((root / name).read_text()).words)
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", words)


@pytest.mark.slow
def test_long_names_may_be_broken_at_their_joints(tmp_path: Path) -> None:
    names = ["learned_1d", "learned_1d_every_layer", f"avg+{EVIL}_and_more"]
    made = Experiment.model_validate({"name": "e", "factors": {"model.pos_embed": names}, "seeds": 2})
    found = [row(arm, {"model.pos_embed": arm}, s, 80.0 + s) for arm in names for s in (0, 1)]
    text = (write_run(tmp_path, made, found) / "index.html").read_text()
    assert ">learned_1d</a>" in text
    assert ">learned_<wbr>1d_<wbr>every_<wbr>layer</a>" in text
    assert ">avg+<wbr>&lt;script&gt;alert(1)&lt;/script&gt;_<wbr>and_<wbr>more</a>" in text


def test_failures_stand_with_their_reasons(root: Path) -> None:
    text = (root / "position_encoding/index.html").read_text()
    assert "loss is not finite at step 131" in text
    assert "RuntimeError: out of luck" in text


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    rebuild(tmp_path / "one")
    rebuild(tmp_path / "two")
    for path in sorted((tmp_path / "one").rglob("*.*")):
        again = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.is_dir() or path.read_bytes() == again.read_bytes(), path


@pytest.mark.slow
def test_an_evil_arm_and_an_evil_data_set_do_no_harm(tmp_path: Path) -> None:
    names = ["digits", f"folder:{EVIL}"]
    question = f"{EVIL}?"
    claim = {"id": "X-1", "form": "difference", "arms": names, "above_points": 0.0, "statement": f"={EVIL}"}
    claim["paper"] = {"source": EVIL, "effect_points": 1.0, "values": {names[1]: 90.0, names[0]: 89.0}}
    made = {"name": "evil", "question": question, "factors": {"data.name": names}, "seeds": 3, "claims": [claim]}
    experiment = Experiment.model_validate(made)
    rows = [
        row(arm, {"data.name": arm}, s, 80.0 + s, data=f"../../{n}", data_fingerprint=str(n) * 64, reason=EVIL)
        for n, arm in enumerate(names)
        for s in range(3)
    ]
    folder = write_run(tmp_path / "results", experiment, rows)
    scoreboard(tmp_path / "results", [folder])
    for path in tmp_path.rglob("*.*"):
        if path.suffix in (".html", ".md", ".svg", ".tex"):
            assert "<script" not in path.read_text(), path
    with (tmp_path / "results/scoreboard.csv").open() as text:
        assert next(csv.DictReader(text))["statement"] == f"'={EVIL}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results"]
    assert not any("../../x" in value for value in Page((folder / "index.html").read_text()).values("href"))


def test_the_scoreboard_says_what_the_judges_said(root: Path) -> None:
    with (root / "scoreboard.csv").open() as text:
        lines = {line["claim"]: line for line in csv.DictReader(text)}
    for experiment, rows in ((class_token_experiment(), class_token_rows()), (position_experiment(), position_rows())):
        for verdict in judge_all(experiment, rows):
            line = lines[verdict.claim]
            assert line["verdict"] == verdict.state
            assert float(line["effect"]) == pytest.approx(verdict.effect, abs=1e-4)
            assert int(line["n"]) == verdict.n
    page = (root / "index.html").read_text()
    assert "2 supported" in page
    assert "0 contradicted" in page
    assert "2 inconclusive" in page


def test_the_scoreboard_stands_by_claim_with_the_runs_of_a_claim_together(tmp_path: Path) -> None:
    claim = class_token_experiment().claims[1]
    runs = []
    for name, ids in (("two", ("X-10", "X-9")), ("one", ("X-9",))):
        claims = tuple(claim.model_copy(update={"id": one}) for one in ids)
        made = class_token_experiment().model_copy(update={"name": name, "claims": claims})
        runs.append(store_run(tmp_path, made, class_token_rows(3)))
    scoreboard(tmp_path, runs)
    with (tmp_path / "scoreboard.csv").open() as text:
        found = [(line["claim"], line["run"]) for line in csv.DictReader(text)]
    assert found == [("X-9", "one"), ("X-9", "two"), ("X-10", "two")]
    words = " ".join(" ".join(Page((tmp_path / "index.html").read_text()).words).split())
    assert "3 inconclusive X-9 in 2 runs , X-10" in words


def test_a_claim_on_a_metric_that_was_not_measured_costs_no_other_verdict() -> None:
    experiment = class_token_experiment()
    missing = experiment.claims[0].model_copy(update={"id": "X", "metric": "few_shot_5_percent"})
    both = experiment.model_copy(update={"claims": (missing, experiment.claims[0])})
    rows = class_token_rows()
    first, second = judge_all(both, rows, facts_of(rows, Path("nowhere")))
    assert first.state == "untested"
    assert "few_shot_5_percent" in first.reason
    assert second.state == "supported"


def test_a_drawing_keeps_the_order_of_its_numbers() -> None:
    rows = class_token_rows()
    first, second = judge_all(class_token_experiment(), rows, facts_of(rows, Path("nowhere")))
    mark = glyph(first)
    assert mark is not None
    assert mark.paper is not None
    assert mark.region[0] < mark.paper < mark.zero < mark.interval[0] < mark.effect < mark.interval[1] < mark.region[1]
    assert (region_text(first), region_text(second)) == ("within ±2", "below -1")


def test_predictions_beside_the_records_reach_the_judge(tmp_path: Path) -> None:
    ids, label = ["a", "b"], np.array([0, 1, 2])
    predicted = np.array([[0, 1, 1], [2, 1, 2]])
    stored = {"trial_id": np.array(ids), "label": label, "predicted": predicted, "confidence": np.full((2, 3), 100)}
    np.savez(tmp_path / "predictions.npz", **stored)
    found = facts_of(class_token_rows(3), tmp_path)
    assert found.correct["b"].tolist() == [False, True, True]
    assert found.scale == "35.2k parameters on digits"
    assert found.baseline_floor_percent == 90.0
