"""Labels as training reads them: class positions, class weights, and a teacher's answers in place of labels.

E stacked trials, n training images of the data set, m images without labels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vitbench.base.seeding import derive_seed
from vitbench.data.splits import labelled_part
from vitbench.data.types import Ints
from vitbench.model.build import build
from vitbench.model.objective import Objective, objective_of
from vitbench.spec.trial import TrainSpec
from vitbench.train.augment import Augment
from vitbench.train.evaluate import BATCH, logits_of
from vitbench.train.image_source import ImageSource, Members, members
from vitbench.train.process_group import ProcessGroup
from vitbench.train.sampling import Cut, Order
from vitbench.train.stack import Stack

if TYPE_CHECKING:
    from vitbench.train.trainer import Job


@dataclass(frozen=True)
class Labelling:
    """What one trial learns in place of labels.

    Training images `index`, ascending, without those of the `pool` (the images whose labels are not read) that the
    answers leave out; targets `float32 [n, K]`, zero for images outside `index`; numbers for the record.
    """

    index: Ints
    pool: Ints
    targets: np.ndarray
    metrics: dict[str, float]


def label_pools(
    jobs: Sequence[Job], images: ImageSource, device: torch.device, group: ProcessGroup
) -> list[Labelling | None]:
    """`label_pool` of each job; None for jobs whose objective has no labeller."""
    return [
        label_pool(job, images, device, group) if objective_of(job.spec.train.objective).labeller else None
        for job in jobs
    ]


def label_pool(job: Job, images: ImageSource, device: torch.device, group: ProcessGroup) -> Labelling:
    """The targets of a job: labels where it reads them, its teacher's answers for the other training images.

    True labels of the pool are read for the record only.
    """
    objective, used = objective_of(job.spec.train.objective), members(images, job.spec.data, job.seed)
    assert objective.labelled_share is not None, "an objective with a labeller has a labelled share"
    labelled = members(images, labelled_part(job.spec.data, objective.labelled_share), job.seed).train
    pool = np.setdiff1d(used.train, labelled, assume_unique=True)
    probabilities = _pool_logits(job, objective, images, pool, device, group).double().softmax(-1).numpy()
    answers = objective.targets_of(probabilities)
    kept, positions = answers.any(-1), class_positions(images, used)
    targets = np.zeros((len(positions), probabilities.shape[-1]), dtype=np.float32)
    targets[labelled, positions[labelled]] = 1
    targets[pool] = answers
    right = probabilities.argmax(-1) == positions[pool]
    metrics = {"pseudo_labels_kept_percent": 100 * float(kept.mean())}
    if kept.any():
        metrics["pseudo_labels_right_percent"] = 100 * float(right[kept].mean())
    return Labelling(np.sort(np.concatenate([labelled, pool[kept]])), pool, targets, metrics)


def _pool_logits(
    job: Job, objective: Objective, images: ImageSource, pool: Ints, device: torch.device, group: ProcessGroup
) -> Tensor:
    """The teacher's logits `[m, K]` of images `pool [m]`, on the CPU.

    The teacher stands alone, so the labels of a trial are equal in every stack.
    """
    assert objective.labeller is not None
    network = job.networks[objective.labeller]
    with torch.device("meta"):
        module = build(network.spec.model, network.spec.train.objective)
    teacher = Stack(module, [network.state], device, trained=False)
    if objective.noised_answers:
        return _noised_logits(job, teacher, images, pool)
    mine = group.share(pool[None])
    none = torch.zeros(1, 0, job.spec.model.num_classes or 0)
    return group.joined(logits_of(teacher, images, "train", mine) if mine.size else none, len(pool))[0]


@torch.no_grad()
def _noised_logits(job: Job, teacher: Stack, images: ImageSource, pool: Ints) -> Tensor:
    """As `_pool_logits`, in training mode for one augmented view of each image, with draws of its own."""
    augment = Augment.of(job.spec)
    streams = {f"labels/{name}": lanes for name, lanes in augment.streams.items()}
    order = Order(job.seed, pool, min(BATCH, len(pool)), streams)
    feed = images.feed([order], augment, Cut())
    torch.manual_seed(derive_seed(job.seed, "labels/dropout"))
    indices, chunks = [], []
    for step in range(-(-len(pool) // order.batch_size)):
        for batches, unit in feed(step):
            indices.append(batches[0].index)
            chunks.append(teacher.forward(images.standardise(unit), train=True)[0].float().cpu())
    feed.close()
    first = np.argsort(np.concatenate(indices)[: len(pool)])  # The last batch may begin the next epoch.
    return torch.cat(chunks)[torch.from_numpy(first)]


def label_tables(
    images: ImageSource, used: Sequence[Members], labellings: Sequence[Labelling | None], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Class positions `[E, n]` and targets `[E, n, K]` (None without a labeller).

    The position of an image whose label is not read is -1, so that no loss can look it up.
    """
    positions = np.stack([class_positions(images, each) for each in used])
    answers = [labelling for labelling in labellings if labelling is not None]
    for row, labelling in enumerate(answers):
        positions[row, labelling.pool] = -1
    targets = torch.from_numpy(np.stack([each.targets for each in answers])).to(device) if answers else None
    return torch.from_numpy(positions).to(device), targets


def class_positions(images: ImageSource, used: Members) -> Ints:
    """Label of every training image as a position among the trained classes (0 for images never drawn)."""
    trained = np.isin(images.train_labels, used.classes)
    return np.where(trained, np.searchsorted(used.classes, images.train_labels), 0).astype(np.int64)


def class_weights(
    train: TrainSpec, class_of: Tensor, used: Sequence[Members], num_classes: int | None
) -> Tensor | None:
    """Weight of each class, `[E, K]`, scaled to a mean of 1 over the training images; None: all alike."""
    if train.class_weights is None:
        return None
    assert num_classes is not None
    rows = []
    for labels, member in zip(class_of.cpu().numpy(), used, strict=True):
        counts = np.bincount(labels[member.train], minlength=num_classes)
        weights = 1 / counts if train.class_weights == "balanced" else np.asarray(train.class_weights)
        rows.append(weights * counts.sum() / (weights * counts).sum())
    return torch.tensor(np.stack(rows), dtype=torch.float32, device=class_of.device)
