"""A teacher that answers every image with its label: its student trains as with labels, mixed images included."""

from __future__ import annotations

import numpy as np
import torch

from vitbench.inspection.specimen import NUM_STEPS, spec_with, trainer_of


def test_a_perfect_teacher_is_as_good_as_labels() -> None:
    recipe = {"augment": "medium", "mixup": 0.4, "cutmix": 1.0, "reprob": 0.3, "smoothing": 0.1, "opt": "sgd"}
    """With SGD: AdamW would turn the sign of a rounding error into a whole step."""
    plain, pseudo = (spec_with("objective", text) for text in ("classify", 'pseudo_label(type="hard")'))
    flats = []
    for one in (plain, pseudo):
        spec = one.model_copy(update={"train": one.train.model_copy(update=recipe)})
        trainer = trainer_of(spec, (0, 1))
        if trainer.targets is not None:
            labels = np.stack([trainer.images.train_labels] * 2)
            trainer.targets.copy_(torch.nn.functional.one_hot(torch.from_numpy(labels), 4))
        for step in range(NUM_STEPS):
            trainer.step(step)
        trainer.feed.close()
        flats.append(trainer.stack.flat)
    torch.testing.assert_close(*flats, rtol=0, atol=1e-5)
