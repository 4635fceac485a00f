"""Weights and checkpoints on disk: safetensors only, so that reading them can run no code.

A checkpoint is `step-<n>.safetensors` of one trial: tensors, and everything else as JSON in the file's metadata. The
file `step-<n>.sha256` beside it is written last, for `sha256sum -c`; a checkpoint without a matching one is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor

from vitbench.base.contained import read
from vitbench.base.durable import replace_durably
from vitbench.base.errors import InputError
from vitbench.base.fault_injection import fault
from vitbench.spec.trial import Frozen, Items
from vitbench.store.record import CurvePoint

FORMAT = 1
MAX_CHECKPOINT_BYTES = 64 << 30
NUM_KEPT = 2
METADATA = "vitbench"
PROCESSES = "processes"
"""The key of `made_by` that may change between attempts: any number of processes can go on from a checkpoint."""


def pack(state: dict[str, Tensor]) -> bytes:
    """The bytes of a safetensors file holding `state`."""
    return save({name: tensor.contiguous() for name, tensor in state.items()})


def weights_sha256(state: dict[str, Tensor]) -> str:
    """Hash of names, shapes and values, the same whatever the file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name. Raises InputError if the file is missing or not in the safetensors format."""
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own, undocumented family
        raise InputError(f"{path}: not readable as safetensors weights ({error})") from error


class Standing(Frozen):
    """The state of a training between two steps, without its tensors; steps count from 1, and 0 is the start.

    `made_by` holds version, device, threads and processes, within which resuming is bit-equal. `seconds` is the time so
    far.
    """

    format: int = FORMAT
    trial_id: str
    made_by: dict[str, str]
    step: int
    last_read: int = 0
    best_val: float = -1.0
    diverged_at: int | None = None
    seconds: float = 0.0
    curve: Items[CurvePoint] = ()


@dataclass(frozen=True)
class Snapshot:
    """Everything that resuming one trial needs; all random draws are functions of (seed, epoch, index)."""

    standing: Standing
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one trial, in its folder; the last two are kept, in case the last one is damaged."""

    folder: Path
    trial_id: str
    made_by: Mapping[str, str]

    def write(self, snapshot: Snapshot) -> None:
        """Write a snapshot durably, then remove all but the last two. Raises NoSpaceError, ResultsError."""
        path = self.folder / f"step-{snapshot.standing.step:09d}.safetensors"
        content = save(snapshot.tensors, metadata={METADATA: snapshot.standing.model_dump_json()})
        replace_durably(path, content, "checkpoint")
        fault("checkpoint.before_sidecar")
        line = f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"
        replace_durably(path.with_suffix(".sha256"), line.encode(), "sidecar")
        fault("checkpoint.before_trim")
        for old in self._paths()[NUM_KEPT:]:
            _remove(old)
            _remove(old.with_suffix(".sha256"))

    def latest(self) -> tuple[Snapshot | None, list[str]]:
        """The newest checkpoint that is complete and fits this trial and machine; and why newer ones were skipped.

        A checkpoint without a .sha256 file is incomplete and is skipped silently. Raises ResultsError for a link.
        """
        passed_over: list[str] = []
        for path in self._paths():
            try:
                return self._read(path), passed_over
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                passed_over.append(f"{path.name} {error}")
        return None, passed_over

    def clear(self) -> None:
        """Remove every checkpoint, and unfinished files of killed attempts."""
        for pattern in ("step-*", ".step-*"):
            for path in self.folder.glob(pattern):
                _remove(path)

    def _paths(self) -> list[Path]:
        """Checkpoint files, newest first, ordered by step and not by time."""
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)

    def _read(self, path: Path) -> Snapshot:
        """A checkpoint. Raises FileNotFoundError without a sidecar, ValueError in words where it cannot be used."""
        checksum = read(path.with_suffix(".sha256"), 1000)[:64]
        content = read(path, MAX_CHECKPOINT_BYTES)
        if hashlib.sha256(content).hexdigest().encode() != checksum:
            raise ValueError("does not fit its checksum")
        try:
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            standing = Standing.model_validate_json(header["__metadata__"][METADATA])
            tensors = load(content)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError("is no checkpoint of this version") from error
        if standing.trial_id != self.trial_id:
            raise ValueError(f"is of trial {standing.trial_id}")
        if differing := sorted(k for k, v in self.made_by.items() if k != PROCESSES and standing.made_by.get(k) != v):
            was = ", ".join(f"{key} {standing.made_by.get(key)}" for key in differing)
            raise ValueError(f"was made with {was}")
        return Snapshot(standing, tensors)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
