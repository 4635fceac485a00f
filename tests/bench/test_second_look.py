"""The second look at surprises: the committed sizes, the effect by hand, and what its table says."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from vitbench.base.errors import InputError
from vitbench.bench.second_look import (
    FILES,
    PlainArm,
    committed,
    effect,
    num_steps,
    read_images,
    surprises,
    table,
    train,
)
from vitbench.bench.second_look import vit as timm_vit

ROOT = Path(__file__).parents[2]


def test_the_arms_have_the_sizes_and_steps_of_the_committed_runs() -> None:
    """Parameters and steps as the pages of the first looks state them; timm's ResNet has other norms."""
    found = {
        (s.claim, name): (sum(p.numel() for p in arm.make().parameters()), num_steps(arm))
        for s in surprises()
        for name, arm in s.arms.items()
    }
    assert found == {
        ("SHAPE-04a", "patch 14"): (48_250, 900),
        ("SHAPE-04a", "patch 7"): (41_770, 900),
        ("SHAPE-04a", "patch 4"): (41_770, 900),
        ("COMP-01", "vit"): (41_770, 221),
        ("COMP-01", "resnet"): (51_098, 728),
        ("NB-MIX-02", "attention"): (41_674, 700),
        ("NB-MIX-02", "mlp_flops"): (23_706, 1165),
    }


def test_every_surprise_has_a_committed_verdict_on_its_wrong_side() -> None:
    for surprise in surprises():
        first = committed(ROOT / surprise.root, surprise.claim)
        assert first["high"] < 0.0, "the claims say above 0"
        assert sum(surprise.weights.values()) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(InputError, match="no verdict on NO-01"):
        committed(ROOT / "results/fashion-2", "NO-01")


def measured(**scores: list[float]) -> dict[str, Any]:
    first = {"effect": -3.0, "low": -4.0, "high": -2.0, "n": 6.0}
    found = {"claim": "X", "weights": {"a": 1.0, "b": -1.0}, "scores": scores, "first": first}
    return {"surprises": [found], "num_seeds": 3, "core_seconds": 1.0}


def test_the_effect_is_the_paired_t_interval_over_seeds() -> None:
    a, b = [80.0, 81.0, 80.5], [83.0, 84.5, 83.0]
    found = effect(measured(a=a, b=b)["surprises"][0])
    low, high = stats.t.interval(0.95, 2, np.mean(np.subtract(a, b)), stats.sem(np.subtract(a, b)))
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05))


def test_the_table_says_where_the_looks_disagree() -> None:
    assert "| agrees | overlap |" in table(measured(a=[80.0, 81.0, 80.5], b=[83.0, 84.5, 83.0]))
    assert "| differs | apart |" in table(measured(a=[83.0, 84.5, 83.0], b=[80.0, 81.0, 80.5]))


def test_images_are_read_from_the_files_and_a_plain_loop_learns_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz: not there"):
        read_images(tmp_path)
    drawn = np.random.default_rng(0)
    labels = drawn.integers(0, 10, 400).astype(np.uint8)
    images = (drawn.integers(0, 30, (400, 28, 28)) + 20 * labels[:, None, None]).astype(np.uint8)
    for name in FILES:
        header = b"\0" * (16 if "images" in name else 8)
        content = images if "images" in name else labels
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(header + content.tobytes()))
    x, y, *_ = read_images(tmp_path)
    np.testing.assert_allclose(x.numpy()[:, 0], images / 127.5 - 1.0, atol=1e-6)
    assert torch.equal(y, torch.from_numpy(labels).long())
    assert train(PlainArm(lambda: timm_vit(14), 4e-3, 32, 150), 100, read_images(tmp_path)) > 50.0
