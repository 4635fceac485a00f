"""`vitbench bench cuda`, rehearsed on the CPU: its steps run, failures are findings, finished steps are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

from vitbench.bench import cuda, cuda_checks

SIZE = cuda_checks.DeviceUnderTest("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("check", [cuda_checks.stack, cuda_checks.resume, cuda_checks.bf16])
def test_the_checks_run_and_hold_on_the_cpu(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_checks, "STEPS", 8)
    assert check(SIZE)["passed"] is True


@pytest.mark.slow
def test_parity_sees_another_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one kind of model, whose weights on the "device" are moved after training."""
    monkeypatch.setattr(cuda_checks, "MODELS", {"vit": cuda_checks.VIT})
    monkeypatch.setattr(cuda_checks, "OBJECTIVES", ("classify",))
    assert cuda_checks.parity(SIZE)["passed"] is True
    read, calls = cuda_checks.weights, [0]

    def moved(trainer: Any) -> Any:
        calls[0] += 1
        return read(trainer) + 1e-3 * (calls[0] % 2)

    monkeypatch.setattr(cuda_checks, "weights", moved)
    assert cuda_checks.parity(SIZE)["passed"] is False


def test_a_graph_needs_a_gpu() -> None:
    assert cuda_checks.graph(SIZE)["skipped"] is True


def test_finished_steps_are_read_and_failed_ones_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def step(name: str, found: dict[str, Any] | None) -> Any:
        def run(size: cuda_checks.DeviceUnderTest) -> dict[str, Any]:
            calls.append(name)
            if found is None:
                raise RuntimeError("no kernel")
            return found

        return run

    steps = {"good": step("good", {"passed": True}), "bad": step("bad", None), "speed": step("speed", {"summary": "7"})}
    monkeypatch.setattr(cuda, "STEPS", steps)
    monkeypatch.setattr(cuda, "_identity", lambda device: {"device": device})
    results = list(cuda.run("cuda", tmp_path))
    assert [result.passed for result in results] == [True, False, None]
    assert "FAILED   bad: RuntimeError: no kernel" in results[1].line()
    assert json.loads((tmp_path / "cuda_good.json").read_text())["made_by"] == {"device": "cuda"}
    assert [result.is_old for result in cuda.run("cuda", tmp_path)] == [True, False, True]
    assert calls == ["good", "bad", "speed", "bad"]
    late = list(cuda.run("cuda:1", tmp_path / "other", limit_seconds=0.0))
    assert all("no time was left" in result.line() for result in late)


def test_a_rehearsal_writes_nothing(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "STEPS", {"graph": cuda_checks.graph})
    answer = cli("bench", "cuda", "--device", "cpu", "--to", tmp_path / "bench")
    assert answer.code == 0
    assert "skipped  graph: CUDA graphs need a CUDA device" in answer.out
    assert not (tmp_path / "bench").exists()
