"""Weights that a model starts from: where `model.init_from` points, what identifies them, whether they fit. No torch.

A safetensors file is 8 bytes (the length of the header), the header in JSON (dtype, shape and place of every tensor),
then the values; so names and shapes cost one short read, and nothing here runs code from the file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vitbench.base.errors import InputError
from vitbench.model.objective import is_task_name
from vitbench.model.parameters import parameters
from vitbench.model.sizes import grid
from vitbench.model.tensors import Resampling, Tensor
from vitbench.model.weights.timm_names import in_our_names
from vitbench.spec.trial import ModelSpec, ObjectiveSpec, TrialSpec

T = TypeVar("T")
Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, Tensor]
"""A model's tensors by name."""

TIMM = "timm:"
WEIGHTS_FILE = "model.safetensors"
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64"}
"""torch's names of a header's types."""
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}
MAX_HEADER_BYTES = 100_000_000


def with_start(spec: TrialSpec, earlier: Sequence[TrialSpec]) -> TrialSpec:
    """`spec` as it starts: from the last of the `earlier` stages, else from its `init_from`, else fresh.

    Only a stage without a parent starts from `init_from`. A later stage may have it from `base`, and ignores it. Raises
    InputError if a later stage has another `init_from`, or if the weights are missing or do not fit the model.
    """
    own, start = _tensors(spec), spec.model.init_from
    if spec.train.continues and (problem := _continuation_problem(spec, earlier)):
        raise InputError(f"train.continues: {problem}")
    if earlier:
        if start not in (None, earlier[0].model.init_from):
            raise InputError(f"model.init_from: {start}, but this stage starts from the one before; set it to null")
        given: Shapes = {name: tensor.shape for name, tensor in _tensors(earlier[-1]).items() if tensor.role != "task"}
        problem = _grid_problem(given, spec, earlier[-1]) or misfit(given, own)
        source = "start from the stage before"
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"init_from": None})})
    else:
        given = in_our_names(read_shapes(find(start)), spec.model, own) if start else {}
        problem = (_grid_problem(given, spec) or misfit(given, own)) if start else None
        source = f"model.init_from: {start}"
    if problem:
        raise InputError(f"{source}: {problem}")
    return spec


def _continuation_problem(spec: TrialSpec, earlier: Sequence[TrialSpec]) -> str | None:
    """Why a stage cannot go on with all weights of the one that it starts from."""
    if not earlier:
        return "this stage starts from no other stage"
    before, own = ({name: tensor.shape for name, tensor in _tensors(each).items()} for each in (earlier[-1], spec))
    if differing := sorted({name for name, _ in before.items() ^ own.items()}):
        return f"the stage before trains another network; {_some(differing)} differs"
    if earlier[-1].data.classes != spec.data.classes:
        return "the stage before trains on other data.classes"
    return None


def _grid_problem(given: Shapes, spec: TrialSpec, earlier: TrialSpec | None = None) -> str | None:
    """Why positions do not carry over to a grid that is not square: a table does not say how many rows it has."""
    own = _tensors(spec)
    tables = [name for name in given if name in own and own[name].part == "position"]
    if not tables:
        return None
    target, source = grid(spec.model), None if earlier is None else grid(earlier.model)
    same = source == target if source else all(given[name] == own[name].shape for name in tables)
    square = target.rows == target.columns and (source is None or source.rows == source.columns)
    return None if same or square else f"weights: {tables[0]} is of another grid, and only square ones are interpolated"


def start_sha256(spec: TrialSpec) -> str | None:
    """Hash of the weights that `model.init_from` names; None without."""
    start = spec.model.init_from
    return None if start is None else weights_sha256(find(start))


def _tensors(spec: TrialSpec) -> Tensors:
    return tensors_by_name(spec.model, spec.train.objective)


def tensors_by_name(model: ModelSpec, objective: ObjectiveSpec) -> Tensors:
    """A model's tensors by name."""
    return {tensor.name: tensor for tensor in parameters(model, objective)}


def find(init_from: str) -> Path:
    """The safetensors file that `timm:NAME`, a folder or a file means. Raises InputError if there is no such file."""
    if init_from.startswith(TIMM):
        path = fetched(init_from)
        if not path.is_file():
            raise InputError(f"model.init_from: {init_from} was not fetched yet; `vitbench plan NAME` fetches it")
        return path
    path = Path(init_from).expanduser()
    if path.is_dir():
        path = path / WEIGHTS_FILE
    if not path.is_file():
        raise InputError(
            f"model.init_from: no file {path}; allowed are timm:NAME, a folder with {WEIGHTS_FILE}, a file"
        )
    return path


def fetched(init_from: str) -> Path:
    """Where the weights of `timm:NAME` are kept once they are fetched. Raises InputError on a name that is a path."""
    if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", init_from.removeprefix(TIMM)):
        raise InputError(f"model.init_from: {init_from} is not a name of timm: letters, digits, '_' and '.' only")
    cache = os.environ.get("VITBENCH_CACHE_DIR") or Path.home() / ".cache" / "vitbench"
    return Path(cache) / "weights" / f"{init_from.removeprefix(TIMM)}.safetensors"


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensors' shapes by name."""
    return {name: tuple(entry["shape"]) for name, entry in _header(path)[0].items()}


def weights_sha256(path: Path) -> str:
    """Hash of names, shapes, types and values, in whatever file and order they are: `checkpoint.weights_sha256`."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _digest(path: Path, size: int, time_ns: int) -> str:
    """As `weights_sha256`; size and time only decide whether the file is read again."""
    entries, start = _header(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for name, entry in sorted(entries.items()):
            begin, end = entry["data_offsets"]
            dtype = DTYPES.get(entry["dtype"], entry["dtype"])
            digest.update(f"{name}{tuple(entry['shape'])}torch.{dtype}".encode())
            file.seek(start + begin)
            digest.update(file.read(end - begin))
    return digest.hexdigest()


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The entries by name, and where the values begin. Raises InputError if it is not a safetensors file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER_BYTES:
                raise ValueError("its header is too long")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        last = max(_end(entry) for entry in entries.values())
        if path.stat().st_size != 8 + length + last:
            raise ValueError("its length is not what its header says")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not readable as safetensors weights ({error})") from error
    return entries, 8 + length


def _end(entry: Mapping[str, Any]) -> int:
    """Where a tensor's values end. Raises ValueError if type, shape and place do not agree."""
    (begin, end), dtype, shape = entry["data_offsets"], entry["dtype"], entry["shape"]
    whole = all(type(number) is int and number >= 0 for number in (begin, end, *shape))
    if not whole or begin > end or not isinstance(dtype, str):
        raise ValueError("a tensor's entry is damaged")
    if dtype in BYTES and math.prod(shape) * BYTES[dtype] != end - begin:
        raise ValueError("a tensor's shape is not that of its values")
    return int(end)


def without_task(state: Mapping[str, T], spec: TrialSpec) -> dict[str, T]:
    """The tensors of a trained stage that carry over to another task; `spec` is the stage's."""
    task = {name for name, tensor in _tensors(spec).items() if tensor.role == "task"}
    return {name: tensor for name, tensor in state.items() if name not in task}


def carries(name: str, own: Tensors) -> bool:
    """True if a tensor of given weights carries over to a model with the tensors `own`: it belongs to no task."""
    return own[name].role != "task" if name in own else not is_task_name(name)


def misfit(given: Shapes, own: Tensors) -> str | None:
    """Why weights cannot become a model's tensors `own`, without heads and with interpolated positions; None: they can.

    Source: Dosovitskiy et al. 2021, section 3.2 (a new head, interpolated positions).
    """
    carried = {name: shape for name, shape in given.items() if carries(name, own)}
    extra = sorted(carried.keys() - own.keys())
    if extra:
        return f"weights: the model has no {_some(extra)}; its spec differs from that of the weights"
    missing = sorted(name for name in own.keys() - carried.keys() if own[name].role == "encoder")
    if missing:
        return f"weights: they lack {_some(missing)}; the model's spec differs from that of the weights"
    for name, shape in carried.items():
        if own[name].shape not in (shape, as_linear(shape)) and stretched(shape, own[name]) is None:
            return f"weights: {name} has shape {shape}, the model's is {own[name].shape}, and it cannot be interpolated"
    return None


def as_linear(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a 1 x 1 convolution's weight as that of a linear layer; any other shape unchanged."""
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape


def stretched(shape: tuple[int, ...], target: Tensor) -> Resampling | None:
    """How a table of another resolution is interpolated to `target`; None if it cannot be."""
    if shape[-1:] != target.shape[-1:] or len(shape) != len(target.shape):
        return None
    if target.resample != "grid":
        return target.resample
    squares = [square_side(rows - target.prefix_rows) for rows in (shape[1], target.shape[1])]
    return None if None in squares else "grid"


def square_side(area: int) -> int | None:
    """The side of a square grid of `area` cells; None if there is none. A file of weights does not say its grid."""
    side = math.isqrt(area) if area > 0 else 0
    return side if side and side * side == area else None


def _some(names: list[str]) -> str:
    return f"{names[0]} (and {len(names) - 1} more)" if len(names) > 1 else names[0]
