"""`load_records`: the frame, its errors, and docs/NOTEBOOK.md, whose blocks are run and their output compared.

`python tests/test_records.py` writes the output of every block into the page.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vitbench import load_records
from vitbench.base.errors import InputError, ResultsError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "NOTEBOOK.md"
DIGITS = ROOT / "results" / "tier1-digits"
BLOCK = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


def outputs(page: str) -> list[tuple[str, str]]:
    """(what a block prints, what the page shows) of every block, run in order in one namespace."""
    names: dict[str, Any] = {}
    out = []
    for code, shown in BLOCK.findall(page):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.chdir(ROOT):
            exec(code, names)
        out.append(("\n".join(line.rstrip() for line in said.getvalue().splitlines()) + "\n", shown))
    return out


def test_the_notebook_shows_what_its_code_prints() -> None:
    page = PAGE.read_text()
    found = outputs(page)
    assert len(found) == page.count("```python") == 4
    for printed, shown in found:
        assert printed == shown


def test_a_wrong_number_on_the_page_is_seen() -> None:
    (printed, shown), *_ = outputs(re.sub(r"\d+ trials of", "1 trials of", PAGE.read_text()))
    assert printed != shown


def test_a_row_is_a_trial_as_the_file_has_it() -> None:
    frame = load_records(DIGITS)
    lines = [json.loads(line) for run in sorted(DIGITS.glob("*/records.jsonl")) for line in run.open()]
    assert len(frame) == len(lines)
    scores = [line["result"]["test_top1_percent"] for line in lines]  # None for a stage without classes
    assert list(frame.test_top1_percent.fillna(-1.0)) == [-1.0 if score is None else score for score in scores]
    assert list(frame["train.lr"].fillna(-1.0)) == [line["setting"].get("train.lr", -1.0) for line in lines]
    assert list(frame.train_seconds) == [line["run"]["train_seconds"] for line in lines]
    assert {"run", "arm", "model.global_pool", "seed", "role", "status", "train_flops"} <= set(frame.columns)
    assert not set(frame.columns) & {"curve", "metrics", "levels", "setting", "spec"}
    assert frame.columns.is_unique


def test_a_root_a_run_and_a_file_are_read_alike() -> None:
    import pandas as pd

    run = DIGITS / "position_encoding"
    whole, part = load_records(DIGITS), load_records(run)
    pd.testing.assert_frame_equal(part, load_records(run / "records.jsonl"))
    assert list(whole[whole.run == "position_encoding"].trial_id) == list(part.trial_id)


def test_curves_are_a_row_a_reading() -> None:
    run = DIGITS / "class_token_vs_gap"
    curves, lines = load_records(run, curve=True), [json.loads(line) for line in (run / "records.jsonl").open()]
    assert len(curves) == sum(len(line["result"]["curve"]) for line in lines)
    last = curves.groupby("trial_id", sort=False).val_top1_percent.last()
    assert last.to_dict() == pytest.approx({line["trial_id"]: line["result"]["val_top1_percent"] for line in lines})


def rows(path: Path, **changes: Any) -> Path:
    line = json.loads((DIGITS / "position_encoding" / "records.jsonl").open().readline()) | changes
    path.write_text(json.dumps(line) + "\n")
    return path


def test_what_a_diverged_trial_does_not_have_is_missing(tmp_path: Path) -> None:
    import pandas as pd

    none = {"curve": [], "metrics": {}, "test_top1_percent": None, "train_flops": 1.0}
    path = rows(tmp_path / "records.jsonl", status="diverged", result=none)
    (row,) = load_records(path).to_dict("records")
    assert row["status"] == "diverged"
    assert pd.isna(row["test_top1_percent"])
    assert load_records(path, curve=True).empty


def test_levels_that_are_lists_can_be_grouped(tmp_path: Path) -> None:
    path = rows(tmp_path / "records.jsonl", levels={"model.stage_blocks": [1, 2, 2, 1]})
    assert list(load_records(path).groupby("model.stage_blocks").groups) == ["1x2x2x1"]


def test_no_records_and_torn_records_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no records here"):
        load_records(tmp_path)
    torn = rows(tmp_path / "records.jsonl")
    torn.write_text(torn.read_text()[:-40])
    with pytest.raises(ResultsError, match=r"records.jsonl:1: not a JSON record"):
        load_records(tmp_path)


@pytest.mark.slow
def test_the_package_loads_pandas_only_when_asked() -> None:
    seen = "assert 'pandas' {} sys.modules; "
    code = f"import sys, vitbench; {seen.format('not in')} vitbench.load_records; {seen.format('in')}"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    with pytest.raises(AttributeError, match="nothing"):
        _ = __import__("vitbench").nothing


if __name__ == "__main__":
    text = PAGE.read_text()
    printed = iter([said for said, _ in outputs(text)])
    PAGE.write_text(BLOCK.sub(lambda m: f"```python\n{m[1]}```\n\n```text\n{next(printed)}```", text))
