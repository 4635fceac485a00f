"""Attention on images: the distance that each head reaches, and the patches that its rollout shows.

Shapes: n images, L layers, H heads, T tokens, G grid side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitbench.inspection.hooks import watch_attention
from vitbench.inspection.measures import attention_distance, rollout
from vitbench.inspection.network import Subject
from vitbench.inspection.results import Findings, Row, Shown
from vitbench.inspection.sample_images import Pictures

MAP_BYTES = 64 * 2**20
"""Memory for the attention maps of one layer and batch; it limits the batch size."""
MOST_IMAGES = 64
NORMAL_95 = 1.959964
GALLERY = 8


def batch_size(subject: Subject) -> int:
    """The number of images per forward pass while attention is read."""
    attn: Any = subject.blocks()[0].attn
    heads = attn.num_heads if hasattr(attn, "num_heads") else attn.shape.num_heads
    return int(max(1, min(MOST_IMAGES, MAP_BYTES // (8 * int(heads) * subject.num_tokens**2))))


def distances_px(subject: Subject, pictures: Pictures) -> np.ndarray:
    """Mean attention distance of every image, layer and head, `[n, L, H]` in pixels."""
    between = attention_distance.grid_distances(subject.side, subject.patch_px)
    num_layers, batches = len(subject.blocks()), []
    for _, images in pictures.batches(batch_size(subject)):
        layers: list[Tensor] = []
        watch_attention(
            subject,
            images,
            lambda _, maps, to=layers: to.append(  # type: ignore[misc]
                attention_distance.mean_distance(maps, subject.num_prefix, between)
            ),
        )
        assert len(layers) == num_layers
        batches.append(torch.stack(layers, dim=1))
    return torch.cat(batches).numpy()


def distance(subject: Subject, shown: Shown) -> Findings:
    """Mean attention distance per layer and head, in pixels and in percent of that of uniform attention."""
    uniform = attention_distance.uniform_distance(subject.side, subject.patch_px)
    distances = distances_px(subject, shown.test)
    share = 100.0 * distances.mean(axis=0) / uniform
    last = len(share) - 1
    metrics = {f"attention_distance_{layer}_percent": float(share[layer].mean()) for layer in range(len(share))}
    metrics |= {
        "attention_distance_last_percent": float(share[last].mean()),
        "attention_distance_uniform_percent": 100.0,
        "attention_head_range_first_percent": float(np.ptp(share[0])),
        "attention_head_range_last_percent": float(np.ptp(share[last])),
        "attention_head_least_first_percent": float(share[0].min()),
    }
    arrays = {"percent": share, "uniform_px": np.array(uniform)}
    if (before := subject.before()) is not None:
        first = 100.0 * distances_px(before, shown.test).mean(axis=0) / uniform
        arrays["percent_untrained"] = first
        gain = share.mean(axis=1) - first.mean(axis=1)
        metrics |= {f"attention_distance_over_untrained_{layer}_percent": float(g) for layer, g in enumerate(gain)}
    return Findings(metrics, _distance_rows(distances, uniform), arrays)


def _distance_rows(distances: np.ndarray, uniform: float) -> list[Row]:
    """One row per layer and head: mean over images with its 95% interval, and its share of the uniform distance."""
    mean, num_images = distances.mean(axis=0), len(distances)
    half = NORMAL_95 * distances.std(axis=0, ddof=1) / np.sqrt(num_images) if num_images > 1 else np.zeros_like(mean)
    return [
        {
            "layer": layer,
            "head": head,
            "distance_px": mean[layer, head],
            "low_px": mean[layer, head] - half[layer, head],
            "high_px": mean[layer, head] + half[layer, head],
            "num_images": num_images,
            "percent_of_uniform": 100.0 * mean[layer, head] / uniform,
        }
        for layer in range(mean.shape[0])
        for head in range(mean.shape[1])
    ]


KINDS = ("rollout", "rollout_residual", "last_layer")


def readouts(subject: Subject, images: Tensor) -> dict[str, Tensor]:
    """The patches that the readout attends to, {kind: `[n, G, G]`}.

    The kinds are rollout, rollout with the identity mixed in, and the last layer alone (the class token's row, or the
    patches' mean row).
    """
    plain = rollout.start(len(images), subject.num_tokens, images.device)
    state = {"rollout": plain, "rollout_residual": plain, "last_layer": plain}

    def see(_layer: int, maps: Tensor) -> None:
        state["rollout"] = rollout.step(state["rollout"], maps, residual=False)
        state["rollout_residual"] = rollout.step(state["rollout_residual"], maps, residual=True)
        state["last_layer"] = rollout.step(plain, maps, residual=False)

    watch_attention(subject, images, see)
    return {kind: rollout.readout_map(rolled, subject.side, subject.class_token) for kind, rolled in state.items()}


def rolled_out(subject: Subject, shown: Shown) -> Findings:
    """Rollout maps of some images; if the images have boxes, also the share of the mass inside the box."""
    pictures, metrics = shown.test, {}
    maps = _all_readouts(subject, pictures)
    rows: list[Row] = []
    if pictures.boxes is not None:
        inside = rollout.box_shares(pictures.boxes, subject.side, subject.patch_px)
        metrics["box_area_percent"] = 100.0 * float(inside.mean())
        before = subject.before()
        others = {} if before is None else _all_readouts(before, pictures)
        by_kind = {**maps, **{f"{kind}_untrained": kind_maps for kind, kind_maps in others.items()}}
        for kind, kind_maps in by_kind.items():
            mass = 100.0 * rollout.mass_in_boxes(kind_maps, inside)
            hits = 100.0 * float(rollout.pointing_hits(kind_maps, inside).double().mean())
            metrics |= {f"{kind}_mass_in_box_percent": float(mass.mean()), f"{kind}_pointing_percent": hits}
            rows.append(
                {
                    "map": kind,
                    "mass_in_box_percent": float(mass.mean()),
                    "pointing_percent": hits,
                    "num_images": len(mass),
                }
            )
    arrays = {"images": (pictures.pixels[:GALLERY].float() / 255).numpy()}
    arrays |= {kind: kind_maps[:GALLERY].numpy() for kind, kind_maps in maps.items()}
    return Findings(metrics, rows, arrays)


def _all_readouts(subject: Subject, pictures: Pictures) -> dict[str, Tensor]:
    parts = [readouts(subject, images) for _, images in pictures.batches(batch_size(subject))]
    return {kind: torch.cat([part[kind] for part in parts]) for kind in KINDS}
