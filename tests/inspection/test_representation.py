"""CKA against the published formula with Gram matrices, its invariances, and tokens that do or do not stay local."""

from __future__ import annotations

import numpy as np
import pytest

from vitbench.inspection.measures import representation


def hsic_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Kornblith et al. 2019, eq. 3 to 5: HSIC of centred n x n Gram matrices, a second route."""
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n
    k, m = (centre @ (z @ z.T) @ centre for z in (x, y))
    return float(np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m)))


def test_cka_is_the_published_formulas() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 7)) + 5
    y = x @ rng.normal(size=(7, 4)) + rng.normal(size=(60, 4))
    assert representation.linear_cka(x, y) == pytest.approx(hsic_cka(x, y))
    assert 0.2 < representation.linear_cka(x, y) < 0.99


def test_cka_forgets_rotation_scale_and_shift_but_not_order() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 6))
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert representation.linear_cka(x, 3 * x @ turn + 7) == pytest.approx(1.0)
    assert representation.linear_cka(x, x[rng.permutation(50)]) < 0.4
    assert representation.linear_cka(x, np.ones((50, 3))) == 0.0


def test_token_patch_table_is_every_pairs_cka() -> None:
    rng = np.random.default_rng(2)
    tokens, patches = rng.normal(size=(40, 5, 3)), rng.normal(size=(40, 5, 4))
    expected = [[representation.linear_cka(tokens[:, i], patches[:, j]) for j in range(5)] for i in range(5)]
    assert representation.token_patch_cka(tokens, patches) == pytest.approx(np.array(expected))


def test_localisation_tells_local_tokens_from_mixed_ones() -> None:
    patches = np.random.default_rng(3).normal(size=(200, 6, 4))
    local = representation.token_patch_cka(patches, patches)
    mixed = representation.token_patch_cka(np.repeat(patches.mean(1, keepdims=True), 6, axis=1), patches)
    assert representation.localisation(local) > 0.9
    assert abs(representation.localisation(mixed)) < 1e-9
