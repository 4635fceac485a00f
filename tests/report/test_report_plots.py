"""Plots: the same bytes, one colour an arm, and the numbers that they are drawn from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from sample_rows import (
    class_token_experiment,
    class_token_rows,
    position_experiment,
    position_rows,
    row,
    scale_experiment,
    scale_rows,
    shape_experiment,
    shape_rows,
)

from vitbench.report.formats import folded
from vitbench.report.pages.inline_svg import slim
from vitbench.report.plots.arm_plots import CAPTIONS, caption, plots_for, save, svg
from vitbench.report.plots.scale import by_family, compute_unit, crossings, frontier, knob_of, points_by
from vitbench.report.plots.style import COLOURS, arm_looks, lanes, looks, spread_out
from vitbench.report.row_values import quantity, series_of
from vitbench.report.source_numbers import equivalence_margin, paper_effects
from vitbench.report.tables import result_table
from vitbench.spec.experiment import Experiment
from vitbench.spec.load import load
from vitbench.stats.verdict_list import judge_all
from vitbench.stats.verdict_types import Context

CASES = {
    "class_token": (class_token_experiment, class_token_rows, ["arms", "differences", "tuning-lr", "curves", "rates"]),
    "position": (position_experiment, position_rows, ["arms", "differences", "curves"]),
    "scale": (scale_experiment, scale_rows, ["arms", "differences", "curves", "data", "compute"]),
    "shape": (shape_experiment, shape_rows, ["arms", "differences", "curves", "compute", "shape"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_rows_choose_the_plots_that_apply(case: str) -> None:
    experiment, rows, names = CASES[case]
    figures = plots_for(experiment(), rows())
    assert list(figures) == names
    assert {caption(name) for name in names} <= set(CAPTIONS.values())


SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
from sample_rows import class_token_experiment, class_token_rows
from vitbench.report.plots.arm_plots import plots_for, save
from pathlib import Path
save(plots_for(class_token_experiment(), class_token_rows()), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    here = Path(__file__).parents[1] / "fixtures"
    subprocess.run([sys.executable, "-c", SCRIPT, str(here), str(tmp_path / "one")], check=True)
    save(plots_for(class_token_experiment(), class_token_rows()), tmp_path / "two")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 10
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_matplotlib_settings_of_the_user_change_nothing_and_stay_theirs() -> None:
    experiment, rows = class_token_experiment(), class_token_rows(3)
    plain = svg(plots_for(experiment, rows)["arms"])
    with mpl.rc_context({"font.size": 30.0, "svg.hashsalt": None, "axes.facecolor": "red"}):
        assert svg(plots_for(experiment, rows)["arms"]) == plain
        assert mpl.rcParams["font.size"] == 30.0


def test_plots_hold_no_date_and_no_nan(tmp_path: Path) -> None:
    for text in save(plots_for(position_experiment(), position_rows()), tmp_path).values():
        assert "dc:date" not in text
        assert "NaN" not in text
        assert "nan" not in text


def test_an_arm_called_a_script_or_a_formula_is_text() -> None:
    names = ["none", "<script>alert(1)</script>", r"$\frac{1}{0"]
    experiment = Experiment.model_validate({"name": "e", "factors": {"model.pos_embed": names}, "seeds": 2})
    rows = [row(arm, {"model.pos_embed": arm}, s, 80.0 + s) for arm in names for s in (0, 1)]
    text = svg(plots_for(experiment, rows)["arms"])
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert r"$\frac{1}{0" in text


def test_margin_and_paper_numbers_come_from_the_claims() -> None:
    assert equivalence_margin(class_token_experiment()) == 2.0
    assert paper_effects(class_token_experiment(), "token") == {"avg": -0.5}
    assert paper_effects(class_token_experiment(), "avg") == {"token": 0.5}
    assert paper_effects(position_experiment(), "learned_1d") == {"none": -2.82}
    assert equivalence_margin(scale_experiment()) is None


def test_margins_are_those_of_the_data() -> None:
    text = class_token_experiment().model_dump(mode="json", exclude_defaults=True)
    text["claims"][0]["margin_points_digits"] = 3.0
    assert equivalence_margin(Experiment.model_validate(text)) == 3.0
    assert equivalence_margin(Experiment.model_validate({**text, "base": {"data": {"name": "cifar10"}}})) == 2.0


LONG = [f"token+mlp_tanh+{place}_pool_number_{i}" for i, place in enumerate(["before", "after"] * 6)]


@pytest.mark.slow
def test_no_word_of_a_plot_is_cut_off() -> None:
    made = {
        "name": "e",
        "factors": {"model.pos_embed": LONG},
        "tune": {"train.lr": [1e-3, 2e-3], "seeds": 1},
        "seeds": 2,
    }
    experiment = Experiment.model_validate(made)
    rows = [
        row(arm, {"model.pos_embed": arm}, seed, 80.0 + i + lr, setting={"train.lr": lr}, role=role)
        for i, arm in enumerate(LONG)
        for role, seed, lr in [
            ("tuning", 1000, 1e-3),
            ("tuning", 1000, 2e-3),
            ("reporting", 0, 2e-3),
            ("reporting", 1, 2e-3),
        ]
    ]
    figures = plots_for(experiment, rows)
    assert list(figures) == ["arms", "differences", "tuning-lr", "curves"]
    for name, figure in figures.items():
        figure.draw_without_rendering()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert -0.01 <= drawn.x0 <= drawn.x1 <= width + 0.01, name
        assert -0.01 <= drawn.y0 <= drawn.y1 <= height + 0.01, name
        axes = figure.axes[0].get_window_extent()
        assert axes.height > 150, name
        assert all(legend.get_window_extent().y1 < axes.y0 for legend in figure.legends), name


def test_names_are_folded_at_their_joints() -> None:
    assert folded("token+linear+before_pool", 20) == "token+linear+\nbefore_pool"
    assert folded("learned_1d_every_layer_shared", 20) == "learned_1d_every_\nlayer_shared"
    assert folded("x" * 25, 10) == "\n".join(["x" * 10, "x" * 10, "x" * 5])
    assert folded("plain", 20) == "plain"


def test_a_choice_has_a_ring_and_one_at_the_edge_has_two() -> None:
    inside, cut = class_token_rows(), [r for r in class_token_rows() if r["setting"]["train.lr"] <= 0.004]
    sizes = []
    for rows in (inside, cut):
        axes = plots_for(class_token_experiment(), rows)["tuning-lr"].axes[0]
        sizes.append([line.get_markersize() for line in axes.lines if line.get_fillstyle() == "none"])
    assert sizes == [[11.0, 11.0], [11.0, 15.0, 11.0]]


def test_arms_at_one_setting_stand_side_by_side() -> None:
    assert lanes(["a", "b", "c"]) == {"a": -12.0, "b": 0.0, "c": 12.0}
    many = list(lanes([str(i) for i in range(11)]).values())
    assert many == sorted(many)
    assert many[-1] - many[0] == pytest.approx(40.0)


@pytest.mark.slow
def test_a_located_crossing_stands_in_the_plot_with_its_interval() -> None:
    experiment, rows = scale_experiment(), scale_rows()
    verdicts = judge_all(experiment, rows, Context())
    (place,) = crossings(experiment, verdicts)
    assert place.value is not None
    assert 0.2 * 50_000 < place.value < 0.6 * 50_000  # drawn to cross at 37% of 50,000
    words = f"crossing at {quantity(place.value)} (95%: "
    assert words in svg(plots_for(experiment, rows, verdicts)["data"])
    assert "crossing" not in svg(plots_for(experiment, rows)["data"])
    elsewhere = experiment.claims[0].model_copy(update={"x": "log2_params"})
    assert crossings(experiment.model_copy(update={"claims": (elsewhere,)}), verdicts) == []


def test_each_family_has_its_frontier_and_compute_has_a_unit() -> None:
    experiment, rows = scale_experiment(), scale_rows()
    families = by_family(points_by(experiment, rows, "train_flops"), rows)
    assert {family: len(arms) for family, arms in families.items()} == {"resnet": 4, "vit": 4}
    text = svg(plots_for(experiment, rows)["compute"])
    for words in ("ResNet frontier", "ViT frontier", "Training compute (teraFLOPs)"):
        assert words in text
    assert [compute_unit(flops) for flops in (5.0, 2e12, 3e20)] == [(1.0, ""), (1e12, "tera"), (1e18, "exa")]


def test_accuracy_of_token_mixers_stands_against_their_training_flops() -> None:
    experiment = load(Path(__file__).parents[2] / "experiments/fashion_mnist/token_mixer.yaml")
    assert isinstance(experiment, Experiment)
    flops = {"attention": 3.6e11, "pool": 1.8e11, "pool_flops": 3.6e11}
    rows = [row(arm, {"arm": arm}, seed, 80.0, train_flops=flops[arm]) for arm in flops for seed in range(3)]
    (axes,) = plots_for(experiment, rows)["compute"].axes
    places = {line.get_label(): float(line.get_xdata()[0]) for line in axes.lines}
    assert {arm: places[arm] for arm in flops} == {arm: pytest.approx(x / 1e9) for arm, x in flops.items()}


def test_arms_of_a_series_share_a_colour_and_series_do_not() -> None:
    found = arm_looks(series_of(scale_experiment()))
    assert {found[arm].colour for arm in found if arm.startswith("ViT")} == {COLOURS[1]}
    assert len({found[arm].dash for arm in found if arm.startswith("ViT")}) == 4
    assert series_of(scale_experiment())["ViT-Ti-4+0.3"] == "ViT-Ti-4"


def test_twenty_arms_are_told_apart() -> None:
    found = looks([f"arm{i}" for i in range(20)])
    assert len({(look.colour, look.marker) for look in found.values()}) == 20


def test_colours_stand_out_on_both_themes() -> None:
    for colour in COLOURS:
        for ground in ("#ffffff", "#14171c"):
            assert _contrast(colour, ground) >= 3.0, (colour, ground)


def _contrast(a: str, b: str) -> float:
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_frontier_rises_and_leaves_out_what_is_dearer_and_worse() -> None:
    front = frontier(points_by(shape_experiment(), shape_rows(), "train_flops"))
    assert front == sorted(front)
    assert [y for _, y in front] == sorted(y for _, y in front)
    assert max(x for x, _ in front) == pytest.approx(4.2 * 6e13)
    assert all(x != pytest.approx(3.8 * 6e13) for x, _ in front)


def test_knobs_of_the_shape() -> None:
    anchor = {"depth": 4, "embed_dim": 32, "num_heads": 2, "stem": "conv"}
    assert knob_of(anchor, anchor | {"depth": 8}) == "Depth"
    assert knob_of(anchor, anchor | {"embed_dim": 64, "num_heads": 4}) == "Width"
    assert knob_of(anchor, anchor | {"embed_dim": 64, "depth": 8}) == "All together"
    assert knob_of(anchor, anchor | {"mlp_ratio": 8.0, "pos_embed": "none"}) == ""
    assert knob_of(anchor, anchor) == ""


def test_ticks_do_not_crowd() -> None:
    assert spread_out([1.0, 1.01, 2.0, 4.0]) == [1.0, 2.0, 4.0]
    assert spread_out([5.0]) == [5.0]


def test_the_settings_of_a_claim_are_drawn_as_the_papers_figure_has_them() -> None:
    axes = plots_for(class_token_experiment(), class_token_rows())["rates"].axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["avg, lr 0.004", "token, lr 0.004"]
    assert [line.get_linestyle() != "-" for line in lines.values()] == [True, False]
    assert "rates" not in plots_for(position_experiment(), position_rows())


def test_a_papers_scores_stand_beside_ours() -> None:
    claim = position_experiment().claims[0]
    printed = claim.paper.model_copy(update={"values": {"learned_1d": 64.206, "none": 61.382, "no such arm": 1.0}})
    made = position_experiment().model_copy(update={"claims": (claim.model_copy(update={"paper": printed}),)})
    table = result_table(made, position_rows())
    columns = dict(zip(table.header, zip(*table.rows, strict=True), strict=True))
    by_arm = {arm: k for k, arm in enumerate(columns["Arm"])}
    assert columns["Paper (%)"][by_arm["learned_1d"]] == "64.21"
    assert columns["Paper (diff.)"][by_arm["none"]] == "-2.82"
    assert columns["Paper (diff.)"][by_arm["learned_1d"]] == "-"
    assert paper_effects(made, "learned_1d")["none"] == pytest.approx(-2.824)


def test_ids_of_a_drawing_do_not_depend_on_the_last_bits_of_floats() -> None:
    drawing = '<g id="{0}"><use xlink:href="#{0}"/></g><clipPath id="{1}"/><path clip-path="url(#{1})"/>'
    first, second = (slim(drawing.format(f"m{k:010x}", f"p{k + 7:010x}")) for k in (1, 2))
    assert first == second
    assert 'xlink:href="#m0"' in first
    assert "url(#p1)" in first
