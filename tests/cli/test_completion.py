"""TAB as a shell asks for it, through the completion protocol; and that no answer waits for torch. About 4 s."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "results" / "tier1-digits"
SCRIPT = """
import sys
from vitbench.cli.main import app
try:
    app(prog_name="vitbench")
finally:
    heavy = {"torch", "torchvision", "sklearn", "scipy", "pandas", "matplotlib"} & sys.modules.keys()
    print("heavy:", sorted(heavy), "vitbench.spec.trial" in sys.modules, file=sys.stderr)
"""


def offered(line: str, folder: Path = ROOT) -> tuple[list[str], str]:
    """(what is offered at the end of a command line, which slow packages that took)."""
    env = {
        "_VITBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=folder, env={**os.environ, **env}
    )
    return done.stdout.split(), done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected", "needs_specs"),
    [
        ("vitbench run posi", ["position_encoding", "position_grid"], False),
        ("vitbench plan paper/abl", ["paper/ablation"], False),
        ("vitbench run experiments/smo", ["experiments/smoke.yaml"], False),
        ("vitbench run ablation --data f", ["fashion_mnist", "folder:", "fake", "fake_colour"], True),
        ("vitbench plan position_encoding --diff rel", ["relative_1d", "relative_2d"], True),
        ("vitbench plan position_encoding --diff none ro", ["rope_2d"], True),
        (f"vitbench report --results {DIGITS} c", ["class_token_vs_gap"], False),
        (f"vitbench status --results {DIGITS} pos", ["position_encoding"], False),
        (f"vitbench verdict --results {DIGITS} CLS-01", ["CLS-01"], False),
        (f"vitbench compare --results {DIGITS} pos", ["position_encoding:"], False),
        (f"vitbench compare --results {DIGITS} position_encoding:no", ["position_encoding:none"], False),
        (f"vitbench compare --results {DIGITS} --metric test_top1_b", ["test_top1_best_val_percent"], False),
        ("vitbench run nothing_of_this_name", [], False),
        ("vitbench plan nothing --diff a", [], True),
    ],
)
def test_what_a_shell_offers(line: str, expected: list[str], needs_specs: bool) -> None:
    names, heavy = offered(line)
    assert names == expected
    assert heavy == f"heavy: [] {needs_specs}"


@pytest.mark.slow
def test_torn_records_offer_nothing_and_say_nothing(tmp_path: Path) -> None:
    run = tmp_path / "mine"
    run.mkdir()
    (run / "experiment.yaml").write_text("name: mine\n")
    (run / "records.jsonl").write_text('{"arm": "a"}\n{"arm": "b')
    assert offered(f"vitbench compare --results {tmp_path} mine:")[0] == ["mine:a"]
