"""The network under inspection, from any of three sources: a trial, a model of timm's zoo, an exported folder.

Our ViTs and timm's have the same names (`patch_embed`, `blocks`, `forward_features`, `num_prefix_tokens`), so every
analysis works for both.
Shapes: B images, C channels, S side in pixels, K classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitbench.base.errors import InputError, ResultsError
from vitbench.data import DataOptions, facts
from vitbench.data.source import optional
from vitbench.inspection.export import CONFIG_FILE, find_trial, kept_weights
from vitbench.model.build import build, initialise
from vitbench.model.mechanisms import patch_embed_of, stage_models, token_mixer_of
from vitbench.model.objective import Objective, objective_of
from vitbench.model.sizes import known, total_stride
from vitbench.model.weights.pretrained import fetch
from vitbench.model.weights.start import TIMM, WEIGHTS_FILE, fetched
from vitbench.spec.trial import TrialSpec, size_words
from vitbench.store.record import Record
from vitbench.store.trials import Store
from vitbench.train.checkpoint import read_weights, weights_sha256
from vitbench.train.resident import load_images

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network in eval mode, the statistics that standardise its images, and the same network before training.

    `data` names the training images, and `classes` are the labels of the outputs (None: unknown). `resizes`: the
    training images were resized to `img_size`, so other images may be resized too. `patch_px` is 0 without a token
    grid.
    """

    name: str
    module: nn.Module
    untrained: nn.Module | None
    img_size: int
    in_chans: int
    patch_px: int
    mean: Tensor
    std: Tensor
    resizes: bool
    seed: int = 0
    data: str | None = None
    classes: np.ndarray | None = None
    spec: TrialSpec | None = None
    sha256: str | None = None

    @property
    def num_prefix(self) -> int:
        """Tokens before the patches."""
        return int(getattr(self.module, "num_prefix_tokens", 0))

    @property
    def class_token(self) -> bool:
        """Whether the first token is a class token."""
        return getattr(self.module, "cls_token", None) is not None

    @property
    def side(self) -> int:
        """Cells along one edge of the token grid. Raises InputError if the tokens are no places in the image."""
        if self.spec is not None and self.spec.model.family == "vit":
            embed = patch_embed_of(self.spec.model)
            if not embed.spatial:
                raise InputError(f"{self.name}: its tokens, {embed.text()}, are no places in the image")
        return self.img_size // self.patch_px

    @property
    def is_pyramid(self) -> bool:
        """True if its stages have different grids."""
        return self.spec is not None and self.spec.model.family != "resnet" and len(stage_models(self.spec.model)) > 1

    @property
    def objective(self) -> Objective | None:
        """The training objective, or None if it is unknown."""
        return None if self.spec is None else objective_of(self.spec.train.objective)

    @property
    def num_tokens(self) -> int:
        """Tokens that attend to each other."""
        return self.num_prefix + self.side**2

    def blocks(self) -> list[nn.Module]:
        """The blocks that have attention. Raises InputError if the network has none."""
        self.refuse_side_by_side()
        attending = [block for block in getattr(self.module, "blocks", ()) if hasattr(block, "attn")]
        if self.spec is not None and self.spec.model.family != "resnet":
            mixer = token_mixer_of(self.spec.model)
            if "attention_maps" not in mixer.gives:
                raise InputError(f"{self.name}: its token mixer, {mixer.text()}, has no attention to look at")
            if self.is_pyramid:
                raise InputError(f"{self.name}: its stages have different grids, so its attention cannot be compared")
        if not attending:
            raise InputError(f"{self.name}: a {type(self.module).__name__} has no attention to look at")
        return attending

    def refuse_side_by_side(self) -> None:
        """Raise InputError if blocks run side by side, so that no block has tokens of its own and no order."""
        if self.spec is not None and self.spec.model.parallel > 1:
            raise InputError(f"{self.name}: its blocks run side by side (model.parallel: {self.spec.model.parallel}), "
                             "so there are no single layers to look at")  # fmt: skip

    def before(self) -> Subject | None:
        """The same network before training, or None if its initial weights are unknown."""
        return None if self.untrained is None else replace(self, module=self.untrained, untrained=None)

    def standardise(self, unit: Tensor) -> Tensor:
        """Images in [0, 1] `[B, C, S, S]`, standardised as in training."""
        return (unit - self.mean) / self.std

    def logits(self, unit: Tensor) -> Tensor:
        """Logits `[B, K]` of images in [0, 1]. Raises InputError for a network that predicts patches."""
        if self.objective is not None and not self.objective.predicts_classes:
            raise InputError(f"{self.name}: {self.objective.text()} predicts no classes, so it has no accuracy")
        out: Tensor = self.module(self.standardise(unit))
        return out


def load_subject(text: str, root: Path, options: DataOptions) -> Subject:
    """The network of `TRIAL`, `timm:NAME` or an exported folder. Raises InputError."""
    if text.startswith(TIMM):
        return _of_timm_zoo(text)
    if (Path(text) / CONFIG_FILE).is_file():
        return _of_export(Path(text))
    if Path(text).is_dir():
        raise InputError(
            f"{text}: the folder has no {CONFIG_FILE}; `vitbench export TRIAL --to DIR` writes such a folder"
        )
    return of_trial(find_trial(Store(root), text), root, options)


def of_trial(record: Record, root: Path, options: DataOptions) -> Subject:
    """The network of a finished trial. Raises InputError without kept weights, ResultsError if the images changed."""
    path = kept_weights(record, Store(root))
    spec = record.trial_spec
    img_size = spec.model.img_size
    assert img_size is not None
    if not isinstance(img_size, int):
        raise InputError(
            f"trial {record.trial_id}: images of {size_words(img_size)} px; inspect reads square ones only"
        )
    images = load_images(spec.data, options, CPU)
    if images.fingerprint != record.data_fingerprint:
        raise ResultsError(f"trial {record.trial_id}: {spec.data.name} differs from the images that it was trained on")
    module, untrained = (build(spec.model, spec.train.objective) for _ in range(2))
    module.load_state_dict(read_weights(path))
    initialise(untrained, spec.model, spec.train.objective, record.seed)
    classes = np.arange(images.num_classes) if spec.data.labels is None else np.asarray(sorted(spec.data.labels))
    return Subject(
        name=f"trial {record.trial_id}",
        module=module.eval(),
        untrained=untrained.eval(),
        img_size=img_size,
        in_chans=known(spec.model.in_chans),
        patch_px=total_stride(spec.model),
        mean=images.mean,
        std=images.std,
        resizes=facts(spec.data.name, options).img_size != spec.data.img_size,
        seed=record.seed,
        data=spec.data.name,
        classes=classes,
        spec=spec,
        sha256=record.result.weights_sha256 or weights_sha256(module.state_dict()),
    )


def _of_timm_zoo(text: str) -> Subject:
    """A model of timm's zoo with its published weights, which are downloaded once."""
    timm = optional("timm", "timm", text)
    name = text.removeprefix(TIMM)
    if not fetched(text).is_file():
        fetch(name, fetched(text))
    module = timm.create_model(name, pretrained=False)
    module.load_state_dict(read_weights(fetched(text)))
    return of_timm(text, module, _untrained(name, {}))


def _of_export(folder: Path) -> Subject:
    """The model of an exported folder."""
    timm = optional("timm", "timm", str(folder))
    try:
        described = json.loads((folder / CONFIG_FILE).read_text())
        name, arguments = described["architecture"], described["model_args"]
        arguments = {**arguments, "num_classes": described["num_classes"]}
        module = timm.create_model(name, pretrained=False, **arguments)
        module.load_state_dict(read_weights(folder / WEIGHTS_FILE))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder}: not a model that timm can build from its {CONFIG_FILE} ({reason})") from error
    module.pretrained_cfg = described["pretrained_cfg"]
    return of_timm(str(folder), module, _untrained(name, arguments))


def _untrained(name: str, arguments: dict[str, Any]) -> nn.Module:
    """timm's model with first weights of seed 0; the caller's random state is left as it was."""
    timm = optional("timm", "timm", name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return module


def of_timm(name: str, module: Any, untrained: nn.Module | None) -> Subject:
    """A model of timm's, as its `pretrained_cfg` says it is fed."""
    described = dict(module.pretrained_cfg)
    channels, side, _ = described["input_size"]
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", (0,))[0]
    grid = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    return Subject(
        name=name,
        module=module.eval(),
        untrained=None if untrained is None else untrained.eval(),
        img_size=side,
        in_chans=channels,
        patch_px=side // grid[0] if grid else patch,
        mean=torch.tensor(described["mean"]).view(-1, 1, 1),
        std=torch.tensor(described["std"]).view(-1, 1, 1),
        resizes=True,
        sha256=weights_sha256(module.state_dict()),
    )
