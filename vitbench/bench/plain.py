"""The way people do it: a plain PyTorch loop over a library's ViT, one training after another. Run as a process.

`python -m vitbench.bench.plain '{"library": "timm", ...}'` prints one JSON object: accuracies, images, forward FLOPs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset


@dataclass(frozen=True)
class Plain:
    """What is trained and how; `loaders` processes feed it, or (None) the images lie in memory and are cropped there.

    `rates` and `seeds` are crossed: a training each.
    """

    library: str
    data_dir: str
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    batch_size: int
    epochs: int
    num_val: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    loaders: int | None = 2
    img_size: int = 28
    device: str = "cpu"


def build_model(plain: Plain) -> nn.Module:
    """The library's ViT with its own default positions, of the stated size."""
    if plain.library == "vit-pytorch":
        from vit_pytorch import ViT

        vit: nn.Module = ViT(
            image_size=plain.img_size,
            patch_size=plain.patch_size,
            num_classes=10,
            dim=plain.embed_dim,
            depth=plain.depth,
            heads=plain.num_heads,
            dim_head=plain.embed_dim // plain.num_heads,
            mlp_dim=int(plain.embed_dim * plain.mlp_ratio),
            channels=1,
        )
        return vit
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=plain.img_size,
        patch_size=plain.patch_size,
        in_chans=1,
        num_classes=10,
        embed_dim=plain.embed_dim,
        depth=plain.depth,
        num_heads=plain.num_heads,
        mlp_ratio=plain.mlp_ratio,
    )


Batches = Iterator[tuple[Tensor, Tensor]]


class Loaded:
    """torchvision's MNIST through a DataLoader whose processes live as long as the training."""

    def __init__(self, plain: Plain, seed: int) -> None:
        from torchvision import datasets, transforms

        last = [transforms.ToTensor(), transforms.Normalize((0.5,), (0.25,))]
        crop = transforms.Compose([transforms.RandomCrop(plain.img_size, padding=3), *last])
        train = datasets.MNIST(plain.data_dir, train=True, transform=crop)
        still = datasets.MNIST(plain.data_dir, train=True, transform=transforms.Compose(last))
        test = datasets.MNIST(plain.data_dir, train=False, transform=transforms.Compose(last))
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
        workers: dict[str, Any] = {"num_workers": plain.loaders, "persistent_workers": bool(plain.loaders)}
        self.loader = DataLoader(
            Subset(train, order[plain.num_val :]), plain.batch_size, shuffle=True, drop_last=True, **workers
        )
        self.held_out = DataLoader(Subset(still, order[: plain.num_val]), 512)
        self.test = DataLoader(test, 512)

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self) -> Batches:
        return iter(self.loader)

    def part(self, name: str) -> Batches:
        return iter(self.held_out if name == "val" else self.test)


class Resident:
    """The same images as one tensor, cropped batch by batch: the loop without a data loader."""

    def __init__(self, plain: Plain, seed: int) -> None:
        from torchvision import datasets

        sets = [datasets.MNIST(plain.data_dir, train=train) for train in (True, False)]
        self.images = [((s.data.float() / 255 - 0.5) / 0.25).unsqueeze(1).to(plain.device) for s in sets]
        self.labels = [s.targets.to(plain.device) for s in sets]
        self.order = torch.randperm(len(sets[0]), generator=torch.Generator().manual_seed(seed))
        self.plain = plain

    def __len__(self) -> int:
        return (len(self.order) - self.plain.num_val) // self.plain.batch_size

    def epoch(self) -> Batches:
        kept = self.order[self.plain.num_val :]
        size = self.plain.batch_size
        for rows in torch.split(kept[torch.randperm(len(kept))], size):
            if len(rows) == size:
                padded = F.pad(self.images[0][rows], (3, 3, 3, 3), value=-2.0)
                y, x = torch.randint(0, 7, (2, size, 1)) + torch.arange(self.plain.img_size)
                picked = padded[torch.arange(size)[:, None, None], 0, y[:, :, None], x[:, None, :]].unsqueeze(1)
                yield picked, self.labels[0][rows]

    def part(self, name: str) -> Batches:
        if name == "val":
            rows = self.order[: self.plain.num_val]
            yield self.images[0][rows], self.labels[0][rows]
        else:
            yield self.images[1], self.labels[1]


def accuracy(model: nn.Module, batches: Batches, device: str) -> float:
    """Top-1 in percent."""
    model.eval()
    hits: list[Tensor] = []
    with torch.no_grad():
        for images, labels in batches:
            hits.append(model(images.to(device)).argmax(-1).cpu() == labels.cpu())
    return 100.0 * float(torch.cat(hits).float().mean())


def train(plain: Plain, lr: float, seed: int) -> tuple[float, int]:
    """Test top-1 in percent and images seen of one training: AdamW, warm-up, cosine, clipping; validated each epoch."""
    torch.manual_seed(seed)
    data = Resident(plain, seed) if plain.loaders is None else Loaded(plain, seed)
    model = build_model(plain).to(plain.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    num_images, num_steps = 0, plain.epochs * len(data)
    warmup = max(1, num_steps // 20)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, num_steps - warmup)),
        ],
        [warmup],
    )
    for _ in range(plain.epochs):
        model.train()
        for images, labels in data.epoch():
            loss = F.cross_entropy(model(images.to(plain.device)), labels.to(plain.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            num_images += len(labels)
        accuracy(model, data.part("val"), plain.device)
    return accuracy(model, data.part("test"), plain.device), num_images


def forward_flops(plain: Plain) -> int:
    """FLOPs of one image's forward pass, as torch counts them: 2 per multiply-add.

    Attention runs as matrix products here: torch 2.14.1 counts 0 for fused attention on a CPU, and 2.15.0 counts it.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        build_model(plain)(torch.zeros(1, 1, plain.img_size, plain.img_size))
    return int(counter.get_total_flops())


def main(text: str) -> None:
    """Train everything that the JSON object asks for and print what came of it."""
    settings = json.loads(text)
    plain = Plain(**{**settings, "rates": tuple(settings["rates"]), "seeds": tuple(settings["seeds"])})
    done = [train(plain, lr, seed) for lr in plain.rates for seed in plain.seeds]
    out = {
        "test_top1_percent": [percent for percent, _ in done],
        "images": sum(count for _, count in done),
        "forward_flops": forward_flops(plain),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1])
