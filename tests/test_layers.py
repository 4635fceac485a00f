"""Who may import what: the table of layers, held against every module's imports, and shown to catch violations."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vitbench

PACKAGE = Path(vitbench.__file__).parent

LAYERS: dict[str, str] = {
    "0": "errors seeding interrupts faults",
    "1": "spec experiment record load arms override spec_paths problems check_settings yaml_safe schema events"
    " committed shelf",
    "2": "cost identity init_from parameters shapes variants data store plan resolve diff collect measured journal",
    "3a": "model train analysis",
    "3b": "stats",
    "4a": "engines runner",
    "4b": "report records",
    "4c": "export inspection bench doctor clean track",
    "5": "commands cli",
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names.split()}
BELOW: dict[str, set[str]] = {
    "0": {"0"},
    "1": {"0", "1"},
    "2": {"0", "1", "2"},
    "3a": {"0", "1", "2", "3a"},
    "3b": {"0", "1", "3b"},
    "4a": {"0", "1", "2", "3a", "4a"},
    "4b": {"0", "1", "2", "3b", "4b"},
    "4c": {"0", "1", "2", "3a", "3b", "4a", "4b", "4c"},
    "5": set(LAYERS),
}
FOREIGN: dict[str, tuple[str, str]] = {
    "0": ("numpy", ""),
    "1": ("pydantic yaml", ""),
    "2": ("pydantic numpy PIL", "pyarrow sklearn scipy torchvision datasets"),
    "3a": ("numpy torch einops safetensors", "scipy sklearn torchvision timm PIL"),
    "3b": ("numpy scipy pandas", ""),
    "4a": ("numpy", "torch"),
    "4b": ("numpy pandas matplotlib jinja2 markupsafe tabulate rich", ""),
    "4c": ("numpy pandas rich", "torch einops timm torchvision PIL matplotlib safetensors scipy vit_pytorch"),
    "5": ("typer rich yaml", "torch pynvml"),
}
"""Packages of others that a layer may import: at the top of a module, and only inside functions."""
LOADS_TORCH = {f"vitbench.engines.{name}" for name in ("attempt", "local", "fused", "machine", "memory", "outcome")}
LOADS_TORCH |= {"vitbench.bench.plain"}
LOADS_TORCH |= {f"vitbench.inspection.{path.stem}" for path in (PACKAGE / "inspection").glob("*.py")}
"""Modules of layers 4a and 4c that are themselves imported late, so that they may load torch at their top."""


def imports(name: str, source: str) -> Iterator[tuple[str, bool]]:
    """(module, is it imported when `name` is?) of every import statement."""
    tree = ast.parse(source)
    late = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(outer, ast.If) and ast.unparse(outer.test) == "TYPE_CHECKING")
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "vitbench" else [base]
            yield from ((found, id(node) not in late) for found in names)


def violations(name: str, source: str) -> list[str]:
    """What module `name` imports against the table; one line each."""
    layer = LAYER.get(name.split(".")[1])
    if layer is None:
        return [f"{name}: stands in no layer; add it to the table"]
    out = []
    for found, at_top in imports(name, source):
        package, *rest = found.split(".")
        if package == "vitbench":
            theirs = LAYER.get(rest[0]) if rest else layer
            late_torch = theirs == "3a" and layer in ("4a", "4c") and at_top and name not in LOADS_TORCH
            if theirs not in BELOW[layer] or late_torch or (layer == "4a" and at_top and loads_late(name, found)):
                out.append(f"{name} (layer {layer}) imports {found} (layer {theirs})")
        elif package not in sys.stdlib_module_names:
            top, inside = (words.split() for words in FOREIGN[layer])
            if package not in (top if at_top and name not in LOADS_TORCH else top + inside):
                out.append(f"{name} (layer {layer}) imports {package}{' at its top' if package in inside else ''}")
    return out


def loads_late(name: str, found: str) -> bool:
    """Does a module without torch import, at its top, one that loads it?"""
    return found in LOADS_TORCH and name not in LOADS_TORCH


def modules() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name != "vitbench":
            yield name, path.read_text()


def test_every_import_follows_the_table() -> None:
    found = [line for name, source in modules() for line in violations(name, source)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("vitbench.spec", "from vitbench import plan"),
        ("vitbench.spec", "from vitbench.plan import Trial"),
        ("vitbench.errors", "import pydantic"),
        ("vitbench.plan", "import torch"),
        ("vitbench.plan", "def f():\n    import torch"),
        ("vitbench.plan", "from vitbench.stats.select import choose"),
        ("vitbench.store", "import pyarrow"),
        ("vitbench.stats.compare", "from vitbench.store import Store"),
        ("vitbench.stats.compare", "import torch.nn"),
        ("vitbench.report.page", "from vitbench.train import loop"),
        ("vitbench.report.page", "def f():\n    from vitbench.engines import local"),
        ("vitbench.runner", "import torch"),
        ("vitbench.runner", "from vitbench.engines.attempt import execute"),
        ("vitbench.runner", "from vitbench.model import build"),
        ("vitbench.runner", "from vitbench.stats.select import choose"),
        ("vitbench.cli", "import torch"),
        ("vitbench.train.loop", "import sklearn"),
        ("vitbench.train.loop", "from vitbench.runner import run"),
        ("vitbench.newcomer", "import os"),
    ],
)
def test_planted_violation_is_caught(name: str, source: str) -> None:
    assert len(violations(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("vitbench.store", "def f():\n    import pyarrow"),
        ("vitbench.runner", "def f():\n    from vitbench.engines import local"),
        ("vitbench.cli", "def f():\n    import torch"),
        ("vitbench.engines.attempt", "import torch"),
    ],
)
def test_what_is_allowed_passes(name: str, source: str) -> None:
    assert violations(name, source) == []


SCRIPT = """
import sys
from vitbench.cli import main
for words in (["--help"], ["list"], ["plan", "smoke"], ["show", "smoke"], ["status"], ["report"]):
    root = [] if words[0] in ("--help", "list", "show") else ["--results", sys.argv[1]]
    command, sys.argv = sys.argv, ["vitbench", *words, *root]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, (words, stop.code)
    sys.argv = command
    heavy = {"torch", "torchvision", "sklearn"} & sys.modules.keys()
    assert not heavy, f"{words} imported {heavy}"
import torch
assert "torch" in sys.modules
print("control: torch is seen once imported")
"""


def test_commands_that_do_not_train_never_import_torch(smoke_root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(smoke_root)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "control: torch is seen" in done.stdout
