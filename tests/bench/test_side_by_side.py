"""The comparison of two designs: its experiments, what it reads from a command's output, its order and its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitbench.bench import side_by_side
from vitbench.bench.side_by_side import (
    CLAIMS,
    DESIGNS,
    QUESTIONS,
    Command,
    alternate,
    experiment_file,
    looks_in,
    read_commands,
    settled_at,
    summary,
    table,
)
from vitbench.spec.experiment import Suite
from vitbench.spec.load import loads


def command(
    design: str, code: int, *looks: tuple[int, tuple[str, ...]], experiment: str = "class_token", trainings: int = 12
) -> Command:
    return Command(experiment, design, code, 100.0, 200.0, trainings, looks)


@pytest.mark.parametrize("question", QUESTIONS)
def test_both_designs_ask_the_same_question(question: str) -> None:
    race, before = (loads(experiment_file(question, design), "made.yaml") for design in ("race", "before"))
    assert not isinstance(race, Suite)
    assert not isinstance(before, Suite)
    assert race.tune is not None
    assert before.tune is not None
    assert (race.tune.by, before.tune.by) == ("race", "seeds")
    assert race.tune.grid == before.tune.grid
    assert (race.base, race.claims, race.factors, race.arms) == (
        before.base,
        before.claims,
        before.factors,
        before.arms,
    )
    assert tuple(claim.id for claim in race.claims) == CLAIMS[question]
    assert race.seeds.most() == before.seeds.most() == 20


def test_the_looks_of_a_commands_output() -> None:
    output = "[1/12] token: 80.1\npositions, n = 6: open: POS-01, POS-02\npositions, n = 9: every claim is settled\n"
    assert looks_in(output) == ((6, ("POS-01", "POS-02")), (9, ()))
    assert looks_in("positions: 4 trials, 0 done") == ()


def test_a_claim_is_settled_at_the_first_look_after_which_it_never_opens() -> None:
    commands = [command("race", 3, (6, ("A", "B"))), command("race", 0, (6, ("A", "B")), (9, ("B",)), (13, ()))]
    assert settled_at(commands, "A") == 9
    assert settled_at(commands, "B") == 13
    assert settled_at(commands[:1], "A") is None
    assert settled_at([], "A") is None


def test_commands_of_both_designs_alternate_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A design that has ended drops out; what was logged before is not run again."""
    codes = {"race": iter((3, 0, 0)), "before": iter((3, 3, 1, 0))}

    def run_command(experiment: str, design: str, code: Path, work: Path) -> Command:
        return command(design, next(codes[design]), experiment=experiment)

    monkeypatch.setattr(side_by_side, "run_command", run_command)
    alternate(tmp_path / "old", tmp_path, float("inf"))
    log = [(c.experiment, c.design) for c in read_commands(tmp_path)]
    assert log[:5] == [("class_token", design) for design in ("race", "before", "race", "before", "before")]
    assert log[5:] == [("positions", "race"), ("positions", "before")]
    alternate(tmp_path / "old", tmp_path, float("inf"))
    assert len(read_commands(tmp_path)) == 7


def test_no_command_begins_after_the_time_limit(tmp_path: Path) -> None:
    alternate(tmp_path / "old", tmp_path, -1.0)
    assert read_commands(tmp_path) == []


def test_the_table_counts_trainings_and_core_seconds() -> None:
    commands = [
        command("race", 3, (6, ("CLS-01",))),
        command("race", 0, (9, ()), trainings=5),
        command("before", 3, (5, ("CLS-01",))),
    ]
    lines = summary(commands)
    assert [(line["design"], line["trainings"], line["core_seconds"]) for line in lines] == [
        ("race", 17, 200.0),
        ("before", 12, 100.0),
    ]
    text = table(lines)
    assert "| class_token | race | 17 | 200 | n = 9 | CLS-01: 9 |" in text
    assert "| class_token | before | 12 | 100 | stopped by the time limit | CLS-01: open |" in text
    assert set(DESIGNS) == {"race", "before"}
