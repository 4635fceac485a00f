"""The bench measures what it says: the same work on both sides, honest ratios, whole tables; no test asserts a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vitbench.base.errors import InputError, VitbenchError
from vitbench.bench import finished_trials, mixer_speed, pages, scaling
from vitbench.bench.plain import Plain, build_model, forward_flops, train
from vitbench.bench.steps import seconds, spec_of, trainer_of
from vitbench.bench.suite import Rules, Size, contestants, experiment_text, ratios, trials_of, write_images
from vitbench.bench.timed_command import measure
from vitbench.cli.main import app
from vitbench.data import DataOptions
from vitbench.model.costs import forward_flops as closed_form
from vitbench.spec.trial import ModelSpec, TrainSpec
from vitbench.stats.race import CHOOSER

SIZE = Size(embed_dim=16, depth=1, patch_size=7, epochs=2, num_train=192, num_val=64, num_test=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made_here = tmp_path_factory.mktemp("images")
    write_images(made_here, SIZE)
    return made_here


def plain(folder: Path, **changes: object) -> Plain:
    given: dict[str, object] = {
        key: getattr(SIZE, key)
        for key in ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "batch_size", "epochs", "num_val")
    }
    given |= {"library": "timm", "data_dir": str(folder), "rates": (2e-3,), "seeds": (0,), "loaders": None}
    return Plain(**{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("suite", ["positions", "rates"])
def test_both_sides_see_as_many_images_and_spend_as_many_flops(suite: str, folder: Path) -> None:
    found = trials_of(experiment_text(suite, SIZE), DataOptions(data_dir=folder), CHOOSER)
    assert len(found) == 20
    assert len({trial.trial_id for trial in found}) == 20
    steps = {trial.spec.train.steps for trial in found}
    assert steps == {4}
    _, num_images = train(plain(folder), 2e-3, 0)
    assert num_images == 4 * SIZE.batch_size
    default = next(t for t in found if t.spec.model.pos_embed == "learned_1d").spec.model
    assert forward_flops(plain(folder)) == closed_form(default, found[0].spec.train.objective)
    assert sum(p.numel() for p in build_model(plain(folder)).parameters()) > 0


def test_an_unknown_suite_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="positions, rates"):
        experiment_text("everything", SIZE)


def test_everybody_runs_the_same_twenty_trainings(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    found = list(contestants("positions", SIZE, tmp_path / "x", "cpu", Rules()))
    assert [c.name for c in found if c.ours] == ["vitbench"]
    for one in (c for c in found if not c.ours):
        given = json.loads(one.command[-1])
        assert len(given["rates"]) * len(given["seeds"]) == 20
        assert given["epochs"] == SIZE.epochs


def test_a_ratio_is_paired_by_repeat() -> None:
    """A machine that is half as fast in one repeat slows both sides: the ratio stays, without an interval."""
    found = ratios({"vitbench": [10.0, 20.0, 15.0], "timm": [20.0, 40.0, 30.0]}, "vitbench")["timm"]
    assert found == {"ratio": pytest.approx(2.0), "low": pytest.approx(2.0), "high": pytest.approx(2.0), "n": 3}
    once = ratios({"vitbench": [10.0], "timm": [15.0]}, "vitbench")["timm"]
    assert once["ratio"] == pytest.approx(1.5)
    assert np.isinf(once["high"])


def test_a_command_is_measured_whole_and_its_failure_says_why() -> None:
    took = measure(
        (sys.executable, "-c", "import time; x = sum(range(10**7)); time.sleep(1.5); print(sum(range(10**5)))"), {}
    )
    assert took.seconds > 0
    assert took.cpu_seconds > 0
    assert took.output.strip() == "4999950000"
    with pytest.raises(VitbenchError, match="no such thing"):
        measure((sys.executable, "-c", "raise SystemExit('no such thing')"), {})


def test_a_slope_is_the_exponent() -> None:
    values = (1, 2, 4, 8)
    assert scaling.slope(values, [3.0 * v**2 for v in values]) == pytest.approx(2.0)
    assert scaling.slope(values, [100 + 0.0 * v for v in values]) == pytest.approx(0.0)


def test_steps_can_be_taken_on_drawn_images() -> None:
    spec = spec_of(ModelSpec(patch_size=4, embed_dim=8, depth=1, num_heads=1, mlp_ratio=2.0), 8, 5,
                   TrainSpec(steps=9, batch_size=4, augment="none"))  # fmt: skip
    trainer, taken = trainer_of(spec, 2, "cpu"), iter(range(9))
    assert len(seconds(lambda: trainer.step(next(taken)), "cpu", warm_up=1, repeats=3)) == 3
    assert next(taken) == 4


def test_finished_trials_are_skipped_and_none_is_run() -> None:
    assert finished_trials.measure(20, CHOOSER).keys() == {"plan", "skip"}


SUITE = {
    "suite": "positions",
    "size": {"embed_dim": 48, "depth": 2, "patch_size": 4, "batch_size": 64},
    "trainings": 20,
    "images": 1000,
    "train_flops": {"vitbench": 1e9, "timm": 1e9},
    "device": "cpu",
    "cores": 2,
    "plain_threads": 2,
    "loaders": 2,
    "seconds": {"vitbench": [10.0, 11.0], "timm": [20.0, 21.0]},
    "cpu_seconds": {"vitbench": [19.0, 20.0], "timm": [38.0, 39.0]},
    "peak_mib": {"vitbench": 500.0, "timm": 400.0},
    "test_top1_percent": {"vitbench": 91.0, "timm": 90.0},
}


@pytest.mark.slow
def test_tables_and_plots_are_written_whole(tmp_path: Path) -> None:
    table = pages.suite_table(SUITE)
    assert "| timm | 20.5 | 49 | 1.95 [" in table
    written = pages.write(tmp_path, "suite", SUITE, table, pages.suite_figure(SUITE))
    assert [path.suffix for path in written] == [".json", ".md", ".svg", ".png"]
    assert json.loads(written[0].read_text())["seconds"] == SUITE["seconds"]
    axis = {"values": [1, 2, 4], "seconds": [1.0, 2.0, 4.0], "slope": 1.0}
    found = {"device": "cpu", "threads": 1, "axes": {"members": axis, "batch": axis}}
    assert "| members | 1: 1, 2: 2, 4: 4 | 1.00 |" in pages.scaling_table(found)
    pages.write(tmp_path, "scaling", found, "", pages.scaling_figure(found))


def test_a_model_is_measured_beside_timms(tmp_path: Path) -> None:
    words = ["bench", "model", "Mu/4", "--img-size", "8", "--batch", "2", "--to", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "model_mu_4_fp32.json").read_text())
    assert found["ways"].keys() == {"vitbench", "timm"}
    assert all(way["images_per_second"] > 0 for way in found["ways"].values())
    assert found["timm_missing"] is None


def test_mixers_are_timed_side_by_side_with_attention() -> None:
    mixers = ["window", "local(kernel_size=3)", "window(window_size=3)"]
    measurement = mixer_speed.measure("ViT-Mu/2", (8, 4), mixers, 2, ("cpu", 1))
    assert list(measurement["seconds"]) == list(measurement["mixers"]) == ["attention", "window", "local"]
    assert {len(times) for times in measurement["seconds"].values()} == {2}
    assert measurement["left_out"].keys() == {"window(window_size=3)"}
    assert measurement["mixers"]["attention"]["hidden_flops"] == 0 < measurement["mixers"]["local"]["hidden_flops"]
    table = mixer_speed.table(measurement)
    assert "| attention |" in table
    assert "Left out: window(window_size=3) (model.token_mixer: windows of 3 do not divide" in table
