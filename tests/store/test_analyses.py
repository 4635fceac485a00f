"""Numbers of analyses join the rows of the same weights and version, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vitbench.base.errors import ResultsError
from vitbench.store.rows import (
    ANALYSES_FILE,
    ANALYSIS_VERSION,
    AnalysisLine,
    add_analyses,
    join_analyses,
    read_analyses,
)

TRIAL = "0123456789abcdef"


def row(weights: str | None = "a" * 64, **metrics: float) -> dict[str, Any]:
    return {"trial_id": TRIAL, "result": {"weights_sha256": weights, "metrics": metrics}}


def line(weights: str | None = "a" * 64, images: str = "digits", **metrics: float) -> AnalysisLine:
    return AnalysisLine(trial_id=TRIAL, weights_sha256=weights, images=images, metrics=metrics)


def test_numbers_join_and_the_records_own_stay(tmp_path: Path) -> None:
    add_analyses(tmp_path, [line(a=1.0, knn_percent=2.0)])
    rows = [row(knn_percent=50.0)]
    (joined,) = join_analyses(rows, tmp_path)
    assert joined["result"]["metrics"] == {"a": 1.0, "knn_percent": 50.0}
    assert rows == [row(knn_percent=50.0)]


def test_numbers_of_other_weights_do_not_join(tmp_path: Path) -> None:
    add_analyses(tmp_path, [line(weights="b" * 64, a=1.0)])
    assert join_analyses([row()], tmp_path) == [row()]


def test_a_second_look_adds_to_the_first_unless_it_was_at_something_else(tmp_path: Path) -> None:
    add_analyses(tmp_path, [line(a=1.0, b=1.0)])
    add_analyses(tmp_path, [line(b=2.0)])
    assert read_analyses(tmp_path)[TRIAL].metrics == {"a": 1.0, "b": 2.0}
    add_analyses(tmp_path, [line(images="folder:x", b=3.0)])
    assert read_analyses(tmp_path)[TRIAL].metrics == {"b": 3.0}


def test_another_version_is_not_read_and_a_torn_line_is_an_error(tmp_path: Path) -> None:
    old = line(a=1.0).model_copy(update={"analysis_version": ANALYSIS_VERSION + 1})
    path = tmp_path / ANALYSES_FILE
    path.write_text(old.model_dump_json() + "\n")
    assert read_analyses(tmp_path) == {}
    path.write_text(old.model_dump_json()[:-9] + "\n")
    with pytest.raises(ResultsError, match=rf"{ANALYSES_FILE}:1: damaged line"):
        read_analyses(tmp_path)
    assert read_analyses(tmp_path / "nowhere") == {}
