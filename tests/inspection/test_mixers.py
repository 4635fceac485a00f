"""Looking for attention in a network whose mixer has none is refused in one line."""

from __future__ import annotations

import pytest
import torch
from model_specs import TINY, made, resolved

from vitbench.base.errors import InputError
from vitbench.inspection.network import Subject
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
