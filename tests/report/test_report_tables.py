"""Tables: golden bytes, escaping, refusals, ties, and what is never averaged."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_report import GOLDEN, PINNED, rebuild
from rich.console import Console
from sample_rows import class_token_experiment, class_token_rows, lost, position_experiment, position_rows, row

from vitbench.report.cost_tables import root_cost_table
from vitbench.report.formats import Table, escape_latex, escape_markdown, to_csv, to_latex, to_markdown, to_rich
from vitbench.report.row_values import quantity, setting_of
from vitbench.report.summaries import own_best_summaries, shared_summaries, tuned_points
from vitbench.report.tables import result_frame, result_table, shared_table, tables_for, tuning_table
from vitbench.spec.experiment import Experiment, ReportSpec

EVIL = "<script>alert(1)</script>"
NAUGHTY = f"{EVIL}|`x`*b*[a](javascript:x)$\\input{{x}}&%#_^~\x1b[31m\n\\end"


def arms_of(*names: str) -> Experiment:
    return Experiment.model_validate({"name": "e", "factors": {"model.pos_embed": list(names)}, "seeds": 5})


def rows_of(**scores: list[float]) -> list[dict[str, object]]:
    return [row(arm, {"model.pos_embed": arm}, s, v) for arm, values in scores.items() for s, v in enumerate(values)]


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("golden")
    rebuild(root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", PINNED)
def test_committed_records_give_committed_bytes(rebuilt: Path, name: str) -> None:
    assert (rebuilt / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_mean_and_paired_difference_agree_with_scipy() -> None:
    from scipy import stats

    a, b = [90.0, 91.0, 92.5, 91.5, 93.0], [88.0, 90.5, 90.0, 91.0, 91.0]
    one, two = own_best_summaries(arms_of("b", "a"), rows_of(a=a, b=b))
    scores_a = np.array([round(v * 3.6) / 3.6 for v in a])
    scores_b = np.array([round(v * 3.6) / 3.6 for v in b])
    expected = stats.ttest_rel(scores_a, scores_b).confidence_interval(0.95)
    alone = stats.t.interval(0.95, 4, scores_b.mean(), stats.sem(scores_b))
    assert two.versus_baseline is not None
    assert (two.versus_baseline.low, two.versus_baseline.high) == pytest.approx((expected.low, expected.high))
    assert (one.mean.low, one.mean.high) == pytest.approx(alone)


def test_a_single_seed_is_refused_in_words_and_nothing_is_bold() -> None:
    table = result_table(arms_of("a", "b"), rows_of(a=[90.0], b=[80.0]))
    assert [line[2] for line in table.rows] == ["90.00 (n = 1, no interval)", "80.00 (n = 1, no interval)"]
    assert table.rows[1][3] == "-10.00 (n = 1, no interval)"
    assert not table.bold


def test_bold_needs_an_interval_that_excludes_every_other_arm() -> None:
    clear = rows_of(a=[90.0, 91.0, 90.5], b=[80.0, 81.0, 80.8])
    close = rows_of(a=[90.0, 91.0, 90.5], b=[90.3, 90.6, 90.7])
    assert {arm.rank for arm in own_best_summaries(arms_of("a", "b"), clear)} == {"best", ""}
    assert [arm.rank for arm in own_best_summaries(arms_of("a", "b"), close)] == ["tied", "tied"]
    assert result_table(arms_of("a", "b"), clear).bold == {(0, 0), (0, 2)}
    assert "≈" in result_table(arms_of("a", "b"), close).rows[0][2]


def test_an_arm_that_diverged_is_never_best() -> None:
    rows = rows_of(a=[90.0, 91.0, 90.5, 90.6], b=[80.0, 81.0, 80.8, 80.7])
    rows[0] = lost(rows[0], "diverged", "loss is not finite")
    assert own_best_summaries(arms_of("a", "b"), rows)[0].rank == ""


def test_lost_trials_are_counted_and_not_averaged() -> None:
    rows = rows_of(a=[90.0, 91.0, 90.5, 90.6], b=[80.0, 81.0, 80.8, 80.7])
    rows[0] = lost(rows[0], "diverged", "loss is not finite")
    rows[1] = lost(rows[1], "failed", "RuntimeError")
    a, b = own_best_summaries(arms_of("a", "b"), rows)
    assert (a.num_diverged, a.num_failed, a.num_missing, a.mean.n) == (1, 1, 1, 2)
    assert a.mean.mean == pytest.approx(np.mean([round(v * 3.6) / 3.6 for v in (90.5, 90.6)]))
    assert (b.num_missing, b.mean.n) == (1, 4)


def test_an_arm_without_any_trial_is_listed_as_missing() -> None:
    table = result_table(arms_of("a", "b"), rows_of(a=[90.0, 91.0]))
    assert table.rows[1][:3] == ("b", "0", "no score")
    assert "5 missing" in table.rows[1]


@pytest.mark.parametrize("scores", [[], [90.0], [90.0, 90.0, 90.0]])
def test_no_nan_in_any_table(scores: list[float]) -> None:
    experiment, rows = arms_of("a", "b"), rows_of(a=scores, b=[80.0, 81.0])
    text = to_csv(result_frame(experiment, rows)) + "".join(to_markdown(t) for t in tables_for(experiment, rows))
    assert "nan" not in text.lower()


def test_tuned_arms_carry_the_noise_of_their_choice_and_shared_settings_do_not() -> None:
    from scipy import stats

    rows = class_token_rows()
    for entry in rows:
        if entry["role"] == "tuning":  # noisy seeds, close settings: the choice is a toss-up that can cost a point
            best = entry["setting"]["train.lr"] == {"token": 0.004, "avg": 0.002}[entry["arm"]]
            values = (97.0, 85.0, 91.0) if best else (85.0, 97.0, 88.0)
            entry["result"]["val_top1_percent"] = values[entry["seed"] - 1000]
    experiment = class_token_experiment()
    versus = own_best_summaries(experiment, rows)[1].versus_baseline
    scores = {arm: [r["result"]["test_top1_percent"] for r in rows if _is_best(r, arm)] for arm in ("avg", "token")}
    plain = stats.ttest_rel(scores["avg"], scores["token"])
    assert versus is not None
    assert versus.low is not None
    assert versus.low < plain.confidence_interval(0.95).low - 0.1
    shared = shared_summaries(experiment, rows, (("train.lr", 0.004),))[1].versus_baseline
    assert shared is not None
    assert shared.n == 5


def _is_best(entry: dict[str, object], arm: str) -> bool:
    return entry["arm"] == arm and entry["role"] == "reporting" and bool(entry["chosen"])


def test_both_readings_stand_side_by_side() -> None:
    table = shared_table(class_token_experiment(), class_token_rows())
    assert table is not None
    assert table.header == ("Arm", "At own best", "minus token", "At lr 0.004 (best of token)", "minus token")
    assert shared_table(class_token_experiment(report={"also_at": {}}), class_token_rows()) is None


def test_tuning_marks_the_choice_the_edge_and_what_is_out() -> None:
    rows = [r for r in class_token_rows() if r["arm"] == "token" or r["setting"]["train.lr"] <= 0.002]
    rows = [r for r in rows if r["arm"] == "token" or r["role"] == "tuning" or r["chosen"]]
    rows[0] = lost(rows[0], "diverged", "loss is not finite")
    points = {(p.arm, p.setting): p for p in tuned_points(class_token_experiment(), rows)}
    assert points["avg", (("train.lr", 0.002),)].at_edge
    assert not points["token", (("train.lr", 0.004),)].at_edge
    assert points["token", (("train.lr", 0.001),)].mean is None
    table = tuning_table(class_token_experiment(), rows)
    assert table is not None
    by_arm = {row[0]: dict(zip(table.header[1:], row[1:], strict=True)) for row in table.rows}
    assert by_arm["token"]["lr 0.001"] == "out (1 lost)"
    assert by_arm["avg"] | {"lr 0.001": "91.06", "lr 0.002": "[92.72]!"} == by_arm["avg"]


def test_a_wide_table_stands_in_blocks_that_each_name_the_arms() -> None:
    header = ("Arm", *(f"at lr {k}" for k in range(12)))
    table = Table("t", header, (("token+linear+before_pool", *("91.00 ± 1.00",) * 12),))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(to_rich(table, 80))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("token+linear+before_pool") == text.count("Arm") == 4


def test_arms_come_in_the_order_of_the_file_whatever_the_order_of_the_rows() -> None:
    experiment, rows = position_experiment(), position_rows()
    assert result_table(experiment, rows) == result_table(experiment, rows[::-1])


def test_names_do_no_harm_in_any_format() -> None:
    table = Table("t", ("Arm", EVIL), ((NAUGHTY, "1"), ("=cmd()", "2")), frozenset({(0, 0)}))
    markdown, latex = to_markdown(table), to_latex(table, "tab:t")
    assert "<script" not in markdown
    assert "](" not in markdown.replace("\\]", "")
    assert len(markdown.splitlines()) == 6
    assert "\\input" not in latex
    assert "\\end" not in latex.replace("\\end{tabular}", "").replace("\\end{table}", "")
    evil = Experiment.model_validate(
        {"name": "e", "factors": {"model.pos_embed": ["none", EVIL, "=cmd()"]}, "seeds": 2}
    )
    rows = [row(arm, {"model.pos_embed": arm}, s, 80.0 + s) for arm in ("none", EVIL, "=cmd()") for s in (0, 1)]
    csv = to_csv(result_frame(evil, rows))
    assert ",=cmd" not in csv
    assert ",'=cmd()" in csv
    console = Console(width=200, force_terminal=True, color_system="truecolor", record=True, file=io.StringIO())
    console.print(to_rich(table, 200))
    assert "\x1b[31m" not in console.export_text(styles=True)


def test_escapes_leave_plain_names_alone() -> None:
    assert escape_markdown("learned_1d + lr 0.002") == "learned_1d + lr 0.002"
    assert escape_latex("learned_1d ± -0.5") == r"learned\_1d $\pm$ $-$0.5"


def test_a_narrow_terminal_drops_costs_and_cuts_no_number() -> None:
    table = result_table(class_token_experiment(), class_token_rows())
    console = Console(width=64, record=True, file=io.StringIO())
    console.print(to_rich(table, 64))
    text = console.export_text()
    assert "+0.94 ± 0.39" in text
    assert "Seconds" not in text
    assert max(len(line) for line in text.splitlines() if "±" in line and "lr" in line) <= 64


def test_settings_of_lists_are_keys() -> None:
    assert setting_of({"setting": {"model.layers": [1, 2]}}) == (("model.layers", (1, 2)),)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "-"), (35_210, "35.2k"), (999_700, "1M"), (8.8e10, "88G"), (2e18, "2E"), (12, "12")]
)
def test_quantities_have_three_digits(value: float, text: str) -> None:
    assert quantity(value) == text


def test_a_trial_that_two_runs_share_is_paid_once() -> None:
    run = {"train_seconds": 90.0, "eval_seconds": 2.0}
    first, second, other = (
        {**line, "trial_id": name, "run": run, "result": {**line["result"], "num_images": 9000, "train_flops": 1e9}}
        for line, name in zip(rows_of(a=[90.0, 91.0, 92.0]), ("one", "two", "three"), strict=True)
    )
    table = root_cost_table({"x": [first, second, first], "y": [second, other]})
    assert [line[:4] for line in table.rows] == [
        ("x", "2", "2G", "3 min 00 s"),
        ("y", "1", "1G", "1 min 30 s"),
        ("total", "3", "3G", "4 min 30 s"),
    ]
    assert {line[4] for line in table.rows} == {"100"}


def loss_rows() -> list[dict[str, Any]]:
    scores = {"low": [95.0, 95.5, 94.5, 95.2, 94.8], "high": [80.0, 79.0, 81.5, 80.9, 78.8]}
    return [dict(line) for line in rows_of(**scores)]


def test_the_lowest_loss_is_best_and_losses_are_not_points() -> None:
    """`row` gives the arm of the higher accuracy the lower loss."""
    experiment = arms_of("high", "low").model_copy(update={"report": ReportSpec(metric="test_loss")})
    table = result_table(experiment, loss_rows())
    best = {table.rows[i][0] for i, _ in table.bold}
    assert best == {"low"}
    assert "in nats" in table.notes[0]
    assert not any("points" in note for note in table.notes)
    assert any("below every other arm" in note for note in table.notes)


def test_a_cost_is_never_best() -> None:
    rows: list[dict[str, Any]] = loss_rows()
    for line in rows:
        line["result"]["num_params"] = 1000 + 10 * line["seed"] + (500 if line["arm"] == "low" else 0)
    experiment = arms_of("high", "low").model_copy(update={"report": ReportSpec(metric="num_params")})
    assert not result_table(experiment, rows).bold
