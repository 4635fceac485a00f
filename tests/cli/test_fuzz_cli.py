"""Any words after `vitbench`: a documented exit code, one-line errors, never a traceback. 130 cases.

Nothing is trained: `run` always has --dry-run. With VITBENCH_FUZZ=20, 2600 others.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, Cli
from fuzz_profile import cases
from hypothesis import given
from hypothesis import strategies as st

CODES = {0, 1, 2, 3, 4, 5, 6}
NAMES = [
    "smoke",
    "tiny",
    "tiny.yaml",
    "class_token_vs_gap",
    "paper/patch_size",
    "suite.yaml",
    "bad.yaml",
    "missing.yaml",
]
NAMES += ["..", ".", "/", "", "a\0b", "x" * 300, "../../x", "~", "[red]", "\x1b[31m", "é", "-", "%s", "{x}"]
ARMS = [
    "smoke:avg+masked",
    "smoke:x",
    "smoke",
    "results/smoke/records.jsonl:x",
    ":",
    "smoke:",
    "torn.jsonl:a",
    "x.jsonl",
]
ARMS += ["cut/records.jsonl"]
DATA = [
    "fake",
    "digits",
    "fake_colour",
    "torch/digits",
    "mnist",
    "folder:images",
    "folder:",
    "folder:none",
    "parquet:.",
]
DATA += ["hf:x/y", "digits:x", "../../x", "", "parquet:torn.jsonl"]
SETS = [
    "train.epochs=5",
    "train.lr=1e-3",
    "train.lr=fast",
    "train.steps=0",
    "model.patch_size=3",
    "tune.seeds=10000000",
]
SETS += ["transfer.train.steps=7", "data.img_size=1000000", "model.embed_dim=100000000", "x=1", "=", "train", "train=1"]
SETS += ["model.depth=10000000", "train.batch_size=1000000000000", "model.init_from=timm:../../x", "model.init_from=."]
SETS += [
    "model.name=R26x1",
    "model.name=ViT-H/14",
    "data.classes=[0, 1]",
    "data.train_fraction=1e-9",
    "seeds.looks=[1]",
]
SETS += ["data.val_fraction=0.999", "train.train_flops=1e300", "report.metric=nothing", "evaluate.knn=5"]
METRICS = ["test_top1_percent", "val_top1_percent", "test_loss", "few_shot_5_percent", "nothing", ""]
OPTIONS: dict[str, list[str]] = {
    "--data": DATA,
    "--set": SETS,
    "--seeds": ["5", "0-4", "0,3,7", "0", "1000", "5-1", "999", "x", "", "1,1", "9" * 30],
    "--as": ["mine", "../../x", "", "x" * 100, "a b", ".x"],
    "--device": ["auto", "cpu", "cuda", "cuda:7", "mps", "tpu"],
    "--results": ["results", "none", "tiny.yaml", "torn", "../results", "images"],
    "--limit": ["0", "1", "-1", "x"],
    "--jobs": ["0", "1", "-1"],
    "--threads": ["0", "1", "9999999999"],
    "--keep": ["all", "some"],
    "--max-seeds": ["2", "3", "99"],
    "--metric": METRICS,
    "--run": ["smoke", "x", ""],
    "--diff": ["avg", "token", "x"],
    "--format": ["md", "csv,md", "", "pdf"],
    "--to": ["out", "images", "tiny.yaml", "a\0b"],
    "--data-dir": [".", "none", "tiny.yaml"],
    "--img-size": ["4", "8x6", "0", "-1", "1.5", "x", ""],
    "--in-chans": ["1", "3"],
    "--json": [],
    "--check": [],
    "--mixed": [],
    "--quiet": [],
    "--until-settled": [],
    "--yes": [],
    "--nope": [],
}
OWN: dict[str, list[str]] = {
    "run": ["--data", "--set", "--seeds", "--as", "--device", "--results", "--limit", "--threads", "--keep", "--json"],
    "plan": ["--data", "--set", "--seeds", "--diff", "--results", "--json", "--data-dir"],
    "show": ["--data", "--set", "--seeds", "--json", "--data-dir"],
    "status": ["--results", "--json", "--data-dir"],
    "verdict": ["--run", "--results", "--check", "--json"],
    "compare": ["--metric", "--mixed", "--results"],
    "export": ["--to", "--results", "--data-dir"],
    "clean": ["--results", "--yes", "--data-dir"],
    "check-data": ["--data-dir"],
    "prepare": ["--img-size", "--img-size", "--in-chans", "--jobs", "--data-dir"],
    "list": ["--json"],
    "schema": [],
}  # fmt: skip
EXTRA = {"run": ["--dry-run"]}
ARGUMENTS = {
    "compare": (2, ARMS),
    "check-data": (1, DATA),
    "prepare": (1, DATA),
    "list": (0, NAMES),
    "clean": (0, NAMES),
    "schema": (0, NAMES),
}
IDS = ["0", "f", "", "x", "../..", "a" * 16]

odd = st.text(max_size=6) | st.sampled_from(["-1", "--", "nan", "1e999", "\n", "a=b", "*", "--help"])


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    """A command with arguments and options of its own for the most part, and sometimes with any others."""
    command = draw(st.sampled_from([*OWN, *OWN, "", "rum"]))
    number, values = ARGUMENTS.get(command, (1, IDS if command == "export" else NAMES))
    words = [command, *(draw(st.sampled_from(values) | odd) for _ in range(number))]
    for _ in range(draw(st.integers(0, 3))):
        option = draw(st.sampled_from(OWN.get(command) or list(OPTIONS)) | st.sampled_from(list(OPTIONS)))
        words.append(option)
        times = 2 if option == "--diff" else 1 if OPTIONS[option] else 0
        words += [draw(st.sampled_from(OPTIONS[option]) | odd) for _ in range(times)]
    return words + EXTRA.get(command, [])


@pytest.fixture
def place(tmp_path: Path, smoke_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files good and bad, and results."""
    from test_cli import TINY

    shutil.copytree(smoke_root, tmp_path / "results")
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "suite.yaml").write_text("name: s\nsuite: [tiny, smoke]\n")
    (tmp_path / "bad.yaml").write_text("name: [")
    (tmp_path / "torn.jsonl").write_text('{"arm": "a"}\n{"arm')
    (tmp_path / "images" / "a").mkdir(parents=True)
    shutil.copytree(smoke_root / "smoke", tmp_path / "torn" / "cut")
    lines = (smoke_root / "smoke" / "records.jsonl").read_bytes()
    (tmp_path / "torn" / "cut" / "records.jsonl").write_bytes(lines[: len(lines) // 2])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(answer: Answer, words: list[str]) -> None:
    assert answer.code in CODES, (answer, words)
    assert "Traceback" not in answer.out + answer.err
    if answer.code in (2, 5, 6):
        assert "error: " in answer.err or "Error" in answer.err or "Usage" in answer.err + answer.out, (answer, words)
    if answer.err.startswith("error: "):
        assert all(line.startswith("error: ") for line in answer.err.splitlines()), (answer, words)
        assert answer.err.replace("\n", "").isprintable(), (answer, words)


@pytest.mark.slow
@cases(100)
@given(words=commands())
def test_any_command_line(cli: Cli, place: Path, words: list[str]) -> None:
    check(cli(*words), words)


@pytest.mark.slow
@cases(30)
@given(words=st.lists(st.text(max_size=8) | st.sampled_from([*OWN, *OPTIONS]), max_size=5))
def test_any_words(cli: Cli, place: Path, words: list[str]) -> None:
    check(cli(*("plan" if word == "run" else word for word in words)), words)


def test_the_check_can_fail() -> None:
    for answer in (Answer(7, "", ""), Answer(1, "", "Traceback"), Answer(2, "", ""), Answer(2, "", "error: a\nb")):
        with pytest.raises(AssertionError):
            check(answer, [])


@pytest.mark.slow
def test_the_words_reach_the_commands(cli: Cli, place: Path) -> None:
    """Most of what is drawn from is sound: without that the cases would all end at the first word."""
    sound: list[list[Any]] = [["plan", "tiny"], ["status"], ["verdict"], ["list"], ["plan", "suite.yaml"]]
    assert [cli(*words).code for words in sound] == [0] * len(sound)
