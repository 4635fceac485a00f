"""Weights on disk: safetensors only, so that reading them can run no code."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from vitbench.errors import InputError


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
    """Tensors by name. Raises InputError where the file is missing or no safetensors file."""
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own, undocumented family
        raise InputError(f"{path}: not readable as safetensors weights ({error})") from error
