"""Absurd rows and records: every field has bounds, a refusal is one short line, and honest values are far inside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitbench.base.errors import ResultsError, is_plain, printable
from vitbench.store.bounds import MAX_DEPTH, MAX_NAME, check_size, parse
from vitbench.store.events import from_line
from vitbench.store.record import Record, Result, Run, read_record
from vitbench.store.rows import read_analyses, read_records

RESULTS = Path(__file__).parents[2] / "results"
ROW = json.loads((RESULTS / "tier1-digits/patch_size/records.jsonl").read_text().splitlines()[-1])
KEYS = ("trial_id", "status", "seed", "parent", "data_fingerprint", "spec", "result", "run", "algorithm_version")
RECORD = {key: ROW[key] for key in KEYS if ROW.get(key) is not None}


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = {"a": value}
    return value


LONG, DIGITS = "x" * 10**6, 10**4000
ABSURD: dict[str, dict[str, Any]] = {
    "trial_id": {"path": "../../outside", "short": "0" * 15, "capital": "A" * 16, "newline": "0" * 16 + "\n", "int": 1},
    "seed": {"negative": -1, "digits": DIGITS, "half": 0.5},
    "algorithm_version": {"zero": 0, "digits": DIGITS},
    "data_fingerprint": {"long": LONG, "short": "0" * 63},
    "spec": {"nested": nested(900), "digits": {"train": {"steps": DIGITS}}, "long": {"model": {"name": LONG}},
             "key": {LONG: 1}, "control": {"a\x1b[2J": 1}, "direction": {"\u202ea": 1}},
    "result.test_top1_percent": {"over": 100.0001, "under": -1e-9, "text": "90", "huge": 1e308},
    "result.test_loss": {"huge": 1e308, "digits": DIGITS},
    "result.num_params": {"digits": DIGITS, "negative": -1, "huge": 10**19},
    "result.train_flops": {"huge": 1e308, "negative": -1.0},
    "result.metrics": {"long": {LONG: 1.0}, "huge": {"a": 1e308}, "many": {str(i): 1.0 for i in range(2000)},
                       "control": {"\x1b": 1.0}},
    "result.weights_sha256": {"text": "w", "long": LONG},
    "run.train_seconds": {"huge": 1e308, "negative": -1.0, "digits": DIGITS},
    "run.peak_memory_mib": {"huge": 1e308, "negative": -1.0},
    "run.attempt": {"zero": 0, "digits": DIGITS},
    "run.threads": {"negative": -1, "digits": DIGITS},
    "run.device": {"long": LONG, "control": "\x9b2J", "direction": "cpu\u2066"},
    "run.host": {"long": LONG, "line": "a\u2028b"},
    "run.versions": {"long": {"torch": LONG}, "many": {str(i): "1" for i in range(2000)}},
}  # fmt: skip
ROW_ONLY: dict[str, dict[str, Any]] = {
    "arm": {"long": LONG, "bell": "a\x07", "direction": "a\u202eb"},
    "stage": {"long": LONG},
    "data": {"long": LONG, "newline": "a\nb"},
    "levels": {"nested": {"a": nested(900)}, "digits": {"a": DIGITS}, "long": {"a": LONG}},
    "setting": {"nested": {"a": nested(900)}, "key": {LONG: 1}},
    "grid_side": {"digits": DIGITS, "zero": 0},
    "floor_percent": {"over": 101.0},
    "unknown": {"nested": nested(900), "digits": DIGITS, "long": LONG},
}
BOTH = [(key, kind) for key, kinds in ABSURD.items() for kind in kinds]
ROWS = [*BOTH, *((key, kind) for key, kinds in ROW_ONLY.items() for kind in kinds)]


def with_value(whole: dict[str, Any], key: str, value: Any) -> str:
    """The JSON of a record or row with one field replaced."""
    changed = json.loads(json.dumps(whole))
    section, _, inner = key.partition(".")
    if inner:
        changed[section][inner] = value
    else:
        changed[section] = value
    return json.dumps(changed)


def refused(work: Callable[[Path], object], path: Path) -> None:
    with pytest.raises(ResultsError, match=path.name) as error:
        work(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600 + len(str(path))
    assert str(error.value).isprintable()


@pytest.mark.parametrize(("key", "kind"), BOTH)
def test_an_absurd_record_is_one_line(key: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(with_value(RECORD, key, ABSURD[key][kind]))
    refused(read_record, path)


@pytest.mark.parametrize(("key", "kind"), ROWS)
def test_an_absurd_row_is_one_line(key: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(with_value(ROW, key, {**ABSURD, **ROW_ONLY}[key][kind]) + "\n")
    refused(read_records, path)


def test_the_unchanged_row_and_record_are_read(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text(json.dumps(ROW) + "\n")
    assert read_records(tmp_path / "records.jsonl") == [ROW]
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    assert read_record(tmp_path / "record.json").trial_id == ROW["trial_id"]


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"x": {"a": 1, "b": 2, "a": 1}}', "NaN", "[Infinity]", "[" * 10**5]
)
def test_json_that_means_two_things_or_nothing(text: str) -> None:
    with pytest.raises(ValueError, match=r"stands twice|not a number|deep"):
        parse(text)


def test_a_key_that_stands_twice_is_no_record(tmp_path: Path) -> None:
    """Readers differ in which of the two they take."""
    text = json.dumps(ROW)
    (tmp_path / "records.jsonl").write_text(text[:-1] + ', "seed": 7}\n')
    refused(read_records, tmp_path / "records.jsonl")
    (tmp_path / "record.json").write_text(json.dumps(RECORD)[:-1] + ', "status": "failed"}')
    refused(read_record, tmp_path / "record.json")


def test_lines_of_analyses_and_events_have_bounds(tmp_path: Path) -> None:
    for changes in ({"metrics": {"a": 1e308}}, {"trial_id": "../x"}, {"images": LONG}, {"extra": 1}):
        (tmp_path / "analysis.jsonl").write_text(json.dumps({"trial_id": "0" * 16, **changes}) + "\n")
        with pytest.raises(ResultsError, match=r"analysis\.jsonl:1: damaged"):
            read_analyses(tmp_path)
    for changes in ({"message": 1}, {"message": LONG}, {"message": "a", "given_up": nested(900)}, {}):
        with pytest.raises(ValueError):  # noqa: PT011 (any of its kinds)
            from_line(json.dumps({"at": 1.0, "event": "Warned", **changes}))


def test_committed_results_are_far_inside_the_bounds() -> None:
    paths = sorted(RESULTS.glob("*/*/records.jsonl"))
    rows = [row for path in paths for row in read_records(path)]
    assert len(rows) > 2000
    for row in rows:
        check_size(row)
        assert max(len(row["arm"]), *map(len, row["run"]["versions"])) < MAX_NAME / 4
        assert row["run"]["train_seconds"] < 1e5


def test_what_a_training_may_give_is_inside() -> None:
    largest = Result(num_params=10**13, forward_flops=10**17, train_flops=1e27, num_images=10**12, num_steps=10**8)
    assert Record(trial_id="0" * 16, status="ok", seed=2**62, data_fingerprint="0" * 64, spec={}, result=largest,
                  run=Run(train_seconds=1e8, images_per_second=1e9, peak_memory_mib=1e8))  # fmt: skip
    check_size(nested(MAX_DEPTH))
    with pytest.raises(ValueError, match="deep"):
        check_size(nested(MAX_DEPTH + 1))


def test_hidden_characters_are_escaped_where_text_is_shown() -> None:
    text = "a\x1b[2J\u202eb\u2066\u200f\nc"
    assert printable(text) == "a\\x1b[2J\\u202eb\\u2066\\u200f\\nc"
    assert printable(text).isprintable()
    assert not any(is_plain(char) for char in "\x1b\x9b\x7f\0\n\u202e\u2066\u200f\u2028\ud800")
    assert is_plain("Bild größer 画像 naïve")
