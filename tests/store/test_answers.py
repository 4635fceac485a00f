"""Stored answers: sizes are checked before memory is taken, and what is read is what was written."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitbench.base.errors import ResultsError
from vitbench.store import answers
from vitbench.store.answers import predictions_sha256, read_answers, read_arrays, read_trial_answers

REFERENCE = Path(__file__).parents[2] / "results" / "tier1-digits" / "patch_size"


def npy(array: np.ndarray, **header: Any) -> bytes:
    """An array as a `.npy`, whose header may say something else."""
    buffer = io.BytesIO()
    known = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape, **header}
    np.lib.format.write_array_header_1_0(buffer, known)
    return buffer.getvalue() + array.tobytes()


def packed(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def test_what_numpy_writes_is_read(tmp_path: Path) -> None:
    parts = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.array(["x", "yz"]), "c": np.zeros(3, np.float16)}
    np.savez_compressed(tmp_path / "a.npz", **parts, f=np.asfortranarray(parts["a"]))
    read = read_arrays(tmp_path / "a.npz", ("a", "b", "c", "f"))
    for name, part in {**parts, "f": parts["a"]}.items():
        np.testing.assert_array_equal(read[name], part)


def test_committed_answers_are_read() -> None:
    read = read_answers(REFERENCE)
    assert read is not None
    with np.load(REFERENCE / "predictions.npz", allow_pickle=False) as stored:
        assert list(read.predicted) == stored["trial_id"].tolist()
        for row, trial in enumerate(read.predicted):
            np.testing.assert_array_equal(read.predicted[trial], stored["predicted"][row])
            np.testing.assert_array_equal(read.correct[trial], stored["predicted"][row] == stored["label"])


HUGE = (1 << 40,)
LIES = {
    "shape": npy(np.zeros(4, np.uint8), shape=HUGE),
    "type": npy(np.zeros(4, np.uint8), descr="<f8"),
    "objects": npy(np.zeros(1, np.int64), descr="|O"),
    "torn": npy(np.zeros(4, np.uint8))[:-1],
    "text": b"no array",
    "empty": b"",
}


@pytest.mark.parametrize("kind", LIES)
def test_a_header_that_lies_takes_no_memory(kind: str, tmp_path: Path) -> None:
    path = packed(tmp_path / "a.npz", a=LIES[kind])
    tracemalloc.start()
    with pytest.raises(ResultsError, match=r"a\.npz: cannot be read") as error:
        read_arrays(path, ("a",))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert "\n" not in str(error.value)


def test_what_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "a.npz", a=npy(np.zeros(20_000, np.uint8)))
    assert len(read_arrays(path, ("a",))["a"]) == 20_000
    monkeypatch.setattr(answers, "MAX_BYTES", 10_000)
    with pytest.raises(ResultsError, match="bytes once unpacked, at most 10,000 are read"):
        read_arrays(path, ("a",))


def test_too_many_members_and_damaged_files(tmp_path: Path) -> None:
    many = packed(tmp_path / "many.npz", **{f"a{i}": npy(np.zeros(1)) for i in range(40)})
    whole = packed(tmp_path / "whole.npz", a=npy(np.arange(100.0)))
    content = whole.read_bytes()
    cut = tmp_path / "cut.npz"
    with pytest.raises(ResultsError, match="more than 32 arrays"):
        read_arrays(many, ("a0",))
    for end in range(0, len(content), 7):
        cut.write_bytes(content[:end])
        with pytest.raises(ResultsError, match=r"cut\.npz: cannot be read"):
            read_arrays(cut, ("a",))


def test_arrays_that_do_not_fit_each_other(tmp_path: Path) -> None:
    label, table = np.zeros(3, np.uint8), np.zeros((2, 3), np.uint8)
    good: dict[str, Any] = {"trial_id": np.array(["a", "b"]), "label": label, "predicted": table, "confidence": table}
    np.savez(tmp_path / "predictions.npz", **good)
    assert read_answers(tmp_path) is not None
    for key, part in {
        "trial_id": np.array(["a"]),
        "label": np.zeros(4),
        "predicted": table.T,
        "confidence": label,
    }.items():
        np.savez(tmp_path / "predictions.npz", **{**good, key: part})
        with pytest.raises(ResultsError, match="do not fit each other"):
            read_answers(tmp_path)


def test_a_trials_answers_are_those_of_its_record(tmp_path: Path) -> None:
    part = np.arange(3, dtype=np.uint8)
    np.savez(tmp_path / "p.npz", index=part, label=part, predicted=part, confidence=part)
    assert set(read_trial_answers(tmp_path / "p.npz", predictions_sha256(part))) == {
        "index", "label", "predicted", "confidence",
    }  # fmt: skip
    with pytest.raises(ResultsError, match="not the answers of the trial's record"):
        read_trial_answers(tmp_path / "p.npz", "0" * 64)
