"""Which room may import what: one ordered list, held against every import, and shown to catch violations."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import vitbench

PACKAGE = Path(vitbench.__file__).parent


@dataclass(frozen=True)
class Room:
    """A folder of the package, and which packages of others it may import: at the top of a module, or only inside."""

    name: str
    floor: int
    top: str = ""
    inside: str = ""

    def allows(self, package: str, at_top: bool) -> bool:
        return package in f"{self.top} {'' if at_top else self.inside}".split()


ROOMS = (
    Room("base", 0, "numpy"),
    Room("spec", 1, "pydantic yaml numpy"),
    Room("store", 2, "pydantic numpy pandas"),
    Room("data", 2, "pydantic numpy PIL", "pyarrow sklearn scipy torchvision datasets"),
    Room("model", 3, "numpy torch einops safetensors pydantic", "timm torchvision"),
    Room("stats", 3, "numpy scipy pandas"),
    Room("plan", 4, "pydantic numpy"),
    Room("train", 4, "numpy torch einops safetensors pydantic", "scipy sklearn torchvision PIL"),
    Room("engines", 5, "numpy", "torch ray"),
    Room("report", 5, "numpy pandas matplotlib jinja2 markupsafe tabulate rich"),
    Room("inspection", 6, "numpy pandas torch einops", "timm torchvision PIL matplotlib safetensors scipy"),
    Room("recommend", 6, "numpy", "matplotlib"),
    Room("bench", 7, "numpy scipy pandas rich", "torch timm torchvision vit_pytorch matplotlib"),
    Room("cli", 8, "typer rich yaml numpy", "torch pynvml pandas"),
)
"""The rooms, lowest first. A room imports only from rooms on lower floors."""
ROOM = {room.name: room for room in ROOMS}

TORCH_FREE = {"base", "spec", "store", "data", "stats", "plan", "report", "recommend", "cli"} | {
    "model.sizes", "model.token_places", "model.tensors", "model.costs", "model.weights.start",
    "model.weights.timm_names", "model.mechanisms", "model.part_problems", "model.pyramid", "model.stages",
    "model.conditioning", "model.objective", "model.palette", "model.parameters", "model.resnet_tensors",
    "model.position",
    "model.token_mixers", "model.channel_mixers", "model.readouts", "model.patch_embeds", "train.objectives",
    "engines.options", "engines.engine_choice", "engines.runner", "engines.stacks", "engines.trackers",
    "engines.processes", "engines.dispatch", "engines.ray_options", "engines.ray_cluster", "engines.remote_work",
    "engines.node_scratch", "bench.pages", "bench.timed_command", "bench.suite", "bench.finished_trials",
    "bench.simulated_recommend", "bench.store_scale", "bench.run_memory", "engines.several_processes",
    "engines.waiting_work", "train.shared_images",
}  # fmt: skip
"""Rooms and modules that load no torch at their top: all that `--help`, `list`, `plan` and `report` need."""


def is_torch_free(name: str) -> bool:
    """`vitbench.model.sizes` -> True."""
    inner = name.removeprefix("vitbench.")
    parts = inner.split(".")
    return any(".".join(parts[:length]) in TORCH_FREE for length in range(1, len(parts) + 1))


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
            module = node.module or ""
            if module.startswith("vitbench") and is_package(module):
                yield from ((f"{module}.{alias.name}", id(node) not in late) for alias in node.names)
            else:
                yield module, id(node) not in late


def is_package(module: str) -> bool:
    return (PACKAGE.parent / module.replace(".", "/")).is_dir()


def loads_torch(module: str) -> bool:
    """Does importing this module of ours import torch? `vitbench.model` itself is only a docstring."""
    path = PACKAGE.parent / module.replace(".", "/")
    return path.with_suffix(".py").is_file() and not is_torch_free(module)


def violations(name: str, source: str) -> list[str]:
    """What module `name` imports against the list; one line each."""
    room = ROOM.get(name.split(".")[1])
    if room is None:
        return [f"{name}: stands in no room"]
    out = []
    for module, at_top in imports(name, source):
        package, *rest = module.split(".")
        if package == "vitbench":
            other = ROOM[rest[0]] if rest and rest[0] in ROOM else room
            if other is not room and other.floor >= room.floor:
                out.append(f"{name} (floor {room.floor}) imports {module} (floor {other.floor})")
            elif at_top and is_torch_free(name) and loads_torch(module):
                out.append(f"{name} loads torch through {module}")
        elif package not in sys.stdlib_module_names:
            loads = package == "torch" and at_top and is_torch_free(name)
            if loads or not (room.allows(package, at_top) or (not is_torch_free(name) and room.allows(package, False))):
                out.append(f"{name} imports {package}{' at its top' if at_top else ''}")
    return out


def modules() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name not in ("vitbench", "vitbench.__main__"):
            yield name, path.read_text()


def test_the_root_holds_only_rooms() -> None:
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert entries == {"__init__.py", "__main__.py", *ROOM}


def test_every_import_follows_the_list() -> None:
    lines = [line for name, source in modules() for line in violations(name, source)]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("vitbench.spec.trial", "from vitbench.plan import trials"),
        ("vitbench.spec.trial", "from vitbench.plan.trials import Trial"),
        ("vitbench.base.errors", "import pydantic"),
        ("vitbench.plan.trials", "import torch"),
        ("vitbench.plan.trials", "def f():\n    import torch"),
        ("vitbench.plan.trials", "from vitbench.model.vit import ViT"),
        ("vitbench.plan.trials", "from vitbench.train import checkpoint"),
        ("vitbench.store.trials", "import pyarrow"),
        ("vitbench.data.types", "from vitbench.store.trials import Store"),
        ("vitbench.stats.compare", "from vitbench.plan.trials import Trial"),
        ("vitbench.stats.compare", "from vitbench.model.sizes import known"),
        ("vitbench.stats.compare", "import torch.nn"),
        ("vitbench.report.pages.page", "from vitbench.engines.options import Options"),
        ("vitbench.report.pages.page", "def f():\n    from vitbench.engines import local"),
        ("vitbench.engines.runner", "import torch"),
        ("vitbench.engines.runner", "from vitbench.engines.execute import execute"),
        ("vitbench.engines.runner", "from vitbench.model.build import build"),
        ("vitbench.inspection.write_analyses", "from vitbench.bench.suite import ratios"),
        ("vitbench.cli.main", "import torch"),
        ("vitbench.train.loop", "import timm"),
        ("vitbench.train.loop", "from vitbench.engines.runner import run"),
        ("vitbench.newcomer", "import os"),
    ],
)
def test_planted_violation_is_caught(name: str, source: str) -> None:
    assert len(violations(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("vitbench.data.readers.parquet", "def f():\n    import pyarrow"),
        ("vitbench.engines.runner", "def f():\n    from vitbench.engines import local"),
        ("vitbench.cli.main", "def f():\n    import torch"),
        ("vitbench.engines.execute", "import torch"),
        ("vitbench.plan.trials", "from vitbench.model.sizes import known"),
    ],
)
def test_what_is_allowed_passes(name: str, source: str) -> None:
    assert violations(name, source) == []


SCRIPT = """
import sys
from vitbench.cli.main import main
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


@pytest.mark.slow
def test_commands_that_do_not_train_never_import_torch(smoke_root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(smoke_root)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "control: torch is seen" in done.stdout
