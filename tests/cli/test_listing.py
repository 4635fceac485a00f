"""What `plan` says: trials that a suite shares counted once, times by arm, words that fit their number; the gauge."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Cli

from vitbench.cli.commands.gauge import gauge_of

MEMBER = """
name: {name}
base: {{data: {{name: fake}}, model: {{name: Mu/4}}, train: {{steps: 12}}}}
factors: {{{factor}}}
tune: {{train.lr: [1e-3, 4e-3], seeds: 1}}
seeds: 3
report: {{also_at: {{train.lr: {also_at}}}}}
"""
READOUT = "model.global_pool: [token, avg]"
POSITIONS = "model.pos_embed: [learned_1d, none]"


def suite(folder: Path, also_at: str = "[]") -> Path:
    """Two experiments that share their baseline's two tuning trials."""
    (folder / "a.yaml").write_text(MEMBER.format(name="a", factor=READOUT, also_at=also_at))
    (folder / "b.yaml").write_text(MEMBER.format(name="b", factor=POSITIONS, also_at="[]"))
    (folder / "both.yaml").write_text("name: both\nquestion: Both?\nsuite: [a, b]\n")
    return folder / "both.yaml"


def test_trials_that_experiments_share_count_once(cli: Cli, tmp_path: Path) -> None:
    said = cli("plan", suite(tmp_path), "--results", tmp_path)
    a, b = json.loads(cli("plan", tmp_path / "both.yaml", "--results", tmp_path, "--json").out)
    assert (a["trials_at_most"], a["trials_shared"]) == (4 + 6, 0)
    assert (b["trials_at_most"], b["trials_shared"]) == (4 + 6, 2)
    assert 0 < b["seconds_shared"] < b["seconds_left"]
    assert "together: at most 18 trials, those that experiments share counted once" in said.out
    assert "2 arms x 2 settings x 1 tuning seed, then 2 arms x 3 seeds" in said.out


@pytest.mark.parametrize(
    ("also_at", "num_more"),
    [("[]", 0), ("[2e-3]", 6), ("[best_of(token)]", 3), ("[best_of(token), best_of(avg)]", 6), ("[grid]", 6)],
)
def test_an_arms_own_best_is_not_counted_twice(cli: Cli, tmp_path: Path, also_at: str, num_more: int) -> None:
    suite(tmp_path, also_at)
    (plan,) = json.loads(cli("plan", tmp_path / "a.yaml", "--results", tmp_path, "--json").out)
    assert plan["trials_at_most"] == 4 + 6 + num_more


def test_one_seed_is_a_seed(cli: Cli, tmp_path: Path) -> None:
    suite(tmp_path)
    assert "tuned on 1 seed:" in cli("show", tmp_path / "a.yaml").out


def test_a_gauge_reads_memory_and_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert gauge_of("cpu") is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (3 * 2**30, 8 * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    without = gauge_of("cuda:1")
    assert without is not None
    assert without() == "GPU 1: 5.0 of 8.0 GiB"
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=87),
        NVMLError=OSError,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    whole = gauge_of("cuda")
    assert whole is not None
    assert whole() == "GPU 0: 5.0 of 8.0 GiB, 87% in use"


def test_the_command_on_record_names_the_looks() -> None:
    from vitbench.cli.commands.prepare import ExperimentRequest, command_of

    request = ExperimentRequest("mine", None, None, ("train.steps=5",))
    assert command_of(request, Path("results")) == "vitbench run mine --set train.steps=5"
    said = command_of(request, Path("elsewhere"), until_settled=True, max_seeds=8)
    assert said == "vitbench run mine --set train.steps=5 --until-settled --max-seeds 8 --results elsewhere"
