"""`vitbench init`: a starter that plans as it stands; and the schema line of every shipped experiment. About 2 s."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import Cli

from vitbench.cli.commands import init
from vitbench.spec.json_schema import schema

ROOT = Path(__file__).parents[2]
MODELINE = re.compile(r"# yaml-language-server: \$schema=(\S+)\n")


def schema_of(path: Path) -> Path:
    """The schema that a file's first line points an editor to."""
    match = MODELINE.match(path.read_text())
    assert match, f"{path}: the first line names no schema"
    return (path.parent / match[1]).resolve()


def test_every_shipped_experiment_points_to_the_schema() -> None:
    shipped = list((ROOT / "experiments").rglob("*.yaml"))
    assert len(shipped) > 20
    assert {schema_of(path) for path in shipped} == {ROOT / "schema.json"}


def test_the_starter_plans_as_it_stands(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "my-ablation.yaml"
    said = cli("init", path)
    assert said.code == 0, said.err
    assert f"vitbench plan {path}" in said.out.replace("\n", "")
    assert schema_of(path) == ROOT / "schema.json"
    plan = cli("plan", path, "--results", tmp_path, "--json")
    assert plan.code == 0, plan.err
    (numbers,) = json.loads(plan.out)
    assert numbers["run"] == "my-ablation"
    assert f"# Cost: {numbers['trials_now']} tuning and 8 reporting trials" in path.read_text()
    assert numbers["trials_at_most"] == numbers["trials_now"] + 8


def test_what_is_commented_out_holds_too(cli: Cli, tmp_path: Path) -> None:
    """With the named arms in place of the factor, and both claims on them."""
    path = tmp_path / "all.yaml"
    assert cli("init", path).code == 0
    before, factors, after = re.split(r"(?m)^(factors:.*\n.*\n)", path.read_text())
    assert "drop_path_rate" in factors
    text = re.sub(r"(?m)^# (?=arms:|  plain:|  regularised:|- id:|  form:|  arms:|  margin)", "", before + after)
    text = re.sub(r"(?m)^(- id:|  form:|  arms: \[|  margin_)", r"  \1", text)
    path.write_text(text.replace('["0.1", "0"]', "[regularised, plain]"))
    plan = cli("plan", path, "--results", tmp_path, "--json")
    assert plan.code == 0, plan.err
    assert [arm["arm"] for arm in json.loads(plan.out)[0]["arms"]] == ["plain", "regularised"]


def test_away_from_a_checkout_the_schema_is_written_beside_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init, "SHIPPED_SCHEMA", tmp_path / "nowhere" / "schema.json")
    assert cli("init", tmp_path / "mine.yaml").code == 0
    assert json.loads(schema_of(tmp_path / "mine.yaml").read_text()) == schema()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mine.yaml", "already exists"),
        ("mine.txt", "ends in .yaml or .yml"),
        ("nowhere/mine.yaml", "no folder"),
        ("bad name!.yaml", "name: needs a name"),
    ],
)
def test_nothing_is_overwritten_and_bad_names_are_refused(cli: Cli, tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    said = cli("init", tmp_path / name)
    assert said.code == 2
    assert line in said.err
    assert len(said.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    assert (tmp_path / "mine.yaml").read_text() == "name: mine\n"
