"""House style that a machine can hold: linters, types, lengths, names."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 350, 60, 6
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}
OUTDATED = ("_v2", "_v3", "_new", "_old")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()


def functions(source: str) -> list[Function]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def num_lines(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def num_parameters(function: Function) -> int:
    named = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])


def test_every_file_of_tests_has_a_name_of_its_own() -> None:
    """pytest imports them by name: of two equal ones it collects the first."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def too_long(name: str, source: str) -> list[str]:
    """Files and functions over their limits, one line each."""
    count = len(source.splitlines())
    out = [f"{name}: {count} lines"] if count > MAX_FILE else []
    return out + [f"{name}: {f.name}: {num_lines(f)} lines" for f in functions(source) if num_lines(f) > MAX_FUNCTION]


def too_many_parameters(name: str, source: str) -> list[str]:
    """Functions that want a dataclass; a command's parameters are its options."""
    return [f"{name}: {f.name}" for f in functions(source) if num_parameters(f) > MAX_PARAMETERS]


def vague(name: str) -> bool:
    """True if a file or a folder on its path has a name that says nothing about what is in it."""
    parts = Path(name).with_suffix("").parts
    return any(word in VAGUE for part in parts for word in part.split("_")) or parts[-1].endswith(OUTDATED)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ruff check --output-format concise", "ruff format --check", "mypy"])
def test_linters_and_types(command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_lengths() -> None:
    found = [line for name, source in sources("vitbench") for line in too_long(name, source)]
    found += [line for name, source in sources("tests") for line in too_long(name, source) if line.count(":") == 2]
    assert not found, "\n".join(found)


def test_file_names_say_what_is_inside() -> None:
    names = [name for name, _ in sources("vitbench", "tests")]
    assert len(names) > 300
    assert not [name for name in names if vague(name)]


def test_parameters_are_few() -> None:
    commands = {"vitbench/cli/main.py", "vitbench/cli/commands/tools.py", "vitbench/cli/commands/bench.py"}
    found = [
        line for name, source in sources("vitbench") if name not in commands
        for line in too_many_parameters(name, source)
    ]  # fmt: skip
    assert not found, "\n".join(found)


def test_nothing_is_left_to_do() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    assert not [name for name, source in sources("vitbench", "tests") if any(mark in source for mark in marks)]


def test_measures_can_fail() -> None:
    long = "def f(a, b, c, d, e, g, h):\n" + "    pass\n" * MAX_FUNCTION + "\n" * MAX_FILE
    assert len(too_long("x.py", long)) == 2
    assert too_many_parameters("x.py", long) == ["x.py: f"]
    for name in ("vitbench/helpers.py", "vitbench/utils/text.py", "tests/train/test_misc.py", "vitbench/loop_v2.py"):
        assert vague(name), name
    assert not vague("vitbench/train/newton.py")


def test_ci_runs_the_readmes_test_command() -> None:
    lines = [line.strip() for line in (ROOT / "README.md").read_text().splitlines()]
    (command,) = {line for line in lines if line.startswith("python -m pip install") and "pytest" in line}
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()
