"""What a user sees of `verdict`, `list`, `plan --diff` and `run --help`, on a terminal and in a pipe."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli
from rich.console import Console

from vitbench.cli.commands.experiment_list import brief_cost, listing_lines
from vitbench.cli.commands.listing import plan
from vitbench.cli.commands.prepare import ExperimentRequest
from vitbench.cli.commands.verdicts import VerdictOptions, verdict
from vitbench.cli.text_table import column_widths, table_lines
from vitbench.data import DataOptions

DIGITS = Path("results/tier1-digits")
STATES = ("supported", "contradicted", "inconclusive", "untested")


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def printed(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_verdicts_on_a_terminal_are_a_table_within_its_width(width: int) -> None:
    console = terminal(width)
    options = VerdictOptions(runs=(str(DIGITS / "class_token_vs_gap"),))
    assert verdict(DIGITS, options, console) == 0
    head, *lines = printed(console)
    assert re.split(r"\s{2,}", head.strip()) == [
        "claim",
        "verdict",
        "effect [interval]",
        "claimed",
        "source",
        "n",
        "why",
    ]
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if line.startswith("CLS-")]
    assert len(rows) == 5
    (cls_02,) = [line for line in rows if line.startswith("CLS-02")]
    assert all(cell in cls_02 for cell in ("contradicted", "+1.88 [-0.49, +4.25]", "below -1", "-5.8", "8"))
    text = " ".join(" ".join(lines).split())
    assert "CLS-02a: avg - token: interval outside the claimed region" in text


def test_verbose_adds_every_reason() -> None:
    outputs = []
    for verbose in (False, True):
        console = terminal(100)
        verdict(DIGITS, VerdictOptions("CLS-02", (str(DIGITS / "class_token_vs_gap"),), verbose=verbose), console)
        outputs.append(" ".join(" ".join(printed(console)).split()))
    assert "settled at n = 8" not in outputs[0]
    assert "settled at n = 8" in outputs[1]
    assert "At the class token's rate" in outputs[1]


def test_a_pipe_gets_one_record_per_line_and_json_all_fields(cli: Cli) -> None:
    lines = cli("verdict", "--results", DIGITS).out.splitlines()
    records = json.loads(cli("verdict", "--results", DIGITS, "--json").out)
    assert len(lines) == len(records) > 20
    for line, record in zip(lines, records, strict=True):
        assert line.startswith(f"{record['run']}  {record['claim']} {record['state']}")
        assert all(note in line for note in record.get("notes", ()))


def test_list_has_one_line_per_experiment_below_its_question(cli: Cli) -> None:
    entries = json.loads(cli("list", "--json").out)
    lines = cli("list").out.splitlines()
    places = {line.split()[0]: number for number, line in enumerate(lines) if line.startswith("  ")}
    assert places.keys() == {entry["name"] for entry in entries}
    heading = lines.index("What are positions worth, and does it matter how they are encoded?")
    assert [lines[heading + k].split()[:2] for k in (1, 2, 3)] == [
        ["position_encoding", "digits"],
        ["cifar10/position_encoding", "cifar10"],
        ["fashion_mnist/position_encoding", "fashion_mnist"],
    ]
    assert all(len(line.plain) <= 80 for line in listing_lines(entries, 80))
    names = [line.plain.split()[0] for line in listing_lines(entries, 80) if line.plain.startswith("  ")]
    assert sorted(names) == sorted(places), "a narrow terminal cuts costs, never names"


@pytest.mark.parametrize(
    ("cost", "brief"),
    [
        ("36 tuning and 36 reporting trials, about 4 minutes on 2 cores; not measured", "about 4 minutes on 2 cores"),
        ("18 days of one GPU (bf16, computed), 51 with 20 seeds", "18 days of one GPU"),
        ("18 trials", "18 trials"),
    ],
)
def test_a_brief_cost_is_its_time(cost: str, brief: str) -> None:
    assert brief_cost({"kind": "experiment", "question": "", "cost": cost}) == brief


@pytest.mark.parametrize("width", [40, 80, 200])
def test_plan_diff_never_cuts_a_key(width: int) -> None:
    console = terminal(width)
    request = ExperimentRequest("position_encoding")
    assert plan(request, DataOptions(), Path("results"), ("none", "relative_2d"), console, False) == 0
    lines = printed(console)
    keys = {word for line in lines for word in line.split()}
    assert {"model.pos_embed", "blocks.0.attn.rel_pos.relative_position_bias_table"} & keys
    assert not any("…" in line for line in lines)
    wide = terminal(400)
    plan(request, DataOptions(), Path("results"), ("none", "relative_2d"), wide, False)
    in_table = {line.split()[2] for line in printed(wide)[2:]}
    assert in_table <= keys


def test_a_row_that_is_too_wide_continues_below() -> None:
    rows = [("key", "value"), ("a.long.key.of.a.tensor", "one two three four five six seven eight nine ten")]
    lines = table_lines(rows[1], column_widths(rows), 30)
    assert lines == ["a.long.key.of.a.tensor", "    one two three four five six", "    seven eight nine ten"]
    assert table_lines(rows[1], column_widths(rows), 200) == ["  ".join(rows[1])]


def test_run_help_has_panels_with_machine_options_last(cli: Cli) -> None:
    out = cli("run", "--help").out
    panels = re.findall(r"╭─ ([\w ]+?) ─", out)
    assert panels == ["Arguments", "What to run", "Data", "Output", "Machine"]
    machine = out[out.index("─ Machine ─") :]
    assert all(option in machine for option in ("--device", "--jobs", "--oom", "--engine", "--recompute"))
    assert "--help" in out[: out.index("─ Machine ─")]


@pytest.mark.parametrize("module", ["vitbench", "vitbench.cli", "vitbench.cli.main", "cli.py"])
def test_every_way_to_start_the_command_line_works(module: str) -> None:
    words = [module] if module.endswith(".py") else ["-m", module]
    done = subprocess.run([sys.executable, *words, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
