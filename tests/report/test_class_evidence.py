"""Evidence by class: by hand, with names where the rows hold them, and beside accuracy on unbalanced classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sample_rows import row

from vitbench.report.class_evidence import class_table, confusion_frame
from vitbench.spec.experiment import Experiment
from vitbench.store.answers import read_answers

LABEL = [0, 0, 0, 1]
EXPERIMENT = Experiment.model_validate({"name": "e", "factors": {"model.pos_embed": ["a", "b"]}, "seeds": 1})


def rows(**more: Any) -> list[dict[str, Any]]:
    return [
        {**row(arm, {"model.pos_embed": arm}, 0, 50.0, spec={}), "trial_id": f"{arm}--0", **more} for arm in ("a", "b")
    ]


def answers(folder: Path, **predicted: list[int]) -> Any:
    np.savez(
        folder / "predictions.npz",
        trial_id=np.array([f"{arm}--0" for arm in predicted]),
        label=np.array(LABEL, dtype=np.uint8),
        predicted=np.array(list(predicted.values()), dtype=np.uint8),
        confidence=np.full((len(predicted), len(LABEL)), 75, dtype=np.uint8),
    )
    return read_answers(folder)


def test_scores_and_confusions_by_hand(tmp_path: Path) -> None:
    table = class_table(EXPERIMENT, rows(), answers(tmp_path, a=[0, 0, 0, 0], b=[0, 0, 1, 1]))
    assert [line[0] for line in table.rows] == ["a", "b"]
    assert table.rows[0][2].startswith("50.00")
    assert table.rows[0][4:] == ("class 1: 0.0", "class 1 taken for class 0: 1.0 images")
    assert table.rows[1][2].startswith("83.33")
    assert table.rows[1][4:] == ("class 0: 66.7", "class 0 taken for class 1: 1.0 images")


def test_the_majoritys_share_stands_beside_unbalanced_classes(tmp_path: Path) -> None:
    table = class_table(EXPERIMENT, rows(), answers(tmp_path, a=[0, 0, 0, 0], b=LABEL))
    assert any("always answering the most frequent one scores 75.0%" in note for note in table.notes)


def test_classes_have_their_names(tmp_path: Path) -> None:
    named = rows(class_names=["cat", "dog"], num_classes=2)
    stored = answers(tmp_path, a=[0, 0, 0, 0], b=LABEL)
    table = class_table(EXPERIMENT, named, stored)
    assert table.rows[0][4:] == ("dog: 0.0", "dog taken for cat: 1.0 images")
    frame = confusion_frame(EXPERIMENT, named, stored)
    assert frame[frame["arm"] == "a"][["true", "predicted", "images"]].to_numpy().tolist() == [
        ["cat", "cat", "3.0000"], ["dog", "cat", "1.0000"],
    ]  # fmt: skip


def test_without_answers_there_is_nothing_to_show() -> None:
    assert class_table(EXPERIMENT, rows(), None).rows == ()
