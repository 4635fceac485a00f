"""Numbers that are wrong and look right: every guard is shown to fire. About 10 s."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image
from pydantic import ValidationError

from vitbench.base.errors import InputError, ResultsError
from vitbench.data import DataOptions, facts
from vitbench.spec.load import loads
from vitbench.store.record import ALGORITHM_VERSION, Record, Result, Run
from vitbench.store.rows import read_records
from vitbench.store.trials import Store
from vitbench.train import resident as images_module
from vitbench.train.evaluate import evaluate, logits_of
from vitbench.train.image_source import ImageSource

EXPERIMENT = """
name: tiny
base:
  data: {name: fake, val_fraction: 0.2}
  model: {patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 2.0}
  train: {steps: 3, batch_size: 16, lr: 4e-3}
factors: {model.global_pool: [token, avg]}
seeds: 1
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT)
    return path


def row(**changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "arm": "a", "levels": {}, "setting": {}, "role": "reporting", "seed": 0, "trial_id": "0" * 16, "status": "ok",
        "data": "fake", "data_fingerprint": "f" * 64, "algorithm_version": 1, "spec": {}, "run": {},
        "result": {"test_top1_percent": 50.0},
    }  # fmt: skip
    return {**known, **changes}


def read(tmp_path: Path, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return read_records(path)


# A metric outside its range, where a record is made and where one is read.

OUT_OF_RANGE = [
    {"test_top1_percent": 100.1}, {"test_top1_best_val_percent": -0.1}, {"val_top1_percent": 1e3},
    {"test_loss": float("nan")}, {"test_loss": float("inf")}, {"num_images": -1}, {"num_params": -1},
    {"train_flops": -1.0}, {"metrics": {"few_shot_5_percent": 101.0}}, {"metrics": {"knn_percent": float("nan")}},
    {"curve": [{"step": -1, "train_loss": 1.0}]}, {"curve": [{"step": 1, "train_loss": float("nan")}]},
    {"curve": [{"step": 1, "train_loss": 1.0, "val_top1_percent": 100.5}]},
]  # fmt: skip


@pytest.mark.parametrize("bad", OUT_OF_RANGE, ids=str)
def test_a_metric_outside_its_range_is_no_result(bad: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Result(**bad)
    with pytest.raises(
        ResultsError, match=r"records\.jsonl:2: (not a JSON record|this line was written by an incompatible version)"
    ) as error:
        read(tmp_path, row(), row(seed=1, trial_id="1" * 16, result=bad))
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 5


def test_what_is_in_range_is_read_as_it_stands(tmp_path: Path) -> None:
    rows = [row(), row(seed=1, trial_id="1" * 16, unknown_key=1, result={"test_top1_percent": 100.0})]
    assert read(tmp_path, *rows) == rows
    assert Result(test_top1_percent=0.0, metrics={"ratio": 250.0}).metrics == {"ratio": 250.0}


# Records of two origins in one table.


@pytest.mark.parametrize("key", ["algorithm_version", "data_fingerprint"])
def test_two_origins_are_never_one_table(key: str, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=f"2: {key} is .*never mixed"):
        read(tmp_path, row(), row(seed=1, trial_id="1" * 16, **{key: 2 if key == "algorithm_version" else "9" * 64}))
    other = row(seed=1, trial_id="1" * 16, data="digits", data_fingerprint="9" * 64)
    assert len(read(tmp_path, row(), other)) == 2, "two data sets are two origins by design"


def test_two_trials_in_one_cell_are_a_conflict(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="the same arm, setting and seed as line 1"):
        read(tmp_path, row(), row(trial_id="1" * 16))
    assert len(read(tmp_path, row(), row(arm="b"))) == 2, "one trial may be a cell of two arms"


def test_a_record_in_another_trials_folder_is_not_its_result(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = Record(
        trial_id="a" * 16, status="ok", seed=0, data_fingerprint="f" * 64, spec={}, result=Result(), run=Run()
    )
    for name in ("a" * 16, "b" * 16):
        store.folder(name).mkdir(parents=True)
        (store.folder(name) / "record.json").write_text(made.model_dump_json())
    assert store.read("a" * 16) == made
    with pytest.raises(ResultsError, match="the record of another trial, a"):
        store.read("b" * 16)
    (store.folder("c" * 16) / "record.json").mkdir(parents=True)
    with pytest.raises(ResultsError, match="a folder where a file is expected"):
        store.read("c" * 16)


def test_a_torn_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    whole = json.dumps(row())
    for end in range(1, len(whole)):
        path.write_text(f"{whole}\n{whole[:end]}")
        with pytest.raises(ResultsError, match=r"records\.jsonl:2: "):
            read_records(path)


def edited(root: Path, **changes: Any) -> None:
    path = root / "tiny" / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**one, **changes}) + "\n" for one in rows))


def test_records_of_another_code_are_refused_unless_told(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    root = tmp_path / "results"
    common = ["run", tiny, "-j", 1, "--quiet", "--results", root]
    assert cli(*common).code == 0
    edited(root, algorithm_version=ALGORITHM_VERSION + 1)
    before = (root / "tiny" / "records.jsonl").read_bytes()
    answer = cli(*common)
    assert answer.code == 5
    assert "records of algorithm version" in answer.err
    assert "--as NAME" in answer.err
    assert (root / "tiny" / "records.jsonl").read_bytes() == before
    assert cli(*common, "--as", "again").code == 0
    assert cli("report", "--results", root, "tiny").code == 0, "alone they are a table of their own"


def test_a_torn_file_of_rows_is_written_again_by_the_next_run(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    common = ["run", tiny, "-j", 1, "--quiet", "--results", tmp_path / "results"]
    assert cli(*common).code == 0
    path = tmp_path / "results" / "tiny" / "records.jsonl"
    whole = path.read_bytes()
    for torn in (whole[:-30], b"\xff\n" + whole, b"[1]\nnull\n", b""):
        path.write_bytes(torn)
        assert cli(*common).code == 0
        assert path.read_bytes() == whole


def test_white_space_in_the_file_changes_nothing(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    common = ["run", tiny, "-j", 1, "--quiet", "--results", tmp_path / "results"]
    assert cli(*common).code == 0
    tiny.write_text("\n# a remark\n" + EXPERIMENT.replace(": ", ":   "))
    assert cli(*common, "--limit", 1).code == 0, "nothing was left to run"


# Images that changed, and test images that are trained on.


def pictures(root: Path, keys: dict[str, range]) -> Path:
    """8-pixel noise, one file a key, in classes a and b."""
    for split, numbers in keys.items():
        for number in numbers:
            path = root / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(noise).save(path)
    return root


def test_data_changed_under_records_are_refused_unless_told(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", {"train": range(40), "test": range(40, 60)})
    common = ["run", tiny, "-j", 1, "--quiet", "--results", tmp_path / "results", "--data", f"folder:{images}"]
    assert cli(*common).code == 0
    (images / "train" / "a" / "0.png").write_bytes((images / "train" / "b" / "1.png").read_bytes())
    answer = cli(*common)
    assert answer.code == 5
    assert "have changed since its records" in answer.err
    images_module._cache.clear()  # Another process, as far as images in memory go.
    assert cli(*common, "--as", "again").code == 0


def test_an_image_changed_behind_the_cache_is_found_before_training(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """Same size, same time: the planned fingerprint is the old one, the images are not."""
    images = pictures(tmp_path / "images", {"train": range(40), "test": range(40, 60)})
    for path in images.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    data = f"folder:{images}"
    fingerprint = facts(data, DataOptions()).fingerprint
    victim, other = images / "train" / "a" / "0.bmp", images / "train" / "a" / "2.bmp"
    times = victim.stat()
    victim.write_bytes(other.read_bytes())
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert facts(data, DataOptions()).fingerprint == fingerprint, "what size and time cannot tell"
    common = ["run", tiny, "-j", 1, "--quiet", "--results", tmp_path / "results", "--data", data]
    answer = cli(*common)
    assert answer.code == 2
    assert "changed after planning" in answer.err
    assert not list((tmp_path / "results").rglob("record.json"))
    assert cli(*common).code == 0, "the next command plans with what is there"
    assert facts(data, DataOptions()).fingerprint != fingerprint


@pytest.mark.parametrize("command", ["plan", "run"])
def test_overlap_of_train_and_test_is_said_once(command: str, cli: Cli, tiny: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", {"train": range(40), "test": range(37, 57)})
    words = [command, tiny, "--results", tmp_path / "results", "--data", f"folder:{images}"]
    answer = cli(*words, *(["-j", 1, "--quiet"] if command == "run" else []))
    assert answer.code == 0
    (line,) = answer.err.splitlines()
    assert line.startswith("warning: ")
    assert "3 of 20 test images (15.0%) are also training images" in line


# Evaluation.


@dataclass(frozen=True, kw_only=True)
class Losing(ImageSource):
    """Images of another source, less the last piece."""

    inner: Any

    def read(self, part: Any, index: np.ndarray, batch: int) -> Iterator[torch.Tensor]:
        yield from list(self.inner.read(part, index, 100))[:-1]

    def feed(self, *_: Any) -> Any:
        raise NotImplementedError


def test_an_evaluation_that_misses_or_repeats_an_image_stops() -> None:
    from tiny_jobs import spec, trainer

    made = trainer([spec()], [0])
    index = np.arange(256)[None]
    kept = {name: getattr(made.images, name) for name in ImageSource.__dataclass_fields__}
    with pytest.raises(AssertionError, match="every image exactly once"):
        logits_of(made.stack, Losing(inner=made.images, **kept), "test", index)
    with pytest.raises(AssertionError, match="no image twice"):
        logits_of(made.stack, made.images, "test", np.where(index == 5, 6, index))
    assert logits_of(made.stack, made.images, "test", index).shape == (1, 256, 4)


def test_all_nan_logits_are_not_chance_accuracy() -> None:
    """argmax of NaN is class 0, which is right for one image in ten: a number that looks like a result."""
    logits, labels = torch.full((10, 10), float("nan")), np.arange(10)
    assert 100 * np.mean(logits.argmax(-1).numpy() == labels) == 10.0
    found = evaluate(logits, labels)
    assert not found.finite
    assert (found.predicted == -1).all()
    assert found.top1_percent == 0.0


# Clocks.


def test_a_clock_that_jumps_back_changes_no_duration(cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: Any) -> None:
    calls, real = iter(range(10**9)), time.time
    monkeypatch.setattr(time, "time", lambda: real() - 86400 * next(calls))
    root = tmp_path / "results"
    assert cli("run", tiny, "-j", 1, "--quiet", "--results", root).code == 0
    rows = read_records(root / "tiny" / "records.jsonl")
    assert all(0 <= one["run"]["train_seconds"] < 600 for one in rows)
    for number, path in enumerate(sorted(root.rglob("*"))):
        os.utime(path, (0, 0) if number % 2 else (4102444800, 4102444800))
    before = (root / "tiny" / "records.jsonl").read_bytes()
    assert cli("run", tiny, "-j", 1, "--quiet", "--results", root).code == 0
    assert (root / "tiny" / "records.jsonl").read_bytes() == before, "files of 1970 and 2100 change no order"


def test_a_negative_duration_is_no_record() -> None:
    with pytest.raises(ValidationError):
        Run(train_seconds=-1.0)
    with pytest.raises(ValidationError):
        Record(
            trial_id="0" * 16,
            status="ok",
            seed=0,
            data_fingerprint="f" * 64,
            spec={},
            result=Result(),
            run={"threads": 0.5},
        )  # type: ignore[arg-type]


# Settings that would be taken for one another, and grids that nobody can run.

TWICE = [
    ("factors: {train.lr: [0.001, 1.0e-3]}", "the level 0.001 stands twice"),
    ("factors: {train.lr: [0.001, 0.0010000001]}", "would both be called 0.001"),
    ("factors: {train.epochs: [1, 1.0]}", "the level 1.0 and 1 would both be called 1"),
    ("tune: {train.lr: [2e-3, 0.002]}", "the level 0.002 stands twice"),
    ("seeds: [1, 1]", "a seed stands twice"),
]


@pytest.mark.parametrize(("text", "said"), TWICE)
def test_settings_that_are_one_setting(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        loads(f"name: x\n{text}", "a.yaml")


def test_arms_that_differ_in_name_only(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        EXPERIMENT.replace("factors: {model.global_pool: [token, avg]}", "arms: {a: {}, b: {train.lr: 4e-3}}")
    )
    answer = cli("run", path, "--results", tmp_path / "results")
    assert answer.code == 2
    assert "arms a and b compute the same" in answer.err


@pytest.fixture
def limited() -> Iterator[Callable[[], None]]:
    """A limit of 200 MB above what the process holds, so that an expansion would end in a MemoryError."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 200 * 2**20, before[1]))
    yield lambda: None
    resource.setrlimit(resource.RLIMIT_AS, before)


def grid(num_arms: int) -> str:
    values = {"train.weight_decay": num_arms, "train.momentum": 1000}
    lines = [f"  {path}: [{', '.join(str((i + 1) / 2000) for i in range(n))}]" for path, n in values.items()]
    rates = ", ".join(str((i + 1) / 1000) for i in range(1000))
    return (
        "\n".join([EXPERIMENT.replace("factors: {model.global_pool: [token, avg]}", "factors:"), ""]).replace(
            "factors:\n", "factors:\n" + "\n".join(lines) + "\n"
        )
        + f"tune: {{train.lr: [{rates}], seeds: 3}}\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.usefixtures("limited")
def test_a_huge_grid_is_counted_and_not_expanded(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.write_text(grid(40))
    for command in ("plan", "run", "show"):
        answer = cli(command, path)
        assert answer.code == 2
        assert "up to 120,040,000 trials (40,000 arms, 1,000 settings); at most 10,000" in answer.err


@pytest.mark.parametrize(
    "words",
    [("cifar10/equal_compute", "--set", "tune.seeds=1000000000"), ("position_encoding", "--seeds", "0-999")],
)
def test_options_cannot_ask_for_too_much_either(words: tuple[str, ...], cli: Cli) -> None:
    answer = cli("plan", *words)
    assert answer.code == 2
    assert "at most 10,000 are planned at once" in answer.err


def test_an_image_side_that_no_patch_divides_is_refused_in_every_cell_at_once(cli: Cli, tmp_path: Path) -> None:
    """torch itself would cut the edge off."""
    cut = torch.nn.functional.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3), stride=3)
    assert cut.shape[-1] == 2
    path = tmp_path / "cells.yaml"
    wide = EXPERIMENT.replace("patch_size: 4, ", "").replace("num_heads: 2, ", "")
    path.write_text(
        wide.replace("{model.global_pool: [token, avg]}", "{model.patch_size: [4, 3, 5], model.num_heads: [2, 3]}")
    )
    answer = cli("plan", path)
    assert answer.code == 2
    said = answer.err.splitlines()
    assert [sum(f"arm {arm}:" in line for line in said) for arm in ("4+2", "4+3", "3+2", "3+3", "5+2", "5+3")] == [
        0, 1, 1, 2, 1, 2,
    ]  # fmt: skip


def test_the_device_that_was_asked_for_or_none(cli: Cli, tiny: Path, monkeypatch: Any) -> None:
    """Before the images are looked at, and never the CPU instead."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    answer = cli("run", tiny, "--device", "cuda", "--data", "folder:/nowhere")
    assert answer.code == 2
    assert answer.err == "error: --device cuda: torch sees no CUDA device here; try --device cpu\n"


def test_a_record_says_on_what_it_ran(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    root = tmp_path / "results"
    assert cli("run", tiny, "-j", 1, "--quiet", "--results", root, "--device", "cpu").code == 0
    assert {one["run"]["device"].split()[0] for one in read_records(root / "tiny" / "records.jsonl")} == {"cpu"}


def test_replace_keeps_the_rules() -> None:
    """A copy of facts with another count is another value, so a cached overlap is never mistaken."""
    known = facts("fake", DataOptions())
    assert known.num_test_in_train == 0
    assert replace(known, num_test_in_train=1) != known
