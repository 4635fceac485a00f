"""Races that cannot be run: one line and exit code 2, before the first training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Cli = Callable[..., Any]
FILE = """
name: raced
base:
  data: {name: fake, val_fraction: 0.2}
  model: {patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 2.0}
  train: {steps: 2, batch_size: 16}
tune: {grid: {train.lr: [4e-3, 8e-3]}, by: race}
seeds: {looks: [6, 9]}
"""
GRID = "tune: {grid: {train.lr: [4e-3, 8e-3]}, by: race}"


@pytest.mark.parametrize(
    ("before", "after", "options", "line"),
    [
        ("val_fraction: 0.2", "val_fraction: 0", (), "data.val_fraction 0 leaves no validation image"),
        (
            GRID,
            "tune: {grid: {train.lr: [4e-3, 8e-3]}, by: race, seeds: 2}",
            (),
            "a race has no tuning seeds of its own",
        ),
        (GRID, "tune: {grid: {train.lr: [4e-3]}, by: race}", (), "a race needs two settings or more"),
        (GRID, GRID.replace("by: race", "by: race, first: 7"), (), "the first look is at 6"),
        (
            "by: race}\nseeds: {looks: [6, 9]}",
            "by: race, first: 2}\nseeds: {looks: [2, 4]}",
            (),
            "the first look needs at least 3 seeds, not 2",
        ),
        ("name: raced", "name: raced", ("--max-seeds", 4), "--max-seeds 4 is under the first look, 6"),
        ("seeds: {looks: [6, 9]}", "seeds: 6", ("--max-seeds", 4), "--max-seeds needs looks in the file"),
    ],
)
def test_one_line_before_training(
    cli: Cli, tmp_path: Path, before: str, after: str, options: tuple[object, ...], line: str
) -> None:
    assert before in FILE
    refused(cli, tmp_path, FILE.replace(before, after), line, *options)


def test_an_objective_without_accuracy(cli: Cli, tmp_path: Path) -> None:
    text = FILE.replace("batch_size: 16", "batch_size: 16, objective: {name: masked_patch}")
    line = "tune chooses by val_top1_percent; train.objective.name masked_patch has none"
    refused(cli, tmp_path, text + "report: {metric: num_params}\n", line)


@pytest.mark.parametrize("metric", ["val_top1_percent", "test_top1_best_val_percent"])
def test_a_metric_without_validation_value(cli: Cli, tmp_path: Path, metric: str) -> None:
    text = FILE.replace(GRID, f"report: {{metric: {metric}}}").replace("val_fraction: 0.2", "val_fraction: 0")
    refused(cli, tmp_path, text, f"report.metric: no arm measures '{metric}'")


def test_classes_of_one_image_give_no_validation_images(cli: Cli, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("dark", "light"):
            (tmp_path / "set" / split / label).mkdir(parents=True)
            image = Image.fromarray(np.full((8, 8, 3), 40 + 150 * (label == "light"), dtype=np.uint8))
            image.save(tmp_path / "set" / split / label / "1.png")
    text = FILE.replace("name: fake", f"name: 'folder:{tmp_path / 'set'}', img_size: 8")
    refused(cli, tmp_path, text, "data.val_fraction 0.2 leaves no validation image")


def refused(cli: Cli, folder: Path, text: str, line: str, *options: object) -> None:
    file = folder / "raced.yaml"
    file.write_text(text)
    answer = cli("run", file, "--results", folder / "results", "-j", 1, *options)
    assert answer.code == 2, answer.out + answer.err
    errors = [said for said in answer.err.splitlines() if not said.startswith(("warning", "note"))]
    assert len(errors) == 1, errors
    assert line in errors[0]
    assert not (folder / "results" / "trials").exists()
