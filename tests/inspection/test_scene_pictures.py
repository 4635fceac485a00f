"""Masks drawn into scenes, and where words look: what the pictures and the tables must show."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitbench.base.errors import InputError
from vitbench.data import DataOptions
from vitbench.inspection.catalogue import ANALYSES
from vitbench.inspection.network import Subject
from vitbench.inspection.results import Shown
from vitbench.inspection.scene_pictures import overlaid
from vitbench.inspection.specimen import noisy_module, spec_with
from vitbench.model.sizes import known, pixel_grid, total_stride
from vitbench.train.resident import load_images


def shown(objective: str, count: int = 12) -> tuple[Subject, Shown]:
    """A network with noise for weights, and test scenes."""
    spec = spec_with("objective", objective)
    images = load_images(spec.data, DataOptions(), torch.device("cpu"))
    subject = Subject(
        name="tiny", module=noisy_module(spec), untrained=None, img_size=pixel_grid(spec.model).rows,
        in_chans=known(spec.model.in_chans), patch_px=total_stride(spec.model), mean=images.mean, std=images.std,
        resizes=False, data=spec.data.name, spec=spec,
    )  # fmt: skip
    return subject, Shown(subject, None, count, DataOptions())


def test_masks_are_those_of_the_images() -> None:
    subject, pictures = shown("segment")
    findings = ANALYSES["masks"].look(subject, pictures)
    truth, images = pictures.test.columns["masks"], pictures.test.pixels.numpy()
    assert ((truth > 0) == (images[:, 0] > 64)).all(), "columns in another order are a planted fault"
    assert {row["mask"] for row in findings.rows} >= {"background", "class 0"}
    grey = np.repeat(findings.arrays["images"], 3, axis=1)
    changed = (findings.arrays["truth"] != grey).any(axis=1)
    assert (changed == (truth[:8] > 0)).all()
    assert ANALYSES["masks"].draw({"tiny": [findings]}).axes


def test_every_class_has_a_colour_of_its_own() -> None:
    values = np.arange(11, dtype=np.uint8).reshape(1, 1, 11)
    colours = overlaid(np.zeros((1, 1, 1, 11)), values)[0, :, 0].T
    assert len(np.unique(colours.round(6), axis=0)) == 11
    assert not colours[0].any()


def test_words_attend_to_words_and_patches() -> None:
    """Without weights in the queries attention is uniform: the share of patches is that of their number."""
    subject, pictures = shown("vilt")
    findings = ANALYSES["words"].look(subject, pictures)
    assert findings.arrays["relation"].shape == (8, subject.side, subject.side)
    for block in subject.blocks():
        block.attn.qkv.weight.data.zero_(), block.attn.qkv.bias.data.zero_()  # type: ignore[union-attr]
    uniform = ANALYSES["words"].look(subject, pictures)
    for row in uniform.rows:
        assert row["to_patches_percent"] == pytest.approx(row["percent_if_uniform"], rel=1e-4)
    assert findings.rows[0]["to_patches_percent"] != uniform.rows[0]["to_patches_percent"]
    assert ANALYSES["words"].draw({"tiny": [findings]}).axes


@pytest.mark.parametrize(("look", "objective"), [("masks", "vilt"), ("words", "segment"), ("masks", "mae")])
def test_other_networks_are_refused(look: str, objective: str) -> None:
    with pytest.raises(InputError) as error:
        ANALYSES[look].look(*shown(objective))
    assert "\n" not in str(error.value)
