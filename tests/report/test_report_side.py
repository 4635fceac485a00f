"""Side evidence: by hand, refused in words where answers are missing, and never part of a verdict."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from sample_rows import class_token_experiment, class_token_rows, row

from vitbench.report.formats import to_markdown
from vitbench.report.pages.page import report
from vitbench.report.secondary_evidence import HEADER, side_table
from vitbench.spec.experiment import Experiment
from vitbench.store.answers import read_answers

LABEL = [0, 0, 1, 1]
PREDICTED = {
    "a": [[0, 0, 0, 0], [0, 1, 1, 0]],  # right: 1100, 1010
    "b": [[0, 0, 1, 1], [0, 0, 1, 0]],  # right: 1111, 1110
}


def experiment() -> Experiment:
    return Experiment.model_validate({"name": "e", "factors": {"model.pos_embed": ["a", "b"]}, "seeds": 2})


def rows(**spec: object) -> list[dict[str, object]]:
    """Rows whose trials are called as in `store`."""
    return [
        {**row(arm, {"model.pos_embed": arm}, seed, 50.0, spec=spec), "trial_id": f"{arm}--{seed}"}
        for arm in PREDICTED
        for seed in (0, 1)
    ]


def store(folder: Path, trials: list[str]) -> None:
    """The answers of the trials, all with a confidence of 0.75."""
    answers = {f"{arm}--{seed}": told for arm, seeds in PREDICTED.items() for seed, told in enumerate(seeds)}
    predicted = np.array([answers[trial] for trial in trials], dtype=np.uint8)
    np.savez(
        folder / "predictions.npz",
        trial_id=np.array(trials),
        label=np.array(LABEL, dtype=np.uint8),
        predicted=predicted,
        confidence=np.full(predicted.shape, 75, dtype=np.uint8),
    )


ALL = ["a--0", "a--1", "b--0", "b--1"]


def test_churn_calibration_and_classes_by_hand(tmp_path: Path) -> None:
    store(tmp_path, ALL)
    table = side_table(experiment(), rows(), read_answers(tmp_path))
    assert table.header == HEADER
    assert table.rows == (
        # two of four images change; accuracy 50% at a confidence of 75% in both seeds
        ("a", "2", "50.00", "25.00 (n = 2, no interval)", "-", "-"),
        # one of four changes; |100 - 75| and |75 - 75|; class 0: 100 against 75%, class 1: 75 against 25%
        ("b", "2", "25.00", "12.50 ± 158.83", "class 1: +50.0", "-"),
    )
    assert "On 4 test images" in table.notes[0]


def test_classes_carry_the_numbers_of_the_data_set(tmp_path: Path) -> None:
    store(tmp_path, ALL)
    table = side_table(experiment(), rows(data={"classes": [9, 4]}), read_answers(tmp_path))
    assert table.rows[1][4] == "class 9: +50.0"


def test_classes_are_compared_on_the_seeds_that_both_arms_have(tmp_path: Path) -> None:
    store(tmp_path, ["a--0", "b--0", "b--1"])
    table = side_table(experiment(), rows(), read_answers(tmp_path))
    assert table.rows[0][:3] == ("a", "1", "-")
    assert table.rows[1][4] == "class 1: +100.0"
    assert table.notes[-1] == "Left out: 1 of 4 trials, which have no stored answers to these images."


@pytest.mark.parametrize("trials", [None, ["elsewhere"]])
def test_without_answers_the_section_says_so(tmp_path: Path, trials: list[str] | None) -> None:
    if trials:
        np.savez(
            tmp_path / "predictions.npz",
            trial_id=np.array(trials),
            label=np.array(LABEL),
            predicted=np.zeros((1, 4)),
            confidence=np.full((1, 4), 100),
        )
    text = to_markdown(side_table(experiment(), rows(), read_answers(tmp_path)))
    assert text == "## e: secondary evidence\n\n- The run has no stored answers to the test images.\n"


@pytest.mark.slow
def test_page_and_markdown_show_it_and_no_verdict_moves(tmp_path: Path) -> None:
    made, found = class_token_experiment(), class_token_rows(2)
    bare, full = tmp_path / "bare", tmp_path / "full"
    report(made, found, bare)
    full.mkdir()
    ids = [str(entry["trial_id"]) for entry in found if entry["role"] == "reporting"]
    told = np.random.default_rng(0).integers(0, 3, (len(ids), 30))
    np.savez(
        full / "predictions.npz",
        trial_id=np.array(ids),
        label=told[0],
        predicted=told,
        confidence=np.full(told.shape, 100),
    )
    report(made, found, full)
    for name in ("table.md", "index.html"):
        assert "no stored answers" in (bare / name).read_text()
        assert "Churn: share of images" in (full / name).read_text()
    for name in ("table.csv", "table.tex"):
        assert (bare / name).read_bytes() == (full / name).read_bytes()
    states = [re.findall(r'class="state (\w+)"', (folder / "index.html").read_text()) for folder in (bare, full)]
    assert states[0] == states[1] != []
