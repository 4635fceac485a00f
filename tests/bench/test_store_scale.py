"""The benchmark of many finished trials: its synthetic roots are whole, and its table says what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitbench.bench import store_scale
from vitbench.bench.store_scale import make_root, slopes, table
from vitbench.plan.sources import checked_rows
from vitbench.spec.limits import DEFAULT_MAX_TRIALS, allow_trials
from vitbench.store.trials import Store


def test_a_synthetic_root_passes_every_check(tmp_path: Path) -> None:
    make_root(tmp_path, store_scale.NUM_ARMS)
    allow_trials(DEFAULT_MAX_TRIALS)
    rows = checked_rows(tmp_path / store_scale.RUN)
    assert len(rows) == store_scale.NUM_ARMS == len(Store(tmp_path).read_all(row["trial_id"] for row in rows))


def test_slopes_and_table_of_known_costs() -> None:
    costs = [
        {"command": "look", "trials": size, "build": build, "index": True, "cpu_seconds": size**power / 1e4,
         "peak_mib": 60.0, "grown_mib": size / 1e3}
        for size in (1_000, 10_000) for build, power in (("this", 1.0), ("old", 2.0))
    ]  # fmt: skip
    measured = {"rounds": 1, "costs": costs}
    assert slopes(measured) == pytest.approx({"cpu_seconds": 1.0, "grown_mib": 1.0})
    assert "| look | 10,000 | this | 1.00 | 60 | 10.0 |" in table(measured)
    assert "| look | 10,000 | old | 10000.00 | 60 | 10.0 |" in table(measured)
