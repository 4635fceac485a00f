"""One attempt at a stack of trials, from loading the images to the committed records."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch

from vitbench.base.contained import exists
from vitbench.base.durable import replace_durably, require_space
from vitbench.base.errors import InputError, ResultsError, VitbenchError
from vitbench.engines.environment import checkout, device_name, peak_memory_mib, versions
from vitbench.engines.options import Emit, Options, why_not_halve
from vitbench.engines.training_setup import images_of, trainer_of
from vitbench.engines.trial_result import PREDICTIONS, WEIGHTS, TrialOutcome, outcomes
from vitbench.model import costs
from vitbench.model.objective import objective_of
from vitbench.model.sizes import known
from vitbench.model.weights.start import find, start_sha256, tensors_by_name, without_task
from vitbench.model.weights.timm_names import in_our_names
from vitbench.plan.trial_id import trial_id
from vitbench.plan.trials import Trial
from vitbench.spec.experiment import START
from vitbench.spec.trial import TrialSpec
from vitbench.store.bounds import MAX_NAME, MAX_TEXT
from vitbench.store.events import Progress, Started, Warned
from vitbench.store.record import Record, Result, Run
from vitbench.store.trials import Store
from vitbench.train import process_group
from vitbench.train.checkpoint import NUM_KEPT, PROCESSES, Checkpoints, Snapshot, read_weights
from vitbench.train.loop import Saves, train_stack
from vitbench.train.networks import Network
from vitbench.train.streamed import lost_loader
from vitbench.train.trainer import Job

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)
ALLOCATORS = ("DefaultCPUAllocator", "can't allocate memory", "out of memory")
"""Words in the plain RuntimeErrors that torch raises when memory runs out."""


def execute_locked(trial: Trial, options: Options, emit: Emit) -> bool:
    """Run one trial under its kernel lock; True if it has a record afterwards.

    False if another process holds the lock, or if a stage that the trial needs has no record yet.
    """
    store = Store(options.root)
    if any(store.read(parent) is None for parent in trial.parents.values()):
        return False
    with store.lock(trial.trial_id) as held:
        if not held:
            return False
        if store.read(trial.trial_id) is None:
            execute([trial], options, emit)
        return True


def execute(trials: Sequence[Trial], options: Options, emit: Emit) -> None:
    """Train a stack from its checkpoints, if there are any, and commit a record for each of its trials.

    An exception in the training becomes a `failed` record. Raises MemoryError if memory runs out or a process is lost,
    because that says nothing about the trial. A single trial with `options.oom` "halve" first tries smaller
    micro-batches.
    """
    micro_batches = None
    while True:
        try:
            return _execute(trials, options, emit, micro_batches)
        except OUT_OF_MEMORY as error:
            micro_batches = _more_micro_batches(trials, options, micro_batches)
            if micro_batches is None:
                raise
            why = str(error)
        free_memory()  # Not inside `except`: there the traceback still refers to the tensors.
        emit(Warned(f"out of memory on trial {trials[0].trial_id} ({why}); again in {micro_batches} micro-batches"))


def _more_micro_batches(trials: Sequence[Trial], options: Options, now: int | None) -> int | None:
    """Twice as many micro-batches as now; None if the options do not allow it or if it would change the result."""
    train = trials[0].spec.train
    doubled = 2 * (now or train.grad_accum)
    alone = len(trials) == 1  # The engine splits a stack.
    allowed = options.oom == "halve" and alone and doubled <= train.batch_size and why_not_halve(trials[0].spec) is None
    return doubled if allowed else None


def free_memory() -> None:
    """Release memory that nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _execute(trials: Sequence[Trial], options: Options, emit: Emit, micro_batches: int | None) -> None:
    """As `execute`; members with checkpoints at different steps train in groups of equal step."""
    groups: dict[int, list[_Member]] = {}
    for trial in trials:
        place = _checkpoints(trial, options)
        start, skipped = place.latest()
        for why in skipped:
            resumption = f"going on from step {start.standing.step}" if start else "starting anew"
            emit(Warned(f"trial {trial.trial_id}: checkpoint {why}; {resumption}"))
        if start and (before := start.standing.made_by.get(PROCESSES, "1")) != str(options.processes):
            change = f"from {before} to {options.processes} processes"
            emit(Warned(f"trial {trial.trial_id}: {change} at step {start.standing.step}; equal to rounding from here"))
        groups.setdefault(start.standing.step if start else 0, []).append(_Member(trial, place, start))
    for members in groups.values():
        _attempt(members, options, emit, micro_batches)


@dataclass(frozen=True)
class _Member:
    """A trial of a stack, the folder of its checkpoints, and the checkpoint that it resumes from."""

    trial: Trial
    place: Checkpoints
    start: Snapshot | None


def _checkpoints(trial: Trial, options: Options) -> Checkpoints:
    """The checkpoints of a trial. Those of another torch, device or thread count are not used: bits may differ."""
    device = device_name(options.device) if options.device == "cpu" else options.device.partition(":")[0]
    made_by = {"torch": torch.__version__, "device": device, "threads": str(options.threads)}
    made_by[PROCESSES] = str(options.processes)
    return Checkpoints(Store(options.root).weights(trial.trial_id).parent, trial.trial_id, made_by)


def _attempt(members: Sequence[_Member], options: Options, emit: Emit, micro_batches: int | None) -> None:
    """Train members that are at the same step, and commit their records."""
    store, trials = Store(options.root), [member.trial for member in members]
    attempts = [store.begin_attempt(trial.trial_id) for trial in trials]
    started = datetime.now(UTC)
    for trial in trials:
        emit(started_event(trial))
    try:
        outcomes = _orphans(trials, store) or _train(members, options, emit, micro_batches)
    except VitbenchError:
        raise
    except Exception as error:  # An error in one trial becomes its record, and the run continues.
        if isinstance(error, OUT_OF_MEMORY) or _says_out_of_memory(error):
            raise MemoryError(f"{error}".splitlines()[0] if f"{error}" else type(error).__name__) from error
        if lost_loader(error):
            raise MemoryError(f"an image-loading process was lost: {error}") from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:MAX_TEXT]
        outcomes = [TrialOutcome(Result(), "failed", reason)] * len(trials)
    for member, outcome, attempt in zip(members, outcomes, attempts, strict=True):
        trial = member.trial
        record = Record(
            trial_id=trial.trial_id,
            status=outcome.status,
            reason=outcome.reason,
            seed=trial.seed,
            parent=trial.parent,
            networks={role: parent for role, parent in trial.parents.items() if role != START} or None,
            data_fingerprint=trial.data_fingerprint,
            spec=trial.spec.model_dump(mode="json", exclude_defaults=True),
            result=outcome.result,
            run=_run(outcome, int(attempt.name), options, started),
        )
        keeps = options.keep == "all" or trial.role == "stage" or (options.keep == "final" and trial.role != "tuning")
        store.commit(record, attempt, {n: c for n, c in outcome.files.items() if keeps or n == PREDICTIONS})
        member.place.clear()


def _says_out_of_memory(error: Exception) -> bool:
    """True for the plain RuntimeError that torch raises when memory runs out."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATORS)


def _run(outcome: TrialOutcome, attempt: int, options: Options, started: datetime) -> Run:
    """The part of a record that differs between machines."""
    seconds = outcome.train_seconds
    commit, dirty = checkout()
    return Run(
        train_seconds=round(seconds, 3),
        eval_seconds=round(outcome.eval_seconds, 3),
        images_per_second=round(outcome.result.num_images / seconds, 1) if seconds else 0.0,
        peak_memory_mib=peak_memory_mib(torch.device(options.device)),
        attempt=attempt,
        device=device_name(options.device),
        engine=options.engine,
        threads=options.threads,
        micro_batches=outcome.micro_batches,
        processes=options.processes if options.processes > 1 else None,
        resumed_at_step=outcome.resumed_at_step,
        host=socket.gethostname()[:MAX_NAME],
        commit=commit,
        dirty=dirty,
        versions=versions(),
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def started_event(trial: Trial) -> Started:
    """The event that announces a trial."""
    setting, num_steps = dict(trial.setting), known(trial.spec.train.steps)
    return Started(trial.trial_id, trial.arm, setting, trial.seed, trial.role, num_steps, trial.train_flops)


def _train(members: Sequence[_Member], options: Options, emit: Emit, micro_batches: int | None) -> list[TrialOutcome]:
    """Train a stack; results, status, files and seconds of its members."""
    trials = [member.trial for member in members]
    spec = trials[0].spec
    require_space(members[0].place.folder.parent, (NUM_KEPT + 1) * len(trials) * _checkpoint_bytes(spec))
    images = images_of(trials[0], options)
    jobs = [
        Job(_in_micro_batches(t.spec, micro_batches), t.seed, _start(t, options, emit), _networks(t, options, emit))
        for t in trials
    ]
    num_steps, group = known(spec.train.steps), process_group.current()
    if isinstance(group, process_group.JoinedGroup):
        group.announce(trials[0])
        group.object_from_first(dict(jobs[0].networks))
    trainer = trainer_of(jobs, trials[0], images, options)  # After `_start`, which may train a stage.

    def tick(step: int, speed: float, loss: float | None) -> None:
        for trial in trials:
            emit(Progress(trial.trial_id, step, num_steps, speed, loss))

    saves = Saves([m.place for m in members], [m.start for m in members], options.checkpoint_seconds)
    trained = train_stack(trainer, tick, saves)
    began = time.monotonic()
    out = outcomes(trainer, trained)
    seconds = (time.monotonic() - began) / len(trials)
    start = members[0].start
    return [
        replace(
            outcome,
            train_seconds=member.seconds,
            eval_seconds=seconds,
            micro_batches=micro_batches,
            resumed_at_step=start.standing.step if start else None,
        )
        for outcome, member in zip(out, trained, strict=True)
    ]


def _checkpoint_bytes(spec: TrialSpec) -> int:
    """Bytes of the weights, the best weights, up to two moments and the moving averages, in fp32."""
    averages = spec.train.model_ema + len(objective_of(spec.train.objective).averaged_roles)
    return 4 * (4 + averages) * costs.num_params(spec.model, spec.train.objective)


def _in_micro_batches(spec: TrialSpec, micro_batches: int | None) -> TrialSpec:
    if micro_batches is None:
        return spec
    return spec.model_copy(update={"train": spec.train.model_copy(update={"grad_accum": micro_batches})})


def _start(trial: Trial, options: Options, emit: Emit) -> dict[str, torch.Tensor] | None:
    """The weights that a trial starts from: those of its first stage or of `init_from`, or None.

    Raises ResultsError if the stage has no weights, InputError if the file changed after planning.
    """
    if trial.parent is not None:
        weights = _stage_weights(trial, trial.parent, options, emit)
        return weights if trial.spec.train.continues else without_task(weights, _spec_of(trial.parent, options))
    start = trial.spec.model.init_from
    if start is None:
        return None
    identity = trial_id(trial.spec, trial.seed, trial.data_fingerprint, trial.parents, start_sha256(trial.spec))
    if identity != trial.trial_id:
        raise InputError(f"model.init_from: {start} changed after planning; run the same command again")
    names = tensors_by_name(trial.spec.model, trial.spec.train.objective)
    return in_our_names(read_weights(find(start)), trial.spec.model, names)


def _spec_of(identity: str, options: Options) -> TrialSpec:
    """The spec of a committed trial."""
    record = Store(options.root).read(identity)
    assert record is not None
    return record.trial_spec


def _networks(trial: Trial, options: Options, emit: Emit) -> dict[str, Network]:
    """The networks of other stages that a trial's objective reads, by role."""
    return {
        role: Network(spec, _stage_weights(trial, trial.parents[role], options, emit))
        for role, spec in trial.networks.items()
    }


def _stage_weights(child: Trial, identity: str, options: Options, emit: Emit) -> dict[str, torch.Tensor]:
    """The final weights of a stage that `child` needs. Raises ResultsError, InputError."""
    path = Store(options.root).weights(identity)
    if not exists(path):
        _regrow(child, identity, options, emit)
    return read_weights(path)


def _regrow(child: Trial, identity: str, options: Options, emit: Emit) -> None:
    """Retrain a stage that `child` needs, because its weights were not kept.

    This happens if another experiment ran the stage first, as a tuning trial, or if the records are a copy. The stage
    keeps its record. On another kind of machine the weights may differ from the record's, which is said. Raises
    ResultsError if they differ on the same kind.
    """
    store = Store(options.root)
    emit(Warned(f"trial {child.trial_id} needs {identity}, whose weights were not kept; retraining it"))
    trial, record = _recorded(store, identity)
    place = _checkpoints(trial, options)
    (retrained,) = _train([_Member(trial, place, place.latest()[0])], options, lambda event: None, None)
    if retrained.result.weights_sha256 != record.result.weights_sha256:
        if _made_here(record, options):
            raise ResultsError(
                f"trial {child.trial_id} needs {identity}, whose weights were not kept; retraining it gave "
                f"different weights than its record. Move {store.folder(identity)} aside and rerun the command"
            )
        emit(Warned(f"stage {identity} was made on {record.run.device}; trained here, its weights differ in bits"))
    replace_durably(store.weights(identity), retrained.files[WEIGHTS])
    place.clear()


def _made_here(record: Record, options: Options) -> bool:
    """Whether a record is of this kind of machine, so that its bits can be made again."""
    run, ours = record.run, device_name(options.device).partition(" ")[2]
    same_torch = run.versions.get("torch") == versions().get("torch")
    return same_torch and run.device.partition(" ")[2] == ours and run.threads == options.threads


def _recorded(store: Store, identity: str) -> tuple[Trial, Record]:
    """The trial of a committed record, without its names, and the record."""
    record = store.read(identity)
    assert record is not None
    networks = {role: _recorded(store, parent)[0].spec for role, parent in (record.networks or {}).items()}
    trial = Trial(
        trial_id=identity, arm="", levels={}, setting={}, seed=record.seed, role="stage",
        spec=record.trial_spec, data_fingerprint=record.data_fingerprint,
        parents=record.parents, networks=networks,
    )  # fmt: skip
    return trial, record


def _orphans(trials: Sequence[Trial], store: Store) -> list[TrialOutcome] | None:
    """Outcomes of trials of which an earlier stage failed; None if every stage is there."""
    parents = [store.read(parent) for trial in trials for parent in trial.parents.values()]
    failed = next((record for record in parents if record is not None and record.status != "ok"), None)
    if failed is None:
        return None
    reason = f"stage {failed.trial_id} {failed.status}: {failed.reason}"[:MAX_TEXT]
    return [TrialOutcome(Result(), failed.status, reason)] * len(trials)
