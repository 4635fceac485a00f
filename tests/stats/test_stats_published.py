"""Published tables of single runs, fed in as records: untested, and what an assumed spread would make of them.

The tables of docs/FINDINGS.md are rebuilt here from the published numbers, letter by letter.
Sources: Dosovitskiy et al. 2021, App. D.3, Fig. 9 (read off the figure) and App. D.4, Table 8; Beyer et al. 2022,
Table 1; its independent re-run by EIFY, 2025.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stats_rows import an_experiment, made_rows

from vitbench.spec.experiment import Experiment, ReportSpec, Seeds, Suite
from vitbench.spec.load import load
from vitbench.stats import Facts, Verdict, judge_all, one_line
from vitbench.stats.compare import SINGLE_RUNS, single_run_note
from vitbench.stats.power import sd_range

ROOT = Path(__file__).parents[2]
FINDINGS = ROOT / "docs/FINDINGS.md"
EQUAL_RUNS = 1.645 * 2.0**0.5
"""Half-width of the 90% interval of a difference of two single runs, in known standard deviations of an arm."""

TABLE_8 = {
    "learned_1d": (64.206, 63.964, 64.292),
    "learned_2d": (64.001, 64.046, 64.022),
    "relative_1d": (64.032,),
    "none": (61.382,),
}
"""ImageNet 5-shot in percent: added at the stem, at every layer, at every layer from one shared table."""
PLACEMENTS = ("", "_every_layer", "_every_layer_shared")

FIG_9 = {"class_token": [56.2], "pooling": [55.7], "pooling_at_its_rate": [50.4]}
"""ImageNet 5-shot in percent at the end of training, at 8e-4, 3e-4 and 8e-4."""

EPOCHS = (90, 150, 300)
BEYER = {
    "baseline": ((76.5, 76.8), (78.5, 78.8), (80.0, 79.6)),
    "class_token": ((75.0, 75.3), (76.9, 77.1), (78.2, 77.5)),
    "learned": ((75.0, 76.2), (78.0, 77.7), (79.6, 79.6)),
    "linear_head": ((76.7, 76.8), (78.6, 78.1), (79.8, 78.9)),
    "batch_4096": ((74.7, 75.6), (77.3, 77.8), (78.6, 78.3)),
}
"""ImageNet-1k top-1, ViT-S/16: (Beyer, re-run) after each of EPOCHS; the baseline has pooling, sin-cos, tanh head."""
CONTRASTS = {
    "CLS-04": ("pooling - class token", "baseline", "class_token"),
    "POS-06": ("sin-cos - learned", "baseline", "learned"),
    "CLS-06": ("linear - tanh head", "linear_head", "baseline"),
    "REC-02": ("batch 1024 - 4096", "baseline", "batch_4096"),
}


def gap(a: str, b: str, schedule: int, source: int) -> float:
    return BEYER[a][schedule][source] - BEYER[b][schedule][source]


def positions(num_seeds: int) -> Experiment:
    """The shipped experiment with its claims on Table 8, read where no rate was tuned."""
    shipped = load(ROOT / "experiments/position_encoding.yaml")
    assert not isinstance(shipped, Suite)
    ours = {
        "base": {"data": {"name": "imagenet"}},
        "tune": None,
        "seeds": Seeds(num=num_seeds),
        "report": ReportSpec(metric="few_shot_5_percent"),
        "claims": tuple(claim for claim in shipped.claims if claim.id in ("POS-01", "POS-02", "POS-03")),
    }
    return shipped.model_copy(update=ours)


def verdicts(experiment: Experiment, scores: Mapping[str, Sequence[float]], scale: str = "") -> dict[str, Verdict]:
    rows = made_rows(experiment, scores, metric=experiment.report.metric, num_test_images=50_000)
    return {found.claim: found for found in judge_all(experiment, rows, Facts(scale))}


def single_runs() -> dict[str, list[float]]:
    """Table 8 with an arm for each of its cells."""
    return {arm + PLACEMENTS[i]: [value] for arm, cells in TABLE_8.items() for i, value in enumerate(cells)}


def readouts() -> Experiment:
    """Figure 9: pooling against the class token at two rates, and at one."""
    claims: list[dict[str, Any]] = [
        {"id": "CLS-01", "form": "equivalence", "arms": ["pooling", "class_token"], "margin_points": 1.0},
        {"id": "CLS-02a", "form": "difference", "arms": ["pooling_at_its_rate", "class_token"], "below_points": -1.0},
    ]
    return an_experiment(claims[0], claims=claims, arms={arm: {} for arm in FIG_9}, factors={}, seeds=1)


def schedules(num_seeds: int) -> Experiment:
    """Beyer's table: one change from the baseline an arm, three schedules; each claim at each schedule."""
    claims: list[dict[str, Any]] = []
    for claim, (_, a, b) in CONTRASTS.items():
        region = {"margin_points": 1.0} if claim == "CLS-06" else {"above_points": 0.0}
        form = "equivalence" if claim == "CLS-06" else "difference"
        claims += [
            {"id": f"{claim}.{e}", "form": form, "arms": [a, b], "at": {"train.epochs": e}, **region} for e in EPOCHS
        ]
    fades = {"pairs": [["baseline", "learned"]] * 2, "at": {"train.epochs": [90, 300]}, "above_points": 0.0}
    claims.append({"id": "POS-06", "form": "interaction", **fades})
    factors = {"train.epochs": list(EPOCHS)}
    return an_experiment(claims[0], claims=claims, arms={arm: {} for arm in BEYER}, factors=factors, seeds=num_seeds)


def beyer_verdicts(sources: Sequence[int]) -> dict[str, Verdict]:
    """The claims on Beyer's table, with the source's runs, the re-run's, or both as seeds."""
    scores = {
        f"{arm}+{epochs}": [cells[i][source] for source in sources]
        for arm, cells in BEYER.items()
        for i, epochs in enumerate(EPOCHS)
    }
    return verdicts(schedules(len(sources)), scores)


def vit_rows() -> list[str]:
    """Single runs of the ViT paper: value, verdict, and the spread of one run under which it would mean something."""
    found = {**verdicts(positions(1), single_runs()), **verdicts(readouts(), FIG_9)}
    one_d, two_d, (relative,), (none,) = TABLE_8.values()
    (token,), (pooling,), (at_its_rate,) = FIG_9.values()
    rows = [
        ("POS-01", "learned 1-D - none", one_d[0] - none, 1.0),
        ("POS-02", "learned 1-D - learned 2-D", one_d[0] - two_d[0], None),
        ("POS-02", "learned 1-D - relative", one_d[0] - relative, None),
        ("POS-02", "learned 2-D - relative", two_d[0] - relative, None),
        ("POS-03", "1-D, every layer - shared", one_d[1] - one_d[2], None),
        ("POS-03", "2-D, stem - every layer", two_d[0] - two_d[1], None),
        ("CLS-01", "pooling - class token, each at its rate", pooling - token, None),
        ("CLS-02a", "pooling - class token, both at 8e-4", at_its_rate - token, 1.0),
    ]
    return [
        f"| {claim} | {label} | {value:+.2f} | {found[claim].state}, {found[claim].reason}"
        f" | {noise(value):.2f} | {holds(value, cut):.2f} |"
        for claim, label, value, cut in rows
    ]


def beyer_rows() -> list[str]:
    """Differences after each schedule, with the spread of one run under which each exceeds noise."""
    found, rows = beyer_verdicts((0, 1)), []
    for claim, (label, a, b) in CONTRASTS.items():
        cells = []
        for schedule in range(len(EPOCHS)):
            first, again = gap(a, b, schedule, 0), gap(a, b, schedule, 1)
            cells.append(f"{first:+.1f}, {again:+.1f} ({noise(first):.2f}, {noise(again):.2f})")
        verdict = found[f"{claim}.150"]
        rows.append(f"| {claim} | {label} | {' | '.join(cells)} | {verdict.state}, {verdict.reason} |")
    return rows


def noise(difference: float) -> float:
    """The spread of an arm under which a difference of two single runs exceeds noise."""
    return abs(difference) / SINGLE_RUNS


def holds(difference: float, cut: float | None, margin: float = 1.0) -> float:
    """The known spread under which the interval of two single runs lies beyond the cut, or within the margin."""
    return (margin - abs(difference)) / EQUAL_RUNS if cut is None else (abs(difference) - cut) / SINGLE_RUNS


def test_single_runs_of_table_8_are_untested() -> None:
    found = verdicts(positions(1), single_runs())
    assert {verdict.state for verdict in found.values()} == {"untested"}
    assert {verdict.reason for verdict in found.values()} == {"n = 1, needs 3"}
    assert found["POS-01"].effect == pytest.approx(2.824)


def test_placements_as_replicates_reach_one_pair_only() -> None:
    experiment = positions(3)
    pair = experiment.claims[1].model_copy(update={"id": "1-D-2-D", "pairs": (("learned_1d", "learned_2d"),)})
    eager = pair.model_copy(update={"id": "of-three", "seeds_min": 3})
    experiment = experiment.model_copy(update={"claims": (*experiment.claims, pair, eager)})
    found = verdicts(experiment, TABLE_8, "ViT-B/16, three placements (replicates are not seeds)")
    for claim in ("POS-01", "POS-02"):
        assert (found[claim].state, found[claim].reason) == ("untested", "n = 1, needs 3")
    line = one_line(found["1-D-2-D"])
    assert line in " ".join(FINDINGS.read_text().split())
    assert found["1-D-2-D"].state == "inconclusive"
    assert "n = 3, a verdict needs 5" in line
    assert "+0.13 points, 90% interval [-0.18, +0.45]" in line
    assert "replicates are not seeds" in line
    assert found["of-three"].state == "supported"
    # By hand: differences 0.205, -0.082, 0.270; t.95 with 2 df is 2.920.
    by_hand = np.array([0.205, -0.082, 0.270])
    half = 2.9200 * by_hand.std(ddof=1) / 3**0.5
    low, high = by_hand.mean() - half, by_hand.mean() + half
    interval = found["1-D-2-D"].interval
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("sources", "n"), [((0,), 1), ((0, 1), 2)])
def test_beyer_and_its_rerun_are_untested(sources: Sequence[int], n: int) -> None:
    found = beyer_verdicts(sources)
    assert len(found) == 13
    assert {(verdict.state, verdict.reason) for verdict in found.values()} == {("untested", f"n = {n}, needs 3")}
    assert found["CLS-04.150"].effect == pytest.approx({1: 1.6, 2: 1.65}[n])
    assert found["POS-06"].effect == pytest.approx({1: 1.1, 2: 0.85}[n])


def test_two_single_runs_differ_beyond_2_8_standard_deviations() -> None:
    assert pytest.approx(2.8, abs=0.05) == SINGLE_RUNS
    assert single_run_note(64.206 - 61.382).endswith("under 1")
    rng = np.random.default_rng(0)
    apart = np.abs(np.diff(rng.standard_normal((100_000, 2)), axis=1))
    assert np.mean(apart > SINGLE_RUNS) == pytest.approx(0.05, abs=0.003)
    assert np.mean(apart > 1.96) > 0.15  # one run's own 1.96 sd is no yardstick for a difference


def test_what_an_assumed_spread_of_0_2_would_make_of_beyer() -> None:
    beyond = {
        claim: [[noise(gap(a, b, i, source)) > 0.2 for i in range(len(EPOCHS))] for source in (0, 1)]
        for claim, (_, a, b) in CONTRASTS.items()
    }
    assert beyond == {
        "CLS-04": [[True, True, True], [True, True, True]],
        "POS-06": [[True, False, False], [True, True, False]],
        "CLS-06": [[False, False, False], [False, True, True]],
        "REC-02": [[True, True, True], [True, True, True]],
    }


def test_findings_shows_these_tables_and_numbers() -> None:
    page = FINDINGS.read_text()
    missing = [row for row in (*vit_rows(), *beyer_rows()) if row not in page]
    assert not missing, "\n".join(missing)


def test_findings_states_the_yardsticks_that_follow() -> None:
    from scipy.stats import studentized_range

    page = " ".join(FINDINGS.read_text().split())
    cells = [value for arm in ("learned_1d", "learned_2d", "relative_1d") for value in TABLE_8[arm]]
    spread = max(cells) - min(cells)
    yardstick = float(studentized_range.ppf(0.95, len(cells), np.inf))
    assert f"{spread:.2f} points" in page
    assert f"{yardstick:.1f} sd; {spread:.2f} exceeds it only under an sd of {spread / yardstick:.2f}" in page
    apart = np.array([64.2 - 63.5, 56.4 - 55.2, 52.0 - 49.5])  # one model, two figures of the paper
    sd = float(np.sqrt((apart**2 / 2.0).mean()))
    low, high = (sd * share for share in sd_range(len(apart) + 1))
    assert f"an sd of {sd:.1f} (80% range {low:.1f} to {high:.1f})" in page
    fades = [gap("baseline", "learned", 0, source) - gap("baseline", "learned", 2, source) for source in (0, 1)]
    under = [value / (1.96 * 2.0) for value in fades]
    assert f"{fades[0]:+.1f} and {fades[1]:+.1f}" in page
    assert f"under an sd of {under[0]:.2f} and {under[1]:.2f}" in page
    assert (
        f"under an sd of {holds(0.2, None):.2f} on Beyer's numbers and of {holds(0.7, None):.2f} on the re-run's"
        in page
    )
