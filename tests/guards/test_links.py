"""Links and special files in a results folder: nothing outside is touched, nothing waits, and the file is named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Cli

from vitbench.base import contained
from vitbench.base.contained import read
from vitbench.base.durable import replace_all, replace_durably
from vitbench.base.errors import ResultsError
from vitbench.cli.commands import completion
from vitbench.store.event_log import EventLog, dead_logs, folder_of, live_logs
from vitbench.store.events import Warned
from vitbench.store.record import Record, Result, Run
from vitbench.store.trials import Store
from vitbench.train.checkpoint import Checkpoints

REFERENCE = Path(__file__).parents[2] / "results" / "tier1-digits" / "patch_size"
ID = "0123456789abcdef"
PRECIOUS = b"all of it"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that no command may change."""
    path = tmp_path / "outside" / "thesis.tex"
    path.parent.mkdir()
    path.write_bytes(PRECIOUS)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A results root with one finished run, without trials."""
    shutil.copytree(REFERENCE, tmp_path / "results" / "patch_size")
    return tmp_path / "results"


def symbolic(target: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def hard(target: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.link(target, path)


def pipe(_: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(_: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


Plant = Callable[[Path, Path], None]
plants = pytest.mark.parametrize("plant", [symbolic, hard, pipe, folder])


def record(attempt: int = 1) -> Record:
    return Record(
        trial_id=ID, status="ok", seed=0, data_fingerprint="f" * 64, spec={}, result=Result(), run=Run(attempt=attempt)
    )


def refused(work: Callable[[], object], name: str) -> None:
    """One line that names the file, and exit code 5."""
    with pytest.raises(ResultsError, match=name) as error:
        work()
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 5


@plants
def test_a_lock_is_neither_followed_nor_emptied(plant: Plant, outside: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    store.folder(ID).mkdir(parents=True)
    plant(outside, store.folder(ID) / "lock")
    refused(lambda: store.lock(ID).__enter__(), f"{ID}/lock: ")
    assert outside.read_bytes() == PRECIOUS


def test_a_lock_that_is_the_trials_own_record_leaves_it_whole(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    store.commit(record(), store.begin_attempt(ID), {})
    path = store.folder(ID) / "record.json"
    before = path.read_bytes()
    hard(path, store.folder(ID) / "lock")
    refused(lambda: store.lock(ID).__enter__(), "lock: a file with 2 names")
    assert path.read_bytes() == before


def test_a_lock_keeps_its_content(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.folder(ID).mkdir(parents=True)
    (store.folder(ID) / "lock").write_bytes(PRECIOUS)
    with store.lock(ID) as held:
        assert held
    assert (store.folder(ID) / "lock").read_bytes() == PRECIOUS


LINKED = ["trials", f"trials/{ID}", f"trials/{ID}/attempts", f"trials/{ID}/checkpoints"]


@pytest.mark.parametrize("name", LINKED)
def test_no_folder_of_a_trial_leads_outside(name: str, outside: Path, tmp_path: Path) -> None:
    root = tmp_path / "results"
    (root / name).parent.mkdir(parents=True)
    (root / name).symlink_to(outside.parent)
    store = Store(root)
    if not name.endswith("checkpoints"):
        refused(lambda: store.begin_attempt(ID), f"{name}: a symbolic link")
    refused(lambda: store.weights(ID) if "attempts" not in name else store.attempts(ID), f"{name}: a symbolic link")
    weights = {"checkpoints/final.safetensors": b"x"}
    refused(lambda: store.commit(record(), store.begin_attempt(ID), weights), f"{name}: a symbolic link")
    assert [path.name for path in outside.parent.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("plant", [symbolic, pipe])
def test_a_checkpoint_is_no_link_and_no_pipe(plant: Plant, outside: Path, tmp_path: Path) -> None:
    place = Checkpoints(tmp_path / "checkpoints", ID, {})
    place.folder.mkdir()
    (place.folder / "step-000000001.sha256").write_text("0" * 64)
    plant(outside, place.folder / "step-000000001.safetensors")
    refused(place.latest, r"step-000000001\.safetensors: ")


@plants
def test_what_is_written_aside_is_created_anew(plant: Plant, outside: Path, tmp_path: Path) -> None:
    aside = tmp_path / f".records.jsonl.{os.getpid()}"
    plant(outside, aside)
    if plant is folder:
        refused(lambda: replace_durably(tmp_path / "records.jsonl", b"new"), "cannot write")
    else:
        replace_durably(tmp_path / "records.jsonl", b"new")
        assert (tmp_path / "records.jsonl").read_bytes() == b"new"
    assert outside.read_bytes() == PRECIOUS


@pytest.mark.parametrize("plant", [symbolic, hard, pipe])
def test_an_event_log_is_created_anew(plant: Plant, outside: Path, tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.path.parent.mkdir()
    plant(outside, log.path)
    with log:
        log(Warned("be aware"))
        assert b"be aware" in read(log.path)
    assert outside.read_bytes() == PRECIOUS


def test_event_logs_of_others_are_read_where_they_are_files(outside: Path, tmp_path: Path) -> None:
    folder_of(tmp_path).mkdir()
    symbolic(outside, folder_of(tmp_path) / "elsewhere-1.jsonl")
    pipe(outside, folder_of(tmp_path) / "elsewhere-2.jsonl")
    assert live_logs(tmp_path) == dead_logs(tmp_path) == []
    shutil.rmtree(folder_of(tmp_path))
    (tmp_path / "events").symlink_to(outside.parent)
    refused(lambda: EventLog(tmp_path), "events: a symbolic link")


@plants
@pytest.mark.parametrize("name", ["table.csv", "table.tex", "plots/arms.svg"])
def test_a_report_replaces_files_of_its_own_only(name: str, plant: Plant, outside: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    new = {"table.md": b"new", "table.csv": b"new", "table.tex": b"new", "plots/arms.svg": b"new"}
    replace_all(run, dict.fromkeys(new, b"old"))
    plant(outside, run / name)
    refused(lambda: replace_all(run, new), name)
    assert outside.read_bytes() == PRECIOUS
    assert {(run / other).read_bytes() for other in new if other != name} == {b"old"}, "all or nothing"
    assert not list(run.rglob(".*"))


def test_a_folder_of_plots_does_not_lead_outside(outside: Path, root: Path, cli: Cli) -> None:
    shutil.rmtree(root / "patch_size" / "plots")
    (root / "patch_size" / "plots").symlink_to(outside.parent)
    before = (root / "patch_size" / "table.md").read_bytes()
    (root / "patch_size" / "table.md").write_bytes(before + b"older")
    answer = cli("report", "--format", "md,html", "--results", root)
    assert answer.code == 5
    assert "patch_size/plots: a symbolic link" in answer.err
    assert (root / "patch_size" / "table.md").read_bytes() == before + b"older"
    assert [path.name for path in outside.parent.iterdir()] == ["thesis.tex"]


def test_the_root_and_a_runs_folder_may_be_links(root: Path, tmp_path: Path, cli: Cli) -> None:
    (root / "patch_size").rename(tmp_path / "elsewhere")
    (root / "patch_size").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(root)
    assert cli("report", "--format", "csv", "--results", tmp_path / "link").code == 0
    answer = cli("doctor", "--results", tmp_path / "link")
    assert "symbolic link" not in answer.out


READ = ["records.jsonl", "predictions.npz", "experiment.yaml", "analysis.jsonl", "sealed.json"]


@pytest.mark.parametrize("plant", [symbolic, pipe, folder])
@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_a_file_of_the_folder(name: str, plant: Plant, outside: Path, root: Path, cli: Cli) -> None:
    """A pipe would wait for its writer, for ever."""
    plant(outside, root / "patch_size" / name)
    answer = cli("verdict", "--results", root)
    assert answer.code == 5
    assert f"patch_size/{name}: " in answer.err
    assert len(answer.err.splitlines()) == 1
    assert cli("doctor", "--results", root).code == 5 or plant is folder


@pytest.mark.parametrize("name", ["experiment.yaml", "records.jsonl"])
def test_completion_waits_for_no_pipe(name: str, outside: Path, root: Path) -> None:
    pipe(outside, root / "patch_size" / name)
    context = SimpleNamespace(params={"results": str(root)})
    assert completion.claims(context, "none") == []  # type: ignore[arg-type]
    assert completion.metrics(context, "none") == []  # type: ignore[arg-type]
    assert completion.sides(context, "patch_size:none") == []  # type: ignore[arg-type]


@pytest.mark.parametrize("plant", [symbolic, pipe, folder])
def test_a_record_is_a_file_of_its_trial(plant: Plant, outside: Path, root: Path, cli: Cli) -> None:
    trial = root / "trials" / ID
    trial.mkdir(parents=True)
    plant(outside, trial / "record.json")
    refused(lambda: Store(root).read(ID), r"record\.json: ")
    answer = cli("doctor", "--results", root)
    assert answer.code == 5
    assert f"{ID}/record.json" in answer.out


def test_doctor_lists_links_and_special_files(outside: Path, root: Path, cli: Cli) -> None:
    symbolic(outside, root / "patch_size" / "notes.txt")
    pipe(outside, root / "trials.txt")
    hard(root / "patch_size" / "table.md", root / "patch_size" / "copy.md")
    answer = cli("doctor", "--results", root)
    assert answer.code == 5
    for text in ("notes.txt: a symbolic link to", "trials.txt: a pipe", "a file with 2 names"):
        assert text in answer.out


def test_clean_leaves_a_trial_whose_lock_is_a_link(root: Path, outside: Path, cli: Cli) -> None:
    store = Store(root)
    store.commit(record(), store.begin_attempt(ID), {})
    symbolic(outside, store.folder(ID) / "lock")
    answer = cli("clean", "--yes", "--results", root, "--data-dir", root)
    assert outside.read_bytes() == PRECIOUS
    if "would remove" in answer.out or answer.code == 5:
        assert f"{ID}/lock: a symbolic link" in answer.err
    assert store.read(ID) is not None


def test_too_large_a_file_is_not_read(tmp_path: Path) -> None:
    path: Any = tmp_path / "big"
    path.write_bytes(b"x" * 11)
    assert read(path, 11) == b"x" * 11
    refused(lambda: read(path, 10), "big: 11 bytes, at most 10")


def test_the_check_of_tables_reads_through_no_link_and_needs_no_permission_to_write(
    cli: Cli, root: Path, outside: Path, tmp_path: Path
) -> None:
    """A link in a run's folder may lead to a device without an end; the copy of a read-only folder is writable."""
    (root / "patch_size" / "notes.txt").symlink_to("/dev/zero")
    (root / "patch_size" / "more").symlink_to(outside.parent, target_is_directory=True)
    pipe(outside, root / "patch_size" / "pipe")
    (root / "patch_size").chmod(0o555)
    try:
        assert cli("report", "--check", "--results", root).code == 0
    finally:
        (root / "patch_size").chmod(0o755)
    assert outside.read_bytes() == PRECIOUS


@pytest.mark.parametrize("read_it", ["exists", "read", "open_lock", "check_target", "check_folders"])
def test_a_folder_without_permission_is_a_results_error(
    read_it: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Placed by hand: a superuser may read everything."""

    def refused(path: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "lstat", refused)
    path = tmp_path / "trial" / "record.json"
    arguments = (tmp_path, path) if read_it == "check_folders" else (path,)
    with pytest.raises(ResultsError, match=r"trial.*: cannot be read \(Permission denied\)"):
        getattr(contained, read_it)(*arguments)
