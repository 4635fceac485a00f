"""Recommendations where the truth is known: a reduced run of the simulation, and controls. About 5 s."""

from __future__ import annotations

import json
from pathlib import Path

from vitbench.bench.simulated_recommend import BUDGETS_MINUTES, WORLDS, SearchWorld, run_once, simulate, table

CLEAR = SearchWorld("clear", 2.0, 0.01, 0.01, 0.01, 0.05)
COMMITTED = Path(__file__).parents[2] / "results" / "bench"


def test_without_noise_more_time_finds_more() -> None:
    short, long = (simulate(CLEAR, minutes, 6, lambda _: None) for minutes in (1.0, 120.0))
    assert long["mean_questions"] > short["mean_questions"]
    assert long["mean_regret_points"] < short["mean_regret_points"]
    assert long["mean_gain_points"] > 0.0


def test_a_run_is_a_function_of_its_number() -> None:
    assert run_once(WORLDS[1], 5.0, 1) == run_once(WORLDS[1], 5.0, 1)
    assert run_once(WORLDS[1], 5.0, 1) != run_once(WORLDS[1], 5.0, 2)


def test_the_committed_page_shows_every_world_at_every_budget() -> None:
    results = json.loads((COMMITTED / "recommend.json").read_text())
    assert [(row["world"], row["minutes"]) for row in results] == [
        (world.name, minutes) for world in WORLDS for minutes in BUDGETS_MINUTES
    ]
    assert (COMMITTED / "recommend.md").read_text() == table(results)
    assert all(row["covered_percent"] > 90.0 for row in results)
