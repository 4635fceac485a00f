"""A later look trains the arms of open claims only, and the records alone say which arms went on."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vitbench.cli.commands.prepare import ExperimentRequest, data_options
from vitbench.cli.commands.run import RunOptions, run
from vitbench.store.record import REPORTS
from vitbench.store.rows import read_rows

TWO_CLAIMS = """
name: two_claims
base:
  data: {name: fake, val_fraction: 0.2}
  model: {patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 2.0}
  train: {steps: 12, batch_size: 16}
factors: {model.pos_embed: [learned_1d, none, sincos_2d, rope_2d]}
seeds: {looks: [3, 4, 5]}
claims:
  - {id: EASY, form: equivalence, arms: [none, learned_1d], margin_points: 100.0, seeds_min: 3}
  - {id: HARD, form: equivalence, arms: [learned_1d, sincos_2d], margin_points: 1.7, seeds_min: 3}
"""
TUNED = TWO_CLAIMS + "tune: {grid: {train.lr: [4e-3, 8e-3]}, by: race, extend: 0}\n"
Cli = Callable[..., Any]


def seeds_of_arms(root: Path) -> dict[str, set[int]]:
    out = defaultdict(set)
    for row in read_rows(root / "two_claims"):
        if row["role"] in REPORTS:
            out[row["arm"]].add(row["seed"])
    return dict(out)


def settle(file: Path, root: Path) -> str:
    out = io.StringIO()
    options = RunOptions(root, data_options(None, False), jobs=1, until_settled=True)
    assert run(ExperimentRequest(str(file)), options, Console(file=out, width=200)) == 0
    return out.getvalue()


@pytest.mark.parametrize("text", [TWO_CLAIMS, TUNED], ids=["untuned", "race"])
def test_a_later_look_trains_the_arms_of_open_claims(cli: Cli, tmp_path: Path, text: str) -> None:
    file, root = tmp_path / "two_claims.yaml", tmp_path / "results"
    file.write_text(text)
    said = settle(file, root)
    assert "n = 3: open: HARD" in said
    reached = {arm: len(seeds) for arm, seeds in seeds_of_arms(root).items()}
    assert reached == {"learned_1d": 5, "sincos_2d": 5, "none": 3, "rope_2d": 3}
    verdicts = {v["claim"]: v for v in json.loads(cli("verdict", "--results", root, "--json").out)}
    assert (verdicts["EASY"]["state"], verdicts["EASY"]["n"]) == ("supported", 3)
    assert verdicts["HARD"]["n"] == 5
    before = (root / "two_claims" / "records.jsonl").read_bytes()
    settle(file, root)
    assert (root / "two_claims" / "records.jsonl").read_bytes() == before, "a second command finds nothing to train"
    assert cli("report", "two_claims", "--results", root).code == 0
    page = (root / "two_claims" / "table.md").read_text()
    assert "missing" not in page, "an arm whose claims are settled is whole"
    assert ("over the arm's seeds, 3 to 5" in page) == (text == TUNED)
    (status,) = json.loads(cli("status", "--results", root, "--json").out)
    assert status["missing"] == 0


def test_a_look_that_was_cut_short_goes_on_with_the_same_arms(cli: Cli, tmp_path: Path) -> None:
    file, root = tmp_path / "two_claims.yaml", tmp_path / "results"
    file.write_text(TWO_CLAIMS)
    assert cli("run", file, "--results", root, "-j", 1, "--until-settled", "--limit", 13).code == 3
    assert sorted(map(len, seeds_of_arms(root).values())) in ([3, 3, 3, 3], [3, 3, 3, 4])
    settle(file, root)
    reached = {arm: len(seeds) for arm, seeds in seeds_of_arms(root).items()}
    assert reached == {"learned_1d": 5, "sincos_2d": 5, "none": 3, "rope_2d": 3}
