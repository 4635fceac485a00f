"""The share of core time in training steps: what the timed command counts, and the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitbench.base.errors import VitbenchError
from vitbench.bench.training_share import EXPERIMENTS, PARTS, run, table


def test_the_parts_are_within_the_whole(tmp_path: Path) -> None:
    trainings, start = run("smoke", tmp_path / "results", 3)
    assert len(trainings) == 2
    assert start > 0
    for each in trainings:
        assert all(each[part] > 0 for part in PARTS)
        assert sum(each[part] for part in PARTS) < each["whole"]


def test_a_run_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VitbenchError, match="run no_such_experiment: exit"):
        run("no_such_experiment", tmp_path / "results", 2)


def test_the_page_has_shares_of_a_training_and_of_the_whole() -> None:
    row = {"whole": 4.0, "steps": 3.6, "readings": 0.2, "test images": 0.1, "commit": 0.0}
    found = {"trainings": [row], "start": 5.0, "shares": [0.89]}
    text = table({"load": 2.0, "experiments": {"digits": found}})
    cells = "| 1 | 5.0 | 4.00 | 90.0% | 5.0% | 2.5% | 0.0% | 2.5% | 156 | 89.0% (89.0, 89.0) |"
    assert f"| {EXPERIMENTS['digits']} {cells}" in text
