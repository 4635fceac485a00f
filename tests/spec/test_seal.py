"""What a run declared before its first trial, and what an edit afterwards does to its verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_plans import experiment

from vitbench.base.errors import ResultsError
from vitbench.spec.experiment import Experiment, Seeds, declare_maximum, later_looks
from vitbench.spec.seal import FILE, changes, edits, read_seal, seal_of, seal_text

TEXT = """
factors: {model.global_pool: [token, avg]}
tune: {train.lr: [1e-3, 2e-3]}
seeds: {looks: [6, 9, 13, 20]}
claims:
  - {id: C-1, form: equivalence, arms: [avg, token], margin_points: 2.0, statement: They are equal.}
  - {id: C-2, form: difference, arms: [avg, token], above_points: 0.0}
"""


def edited(before: str, after: str) -> Experiment:
    assert before in TEXT
    return experiment(TEXT.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after", "claim", "said"),
    [
        ("margin_points: 2.0", "margin_points: 9.0", "C-1", "margin changed after the first trial: was 2, is 9"),
        ("above_points: 0.0", "above_points: -3.0", "C-2", "cut changed after the first trial: was 0, is -3"),
        ("[6, 9, 13, 20]", "[6, 9]", "", "looks changed after the first trial: was [6, 9, 13, 20], is [6, 9]"),
        ("[1e-3, 2e-3]", "[1e-3, 4e-3]", "", "tune.grid changed after the first trial"),
        ("id: C-2", "id: C-3", "C-3", "added after the first trial"),
        ("id: C-2", "id: C-3", "", "claims removed after the first trial: C-2"),
        ("seeds: {", "report: {metric: val_top1_percent}\nseeds: {", "", "metric changed after the first trial"),
    ],
)
def test_an_edit_after_the_first_trial_is_named(before: str, after: str, claim: str, said: str) -> None:
    found = changes(seal_of(experiment(TEXT)), edited(before, after))
    assert any(said in line for line in found[claim])


@pytest.mark.parametrize(("before", "after"), [("They are equal.", "Both are equal."), ("id: C-1", "id: C-1")])
def test_words_may_be_mended(before: str, after: str) -> None:
    assert changes(seal_of(experiment(TEXT)), edited(before, after)) == {}


def test_looks_beyond_the_maximum_are_no_edit() -> None:
    longer = experiment(TEXT).model_copy(update={"seeds": Seeds(looks=(6, 9, 13, 20), extended=(28,))})
    assert changes(seal_of(experiment(TEXT)), longer) == {}


def test_a_seal_is_read_back_and_a_forged_one_is_refused(tmp_path: Path) -> None:
    assert read_seal(tmp_path) is None
    seal = seal_of(experiment(TEXT), num_trials=12)
    (tmp_path / FILE).write_text(seal_text(seal))
    assert read_seal(tmp_path) == seal
    forged: dict[str, Any] = json.loads(seal_text(seal))
    forged["claims"]["C-1"]["margin_points"] = 9.0
    (tmp_path / FILE).write_text(json.dumps(forged))
    with pytest.raises(ResultsError, match="does not fit its hash"):
        read_seal(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ResultsError, match="cannot be read"):
        read_seal(tmp_path)


def test_a_race_without_a_seal_and_a_seal_after_its_trials_are_exploratory() -> None:
    assert "not sealed" in edits(None, experiment(TEXT))[""][0]
    first_edition = edited("[1e-3, 2e-3]", "[1e-3, 2e-3], seeds: 2")
    assert edits(None, first_edition) == {}
    late = seal_of(experiment(TEXT), num_trials=12, num_before=12)
    assert edits(late, experiment(TEXT)) == {"": ("every trial was there before the claims were sealed",)}
    assert edits(seal_of(experiment(TEXT), num_trials=12, num_before=5), experiment(TEXT)) == {}


def test_a_maximum_cuts_the_looks_or_continues_them() -> None:
    looks = Seeds(looks=(6, 9, 13, 20))
    assert declare_maximum(looks, 13).looks == (6, 9, 13)
    assert declare_maximum(looks, 12).looks == (6, 9)
    assert declare_maximum(looks, 40).looks == (6, 9, 13, 20, 28, 40)
    assert later_looks(20, 20) == ()
    with pytest.raises(ValueError, match="under the first look"):
        declare_maximum(looks, 5)
