"""What analyses ask a network for: attention that its mixer may lack, tokens that are no patches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from model_specs import TINY, made, resolved

from vitbench.base.errors import InputError
from vitbench.inspection.attention import readouts
from vitbench.inspection.hooks import tokens_of
from vitbench.inspection.layerwise import _mean_cosine, hold
from vitbench.inspection.network import Subject
from vitbench.spec.mechanism import registered
from vitbench.spec.trial import TrialSpec


def subject(**fields: object) -> Subject:
    model = resolved(TINY, **fields)
    return Subject(
        name="trial x", module=made(model), untrained=None, img_size=8, in_chans=1, patch_px=2,
        mean=torch.zeros(1, 1, 1), std=torch.ones(1, 1, 1), resizes=False, spec=TrialSpec(model=model),
    )  # fmt: skip


def test_attention_is_read_from_mixers_that_have_it() -> None:
    assert len(subject().blocks()) == 2
    with pytest.raises(InputError, match="trial x: its token mixer, depthwise, has no attention to look at") as raised:
        subject(token_mixer="depthwise", global_pool="avg").blocks()
    assert "\n" not in str(raised.value)


ATTENDS = {
    "attention": True, "axial_alternate": True, "causal": True, "local": True, "shifted_window": True,
    "sparse_fixed": True, "sparse_strided": True, "window": True, "depthwise": False, "identity": False, "mlp": False,
    "pool": False, "random": False,
}  # fmt: skip
"""Whether distance and rollout apply to a mixer; the other analyses apply to all."""


def test_the_table_of_mixers_is_whole() -> None:
    assert ATTENDS.keys() == registered("token_mixer").keys()


@pytest.mark.parametrize("mixer", ATTENDS)
@torch.no_grad()
def test_inspect_says_which_analyses_a_mixer_has(mixer: str) -> None:
    """Maps of windows and of axes are those of all patches, with zeros, so distances compare with full attention."""
    network = subject(token_mixer=mixer, global_pool="avg", pos_embed="none")
    if not ATTENDS[mixer]:
        with pytest.raises(InputError, match=f"its token mixer, {mixer}, has no attention to look at"):
            readouts(network, torch.rand(2, 1, 8, 8))
        return
    maps = network.module.attention(torch.rand(2, 1, 8, 8))  # type: ignore[operator]
    assert maps.shape == (2, 2, 2, 16, 16)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 2, 2, 16))
    assert set(readouts(network, torch.rand(2, 1, 8, 8))) == set(readouts(subject(), torch.rand(2, 1, 8, 8)))


@pytest.mark.parametrize(("pool", "class_token"), [("token", True), ("avg", False)])
def test_registers_are_neither_patches_nor_a_class_token(pool: str, class_token: bool) -> None:
    """Rollouts have one cell per patch, and no layer reports a class token where there is none."""
    network = subject(global_pool=pool, reg_tokens=3)
    assert (network.num_prefix, network.class_token) == (3 + class_token, class_token)
    images = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        for maps in readouts(network, images).values():
            assert maps.shape == (2, 4, 4)
            torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2, dtype=torch.float64))
        held = hold(network, Images(images))  # type: ignore[arg-type]
    assert (held.prefix is not None) == class_token
    assert held.tokens[0].shape[1] <= 16
    assert held.second is None


def test_a_second_class_token_is_held_beside_the_first() -> None:
    network = subject(dist_token=True, reg_tokens=1)
    images = torch.rand(3, 1, 8, 8)
    held, tokens = hold(network, Images(images)), tokens_of(network, images)  # type: ignore[arg-type]
    assert held.second is not None
    for layer, x in enumerate(tokens):
        np.testing.assert_array_equal(held.second[layer], x[:, 1].numpy())
        cosine = torch.cosine_similarity(x[:, 0].double(), x[:, 1].double()).mean()
        assert _mean_cosine(x[:, 0].numpy(), held.second[layer]) == pytest.approx(float(cosine), abs=1e-5)


def test_a_pyramid_has_layers_and_no_attention_to_compare() -> None:
    """Its layers differ in width and in the number of patches."""
    network = subject(stages="patch_merging", global_pool="avg", token_mixer="window")
    with pytest.raises(InputError, match="trial x: its stages have different grids, so its attention cannot be"):
        network.blocks()
    held = hold(network, Images(torch.rand(2, 1, 8, 8)))  # type: ignore[arg-type]
    assert [layer.shape for layer in held.pooled] == [(2, 16), (2, 16), (2, 32)]
    assert [layer.shape[1] for layer in held.tokens] == [16, 16, 4]


class Images:
    """Pictures without a data set."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def batches(self, size: int) -> Iterator[tuple[None, torch.Tensor]]:
        yield None, self.images
