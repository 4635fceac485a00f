"""The contract of a mechanism: what every one must keep, from plan to export. Each check returns its complaints.

The mechanism stands in a tiny ViT on fake images, beside the same ViT without it; nothing is written to disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

import torch

from vitbench.base.errors import InputError
from vitbench.data import DataOptions
from vitbench.inspection.catalogue import ANALYSES
from vitbench.inspection.export import architecture, timm_state
from vitbench.inspection.network import Subject
from vitbench.inspection.results import Shown
from vitbench.inspection.specimen import (
    NUM_STEPS,
    Specimen,
    case_of,
    inputs,
    networks_of,
    noisy_module,
    spec_with,
    trained,
    trainer_of,
)
from vitbench.model import costs
from vitbench.model.build import build
from vitbench.model.objective import is_task_name, objective_of
from vitbench.model.parameters import parameters
from vitbench.model.sizes import known, pixel_grid, total_stride
from vitbench.plan.arm_diff import spec_difference
from vitbench.plan.trial_id import trial_id
from vitbench.spec.mechanism import MechanismError, canonical, mechanism
from vitbench.spec.trial import TrialSpec
from vitbench.train.checkpoint import Checkpoints
from vitbench.train.loop import TrainingState
from vitbench.train.resident import load_images

STACKED_ATOL = 3e-4
"""A tenth of one step of the optimizer, as a root mean square over weights: sums in another order round otherwise, and
AdamW turns the sign of a rounding error into a whole step of a few weights."""
LOOKS = ("positions", "distance")


def check_mechanism(kind: str, text: str) -> list[str]:
    """Everything that the mechanism does not keep, one line each; empty if it keeps the contract.

    Raises InputError if there is no such mechanism, or if no tiny ViT can hold it.
    """
    try:
        case = case_of(kind, canonical(kind, text))
    except MechanismError as error:
        raise InputError(f"{kind}: {error}") from error
    complaints = [line for check in (_state, _decay) for line in check(case)]
    if complaints:  # The other checks need a module whose state is the listed one.
        return complaints
    return [line for check in CHECKS for line in _guarded(check, case)]


def _guarded(check: Callable[[Specimen], Iterator[str]], case: Specimen) -> list[str]:
    """The complaints of one check; an exception is one."""
    try:
        return list(check(case))
    except Exception as error:
        reason = f"{error}".splitlines()[0] if f"{error}" else "no message"
        return [f"{check.__name__.strip('_').replace('_', ' ')}: {type(error).__name__}: {reason}"]


def _state(case: Specimen) -> Iterator[str]:
    """The listed tensors are the module's, each name once."""
    listed = parameters(case.spec.model, case.spec.train.objective)
    names = [tensor.name for tensor in listed]
    yield from (f"state: two tensors are called {name}" for name in sorted({n for n in names if names.count(n) > 1}))
    module = build(case.spec.model, case.spec.train.objective)
    held = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for tensor in listed:
        if held.get(tensor.name) != tensor.shape:
            yield f"state: {tensor.name} is listed as {tensor.shape}; the module has {held.get(tensor.name, 'none')}"
    for tensor in listed:
        if tensor.role == "task" and not is_task_name(tensor.name):
            yield f"state: {tensor.name} is a task's tensor, and no objective's `task_names` begin its name"
    yield from (f"state: {name} is in the module and not listed" for name in held.keys() - set(names))
    trained = {tensor.name for tensor in listed if tensor.trained}
    for name in trained ^ {name for name, _ in module.named_parameters()}:
        yield f"state: {name} is trained in the module or in the list, but not in both"


def _decay(case: Specimen) -> Iterator[str]:
    """Every trained tensor of two or more dimensions says whether weight decay applies to it."""
    for tensor in parameters(case.spec.model, case.spec.train.objective):
        if tensor.trained and len(tensor.shape) > 1 and tensor.decay is None:
            yield f"decay: {tensor.name} does not say whether weight decay applies (decay=True or False)"


def _identity(case: Specimen) -> Iterator[str]:
    """The id is another than the baseline's."""
    if case.spec != case.baseline and _id(case.spec) == _id(case.baseline):
        yield "identity: the trial id is the baseline's"


def _id(spec: TrialSpec) -> str:
    return trial_id(spec, 0, "fake", None)


def _difference(case: Specimen) -> Iterator[str]:
    """`plan --diff` names tensors of the mechanism and of no other part."""
    allowed = type(mechanism(case.kind, case.text)).changes | {case.kind}
    for line in spec_difference("single", case.baseline, case.spec):
        if line.kind == "tensor" and line.part not in allowed:
            yield f"difference: {line.key} differs from the baseline's, which is a tensor of the {line.part}"


def _costs(case: Specimen) -> Iterator[str]:
    """Parameters and FLOPs are those that torch counts."""
    from torch.utils.flop_counter import FlopCounterMode

    model, objective = case.spec.model, case.spec.train.objective
    module = noisy_module(case.spec)
    counted = sum(parameter.numel() for parameter in module.parameters())
    if counted != (said := costs.num_params(model, objective)):
        yield f"costs: {said} parameters are listed; torch counts {counted}"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs(case.spec, 1))
    flops = costs.forward_flops(model, objective) + costs.hidden_flops(model)
    if counter.get_total_flops() != flops:
        yield f"costs: {flops} FLOPs are listed for one image; torch counts {counter.get_total_flops()}"


def _step_costs(case: Specimen) -> Iterator[str]:
    """The forward passes of all networks in one training step of one image are those that torch counts."""
    from torch.utils.flop_counter import FlopCounterMode

    spec = case.spec.model_copy(update={"train": case.spec.train.model_copy(update={"batch_size": 1})})
    trainer = trainer_of(spec, (0,))
    networks, hidden = costs.network_flops(networks_of(spec)), costs.hidden_flops(spec.model)
    passes = costs.pass_flops(spec.model, spec.train.objective, networks)
    forward = sum(flops + each.num_views * hidden * (each.role not in networks) for each, flops in passes)
    (batches, pixels, draws), *_ = trainer.feed.raw(0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trainer._losses({"pixels": pixels, "draws": draws, **trainer._drawn(batches), **trainer.networks.scheduled(0)})
    trainer.feed.close()
    counted = counter.get_total_flops()
    if counted != forward:
        yield f"costs: {forward} FLOPs are listed for one step's forward passes; torch counts {counted}"


def _training(case: Specimen) -> Iterator[str]:
    """Three steps are finite and move weights; a stack of two seeds ends where each of them ends alone."""
    alone = [trained(case.spec, (seed,)) for seed in (0, 1)]
    if any(bool((trainer.bad_step >= 0).any()) for trainer in alone):
        yield "training: the loss is not finite within three steps"
        return
    stack = trained(case.spec, (0, 1))
    for seed, trainer in enumerate(alone):
        distance = float((stack.stack.flat[seed] - trainer.stack.flat[0]).square().mean().sqrt())
        if distance > STACKED_ATOL:
            yield f"training: in a stack, seed {seed} ends {distance:.2g} away from where it ends alone"


def _resuming(case: Specimen) -> Iterator[str]:
    """A training that goes on from a checkpoint ends bit for bit where an unbroken one ends."""
    from pathlib import Path

    whole, broken = trained(case.spec, (0,)), trainer_of(case.spec, (0,))
    broken.step(0)
    training = TrainingState(broken, [None])
    training.step = 1
    snapshot = training.snapshot(0, Checkpoints(Path(), "trial", {}))
    resumed = trainer_of(case.spec, (0,))
    TrainingState(resumed, [snapshot])
    for step in range(1, NUM_STEPS):
        resumed.step(step)
    broken.feed.close()
    resumed.feed.close()
    if not torch.equal(resumed.stack.flat, whole.stack.flat):
        yield "resuming: after a resume the weights are not those of an unbroken run; some state is in no checkpoint"


def _fields(case: Specimen) -> Iterator[str]:
    """Every field of the mechanism changes its tensors, its answers or its loss."""
    chosen = mechanism(case.kind, case.text)
    for name in type(chosen).model_fields:
        others = [other for value in _other_values(chosen, name) if (other := _variant(case, name, value)) is not None]
        others = [other for other in others if other != case.spec]  # An idle field is not part of the id.
        if others and not any(_differs(case.spec, other) for other in others):
            yield f"fields: {name} changes neither tensors nor answers, yet it is part of the id"


def _other_values(chosen: Any, name: str) -> list[Any]:
    """Values of a field other than its own, by its type."""
    value, annotation = getattr(chosen, name), type(chosen).model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return [option for option in get_args(annotation) if option != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 2, value + 1, value - 1]
    return [value * 1.5, value / 2] if isinstance(value, float) else []


def _variant(case: Specimen, name: str, value: Any) -> TrialSpec | None:
    """The spec with another value of one field; None if that is not allowed."""
    fields = {**mechanism(case.kind, case.text).model_dump(mode="json"), name: value}
    try:
        text = canonical(case.kind, {"name": mechanism(case.kind, case.text).name, **fields})
        pool = case.spec.model.global_pool if case.kind != "readout" else "token"
        return spec_with(case.kind, text, pool, case.patch_size)
    except InputError:
        return None


def _differs(a: TrialSpec, b: TrialSpec) -> bool:
    """True if two specs differ in their tensors, in their answers, or after three steps in their weights or numbers."""
    tensors = [[(t.name, t.shape, t.init) for t in parameters(s.model, s.train.objective)] for s in (a, b)]
    if tensors[0] != tensors[1]:
        return True
    with torch.no_grad():
        answers = [noisy_module(spec)(*inputs(spec, 4)) for spec in (a, b)]
    if not torch.allclose(answers[0], answers[1]):
        return True
    trainers = [trained(spec, (0,)) for spec in (a, b)]
    if not torch.equal(trainers[0].evaluated, trainers[1].evaluated):
        return True
    return trainers[0].measures() != trainers[1].measures()


def _exporting(case: Specimen) -> Iterator[str]:
    """timm holds the model with equal answers, or the export is refused in one line."""
    try:
        chosen = architecture(case.spec.model, case.spec.train.objective)
    except InputError as error:
        yield from _one_line("exporting", error)
        return
    try:
        import timm
    except ImportError:
        return
    module = noisy_module(case.spec)
    predicts = objective_of(case.spec.train.objective).predicts_classes
    classes = known(case.spec.model.num_classes) if predicts else 0
    theirs = timm.create_model(chosen.name, pretrained=False, num_classes=classes, **chosen.model_args).eval()
    try:
        theirs.load_state_dict(timm_state(case.spec, module.state_dict()))
    except RuntimeError as error:
        yield f"exporting: timm's {chosen.name} does not take the weights: {' '.join(str(error).split())[:160]}"
        return
    images = inputs(case.spec, 2)[0]
    with torch.no_grad():
        if predicts and not torch.allclose(module(images), theirs(images), rtol=1e-4, atol=1e-4):
            yield f"exporting: timm's {chosen.name} gives other logits"


def _inspecting(case: Specimen) -> Iterator[str]:
    """The analyses of positions and of attention find something, or are refused in one line."""
    images = load_images(case.spec.data, DataOptions(), torch.device("cpu"))
    module = noisy_module(case.spec)
    size = pixel_grid(case.spec.model).rows
    subject = Subject(
        name="tiny", module=module, untrained=None, img_size=size, in_chans=known(case.spec.model.in_chans),
        patch_px=total_stride(case.spec.model), mean=images.mean, std=images.std, resizes=False,
        data=case.spec.data.name, spec=case.spec,
    )  # fmt: skip
    for name in LOOKS:
        try:
            ANALYSES[name].look(subject, Shown(subject, None, 4, DataOptions()))
        except InputError as error:
            yield from _one_line(f"inspecting {name}", error)


def _one_line(check: str, error: InputError) -> Iterator[str]:
    if "\n" in str(error):
        yield f"{check}: refused in {len(str(error).splitlines())} lines instead of one"


CHECKS: tuple[Callable[[Specimen], Iterator[str]], ...] = (
    _identity, _difference, _costs, _step_costs, _training, _resuming, _fields, _exporting, _inspecting,
)  # fmt: skip


def planning_loads_torch(code: tuple[str, ...] = ()) -> bool:
    """True if finding all mechanisms, and the user's `code`, imports torch: `plan` must not need it."""
    script = (
        "import sys, json; from vitbench.spec.mechanism import load_code; "
        "load_code(json.loads(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    return subprocess.run([sys.executable, "-c", script, json.dumps(list(code))], check=False).returncode != 0
