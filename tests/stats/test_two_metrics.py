"""An interaction whose two sides read a metric each."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_rows import row

from vitbench.spec.experiment import Experiment
from vitbench.spec.load import load
from vitbench.stats.verdict import judge
from vitbench.stats.verdict_types import Context


@pytest.mark.parametrize(("probe_gain", "state"), [(10.0, "supported"), (-4.0, "contradicted")])
def test_a_probe_may_gain_more_than_fine_tuning(probe_gain: float, state: str) -> None:
    """MPP-08c: the gain of the probe minus that of fine-tuning, which is one point."""
    shipped = load(Path(__file__).parents[2] / "experiments/mae_design.yaml")
    assert isinstance(shipped, Experiment)
    experiment = shipped.model_copy(update={"tune": None})
    (claim,) = [part for whole in shipped.claims for part in whole.part_claims() if part.id == "MPP-08c"]
    rows = []
    for arm, (probe, tuned) in {"mae": (50.0 + probe_gain, 81.0), "ratio_40": (50.0, 80.0)}.items():
        for seed in range(6):
            trial = row(arm, {"arm": arm}, seed, tuned)
            trial["result"] |= {"test_top1_percent": tuned + 0.1 * (seed % 3)}
            trial["result"]["metrics"] = {"linear_probe_percent": probe + 0.1 * (seed % 2)}
            rows.append(trial)
    verdict = judge(claim, experiment, rows, Context())
    assert verdict.effect == pytest.approx(probe_gain - 1.0)
    assert (verdict.state, verdict.unit) == (state, "points")
