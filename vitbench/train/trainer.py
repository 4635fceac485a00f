"""A step of training: E >= 1 trials whose models have equal shapes and whose step counts are equal, as one program.

E stacked trials, B batch, C channels, N patches, K classes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vitbench.base.errors import InputError
from vitbench.base.seeding import derive_seed
from vitbench.model.build import Encoder, build, initialise, load_weights
from vitbench.model.objective import STUDENT, MemberBatch, objective_of
from vitbench.model.weights.start import tensors_by_name
from vitbench.spec.trial import TrialSpec
from vitbench.train.augment import Augment
from vitbench.train.evaluate import BATCH, Evaluation, evaluate, logits_of
from vitbench.train.fitting import fitted_tensors
from vitbench.train.image_source import ImageSource, TrainOrTest, members, on_device
from vitbench.train.labelling import class_weights, label_pools, label_tables
from vitbench.train.network_calls import NetworkCalls
from vitbench.train.networks import Network, Networks
from vitbench.train.optim import average_shares, bias_corrections, learning_rates, optimizer_of
from vitbench.train.process_group import ONE_PROCESS, ProcessGroup, StepSums
from vitbench.train.sampling import Batch, Cut, Order
from vitbench.train.stack import Stack
from vitbench.train.step_program import Given, Graph, Program


@dataclass(frozen=True)
class Job:
    """One trial as the trainer needs it: a resolved spec, a seed, the weights that it starts from, other networks."""

    spec: TrialSpec
    seed: int
    parent: dict[str, Tensor] | None = None
    networks: Mapping[str, Network] = field(default_factory=dict)


class Trainer:
    """A stack in training. Everything random comes from (seed, epoch, index); the step number is the whole state.

    On several processes (a `group`) each trains on its share of every batch; see `vitbench.train.process_group`.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        images: ImageSource,
        device: torch.device,
        program: Program = "eager",
        recompute: bool = False,
        group: ProcessGroup = ONE_PROCESS,
    ) -> None:
        self.jobs, self.images, self.device, self.group = jobs, images, device, group
        self.spec = jobs[0].spec
        self.train = self.spec.train
        self.used = [members(images, job.spec.data, job.seed) for job in jobs]
        self.augment = Augment.of(self.spec)
        self.objective = objective_of(self.train.objective)
        streams = self.augment.streams | self.augment.view_streams(self.objective.num_views)
        self.labellings = label_pools(jobs, images, device, group)
        self.orders = [
            Order(
                job.seed,
                used.train if labels is None else labels.index,
                self.train.batch_size,
                streams,
                self.train.repeats,
            )
            for job, used, labels in zip(jobs, self.used, self.labellings, strict=True)
        ]
        with torch.device("meta"):  # Only its structure is used: the stack hands in the weights with every call.
            module = build(self.spec.model, self.train.objective)
        if recompute and isinstance(module, Encoder):
            assert len(jobs) == 1, "a stack's blocks are not computed twice"
            module.recompute = True
        self.stack = Stack(module, [initial_state(job, images) for job in jobs], device)
        self.networks = Networks(self.objective, self.stack, [job.networks for job in jobs], device)
        tensors = tensors_by_name(self.spec.model, self.train.objective)
        self.optimizer = optimizer_of([job.spec.train for job in jobs], self.stack, tensors)
        self.average = self.stack.flat.clone() if self.train.model_ema else None
        self.average_shares = torch.tensor(average_shares(self.train), dtype=torch.float32).to(device)
        rates = np.stack([learning_rates(job.spec.train) for job in jobs], axis=1)
        self.rates = torch.tensor(rates, dtype=torch.float32, device=device).unsqueeze(-1)
        self.networks.start(self.spec.model, len(rates))
        self.calls = NetworkCalls(self)
        cut = Cut(self.train.grad_accum, group.rank, group.size, has_partner=self.num_before > 0)
        self.feed = images.feed(self.orders, self.augment, cut)
        if self.objective.num_views > 1 and not self.feed.crops:
            raise InputError(f"train.objective {self.objective.text()}: several views need images that fit in memory")
        self.class_of, self.targets = label_tables(images, self.used, self.labellings, device)
        self.class_weights = class_weights(self.train, self.class_of, self.used, self.spec.model.num_classes)
        self.drops = self.spec.model.drop_rate > 0 or self.spec.model.drop_path_rate > 0
        self.corrections = bias_corrections(len(rates)).to(device)
        self.numbers = torch.arange(len(rates), device=device)
        self.bad_step = torch.full((len(jobs),), -1, device=device)
        self.loss_sum, self.total = torch.zeros(2, len(jobs), device=device).unbind()
        self.sums = StepSums(group, self.stack.grad) if group.size > 1 else None
        if self.sums is not None:
            self.stack.grad, self.total = self.sums.grad, self.sums.loss
        self._losses = torch.compile(self._losses_of, dynamic=False) if program == "compile" else self._losses_of
        self._add = Graph(self._accumulate) if program == "graph" else self._accumulate
        self._move = Graph(self._update) if program == "graph" else self._update

    @property
    def num_before(self) -> int:
        """Images before this process's share of a micro-batch, which are partners of MixUp and CutMix only."""
        return int(self.group.size > 1 and self.augment.mixes)

    @property
    def evaluated(self) -> Tensor:
        """The weights `[E, P]` that are read and kept: those of an average if there is one, else the current ones."""
        if self.objective.kept != STUDENT:
            return self.networks.averages[self.objective.kept]
        return self.stack.flat if self.average is None else self.average

    def step(self, step: int) -> None:
        """One optimizer step; nothing here waits for the device.

        Only dropout draws on the device, from one generator for the whole stack; so a stack with dropout differs from
        its members trained alone.
        """
        if self.drops:
            torch.manual_seed(derive_seed(self.jobs[0].seed, f"dropout/{step}"))
        for batches, pixels, draws in self.feed.raw(step):
            drawn = self._drawn(batches, self.num_before)
            self._add({"pixels": pixels, "draws": draws, **drawn, **self.networks.scheduled(step)})
        if self.sums is not None:
            self.sums.add_up()
        numbers = {"lr": self.rates[step], "correction": self.corrections[step], "step": self.numbers[step]}
        numbers |= self.networks.numbers(step)
        if self.average is not None:
            numbers["share"] = self.average_shares[step]
        self._move(numbers)

    def _drawn(self, batches: list[Batch], num_before: int = 0, part: TrainOrTest = "train") -> Given:
        """What the images are trained for, on the device: what the objective draws for a batch.

        The first `num_before` images are partners only.
        """
        whole = [batch.take(np.arange(num_before, len(batch.index))) for batch in batches]
        members = [
            MemberBatch(
                job.seed,
                batch.index,
                batch.epoch,
                batch.draws,
                int(first.index[0]) if num_before else None,
                self.images.columns(part, self.objective.columns, batch.index),
            )
            for job, batch, first in zip(self.jobs, whole, batches, strict=True)
        ]
        mixtures = [mixture for batch in whole if (mixture := self.augment.mixture(batch.draws)) is not None]
        arrays = self.objective.draw(self.spec.model, members, mixtures)
        if not self.augment.cutmix:
            arrays.pop("box", None)
        return {name: on_device(array, self.device) for name, array in arrays.items()}

    def _accumulate(self, given: Given) -> None:
        """Add one micro-batch's gradients and losses."""
        loss = self._losses(given)
        self.stack.backward(loss)
        self.total += loss.detach()

    def _update(self, given: Given) -> None:
        """Move the weights of the members whose loss was finite in every step so far."""
        fresh = (self.bad_step < 0) & ~torch.isfinite(self.total)
        self.bad_step.copy_(torch.where(fresh, given["step"], self.bad_step))
        active = (self.bad_step < 0).float()
        self.loss_sum += torch.where(active > 0, self.total, torch.zeros_like(self.total))
        grad = self.stack.grad
        self.optimizer.step(self.stack.flat, grad, given["lr"], given["correction"], active.unsqueeze(-1))
        if self.average is not None:
            self.average.lerp_(torch.where(active.unsqueeze(-1) > 0, self.stack.flat, self.average), given["share"])
        self.networks.update(given, active.unsqueeze(-1))
        with torch.no_grad():
            self.objective.after_step(self.calls)
        grad.zero_()
        self.total.zero_()

    def _losses_of(self, given: Given) -> Tensor:
        """Each member's share `[E]` of its batch's loss."""
        unit = self._view(given, 0)
        if self.objective.num_views > 1:
            self.calls.given = given
        with self._precision():
            loss: Tensor = self.objective.loss(self.calls, unit, given)
        return loss * ((unit.shape[1] - self.num_before) / self.train.batch_size)

    def _view(self, given: Given, number: int) -> Tensor:
        """One view of a batch, `[E, B, C, H, W]` in [0, 1]."""
        draws = given["draws"]
        if number > 0:
            start = sum(self.augment.streams.values()) + (number - 1) * self.augment.lanes
            draws = draws[:, start : start + self.augment.lanes]
        unit = self.feed.unit(given["pixels"], draws)
        return unit.view(len(self.jobs), -1, *unit.shape[1:])

    def _precision(self) -> contextlib.AbstractContextManager[None]:
        bf16 = self.train.precision == "bf16"
        return (
            torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=False)
            if bf16
            else contextlib.nullcontext()
        )

    def validate(self) -> list[tuple[float | None, float | None, bool]]:
        """Per member: validation top-1 in percent and loss (None without), and whether every logit was finite."""
        index = np.stack([used.val for used in self.used])  # stratified, so every seed holds out as many
        if index.shape[1] == 0:
            return [(None, None, True)] * len(self.jobs)
        if not self.objective.predicts_classes:
            return self._validate_loss(index)
        logits = self._logits("train", index, self.average)
        out: list[tuple[float | None, float | None, bool]] = []
        for e, used in enumerate(self.used):
            answers = evaluate(logits[e], np.searchsorted(used.classes, self.images.train_labels[index[e]]))
            out.append((answers.top1_percent, answers.loss, True) if answers.finite else (None, None, False))
        return out

    @torch.no_grad()
    def _validate_loss(self, index: np.ndarray) -> list[tuple[float | None, float | None, bool]]:
        """As `validate`, for an objective without classes, under draws that never change."""
        sums = torch.zeros(3, len(self.jobs), device=self.device)
        loss, percent, answered = sums
        for unit, given, share in self._still(index):
            batch_loss, hits = self.objective.validation(self.calls, unit, given)
            loss += share * batch_loss
            if hits is not None:
                percent += share * hits
                answered += share
        self.group.sum(sums)
        return [
            (p if a > 0 else None, v, True) if math.isfinite(v) else (None, None, False) for v, p, a in sums.T.tolist()
        ]

    def _still(self, index: np.ndarray, part: TrainOrTest = "train") -> Iterator[tuple[Tensor, Given, float]]:
        """This process's share of images `index [E, M]` in batches, without augmentation, with draws that
        never change and the numbers of the last step; each with its share of all images. Test images have labels."""
        mine = self.group.share(index)
        for start, unit in zip(range(0, mine.shape[1], BATCH), self.images.read(part, mine, BATCH), strict=True):
            still = [Batch(i, np.full(len(i), -1), np.zeros((len(i), 0))) for i in mine[:, start : start + BATCH]]
            given = self._drawn(still, part=part) | self.networks.scheduled(-1)
            if part == "test":
                given["test_labels"] = self._test_labels(mine[:, start : start + BATCH])
            yield unit, given, unit.shape[1] / index.shape[1]

    @torch.no_grad()
    def measures(self) -> list[dict[str, float]]:
        """What the objective measures on each member's validation images, and on what the network makes."""
        index, sums = np.stack([used.val for used in self.used]), dict[str, Tensor]()

        for unit, given, share in self._still(index) if index.size else ():
            for name, values in self.objective.measures(self.calls, unit, given).items():
                sums[name] = sums.get(name, torch.zeros(())) + share * values.cpu()
        for name in self.group.object_from_first(list(sums)):
            self.group.sum(sums.setdefault(name, torch.zeros(len(self.jobs))))
        sums |= self.objective.made(self.calls, [job.seed for job in self.jobs], self.device)
        return [{name: float(values[e]) for name, values in sums.items()} for e in range(len(self.jobs))]

    def _test_labels(self, index: np.ndarray) -> Tensor:
        """Positions among the trained classes of test images `index [E, B]`, on the device."""
        labels = self.images.test_labels
        rows = [np.searchsorted(u.classes, labels[i]) for u, i in zip(self.used, index, strict=True)]
        return on_device(np.stack(rows), self.device)

    @torch.no_grad()
    def scores(self) -> list[dict[str, float]]:
        """What the objective measures on each member's test images, all together; read once, after training."""
        index = np.stack([used.test for used in self.used])
        pieces = [self.objective.answers(self.calls, unit, given) for unit, given, _ in self._still(index, "test")]
        answers = self.group.joined(torch.cat(pieces, dim=1), index.shape[1]).cpu().numpy()
        names = self.objective.columns
        return [
            dict(self.objective.scores(answers[e], self.images.columns("test", names, index[e])))
            for e in range(len(self.jobs))
        ]

    def _logits(self, part: TrainOrTest, index: np.ndarray, flat: Tensor | None) -> Tensor:
        """Logits `[E, M, K]` of images `index [E, M]` on the CPU; each process runs its share of the images."""
        mine = self.group.share(index)
        if mine.shape[1]:
            logits = logits_of(self.stack, self.images, part, mine, flat)
        else:
            logits = torch.zeros(len(self.jobs), 0, self.spec.model.num_classes or 0)
        return self.group.joined(logits, index.shape[1])

    def test(self, flat: Tensor | None = None) -> list[Evaluation]:
        """Test answers of every member, in one pass; read once, after training. Members have the same classes."""
        index = np.stack([used.test for used in self.used])
        logits = self._logits("test", index, self.average if flat is None else flat)
        return [
            evaluate(of_member, np.searchsorted(used.classes, self.images.test_labels[used.test]))
            for of_member, used in zip(logits, self.used, strict=True)
        ]


def initial_state(job: Job, images: ImageSource) -> dict[str, Tensor]:
    """The weights that a job starts from, on the CPU: fresh ones, replaced by those of its parent, if any.

    Tensors that are measured on training images, as a palette is, come from `images` or from the parent.
    """
    module = build(job.spec.model, job.spec.train.objective)
    initialise(module, job.spec.model, job.spec.train.objective, job.seed)
    if job.spec.train.continues and job.parent is not None:
        module.load_state_dict(job.parent)
    elif job.parent is None:
        module.load_state_dict(fitted_tensors(job.spec.model, images), strict=False)
    else:
        load_weights(module, job.parent, tensors_by_name(job.spec.model, job.spec.train.objective))
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
