"""A claim along a size that an arm does not have is refused before training, and named where rows lack it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitbench.base.errors import InputError
from vitbench.cli.commands.checks import check_all
from vitbench.cli.commands.prepare import ExperimentRequest, facts_source, prepare
from vitbench.data import DataOptions
from vitbench.stats.curves import axis_value

EXPERIMENT = """
name: axes
question: Does it rise?
base:
  data: {name: fake}
  model: {name: Mu/4}
  train: {steps: 50}
arms: {pixels: {model.stem: patchify}, few: {model.stem: "dct(keep=2)"}, all: {model.stem: dct}}
seeds: {looks: [5, 8, 12, 20]}
claims:
  - {id: X-1, form: slope, arms: [{}], x: log2_coefficients, levels: {arm: LEVELS}, above_points: 0.0}
"""


def check(path: Path, levels: str) -> None:
    path.write_text(EXPERIMENT.replace("LEVELS", levels))
    facts_of = facts_source(DataOptions(data_dir=Path("/nowhere")), nominal=True)
    check_all(prepare(ExperimentRequest(str(path))), facts_of)


def test_an_arm_without_the_size_is_refused_in_one_line(tmp_path: Path) -> None:
    check(tmp_path / "axes.yaml", "[few, all]")
    message = "claim X-1: arm pixels has no cosine coefficients, along which x: log2_coefficients runs"
    with pytest.raises(InputError, match=message) as raised:
        check(tmp_path / "axes.yaml", "[few, pixels]")
    assert "\n" not in str(raised.value)


def test_a_row_without_the_size_is_named() -> None:
    assert axis_value({"status": "ok", "arm": "few", "num_coefficients": 8}, "log2_coefficients") == 3.0
    assert axis_value({"status": "failed", "arm": "few"}, "log2_coefficients") is None
    for axis, row in (("log2_coefficients", {}), ("log2_grid_side", {"grid_side": None})):
        with pytest.raises(InputError, match="arm a: has no"):
            axis_value({"status": "ok", "arm": "a", **row}, axis)
