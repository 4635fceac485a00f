"""Everything that a CUDA device must do as a CPU does, and how fast: one command, in steps that are kept one by one.

Each step writes `cuda_<step>.json`. A step whose file was made by these versions and this device is not repeated, so an
interrupted command goes on. On a CPU the same steps are a rehearsal: they show that the code runs, and write nothing.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitbench.base.durable import make_folder, replace_durably
from vitbench.base.errors import printable
from vitbench.bench import cuda_checks, cuda_speed

LIMIT_SECONDS = 480.0
STEPS: dict[str, Callable[[cuda_checks.DeviceUnderTest], dict[str, Any]]] = {
    "parity": cuda_checks.parity,
    "stack": cuda_checks.stack,
    "graph": cuda_checks.graph,
    "resume": cuda_checks.resume,
    "bf16": cuda_checks.bf16,
    "out_of_memory": cuda_checks.out_of_memory,
    "stack_speed": cuda_speed.stack_speed,
    "peak_share": cuda_speed.peak_share,
    "ablation": cuda_speed.ablation,
}
"""The steps in their order: checks first, the longest measurement last."""


@dataclass(frozen=True)
class StepResult:
    """One step: what it found, its seconds, and whether it was read from an earlier call."""

    name: str
    found: Mapping[str, Any]
    seconds: float
    is_old: bool = False

    @property
    def passed(self) -> bool | None:
        """Whether a check held; None for a measurement, and for a step that this device cannot do."""
        return None if "skipped" in self.found else self.found.get("passed")

    def line(self) -> str:
        """One line for people."""
        state = {True: "ok", False: "FAILED", None: "measured"}[self.passed]
        if "skipped" in self.found:
            state = "skipped"
        again = ", from an earlier call" if self.is_old else ""
        return f"{state:8} {self.name}: {printable(str(self.found.get('summary', '')))} ({self.seconds:.0f} s{again})"


def run(device: str, folder: Path, limit_seconds: float = LIMIT_SECONDS) -> Iterator[StepResult]:
    """Yield the steps as they end; a step that raises is a failed check. No step begins after `limit_seconds`."""
    began, size = time.monotonic(), cuda_checks.DeviceUnderTest(device)
    identity = _identity(device)
    for name, step in STEPS.items():
        path = folder / f"cuda_{name}.json"
        if (old := _old(path, identity)) is not None:
            yield StepResult(name, old["found"], float(old["seconds"]), is_old=True)
            continue
        left = limit_seconds - (time.monotonic() - began)
        if left <= 0.0:
            yield StepResult(name, {"skipped": True, "summary": "no time was left; run the command again"}, 0.0)
            continue
        started = time.monotonic()
        try:
            found = step(size)
        except Exception as error:  # Whatever goes wrong on a device is a finding of this command.
            found = {"passed": False, "summary": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        result = StepResult(name, found, time.monotonic() - started)
        if device != "cpu":
            make_folder(folder)
            content = {"made_by": identity, "seconds": round(result.seconds, 1), "found": found}
            replace_durably(path, json.dumps(content, indent=1).encode() + b"\n")
        yield result


def _identity(device: str) -> dict[str, str]:
    """The device and the versions that a step's numbers belong to."""
    from vitbench.engines.environment import device_name, versions

    return {"device": device_name(device), "python": platform.python_version(), **versions()}


def _old(path: Path, identity: Mapping[str, str]) -> dict[str, Any] | None:
    """A step's file of an earlier call, if the same versions and device made it and it did not fail."""
    try:
        content = json.loads(path.read_text())
        fits = content["made_by"] == identity and content["found"].get("passed") is not False
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return content if fits else None
