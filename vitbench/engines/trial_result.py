"""The results of a trained stack: the deterministic part of each member's record, and the files beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from vitbench.model import costs
from vitbench.model.build import build
from vitbench.store.answers import predictions_sha256
from vitbench.store.record import Result, Status
from vitbench.train.checkpoint import pack, weights_sha256
from vitbench.train.evaluate import Evaluation, probes
from vitbench.train.loop import Trained
from vitbench.train.trainer import Trainer, initial_state

PREDICTIONS = "predictions.npz"
WEIGHTS = "checkpoints/final.safetensors"


@dataclass(frozen=True)
class TrialOutcome:
    """Result of one training attempt: metrics, files to save, duration."""

    result: Result
    status: Status
    reason: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    micro_batches: int | None = None
    resumed_at_step: int | None = None


@dataclass(frozen=True)
class FinalAnswers:
    """Members' test answers with the last and the best weights, where test images are read; measures of objectives."""

    last: list[Evaluation] | None
    best: list[Evaluation] | None
    measured: list[dict[str, float]]


def final_answers(trainer: Trainer, trained: list[Trained]) -> FinalAnswers:
    """Read the test data once, for the last weights and for the best by validation.

    A spec with `evaluate.test: false`, and an objective without classes and scores, read none. All processes of a trial
    take part.
    """
    if not trainer.objective.predicts_classes:
        measured = trainer.measures()
        if trainer.objective.scores_named and trainer.spec.evaluate.test:
            measured = [each | scores for each, scores in zip(measured, trainer.scores(), strict=True)]
        return FinalAnswers(None, None, measured)
    nothing: list[dict[str, float]] = [{} for _ in trained]
    if not trainer.spec.evaluate.test:
        return FinalAnswers(None, None, nothing)
    last = trainer.test()
    flat = torch.stack([_flat(trainer, m.best_state) for m in trained]).to(trainer.device)
    best = last if torch.equal(flat, trainer.evaluated) else trainer.test(flat)
    return FinalAnswers(last, best, nothing)


def outcomes(trainer: Trainer, trained: list[Trained]) -> list[TrialOutcome]:
    """The outcomes of a stack."""
    answers = final_answers(trainer, trained)
    out = []
    for e, member in enumerate(trained):
        answer = answers.last[e] if answers.last else None
        if member.diverged_at is None and answer is not None and not answer.finite:
            member.diverged_at = trainer.train.steps
        if member.diverged_at is not None:
            reason = f"loss or logits not finite at step {member.diverged_at}"
            out.append(TrialOutcome(_result(trainer, e, member, None, None), "diverged", reason))
            continue
        best_answer = answers.best[e] if answers.best and member.best_val >= 0 else answer
        files = {WEIGHTS: pack(member.state)}
        if answer is not None:
            files[PREDICTIONS] = predictions(answer, trainer, e)
        out.append(
            TrialOutcome(_result(trainer, e, member, answer, best_answer, answers.measured[e]), "ok", files=files)
        )
    return out


def _flat(trainer: Trainer, state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([state[name].reshape(-1) for name in trainer.stack.shapes])


def _result(
    trainer: Trainer,
    e: int,
    member: Trained,
    answer: Evaluation | None,
    best: Evaluation | None,
    measured: Mapping[str, float] | None = None,
) -> Result:
    """The deterministic part of one member's record; `measured` are the numbers of its objective."""
    job, spec = trainer.jobs[e], trainer.jobs[e].spec
    steps = spec.train.steps or 0
    num_images = steps * spec.train.batch_size
    ok = member.diverged_at is None
    last_point = member.curve[-1] if member.curve and ok else None
    labelling = trainer.labellings[e]
    networks = {role: network.spec for role, network in job.networks.items()}
    metrics = dict(measured or {}) | (labelling.metrics if labelling else {})
    if ok and trainer.used[e].train.size:
        module = build(spec.model, spec.train.objective)
        probed = member.state if spec.evaluate.features == "trained" else initial_state(job, trainer.images)
        module.load_state_dict(probed)
        module.to(trainer.device)
        metrics |= probes(module, trainer.images, member.members, spec.evaluate, job.seed)
    return Result(
        test_top1_percent=answer.top1_percent if answer else None,
        test_top1_best_val_percent=best.top1_percent if best else None,
        val_top1_percent=last_point.val_top1_percent if last_point else None,
        test_loss=answer.loss if answer else None,
        metrics=metrics,
        curve=tuple(member.curve),
        num_params=costs.num_params(spec.model, spec.train.objective),
        forward_flops=costs.forward_flops(spec.model, spec.train.objective),
        train_flops=costs.trial_flops(spec, networks, len(labelling.pool) if labelling else 0),
        num_images=num_images,
        num_steps=steps,
        num_train_images=len(member.members.train),
        num_test_images=len(member.members.test),
        predictions_sha256=predictions_sha256(answer.predicted) if answer else None,
        weights_sha256=weights_sha256(member.state) if ok else None,
    )


def predictions(answer: Evaluation, trainer: Trainer, e: int) -> bytes:
    """An .npz of the test images' indices, labels, predicted classes and confidences (no pickles)."""
    used = trainer.used[e]
    small = np.uint8 if len(used.classes) <= 256 else np.uint16
    labels = np.searchsorted(used.classes, trainer.images.test_labels[used.test])
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        index=used.test.astype(np.uint32),
        label=labels.astype(small),
        predicted=answer.predicted.astype(small),
        confidence=answer.confidence.astype(np.float16),
    )
    return buffer.getvalue()
