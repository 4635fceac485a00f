"""Input that means harm: names, weights, arrays, files and words for a terminal. About 6 s."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import re
import shutil
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli
from PIL import Image

import vitbench
from vitbench.base.errors import InputError, ResultsError
from vitbench.data.decode import MAX_PIXELS, decode
from vitbench.model.weights.start import read_shapes
from vitbench.spec.load import loads
from vitbench.store.answers import read_answers
from vitbench.store.rows import read_records
from vitbench.train.checkpoint import read_weights

PACKAGE = Path(vitbench.__file__).parent


# The package itself: nothing that could run what it reads.

FORBIDDEN = {
    "pickle": r"\bpickle\b|\bdill\b|\bjoblib\b|\bshelve\b|\bmarshal\b",
    "torch.load": r"torch\.load\b|weights_only\s*=\s*False",
    "numpy pickles": r"allow_pickle\s*=\s*True|np\.load\((?!.*allow_pickle=False)",
    "yaml": r"yaml\.(load|full_load|unsafe_load)\b|UnsafeLoader|FullLoader",
    "archives": r"\btarfile\b|\bzipfile\b",
    "unpacking": r"\bextractall\(|\.extract\(|unpack_archive",
    "code": r"(?<![\w.])(eval|exec)\(|\bos\.system\b|shell\s*=\s*True|\bos\.popen\b",
    "templates": r"autoescape\s*=\s*False|\|\s*safe\b",
}
ALLOWED = {(f"data/readers/{name}.py", "archives") for name in ("archive_files", "npz")} | {
    ("data/readers/cifar.py", "pickle"), ("train/shared_images.py", "pickle"), ("store/answers.py", "archives"),
}  # fmt: skip
"""CIFAR's own files are pickles, read by an unpickler that knows arrays of numbers only. Archives are
read member by member, after their sizes were checked, and never unpacked to the disk. All are tested. Shared images
are in memory without a name, which only processes of one command can write."""


def forbidden(name: str, text: str) -> list[str]:
    return [kind for kind, pattern in FORBIDDEN.items() if (name, kind) not in ALLOWED and re.search(pattern, text)]


def sources() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix in (".py", ".j2"):
            yield path.relative_to(PACKAGE).as_posix(), path.read_text()


def test_nothing_in_the_package_runs_what_it_reads() -> None:
    assert {name: kinds for name, text in sources() if (kinds := forbidden(name, code(name, text)))} == {}


def code(name: str, text: str) -> str:
    """Python without its strings that stand alone and its comments, which may speak of what is forbidden."""
    if not name.endswith(".py"):
        return text
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(0)
    return ast.unparse(tree)


@pytest.mark.parametrize(
    "line",
    ["import pickle", "torch.load(p, weights_only=False)", "np.load(p)", "np.load(p, allow_pickle=True)",
     "yaml.load(t)", "tar.extractall(p)", "eval(x)", "exec(x)", "subprocess.run(x, shell=True)",
     "Environment(autoescape=False)"],
)  # fmt: skip
def test_the_search_can_find(line: str) -> None:
    assert forbidden("x.py", code("x.py", line))
    assert not forbidden("x.py", code("x.py", "np.load(p, allow_pickle=False)\nmodule.eval()\nyaml.parse(t)"))


# Names that lead out of a folder.

OUT = ["../../x", "..", "/etc/x", "a/b", "", ".hidden", "a\0b", "x" * 81, "a b", "-x", "a\nb", "~"]


@pytest.mark.parametrize("name", OUT)
def test_no_name_leads_out_of_the_results(name: str, cli: Cli, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs a name|not YAML|control character|mapping"):
        loads(f"name: {json.dumps(name)}\nbase: {{}}", "a.yaml")
    with pytest.raises(InputError):
        loads(f"name: x\narms: {{{json.dumps(name)}: {{}}, b: {{}}}}", "a.yaml")
    answer = cli("run", "smoke", "--as", name, "--results", tmp_path / "results")
    assert answer.code == 2
    assert answer.err.startswith("error: --as ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", ["../../x", "torch/../../x", "digits/../../x", "a\0b", "/etc"])
def test_no_data_set_leads_out_of_its_folder(data: str, cli: Cli, tmp_path: Path) -> None:
    answer = cli("run", "smoke", "--data", data, "--results", tmp_path / "results")
    assert answer.code == 2
    assert "no data set" in answer.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_is_named_within_the_results_whatever_its_data_are_called(cli: Cli, tmp_path: Path) -> None:
    for data in ("folder:../../x", "parquet:/etc/../x", "folder:..", "folder:a\nb", "hf:../../x"):
        assert cli("run", "smoke", "--data", data, "--results", tmp_path / "results").code == 2
        from vitbench.cli.commands.prepare import slug

        assert re.fullmatch(r"[A-Za-z0-9._-]+", slug(data))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("trial", ["../../smoke", "../trials", "/", "*", ".", "[0-9a-f]*", "x" * 300, "a\0b"])
@pytest.mark.parametrize("command", ["export", "inspect"])
def test_a_trial_is_found_among_the_trials_only(
    command: str, trial: str, cli: Cli, smoke_root: Path, tmp_path: Path
) -> None:
    answer = cli(command, trial, "--to", tmp_path / "out", "--results", smoke_root)
    assert answer.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/../../b", "..", "a\0b", "a b"])
def test_fetched_weights_stay_in_their_folder(name: str, cli: Cli, tmp_path: Path) -> None:
    answer = cli("plan", "smoke", "--set", f"pretrain.model.init_from=timm:{name}")
    assert answer.code == 2
    assert not list(tmp_path.rglob("*.safetensors"))


def test_clean_follows_no_link_out_of_the_results(cli: Cli, smoke_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(smoke_root, tmp_path / "results"))
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "thesis.tex").write_text("all of it")
    (outside / "1").mkdir()
    (outside / "1" / "chapter.tex").write_text("of it all")
    (outside / "2").mkdir()
    (root / "trials" / ("e" * 16)).symlink_to(outside)
    trial = next(path for path in (root / "trials").iterdir() if not path.is_symlink())
    (trial / "checkpoints").mkdir(exist_ok=True)
    (trial / "checkpoints" / "step-000000001.safetensors").symlink_to(outside / "thesis.tex")
    assert not (trial / "attempts").exists(), "a committed trial is tidy"
    (trial / "attempts").symlink_to(outside)
    other = next(p for p in (root / "trials").iterdir() if p != trial and not p.is_symlink())
    shutil.rmtree(other / "checkpoints", ignore_errors=True)
    (other / "checkpoints").symlink_to(outside)
    assert cli("clean", "--results", root, "--yes").code == 0
    answer = cli("doctor", "--results", root, "--fix")
    assert answer.code == 5
    assert answer.out.count("a symbolic link to") == 3
    assert sorted(p.name for p in outside.rglob("*")) == ["1", "2", "chapter.tex", "thesis.tex"]


# Files that would run code, or fill the memory.


class Trap:
    """Touches a file where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch trapped",)


def test_weights_that_are_a_pickle_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    for read in (read_weights, read_shapes):
        with pytest.raises(InputError, match="not readable as safetensors"):
            read(path)
    assert not (tmp_path / "trapped").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "trapped").exists(), "the trap works"


@pytest.mark.parametrize("header", [b"\xff" * 8 + b"{}", b"\x02" + b"\0" * 7 + b"[]", b"", b"[" * 5000])
def test_headers_of_weights_that_lie(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(header)
    for read in (read_weights, read_shapes):
        with pytest.raises(InputError, match="not readable as safetensors"):
            read(path)


def arrays(**content: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [arrays(trial_id=np.array([Trap()], dtype=object)), b"no npz", b"PK\3\4", arrays(label=np.zeros(3)), b""],
    ids=["pickle", "text", "torn", "other", "empty"],
)
def test_answers_that_are_a_pickle_run_nothing(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "predictions.npz").write_bytes(content)
    with pytest.raises(ResultsError, match=r"predictions\.npz"):
        read_answers(tmp_path)
    assert not (tmp_path / "trapped").exists()


def test_answers_that_are_not_those_of_the_record_are_refused(cli: Cli, smoke_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(smoke_root, tmp_path / "results"))
    path = next((root / "trials").glob("*/predictions.npz"))
    with np.load(path, allow_pickle=False) as stored:
        kept = {key: stored[key] for key in stored.files}
    for content, said in [
        (arrays(**{**kept, "predicted": (kept["predicted"] + 1) % 4}), "not the answers of the trial's record"),
        (path.read_bytes()[:-40], "cannot be read"),
        (arrays(predicted=kept["predicted"]), "cannot be read"),
    ]:
        path.write_bytes(content)
        answer = cli("run", "smoke", "-j", 1, "--quiet", "--results", root)
        assert answer.code == 5
        assert said in answer.err


def test_a_bomb_of_pixels_is_refused_by_its_header() -> None:
    """13 kB that would be 100 million pixels; Pillow itself only warns."""
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG")
    tracemalloc.start()
    with pytest.raises(InputError, match=f"10000 x 10000 is more than {MAX_PIXELS:,} pixels"):
        decode(buffer.getvalue(), "bomb.png", 3)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = [BOMB, "a: !!python/object/apply:os.system ['touch trapped']", "[" * 5000, "a: " + "[" * 900, "- " * 5000]
YAML += ["name: x\nextends: ../../../../etc/passwd.yaml", "name: x\nextends: /etc/passwd", "? " * 3000]


@pytest.mark.parametrize("text", YAML, ids=range(len(YAML)))
def test_hostile_yaml_costs_nothing(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    with pytest.raises(InputError):
        loads(text, str(tmp_path / "a.yaml"))
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()
    assert not list(tmp_path.iterdir())


def test_a_packed_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    from vitbench.data.readers import idx

    monkeypatch.setattr(idx, "MAX_BYTES", 10_000)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"\0" * 20_000))
    with pytest.raises(InputError, match="more than 10,000 bytes once unpacked"):
        idx.read_idx(path)


# Words for a browser, LaTeX, a spreadsheet and a terminal.

EVIL = "<script>alert(1)</script>"


@pytest.mark.parametrize("key", ["arm", "data", "trial_id", "data_fingerprint"])
@pytest.mark.parametrize("character", ["\x1b", "\x07", "\n", "\x9b", "\0"])
def test_a_name_in_records_cannot_move_the_cursor(key: str, character: str, smoke_root: Path, tmp_path: Path) -> None:
    row = json.loads((smoke_root / "smoke" / "records.jsonl").read_text().splitlines()[0])
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps({**row, key: f"a{character}[2J"}) + "\n")
    with pytest.raises(ResultsError, match=key) as error:
        read_records(path)
    assert str(error.value).isprintable()


def test_no_command_prints_what_a_terminal_would_obey(cli: Cli, smoke_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(smoke_root, tmp_path / "results"))
    rows = [json.loads(line) for line in (root / "smoke" / "records.jsonl").read_text().splitlines()]
    rows[-1] |= {"status": "failed", "reason": "\x1b[2J\x1b]0;owned\x07[red]gone[/red]", "arm": EVIL}
    (root / "smoke" / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.rmtree(root / "trials")  # Else the row contradicts its record.
    for words in (
        ["report", "--format", "md,html,tex,csv"],
        ["verdict"],
        ["status"],
        ["doctor"],
        ["clean"],
        ["compare", "a", "b"],
    ):
        answer = cli(*words, "--results", root)
        assert answer.code in (0, 1, 2, 5), answer
        assert "\x1b" not in answer.out + answer.err, words
        assert "\x07" not in answer.out + answer.err, words
    (root / "smoke").rename(root / "\x1b[31msmoke")
    for words in (["report"], ["verdict"], ["status"], ["doctor"], ["clean"], ["report", "\x1b[31msmoke"]):
        answer = cli(*words, "--results", root)
        assert "\x1b" not in answer.out + answer.err, words
        assert "control characters in the name of a run's folder" in answer.out + answer.err, words
    for page in root.rglob("*.html"):
        assert EVIL not in page.read_text()
        assert "<script" not in page.read_text()


def test_a_time_is_no_order() -> None:
    """No order and no choice goes by the clock: `time.time` is for display, and mtimes only say what to read again."""
    clocks = {
        name for name, text in sources() if re.search(r"(?<!perf_)\btime\.time\b|st_mtime\b(?!_ns)|getmtime", text)
    }
    # What these say is when, not which: an event's time, an age, until when `doctor --hold` holds its lock.
    assert clocks <= {"store/event_log.py", "cli/commands/watch.py", "store/file_system.py"}, clocks
    assert time.get_clock_info("monotonic").monotonic


@pytest.mark.parametrize(
    "words", [["status"], ["report"], ["plan"], ["export", "--to", "out"], ["check-data"], ["init"]]
)
def test_a_name_that_no_disk_can_hold_is_one_line(words: list[str], cli: Cli, smoke_root: Path) -> None:
    name = f"folder:{'x' * 300}" if words[0] == "check-data" else "x" * 300
    answer = cli(words[0], name, *words[1:], *([] if words[0] in ("init", "check-data") else ["--results", smoke_root]))
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert len(answer.err.splitlines()) == 1


def test_a_full_disk_under_a_report_is_exit_code_6(
    cli: Cli, smoke_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    root = Path(shutil.copytree(smoke_root, tmp_path / "results"))
    monkeypatch.setattr("os.fsync", full)
    answer = cli("report", "--format", "csv", "--results", root)
    assert answer.code == 6
    assert answer.err.startswith(f"error: {root}/smoke/classes.csv: no space left")


@pytest.mark.parametrize("error", [MemoryError(), ImportError("libtorch.so: failed to map segment from shared object")])
def test_a_limit_on_memory_is_one_line(
    error: Exception, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limited(*_: Any) -> None:
        raise error

    monkeypatch.setattr("vitbench.cli.commands.experiment_list.list_experiments", limited)
    answer = cli("list")
    assert answer.code == 2
    assert answer.err.startswith("error: not enough memory (")
    assert len(answer.err.splitlines()) == 1
