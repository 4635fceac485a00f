"""Published sizes of sets that are not on this machine: right, for plans only, and said to be nominal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sets import write_mnist

from vitbench.base.errors import InputError
from vitbench.data import DATASETS, NOMINAL, DataOptions, facts, facts_or_nominal
from vitbench.data.known_sizes import SIZES, nominal_facts


@pytest.fixture
def nowhere(tmp_path: Path) -> DataOptions:
    return DataOptions(data_dir=tmp_path / "none")


def test_every_named_set_that_must_be_fetched_has_nominal_facts() -> None:
    built_in = {"digits", "fake", "fake_colour", "scenes", "scenes_textured"}
    built_in |= {"scenes_fashion"}  # Made of Fashion-MNIST; its captions cannot be planned without them.
    assert SIZES.keys() == {name for name in DATASETS if ":" not in name} - built_in


@pytest.mark.parametrize("name", SIZES)
def test_nominal_facts_are_whole(name: str) -> None:
    found = nominal_facts(name)
    assert found is not None
    assert sum(found.class_counts) == found.num_train
    assert len(found.class_counts) == len(found.class_names) == found.num_classes
    assert max(found.class_counts) - min(found.class_counts) <= 1
    assert found.fingerprint_note == NOMINAL
    assert found.flip == DATASETS[name].flip


def test_torchs_names_are_known_too(nowhere: DataOptions) -> None:
    assert facts_or_nominal("torch/imagenet", nowhere).num_train == 1_281_167


def test_images_that_are_here_win(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    write_mnist(tmp_path / "MNIST" / "raw", images, np.arange(20, dtype=np.uint8) % 10, compress=False)
    found = facts_or_nominal("mnist", DataOptions(data_dir=tmp_path))
    assert found.num_train == 20
    assert found.fingerprint_note != NOMINAL


def test_faults_of_images_that_are_here_are_not_hidden(tmp_path: Path) -> None:
    images, labels = np.zeros((20, 28, 28), dtype=np.uint8), np.zeros(20, dtype=np.uint8)
    write_mnist(tmp_path / "MNIST" / "raw", images, labels, compress=False)
    with pytest.raises(InputError, match="one class"):
        facts_or_nominal("mnist", DataOptions(data_dir=tmp_path))


@pytest.mark.parametrize("name", ["folder:/nowhere", "cifar11", "folder:cifar10"])
def test_other_names_have_none(name: str, nowhere: DataOptions) -> None:
    with pytest.raises(InputError):
        facts_or_nominal(name, nowhere)


def test_a_training_never_gets_them(nowhere: DataOptions) -> None:
    with pytest.raises(InputError, match="not found"):
        facts("cifar10", nowhere)


def test_commands(cli: Callable[..., Any], tmp_path: Path) -> None:
    """plan and show state the cost, and plan says on what; run and status refuse or know nothing."""
    words = ("class_token_vs_gap", "--data", "cifar10", "--data-dir", tmp_path)
    planned = cli("plan", *words, "--results", tmp_path / "r")
    assert planned.code == 0
    assert "data missing here; using the published sizes of cifar10" in planned.out
    assert json.loads(cli("plan", *words, "--results", tmp_path / "r", "--json").out)[0]["nominal_data"] == ["cifar10"]
    assert cli("show", *words).code == 0
    refused = cli("run", *words, "--results", tmp_path / "r")
    assert refused.code == 2
    assert "cifar10 not found" in refused.err
    assert "missing here" not in cli("plan", "class_token_vs_gap", "--results", tmp_path / "r").out
