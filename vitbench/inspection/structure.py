"""Analyses of the weights alone: filters of the patch projection, and embeddings of the positions.

Shapes: N places, G grid side, D embed_dim, O offsets of a relative table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitbench.base.errors import InputError
from vitbench.base.seeding import derive_seed
from vitbench.inspection.measures import filters as spectra
from vitbench.inspection.measures import position_similarity as similarity
from vitbench.inspection.network import Subject
from vitbench.inspection.results import Findings, Shown
from vitbench.model.mechanisms import Position, position_of
from vitbench.model.sizes import known

SHOWN_FILTERS = 28
"""The number of filters that the paper shows."""
NULL_DRAWS = 199
HUNDREDTHS = 100.0
"""Correlations and cosines are given in hundredths: a claim's cut of 1 would be half of their whole range."""


def filters(subject: Subject, shown: Shown) -> Findings:
    """Principal components of the patch projection, their spectrum and smoothness, before and after training."""
    weight = _projection(subject)
    components, shares = spectra.principal_filters(weight)
    metrics = {
        "filter_smoothness_percent": spectra.leading_smoothness(weight),
        "filter_components_90": float(spectra.num_components(shares)),
        "filter_centroid": float(spectra.spectral_centroid(components[: max(1, len(components) // 4)]).mean()),
    }
    arrays = {"components": components[:SHOWN_FILTERS], "cumulative": np.cumsum(shares)}
    if (before := subject.before()) is not None:
        first = _projection(before)
        metrics["filter_smoothness_untrained_percent"] = spectra.leading_smoothness(first)
        metrics["filter_components_90_untrained"] = float(spectra.num_components(spectra.principal_filters(first)[1]))
        arrays["cumulative_untrained"] = np.cumsum(spectra.principal_filters(first)[1])
    low = spectra.low_frequency_share(components)
    rows = [
        {"component": k + 1, "variance_percent": 100 * shares[k], "low_frequency_percent": 100 * low[k]}
        for k in range(len(shares))
    ]
    return Findings(metrics, rows, arrays)


def _projection(subject: Subject) -> np.ndarray:
    """The patch projection `[D, C, P, P]`. Raises InputError if the patches have fewer than two pixels per side."""
    embed: Any = getattr(subject.module, "patch_embed", None)
    proj = getattr(embed, "proj", None)
    weight: Any = embed.filters() if hasattr(embed, "filters") else getattr(proj, "weight", None)
    if weight is None or weight.dim() != 4 or weight.shape[-1] < 2:
        raise InputError(f"{subject.name}: has no patch projection of more than one pixel, so it has no filters")
    out: np.ndarray = weight.detach().double().cpu().numpy()
    return out


def positions(subject: Subject, shown: Shown) -> Findings:
    """Similarity of every two places, its relation to the grid, a permutation null, and the same before training."""
    maps = position_map(subject)
    rng = np.random.default_rng(derive_seed(0, "inspect/positions"))
    null = similarity.permutation_null(maps, subject.side, NULL_DRAWS, rng)
    observed = similarity.distance_spearman(maps, subject.side), similarity.row_column_effect(maps, subject.side)
    metrics = {
        "pos_distance_spearman": HUNDREDTHS * observed[0],
        "pos_row_column": HUNDREDTHS * observed[1],
        "pos_distance_null_p": similarity.permutation_p(observed[0], null[:, 0]),
        "pos_row_column_null_p": similarity.permutation_p(observed[1], null[:, 1]),
    }
    if (before := subject.before()) is not None and not _fixed(subject):
        first = position_map(before)
        metrics["pos_distance_spearman_untrained"] = HUNDREDTHS * similarity.distance_spearman(first, subject.side)
        metrics["pos_row_column_untrained"] = HUNDREDTHS * similarity.row_column_effect(first, subject.side)
    rows = [{"place": place, **{f"to_{i}": value for i, value in enumerate(maps[place])}} for place in range(len(maps))]
    null_95 = np.quantile(null, 0.95, axis=0) * HUNDREDTHS
    return Findings(metrics, rows, {"maps": maps, "null_95": null_95, **_relative_tables(subject)})


def position_map(subject: Subject) -> np.ndarray:
    """Similarity `[N, N]` of every two places on the grid. Raises InputError if the network has no positions.

    Absolute encodings: cosine of the places' vectors. Rotary: mean cosine of the angles between two places. Relative:
    cosine between the table's vectors for offset 0 and for the offset of the two places, mean over layers (and over
    the two axes). This compares a query's view of a key there with its view of itself.
    """
    table = _absolute(subject)
    if table is not None:
        return similarity.cosine_map(table)
    position = _position(subject)
    turn = position.rotation(known(subject.spec).model, torch.device("cpu")) if position is not None else None
    if turn is not None:
        cos, sin = (part[subject.num_prefix :].double().numpy() for part in turn)
        return similarity.rotary_map(cos, sin)
    tables = {} if subject.is_pyramid else _relative_tables(subject)
    if not tables:
        raise InputError(f"{subject.name}: has no positions to compare")
    assert position is not None
    return _of_offsets(subject.side, tables, position.offsets)


def _absolute(subject: Subject) -> np.ndarray | None:
    """The position vectors that are added to the patches at the stem, `[N, D]`, or None."""
    module: Any = subject.module
    if subject.spec is not None:
        table = module.positions(0, torch.device("cpu")) if hasattr(module, "positions") else None
    else:
        table = getattr(module, "pos_embed", None)
    if not isinstance(table, Tensor):
        return None
    rows: np.ndarray = table[0, -(subject.side**2) :].detach().double().cpu().numpy()
    return rows


def _fixed(subject: Subject) -> bool:
    """True if training does not change the positions."""
    position = _position(subject)
    return position is not None and position.fixed


def _position(subject: Subject) -> Position | None:
    """The position encoding of a trial's transformer; None for other networks."""
    if subject.spec is None or subject.spec.model.family == "resnet":
        return None
    return position_of(subject.spec.model)


def _relative_tables(subject: Subject) -> dict[str, np.ndarray]:
    """{name of the table: mean over layers of the cosine map of its offsets, `[O, O]`}."""
    position = _position(subject)
    offsets = position.offsets if position is not None else {}
    maps_of_layers: dict[str, list[np.ndarray]] = {}
    for name, tensor in subject.module.named_parameters():
        if (kind := name.rpartition(".")[2]) in offsets:
            maps_of_layers.setdefault(kind, []).append(similarity.cosine_map(tensor.detach().double().numpy()))
    return {kind: np.mean(maps, axis=0) for kind, maps in maps_of_layers.items()}


def _of_offsets(side: int, tables: dict[str, np.ndarray], offsets: Mapping[str, str]) -> np.ndarray:
    """Similarity `[N, N]` from the offsets' maps `[O, O]`, whose middle row is offset 0."""
    rows, columns = (offset.astype(int) for offset in similarity.grid_offsets(side))
    steps = {"raster": rows * side + columns, "row": rows, "column": columns}
    parts = []
    for kind, table in tables.items():
        reach = len(table) // 2
        parts.append(table[reach, reach + np.clip(steps[offsets[kind]], -reach, reach)])
    return np.asarray(np.mean(parts, axis=0))
