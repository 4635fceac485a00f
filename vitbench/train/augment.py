"""Crop, flip, RandAugment and mixing, every draw handed in: any device and any process gives the same images.

B batch (of all stacked trials), C channels, H height, W width, p and q their padding, L lanes of draws in [0, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitbench.spec.trial import TrialSpec, crops_have_random_sizes, sides
from vitbench.train.erasing import ERASE_LANES, erase, inside_boxes

NUM_OPS, MAGNITUDE = 2, 10 / 30
"""RandAugment(2, 10), as in Beyer et al. 2022 for ViT-S/16 on ImageNet."""
COLOUR_OPS = ("identity", "brightness", "contrast", "solarize", "posterize", "autocontrast")
GEOMETRIC_OPS = ("translate_x", "translate_y", "shear_x", "shear_y", "rotate")
OPS = COLOUR_OPS + GEOMETRIC_OPS
MIN_AREA, MAX_ASPECT = 0.05, 4 / 3
CUTMIX_LANES = 4
"""Share, row and column of the box, and the switch between CutMix and MixUp."""


def padding(side: int) -> int:
    """Pixels of zero padding before and after an image's `side`: an eighth of it, at least 1."""
    return max(1, side // 8)


@dataclass(frozen=True)
class Augment:
    """A trial's augmentation, and which draws it takes, lane by lane; `size` is (height, width) in pixels."""

    level: str
    flip: bool
    mixup: float
    resized: bool = False
    size: tuple[int, int] = (1, 1)
    cutmix: float = 0.0
    switch: float = 0.5
    reprob: float = 0.0
    remode: str = "pixel"

    @classmethod
    def of(cls, spec: TrialSpec) -> Augment:
        """The augmentation of a resolved spec."""
        assert spec.data.img_size is not None
        height, width = sides(spec.data.img_size)
        train = spec.train
        return cls(
            level=train.augment,
            flip=bool(spec.data.flip),
            mixup=train.mixup or 0.0,
            resized=crops_have_random_sizes(spec),
            size=(height, width),
            cutmix=train.cutmix,
            switch=train.mixup_switch_prob,
            reprob=train.reprob,
            remode=train.remode,
        )

    @property
    def aspect(self) -> float:
        """Width of the images over their height."""
        return self.size[1] / self.size[0]

    @property
    def crop_lanes(self) -> int:
        """Draws of the crop: row, column, flip; where sizes are random also area and aspect."""
        return 0 if self.level == "none" else 5 if self.resized else 3

    @property
    def lanes(self) -> int:
        """Draws per image: those of the crop, two per RandAugment operation, one for MixUp."""
        return self.mixup_lane + (self.mixup > 0)

    @property
    def mixes(self) -> bool:
        """True if images are mixed with their partners."""
        return bool(self.mixup or self.cutmix)

    @property
    def mixup_lane(self) -> int:
        """MixUp's draw, the last of its stream."""
        return self.crop_lanes + 2 * NUM_OPS * (self.level == "medium")

    @property
    def streams(self) -> dict[str, int]:
        """Draws per image from each random stream; a batch's columns stand in this order.

        CutMix and erasing have streams of their own, so that switching one on changes no other draw.
        """
        return {
            "augment": self.lanes,
            "cutmix": CUTMIX_LANES * (self.cutmix > 0),
            "erase": ERASE_LANES * (self.reprob > 0),
        }

    def view_streams(self, num_views: int) -> dict[str, int]:
        """Draws of the later views of each image, after those of `streams`; each view has a stream of its own."""
        return {f"augment/{view}": self.lanes for view in range(1, num_views)}

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Images `[B, C, H, W]` in [0, 1] from zero-padded uint8 `[B, C, H + 2p, W + 2q]` (unpadded at level none)."""
        return self.after_crop(self.crop(images, draws), draws)

    def crop(self, images: Tensor, draws: Tensor) -> Tensor:
        """Cropped and mirrored `uint8 [B, C, H, W]` of padded images."""
        return images if self.level == "none" else _crop_flip(images, draws, self.flip)

    def after_crop(self, images: Tensor, draws: Tensor) -> Tensor:
        """Images in [0, 1] from crops `uint8 [B, C, H, W]`, with RandAugment where the level has it."""
        out = images.float() / 255
        if self.level == "medium":
            for k in range(self.crop_lanes, self.crop_lanes + 2 * NUM_OPS, 2):
                out = randaugment_op(out, draws[:, k], draws[:, k + 1])
        return out

    def mirrors(self, draws: np.ndarray) -> bool:
        """True if the draws `[L]` of one image mirror it."""
        return self.flip and bool(draws[2] < 0.5)

    def mixture(self, draws: np.ndarray) -> Mixture | None:
        """How images are mixed with their partners, by draws `[B, L]`; None without MixUp and CutMix."""
        if not self.mixes:
            return None
        shares = np.ones(len(draws))
        boxes = np.zeros((len(draws), 4), dtype=np.int64)
        if self.mixup:
            share = _beta(self.mixup, draws[:, self.mixup_lane])
            shares = np.maximum(share, 1 - share)
        if self.cutmix:
            share, row, column, switch = draws[:, self.lanes : self.lanes + CUTMIX_LANES].T
            cut = switch < self.switch if self.mixup else np.full(len(draws), True)
            boxes = np.where(cut[:, None], cutmix_boxes(_beta(self.cutmix, share), row, column, self.size), boxes)
            top, bottom, left, right = boxes.T
            kept = 1 - (bottom - top) * (right - left) / math.prod(self.size)
            shares = np.where(cut, kept, shares)
        return Mixture(shares, boxes)

    def erase(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Standardised images `[B, C, H, W]`, a rectangle of some of them filled, by draws `[B, L]`."""
        if self.reprob == 0:
            return pixels
        start = self.lanes + self.streams["cutmix"]
        return erase(pixels, draws[:, start : start + ERASE_LANES], self.reprob, self.remode)


@dataclass(frozen=True)
class Mixture:
    """Share `[B]` of an image's own label, and the box `[B, 4]` (top, bottom, left, right; empty: MixUp) cut out of it.

    The partner is the image before it in the batch: MixUp blends the two, CutMix shows the partner inside the box.
    """

    share: np.ndarray
    box: np.ndarray


def _beta(alpha: float, draws: np.ndarray) -> np.ndarray:
    """Values of a Beta(alpha, alpha) distribution by their quantiles."""
    from scipy.special import betaincinv  # Late: a training without mixing needs no scipy.

    values: np.ndarray = betaincinv(alpha, alpha, draws)
    return values


def cutmix_boxes(share: np.ndarray, row: np.ndarray, column: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes `[B, 4]` (top, bottom, left, right) of the image's shape and area 1 - share around any pixel, clipped.

    Source: Yun et al. 2019, Algorithm 1, with timm's rounding; the label's share follows the clipped area.
    """
    ends = []
    for length, draw in zip(size, (row, column), strict=True):
        cut, centre = (length * np.sqrt(1 - share)).astype(np.int64), (length * draw).astype(np.int64)
        ends += [np.clip(centre - cut // 2, 0, length), np.clip(centre + (cut + 1) // 2, 0, length)]
    return np.stack(ends, axis=1)


def mixed(images: Tensor, partner: Tensor, share: Tensor, box: Tensor | None) -> Tensor:
    """Images `[E, B, C, H, W]` mixed with their partners, by `share [E, B]` and `box [E, B, 4]`."""
    if box is None:
        weight = share[:, :, None, None, None]
        return weight * images + (1 - weight) * partner
    inside = inside_boxes(box, images.shape[-2], images.shape[-1])
    weight = torch.where(box[..., 1] > box[..., 0], 1.0, share)[:, :, None, None, None]
    return torch.where(inside.unsqueeze(2), partner, weight * images + (1 - weight) * partner)


def _crop_flip(images: Tensor, draws: Tensor, flip: bool) -> Tensor:
    """Random crops `[B, C, H, W]` of padded images, mirrored where the third lane is under a half."""
    batch, channels = images.shape[:2]
    rows, cols = (_cropped(images.shape[2 + axis], draws[:, axis : axis + 1]) for axis in (0, 1))
    if flip:
        cols = torch.where(draws[:, 2:3] < 0.5, cols.flip(1), cols)
    where = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return images[where, channel, rows[:, None, :, None], cols[:, None, None, :]]


def _cropped(padded: int, draws: Tensor) -> Tensor:
    """Which rows (or columns) of a padded image its crop shows, `[B, side]`, by draws `[B, 1]`."""
    side = _unpadded(padded)
    offsets = (draws * (padded - side + 1)).long()
    return offsets + torch.arange(side, device=draws.device)


def resized_box(
    height: int, width: int, draws: np.ndarray, target_aspect: float = 1.0
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a crop, in pixels, of an area uniform from 5% to all of the image's and an aspect
    log-uniform from 3:4 to 4:3 of the target's (width / height), by the five draws of one image.

    Source: Szegedy et al. 2015, s6, with the least area of the paper's published code. Differs: a crop that is too long
    is shortened to the image's side, where the original draws again.
    """
    down, right, _, share, shape = map(float, draws[:5])
    area = (MIN_AREA + (1 - MIN_AREA) * share) * height * width
    aspect = target_aspect * MAX_ASPECT ** (2 * shape - 1)
    rows, cols = min(height, math.sqrt(area / aspect)), min(width, math.sqrt(area * aspect))
    top, left = down * (height - rows), right * (width - cols)
    return left, top, left + cols, top + rows


def _unpadded(padded: int) -> int:
    """The side whose padded length is `padded`."""
    size = next(s for s in range(padded, 0, -1) if s + 2 * padding(s) <= padded)
    assert size + 2 * padding(size) == padded
    return size


def pad(images: Tensor, level: str) -> Tensor:
    """uint8 images zero-padded as the level's crop needs; padded once, not every batch."""
    if level == "none":
        return images
    across, down = padding(images.shape[-1]), padding(images.shape[-2])
    return F.pad(images, (across, across, down, down))


def randaugment_op(images: Tensor, which: Tensor, sign: Tensor) -> Tensor:
    """One operation per image, chosen by `which [B]`, its direction by `sign [B]`, at a fixed magnitude.

    Source: Cubuk et al. 2020. Differs: eleven operations; equalize, sharpness and colour balance are left out, since
    they have no cheap form for a batch in which every image draws its own operation.
    """
    op = (which * len(OPS)).long()
    direction = torch.where(sign < 0.5, -1.0, 1.0)
    return _geometric(_colour(images, op, direction), op, direction)


def _colour(images: Tensor, op: Tensor, direction: Tensor) -> Tensor:
    """Colour operations; other images pass unchanged."""
    factor = (1 + 0.9 * MAGNITUDE * direction)[:, None, None, None]
    mean = images.mean((1, 2, 3), keepdim=True)
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    levels = 2.0 ** round(8 - 4 * MAGNITUDE)
    candidates = {
        "brightness": images * factor,
        "contrast": mean + (images - mean) * factor,
        "solarize": torch.where(images >= 1 - MAGNITUDE, 1 - images, images),
        "posterize": (images * 255 * levels / 256).floor() * 256 / levels / 255,
        "autocontrast": (images - low) / (high - low).clamp(min=1 / 255),
    }
    for name, value in candidates.items():
        images = torch.where((op == OPS.index(name))[:, None, None, None], value.clamp(0, 1), images)
    return images


def _geometric(images: Tensor, op: Tensor, direction: Tensor) -> Tensor:
    """Affine operations by one bilinear resampling; the identity for images of another operation."""
    chosen = {name: (op == OPS.index(name)).to(images.dtype) * direction for name in GEOMETRIC_OPS}
    shear, shift, angle = 0.3 * MAGNITUDE, 0.9 * MAGNITUDE, math.radians(30) * MAGNITUDE
    turn = chosen["rotate"] * angle
    theta = torch.stack(
        [
            torch.stack([turn.cos(), chosen["shear_x"] * shear - turn.sin(), chosen["translate_x"] * shift], -1),
            torch.stack([chosen["shear_y"] * shear + turn.sin(), turn.cos(), chosen["translate_y"] * shift], -1),
        ],
        1,
    )
    moved = F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False)
    still = (op < len(COLOUR_OPS))[:, None, None, None]
    return torch.where(still, images, moved)
