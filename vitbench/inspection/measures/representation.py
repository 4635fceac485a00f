"""Similarity of two representations of the same images (CKA), and of a token with its patch.

Source: Kornblith et al. 2019 (linear CKA); Raghu et al. 2021, s3 and s7 (layers; tokens against patches).
Shapes: n images, p and q features, N tokens.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def linear_cka(x: Floats, y: Floats) -> float:
    """Linear CKA in [0, 1] of `x [n, p]` and `y [n, q]`; 0 if either is constant.

    |Y'X|^2 / (|X'X| |Y'Y|), Frobenius norms, columns centred.
    """
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    size = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / size) if size > 1e-300 else 0.0


def cka_table(first: list[Floats], second: list[Floats]) -> Floats:
    """CKA of all pairs of representations of `first` and `second`, `[len(first), len(second)]`."""
    return np.array([[linear_cka(x, y) for y in second] for x in first])


def token_patch_cka(tokens: Floats, patches: Floats) -> Floats:
    """CKA over images of every token with every patch, `[N, N]`, of `tokens [n, N, p]` and `patches [n, N, q]`."""
    tokens, patches = tokens - tokens.mean(axis=0), patches - patches.mean(axis=0)
    patch_norms = _gram_norms(patches)
    out = np.empty((tokens.shape[1], patches.shape[1]))
    for i, size in enumerate(_gram_norms(tokens)):
        cross = np.einsum("np,njq->jpq", tokens[:, i], patches, optimize=True)
        scale = size * patch_norms
        out[i] = np.divide((cross**2).sum(axis=(1, 2)), scale, out=np.zeros_like(scale), where=scale > 1e-300)
    return out


def _gram_norms(x: Floats) -> Floats:
    """|X_i' X_i| of each token i, `[N]`, of centred `x [n, N, p]`."""
    return np.array([np.linalg.norm(x[:, i].T @ x[:, i]) for i in range(x.shape[1])])


def localisation(cka: Floats) -> float:
    """CKA of a token with its patch minus the mean over the other patches, averaged over tokens; `cka [N, N]`."""
    same, num = np.diag(cka), len(cka)
    others = (cka.sum(axis=1) - same) / (num - 1)
    return float((same - others).mean())
