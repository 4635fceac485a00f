"""`doctor`, `clean`, `check-data`: every planted fault is found, and nothing that a run uses is ever touched. 6 s."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

from vitbench.cli import doctor
from vitbench.data import DataOptions
from vitbench.store import file_system
from vitbench.store.trials import Store

EXPERIMENT = """
name: tiny
base:
  data: {name: fake, val_fraction: 0.2}
  model: {patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 2.0}
  train: {steps: 3, batch_size: 16}
tune: {train.lr: [1e-3, 4e-3], seeds: 1}
seeds: 1
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rich.console import Console

    from vitbench.cli.commands.prepare import ExperimentRequest, data_options
    from vitbench.cli.commands.run import RunOptions, run

    folder = tmp_path_factory.mktemp("upkeep")
    (folder / "tiny.yaml").write_text(EXPERIMENT)
    request, options = (
        ExperimentRequest(str(folder / "tiny.yaml")),
        RunOptions(folder / "results", data_options(None, False), jobs=1),
    )
    assert run(request, dataclasses.replace(options, keep="all", quiet=True), Console(quiet=True)) == 0
    return folder / "results"


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "results"))


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def trials(root: Path) -> list[Path]:
    return sorted((root / "trials").iterdir())


def findings(cli: Cli, root: Path, *words: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    answer = cli("doctor", "--results", root, "--json", *words)
    found: dict[str, list[dict[str, Any]]] = {}
    for one in json.loads(answer.out)["findings"]:
        found.setdefault(one["what"], []).append(one)
    return answer.code, found


def dead_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def edit(path: Path, **changes: Any) -> None:
    content = {**json.loads(path.read_text()), **changes}
    path.unlink()  # The attempt's name of the same file keeps the old content.
    path.write_text(json.dumps(content))


def test_a_sound_root_has_nothing_bad_and_is_left_as_it_is(cli: Cli, root: Path) -> None:
    before = files(root)
    code, found = findings(cli, root)
    assert code == 0
    assert [one["level"] for one in found["run"]] == ["ok"]
    assert {one["what"] for kind in found.values() for one in kind if one["level"] == "bad"} == set()
    assert {"python", "torch", "cores", "disk", "locks", "hard links", "fsync", "data", "records"} <= found.keys()
    assert files(root) == before


def test_without_a_results_folder_the_machine_is_checked_and_nothing_made(cli: Cli, tmp_path: Path) -> None:
    answer = cli("doctor", "--results", tmp_path / "none")
    assert answer.code == 0
    assert "no folder" in answer.out
    assert not (tmp_path / "none").exists()


def plant_torn(root: Path) -> None:
    path = trials(root)[0] / "record.json"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-30])


def plant_foreign(root: Path) -> None:
    first, second, *_ = trials(root)
    (first / "record.json").unlink()
    shutil.copy(second / "record.json", first / "record.json")


def plant_conflict(root: Path) -> None:
    path = trials(root)[0] / "attempts" / "2" / "record.json"
    path.parent.mkdir(parents=True)
    shutil.copy(trials(root)[0] / "record.json", path)
    edit(path, status="diverged")


def plant_mixed_rows(root: Path) -> None:
    path = root / "tiny" / "records.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), "algorithm_version": 99}), *rest]) + "\n")


BAD = {
    "record": (plant_torn, "damaged, or from an incompatible version"),
    "record of another trial": (plant_foreign, "the record of another trial"),
    "conflict": (plant_conflict, "has another result"),
    "run": (plant_mixed_rows, "never mixed into one table"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_bad_is_found_and_never_repaired(kind: str, cli: Cli, root: Path) -> None:
    plant, said = BAD[kind]
    plant(root)
    before = files(root)
    for words in ([], ["--fix"]):
        code, found = findings(cli, root, *words)
        assert code == 5
        bad = [one for kind in found.values() for one in kind if one["level"] == "bad"]
        assert any(said in one["text"] for one in bad)
        assert all(one["advice"] for one in bad)
        assert bad
    assert files(root) == before


def plant_code(root: Path) -> None:
    edit(trials(root)[0] / "record.json", algorithm_version=99)


def plant_data(root: Path) -> None:
    edit(trials(root)[0] / "record.json", data_fingerprint="0" * 64)


def plant_stale(root: Path) -> None:
    (root / "tiny" / "table.csv").write_text("arm\n")


def plant_lost_row(root: Path) -> None:
    path = root / "tiny" / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


WORTH_KNOWING = {
    "code": (plant_code, "1 of version 99"),
    "data": (plant_data, "2 different sets of images"),
    "run": (plant_stale, "the tables do not fit the records"),
    "lost row": (plant_lost_row, "1 finished trials are not in records.jsonl"),
}


@pytest.mark.parametrize("kind", WORTH_KNOWING)
def test_what_is_mixed_or_stale_is_said(kind: str, cli: Cli, root: Path) -> None:
    plant, said = WORTH_KNOWING[kind]
    plant(root)
    code, found = findings(cli, root)
    assert code == (5 if kind == "data" else 0)  # A trial's id hashes its images: a record of other images is bad.
    assert [one for kind in found.values() for one in kind if one["level"] == "warn" and said in one["text"]]


def test_fix_removes_what_is_safe_and_nothing_else(cli: Cli, root: Path) -> None:
    before = files(root)
    trial = trials(root)[0]
    (trial / "attempts" / "7").mkdir(parents=True)
    (trial / "checkpoints" / "step-000000002.safetensors").write_bytes(b"mid-trial")
    (root / "tiny" / f".records.jsonl.{dead_pid()}").write_bytes(b"half")
    alive = root / "tiny" / f".records.jsonl.{os.getpid()}"
    alive.write_bytes(b"being written")
    assert findings(cli, root)[0] == 0
    assert alive.exists()
    assert (trial / "attempts" / "7").exists(), "without --fix nothing is repaired"
    answer = cli("doctor", "--results", root, "--fix")
    assert answer.out.count("removed ") == 3
    alive.unlink()
    assert files(root) == before
    assert not (trial / "attempts" / "7").exists()


def unused(root: Path) -> Path:
    """A finished trial that no run's plan uses."""
    path = root / "trials" / ("f" * 16)
    shutil.copytree(trials(root)[0], path)
    edit(path / "record.json", trial_id=path.name)
    return path


def test_clean_lists_and_only_with_yes_removes(cli: Cli, root: Path) -> None:
    used, path = {p.name for p in trials(root)}, unused(root)
    records = {name: (root / "trials" / name / "record.json").read_bytes() for name in used}
    before = files(root)
    answer = cli("clean", "--results", root)
    assert answer.code == 0
    assert f"would remove  {path}: no run's plan uses this trial" in answer.out
    assert "weights of a tuning trial" in answer.out
    assert files(root) == before
    assert cli("clean", "--results", root, "--yes").code == 0
    assert {p.name for p in trials(root)} == used
    assert {name: (root / "trials" / name / "record.json").read_bytes() for name in used} == records
    weights = [Store(root).weights(name).is_file() for name in used]
    assert sum(weights) == 1, "of the reporting trial alone"
    again = cli("run", root.parent / "none.yaml", "--results", root)
    assert again.code == 2
    assert "0 leftovers" in cli("clean", "--results", root).out
    assert findings(cli, root)[0] == 0


def test_after_clean_the_same_run_finds_everything_done(cli: Cli, root: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)
    assert cli("clean", "--results", root, "--yes").code == 0
    records = {p.name: (p / "record.json").read_bytes() for p in trials(root)}
    assert cli("run", tmp_path / "tiny.yaml", "--results", root, "-j", 1, "--quiet").code == 0
    assert {p.name: (p / "record.json").read_bytes() for p in trials(root)} == records
    assert not [p for p in root.rglob("attempts/*") if p.is_dir()], "nothing was tried again"


@pytest.fixture
def locked(root: Path) -> Iterator[Path]:
    path = unused(root)
    with Store(root).lock(path.name) as held:
        assert held
        yield path


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the kernel does not list its locks here")
def test_clean_leaves_what_some_process_is_at_work_on(cli: Cli, root: Path, locked: Path) -> None:
    assert str(locked) not in cli("clean", "--results", root, "--yes").out
    assert (locked / "record.json").is_file()


def close_over(root: Path, how: str) -> None:
    if how == "unfinished":
        (next(p for p in trials(root) if Store(root).weights(p.name).is_file()) / "record.json").unlink()
    elif how == "unreadable":
        (root / "tiny" / "experiment.yaml").write_text("name: [")
    else:
        text = (root / "tiny" / "experiment.yaml").read_text()
        (root / "tiny" / "experiment.yaml").write_text(text.replace("name: fake", "name: folder:/nowhere"))


@pytest.mark.parametrize("how", ["unfinished", "unreadable", "data away"])
def test_while_a_run_is_open_no_trial_counts_as_unused(how: str, cli: Cli, root: Path) -> None:
    path = unused(root)
    close_over(root, how)
    answer = cli("clean", "--results", root, "--yes")
    assert answer.code == 0
    assert "kept: trials that no plan uses, as tiny" in answer.out
    assert (path / "record.json").is_file()


def test_attempts_of_a_failed_trial_stay_for_its_retry(cli: Cli, root: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)
    edit(trials(root)[0] / "record.json", status="failed", reason="boom")
    assert cli("clean", "--results", root, "--yes").code == 0
    common = ["run", tmp_path / "tiny.yaml", "--results", root, "-j", 1, "--quiet"]
    assert cli(*common, "--retry-failed").code == 0


def test_clean_without_a_folder_is_bad_input(cli: Cli, tmp_path: Path) -> None:
    assert cli("clean", "--results", tmp_path / "none").code == 2


# The machine, where it is not as it should be.


def levels(found: Iterator[doctor.Finding]) -> dict[str, str]:
    return {one.what: one.level for one in found}


def test_a_disk_without_locks_or_links_or_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("not here")

    fine = {"disk": "ok", "locks": "ok", "hard links": "ok", "rename": "ok", "fsync": "ok"}
    assert levels(doctor.disk(tmp_path)) == fine | {
        one.what: "warn" for one in doctor.disk(tmp_path) if one.what in ("disk", "fsync") and one.level == "warn"
    }
    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("fcntl.flock", refuse)
    found = levels(doctor.disk(tmp_path))
    assert (found["locks"], found["hard links"]) == ("warn", "warn")
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    assert levels(doctor.disk(tmp_path))["locks"] == "warn", "a lock that keeps nobody out"
    monkeypatch.setattr("os.replace", lambda *_: None)
    (bad,) = (one for one in doctor.disk(tmp_path) if one.level == "bad")
    assert (bad.what, bad.exit_code) == ("rename", 5)
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))  # type: ignore[attr-defined]
    (bad,) = (one for one in doctor.disk(tmp_path) if one.level == "bad")
    assert (bad.what, bad.exit_code) == ("disk", 6)
    assert not list(tmp_path.iterdir()), "what was tried is gone"


def test_shards_need_locks(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command goes on without locks; several would train the same trials."""

    def refuse(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("vitbench.store.file_system.try_locks", refuse)
    answer = cli("run", "smoke", "--results", tmp_path, "--shard", "1/2")
    assert answer.code == 5
    assert "locks do not work here (Operation not supported)" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_second_call_of_doctor_says_whether_a_lock_excludes_it(tmp_path: Path) -> None:
    with file_system.holding(tmp_path, 60.0):
        assert levels(doctor.disk(tmp_path))["hosts"] == "ok"
        with pytest.raises(BlockingIOError), file_system.holding(tmp_path, 60.0):
            pass
    assert "hosts" not in levels(doctor.disk(tmp_path))
    (tmp_path / file_system.HELD).write_text('{"host": "far", "until": 1e12}')
    (hosts,) = (one for one in doctor.disk(tmp_path) if one.what == "hosts")
    assert (hosts.level, "far holds does not exclude" in hosts.text) == ("warn", True)
    for stale in ('{"host": "far", "until": 1}', "torn", "[]", '{"host": "far"}'):
        (tmp_path / file_system.HELD).write_text(stale)
        assert "hosts" not in levels(doctor.disk(tmp_path))


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    (bad,) = (one for one in doctor.disk(tmp_path) if one.level == "bad")
    assert "cannot be written" in bad.text
    assert bad.exit_code == 5


def test_versions_that_do_not_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.pinned_torch(["numpy", "torch==2.9.0"]) == "2.9.0"
    assert doctor.pinned_torch(["torch (==2.8.0) ; x"]) == "2.8.0"
    assert doctor.pinned_torch(["torch"]) is None
    monkeypatch.setattr("vitbench.cli.doctor.metadata.requires", lambda _: ["torch==1.0.0"])
    (bad,) = (one for one in doctor.machine(tmp_path, DataOptions()) if one.level == "bad")
    assert bad.advice == "this torchvision is built for torch 1.0.0"


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("150000 100000", 1.5), ("", None)])
def test_cores_of_a_container(text: str, cores: float | None) -> None:
    assert doctor.quota_cores(text) == cores


def test_check_data(cli: Cli, tmp_path: Path) -> None:
    from made_sets import write_folder

    write_folder(tmp_path / "set" / "train", {"a": 3, "b": 3})
    write_folder(tmp_path / "set" / "test", {"a": 2, "b": 1}, start=2)
    answer = cli("check-data", f"folder:{tmp_path / 'set'}")
    assert answer.code == 0
    assert "6 training and 3 test images in 2 classes" in answer.out
    assert "3 of 3 test images (100.0%) are also training images" in answer.out
    (tmp_path / "set" / "train" / "a" / "000.png").write_bytes(b"")
    answer = cli("check-data", f"folder:{tmp_path / 'set'}")
    assert answer.code == 2
    assert "000.png: the file is empty" in answer.out
