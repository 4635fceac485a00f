"""Shared by all tests: one thread per process, a cache of their own, and the command line called in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # Before torch is loaded: two threads on two cores are slower than one.
os.environ["NO_COLOR"] = "1"
os.environ["COLUMNS"] = "200"

import pytest


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Cli = Callable[..., Answer]
MOST_PROCESSES = 4
"""Each process of pytest-xdist imports torch, so more of them soon cost more than they save."""


SLOW_FILES = {
    "base/test_output", "bench/test_bench", "bench/test_prepared_speed", "bench/test_settling", "cli/test_cli",
    "cli/test_fuzz_cli", "cli/test_own_images", "cli/test_prepare", "cli/test_raced_run", "cli/test_recommend",
    "cli/test_text_output", "cli/test_upkeep", "cli/test_watch", "data/test_prepared",
    "engines/test_distillation", "engines/test_engines", "engines/test_fused", "engines/test_golden",
    "engines/test_ray", "engines/test_several_processes", "engines/test_stages_finetune",
    "guards/test_hostile", "guards/test_links", "guards/test_silent_numbers",
    "inspection/test_export", "inspection/test_inspection", "inspection/test_other_formats",
    "model/test_block_options", "model/test_closed_form", "model/test_cost", "model/test_dit_parity",
    "model/test_init_from", "model/test_initial", "model/test_pyramids",
    "model/test_stacking", "model/test_training", "model/test_transfer",
    "plan/test_race_plan", "plan/test_sources",
    "reliability/test_checkpoints", "reliability/test_disk", "reliability/test_kills", "reliability/test_memory",
    "reliability/test_resume", "reliability/test_stops", "reliability/test_two_writers",
    "report/test_report_browser", "report/test_report_page", "report/test_report_plots", "spec/test_fuzz_load",
    "stats/test_stats_oracles", "stats/test_stats_simulation", "store/test_fuzz_records", "store/test_records",
    "test_docs_site", "test_layers", "test_readme", "test_shipped_experiments", "test_style", "test_words",
    "train/test_contrastive", "train/test_detect", "train/test_diffuse", "train/test_dino", "train/test_igpt",
    "train/test_loop",
    "train/test_mae", "train/test_momentum_contrast", "train/test_networks", "train/test_non_square_training",
    "train/test_perfect_teacher", "train/test_prepared_training", "train/test_pseudo_label", "train/test_recipe",
    "train/test_learning_from_a_teacher", "train/test_segment", "train/test_stream", "train/test_vilt",
}  # fmt: skip
"""Files whose tests together took over 2 seconds, or train the smoke experiment: `slow`, for a short inner loop."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).with_suffix("").as_posix() in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Number of test processes for `-n auto`: one per core for the whole suite, none beside pytest for named files."""
    from vitbench.engines.options import num_cores

    names_files = any(".py" in argument for argument in config.invocation_params.args)
    return 0 if names_files else min(MOST_PROCESSES, num_cores())


@pytest.fixture(autouse=True)
def _cache_of_this_process(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITBENCH_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("VITBENCH_DATA_DIR", raising=False)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli("run", "smoke", ...)` as a shell would call it, in this process."""
    from vitbench.cli.main import main

    def call(*words: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["vitbench", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return Answer(int(stop.value.code or 0), said.out, said.err)

    return call


@pytest.fixture(scope="session")
def smoke_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results root in which the smoke experiment has run to its end, one trial after another; read it only."""
    from rich.console import Console

    from vitbench.cli.commands.prepare import ExperimentRequest, data_options
    from vitbench.cli.commands.run import RunOptions, run

    root = tmp_path_factory.mktemp("smoke")
    code = run(
        ExperimentRequest("smoke"), RunOptions(root, data_options(None, False), jobs=1, quiet=True), Console(quiet=True)
    )
    assert code == 0
    return root


@pytest.fixture
def everything_is_indexed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few and new records, and few and new lines, are indexed as well."""
    from vitbench.store import index, trials

    monkeypatch.setattr(trials, "INDEXED_FROM", 1)
    monkeypatch.setattr(index, "SETTLED_NS", -(10**18))
    yield
    trials.Store._read.clear()
