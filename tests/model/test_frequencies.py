"""Patches as frequencies: against scipy, JPEG's order, and a projection of pixels; frequencies as tokens; refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_specs import CLASSIFY, images, made, resolved
from scipy.fft import dctn
from scipy.stats import ks_2samp
from torch import Tensor

from vitbench.base.errors import InputError
from vitbench.inspection.network import Subject
from vitbench.inspection.structure import filters
from vitbench.model import costs
from vitbench.model.cosine_transform import PatchCosines, basis, zigzag
from vitbench.model.init import draw
from vitbench.model.parameters import parameters
from vitbench.model.sizes import transformer
from vitbench.spec.trial import ModelSpec, ObjectiveSpec, TrialSpec

PATCH = 4
SMALL: dict[str, Any] = {
    "family": "vit", "img_size": (8, 12), "in_chans": 3, "num_classes": 5, "patch_size": PATCH,
    "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
}  # fmt: skip


def patches_of(pixels: Tensor) -> Tensor:
    """`[B, N, C, P, P]`."""
    cut = pixels.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)


def test_coefficients_are_scipys() -> None:
    pixels = images(resolved(SMALL))
    every = [(row, column) for row in range(PATCH) for column in range(PATCH)]
    ours = PatchCosines(PATCH, every)(pixels)
    theirs = dctn(patches_of(pixels).numpy(), axes=(-2, -1), norm="ortho").reshape(3, 6, 3, PATCH**2)
    assert ours.numpy() == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("size", [1, 3, 7, 16])
def test_cosines_are_orthonormal_and_the_first_is_the_mean(size: int) -> None:
    cosines = np.array(basis(size))
    assert cosines @ cosines.T == pytest.approx(np.eye(size), abs=1e-12)
    assert cosines[0] == pytest.approx(np.full(size, size**-0.5))


def test_the_order_is_jpegs() -> None:
    """The first 15 of the zig-zag scan of an 8 x 8 block, ITU-T T.81, figure A.6."""
    scan = [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0), (4, 0), (3, 1), (2, 2)]
    assert zigzag(8)[:13] == scan
    assert zigzag(8)[-2:] == [(7, 6), (7, 7)]
    assert len(set(zigzag(5))) == 25


@torch.no_grad()
def test_all_frequencies_have_the_functions_of_pixels() -> None:
    """For every weight on frequencies there is one on pixels, `filters`, and the whole networks agree."""
    ours, pixels = (made(resolved(SMALL, stem=stem), noise=0.3) for stem in ("dct", "patchify"))
    state = ours.state_dict()
    pixels.load_state_dict({**state, "patch_embed.proj.weight": ours.patch_embed.filters()})
    x = images(resolved(SMALL))
    torch.testing.assert_close(ours(x), pixels(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_all_frequencies_start_as_pixels_do() -> None:
    """As filters of pixels, the first weights have the mean and covariance of `patchify`, a multiple of the identity.

    One weight is a truncated normal in one case and a sum of 16 of them in the other; the laws of the tokens agree.
    """
    laws = {}
    for stem in ("patchify", "dct"):
        model = resolved(SMALL, stem=stem, in_chans=1, embed_dim=4000, num_heads=1)
        (weight,) = (t for t in parameters(model, CLASSIFY) if t.name == "patch_embed.proj.weight")
        flat = draw(weight, 0).flatten(1)
        if stem == "dct":
            waves = PatchCosines(PATCH, zigzag(PATCH)).waves().flatten(1)
            flat = flat @ waves
        pixels = patches_of(images(model))[0, 0, 0].flatten()
        laws[stem] = (flat, flat @ pixels)
    for flat, _ in laws.values():
        assert flat.mean(0).abs().max() < 4 * (16 * 4000) ** -0.5
        assert (flat.T @ flat / 4000 - torch.eye(16) / 16).abs().max() < 5 * 2**0.5 / 16 / 4000**0.5
    assert ks_2samp(laws["patchify"][1], laws["dct"][1]).pvalue > 0.01


@torch.no_grad()
def test_kept_frequencies_are_the_slow_ones() -> None:
    """Three frequencies know a patch's mean and its slopes; a chequered patch is nothing to them."""
    network = made(resolved(SMALL, stem="dct(keep=3)"), noise=0.3)
    flat = torch.zeros(1, 3, 8, 12)
    rows, columns = torch.arange(8)[:, None], torch.arange(12)
    chequered = flat + (-1.0) ** (rows + columns)
    ramp = flat + columns % PATCH - 1.5
    tokens = [network.patch_embed(x) for x in (flat, chequered, ramp)]
    cosines = PatchCosines(PATCH, zigzag(PATCH)[:3])
    assert cosines(ramp)[0, 0, 0].abs().argmax() == 1
    assert (tokens[2] - tokens[0]).abs().max() > 0.1
    odd = cosines(chequered)
    assert torch.allclose(tokens[1] - tokens[0], network.patch_embed.proj(odd.flatten(-2)) - tokens[0])
    assert odd[..., 0].abs().max() < 1e-5


@torch.no_grad()
def test_a_frequency_token_holds_one_frequency_of_all_patches() -> None:
    model = resolved(SMALL, stem="frequency_tokens", global_pool="avg")
    network = made(model, noise=0.3)
    assert (transformer(model).grid, transformer(model).num_patches) == ((PATCH, PATCH), 16)
    x = images(model)
    coefficients = dctn(patches_of(x).numpy(), axes=(-2, -1), norm="ortho")  # [B, N, C, P, P]
    vectors = torch.tensor(coefficients).permute(0, 3, 4, 1, 2).flatten(1, 2).flatten(2)
    torch.testing.assert_close(network.patch_embed(x), network.patch_embed.proj(vectors), rtol=1e-4, atol=1e-5)
    brighter = network.patch_embed(x + 1.0) - network.patch_embed(x)
    assert brighter[:, 1:].abs().max() < 1e-5, "brightness is frequency 0"
    assert brighter[:, 0].abs().max() > 0.1


@pytest.mark.parametrize(("stem", "width"), [("dct", 48), ("dct(keep=5)", 15), ("frequency_tokens", 18)])
def test_flops_by_hand(stem: str, width: int) -> None:
    macs = costs.forward_macs(resolved(SMALL, stem=stem, global_pool="avg"), CLASSIFY)
    tokens = 16 if stem == "frequency_tokens" else 6
    assert macs["patch_embed.cosines"] == 6 * 3 * 2 * PATCH**3
    assert macs["patch_embed.proj"] == tokens * width * 16


@pytest.mark.parametrize(
    ("stem", "fields", "message"),
    [
        (
            "dct",
            {"patch_size": 2},
            "dct of patches of 2 px is sums and differences of pixels; set patch_size 3 or more",
        ),
        ("frequency_tokens", {"patch_size": 1}, "frequency_tokens of patches of 1 px is sums and differences"),
        ("dct(keep=16)", {}, "dct of 16 pixels keeps fewer than 16 frequencies, or no `keep`"),
        ("dct", {"patch_size": 5}, "model.patch_size: 5 does not divide images of 8 x 12 px"),
    ],
)
def test_what_has_no_frequencies_is_refused_in_one_line(stem: str, fields: dict[str, Any], message: str) -> None:
    problems = costs.check(ModelSpec(**{**SMALL, "stem": stem, "class_token": True, **fields}))
    assert len(problems) == 1
    assert message in problems[0]


def test_masked_patches_need_tokens_that_are_patches() -> None:
    masked = ObjectiveSpec(name="masked_patch")
    assert costs.check(resolved(SMALL, stem="dct"), masked) == []
    (problem,) = costs.check(resolved(SMALL, stem="frequency_tokens"), masked)
    assert "needs patches that do not overlap" in problem


def test_inspection_shows_filters_and_refuses_places() -> None:
    def subject(stem: str) -> Subject:
        model = resolved(SMALL, stem=stem, img_size=8, in_chans=1)
        return Subject(
            name="trial x", module=made(model), untrained=None, img_size=8, in_chans=1, patch_px=PATCH,
            mean=torch.zeros(1, 1, 1), std=torch.ones(1, 1, 1), resizes=False, spec=TrialSpec(model=model),
        )  # fmt: skip

    assert filters(subject("dct"), None).metrics  # type: ignore[arg-type]
    with pytest.raises(InputError, match="its tokens, frequency_tokens, are no places in the image"):
        _ = subject("frequency_tokens").side
    with pytest.raises(InputError, match="has no filters"):
        filters(subject("frequency_tokens"), None)  # type: ignore[arg-type]
