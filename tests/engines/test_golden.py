"""Numbers that must not change by accident: curves of tiny trials, held against committed ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from made_runs import TINY, Ran

from vitbench.store.record import ALGORITHM_VERSION

COMMITTED = Path(__file__).with_name("golden_curves.json")
ADVICE = """A curve has changed, so finished trials of the same id would hold other numbers. If that is on purpose,
raise ALGORITHM_VERSION in vitbench/record.py and write the new curves: python tests/engines/test_golden.py"""
TRIALS = {
    "vit": TINY + "seeds: 1\n",
    "vit, medium, sgd": TINY.replace("lr: 4e-3", "lr: 0.05, opt: sgd, augment: medium, smoothing: 0.1") + "seeds: 1\n",
    "vit, relative_2d, map": TINY + "arms:\n  one: {model.pos_embed: relative_2d, model.global_pool: map}\nseeds: 1\n",
    "resnet": TINY.replace("{patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 2.0}",
                           "{family: resnet, layers: [1, 1], width_factor: 0.25}") + "seeds: 1\n",
    "masked patches": TINY.replace("lr: 4e-3", "lr: 4e-3, objective: {name: masked_patch, target: downsampled}")
    + "seeds: 1\n",
    "colour, few classes": TINY.replace("name: fake", "name: fake_colour, classes: [0, 2, 3], train_fraction: 0.5")
    + "seeds: {chosen: [7]}\n",
}  # fmt: skip


def curve(name: str, root: Path) -> list[float]:
    """Training loss at every reading, then the last validation loss."""
    (record,) = Ran(TRIALS[name], root).records.values()
    assert record.status == "ok", record.reason
    last = record.result.curve[-1].val_loss
    assert last is not None
    return [*(point.train_loss for point in record.result.curve), last]


@pytest.mark.parametrize("name", TRIALS)
def test_curves_are_the_committed_ones(name: str, tmp_path: Path) -> None:
    """Within 1e-4: other processors and versions of torch round otherwise."""
    committed = json.loads(COMMITTED.read_text())
    assert committed["algorithm_version"] == ALGORITHM_VERSION, ADVICE
    np.testing.assert_allclose(curve(name, tmp_path), committed["curves"][name], rtol=1e-4, err_msg=ADVICE)


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        curves = {name: curve(name, Path(folder) / str(i)) for i, name in enumerate(TRIALS)}
    COMMITTED.write_text(json.dumps({"algorithm_version": ALGORITHM_VERSION, "curves": curves}, indent=1) + "\n")
    sys.stdout.write(f"wrote {COMMITTED}\n")
