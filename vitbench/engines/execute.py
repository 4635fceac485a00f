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
from vitbench.engines.trial_result import PREDICTIONS, WEIGHTS, TrialOutcome, outcomes
from vitbench.model import costs
from vitbench.model.objective import objective_of
from vitbench.model.sizes import known
from vitbench.model.weights.start import find, start_sha256
from vitbench.plan.trial_id import trial_id
from vitbench.plan.trials import Trial
from vitbench.spec.experiment import START
from vitbench.spec.trial import TrialSpec
from vitbench.store.bounds import MAX_NAME, MAX_TEXT
from vitbench.store.events import Progress, Started, Warned
from vitbench.store.record import Record, Result, Run
from vitbench.store.trials import Store
from vitbench.train.checkpoint import NUM_KEPT, Checkpoints, Snapshot, read_weights
from vitbench.train.loop import Saves, train_stack
from vitbench.train.networks import Network
from vitbench.train.resident import open_source
from vitbench.train.step_program import program_of
from vitbench.train.streamed import lost_loader
from vitbench.train.trainer import Job, Trainer

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)
ALLOCATORS = ("DefaultCPUAllocator", "can't allocate memory", "out of memory")
"""What torch's other errors for want of memory say; these are RuntimeErrors."""


def execute_locked(trial: Trial, options: Options, emit: Emit) -> bool:
    """Run one trial under its kernel lock; True also where it was done before.

    False where another process holds it, or where a stage that it needs has no record yet.
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
    """Train a stack, from its checkpoints where it has some, and commit a record for each of its trials.

    An exception of ours becomes a `failed` record. Raises MemoryError where memory ran out (or a process was lost), as
    that is no outcome of a trial; one trial with `options.oom` "halve" is tried with smaller micro-batches first.
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
        free_memory()  # Only here, where no traceback holds on to the tensors.
        emit(Warned(f"out of memory on trial {trials[0].trial_id} ({why}); again in {micro_batches} micro-batches"))


def _more_micro_batches(trials: Sequence[Trial], options: Options, now: int | None) -> int | None:
    """Twice as many micro-batches as now; None where that was not asked for or changes what is computed."""
    train = trials[0].spec.train
    more = 2 * (now or train.grad_accum)
    alone = len(trials) == 1  # A stack is split by its engine.
    may = options.oom == "halve" and alone and more <= train.batch_size and why_not_halve(trials[0].spec) is None
    return more if may else None


def free_memory() -> None:
    """Release memory that nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _execute(trials: Sequence[Trial], options: Options, emit: Emit, micro_batches: int | None) -> None:
    """As `execute`; members whose checkpoints are at different steps are trained in groups of equal step."""
    groups: dict[int, list[_Member]] = {}
    for trial in trials:
        place = _checkpoints(trial, options)
        start, passed_over = place.latest()
        for why in passed_over:
            since = f"going on from step {start.standing.step}" if start else "starting anew"
            emit(Warned(f"trial {trial.trial_id}: checkpoint {why}; {since}"))
        groups.setdefault(start.standing.step if start else 0, []).append(_Member(trial, place, start))
    for members in groups.values():
        _attempt(members, options, emit, micro_batches)


@dataclass(frozen=True)
class _Member:
    """A trial of a stack, where its checkpoints lie, and the checkpoint that it resumes from."""

    trial: Trial
    place: Checkpoints
    start: Snapshot | None


def _checkpoints(trial: Trial, options: Options) -> Checkpoints:
    """Bit-equality is promised for the same versions, device and threads: a checkpoint of others is not used."""
    made_by = {"torch": torch.__version__, "device": options.device.partition(":")[0], "threads": str(options.threads)}
    return Checkpoints(Store(options.root).weights(trial.trial_id).parent, trial.trial_id, made_by)


def _attempt(members: Sequence[_Member], options: Options, emit: Emit, micro_batches: int | None) -> None:
    """Train members that stand at one step, and commit their records."""
    store, trials = Store(options.root), [member.trial for member in members]
    attempts = [store.begin_attempt(trial.trial_id) for trial in trials]
    started = datetime.now(UTC)
    for trial in trials:
        emit(started_event(trial))
    try:
        outcomes = _orphans(trials, store) or _train(members, options, emit, micro_batches)
    except VitbenchError:
        raise
    except Exception as error:  # any fault of ours is a record, and the sweep goes on
        if isinstance(error, OUT_OF_MEMORY) or _says_out_of_memory(error):
            raise MemoryError(f"{error}".splitlines()[0] if f"{error}" else type(error).__name__) from error
        if lost_loader(error):
            raise MemoryError(f"a process that reads images was lost: {error}") from error
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
    """Is it torch's plain RuntimeError for want of memory?"""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATORS)


def _run(outcome: TrialOutcome, attempt: int, options: Options, started: datetime) -> Run:
    """The part of a record that differs from machine to machine."""
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
        resumed_at_step=outcome.resumed_at_step,
        host=socket.gethostname()[:MAX_NAME],
        commit=commit,
        dirty=dirty,
        versions=versions(),
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def started_event(trial: Trial) -> Started:
    """The event of a trial that begins."""
    setting, num_steps = dict(trial.setting), known(trial.spec.train.steps)
    return Started(trial.trial_id, trial.arm, setting, trial.seed, trial.role, num_steps, trial.train_flops)


def _train(members: Sequence[_Member], options: Options, emit: Emit, micro_batches: int | None) -> list[TrialOutcome]:
    """Results, status, files and seconds of a stack."""
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    trials = [member.trial for member in members]
    spec = trials[0].spec
    require_space(members[0].place.folder.parent, (NUM_KEPT + 1) * len(trials) * _checkpoint_bytes(spec))
    images = open_source(spec, options.data, device)
    if images.fingerprint != trials[0].data_fingerprint:
        raise InputError(f"{spec.data.name}: changed since it was planned; give the same command again")
    jobs = [
        Job(_in_micro_batches(t.spec, micro_batches), t.seed, _start(t, options, emit), _networks(t, options, emit))
        for t in trials
    ]
    set_precision(spec.train.precision)  # Not before the stage that the trial starts from may have been trained.
    num_steps = known(spec.train.steps)
    flops = len(trials) * trials[0].train_flops
    program = program_of(options.program, options.device, flops, spec)
    trainer = Trainer(jobs, images, device, program, options.recompute)

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
    """Weights, the best weights, up to two moments and the moving averages, in fp32."""
    averages = spec.train.model_ema + len(objective_of(spec.train.objective).averaged_roles)
    return 4 * (4 + averages) * costs.num_params(spec.model, spec.train.objective)


def _in_micro_batches(spec: TrialSpec, micro_batches: int | None) -> TrialSpec:
    if micro_batches is None:
        return spec
    return spec.model_copy(update={"train": spec.train.model_copy(update={"grad_accum": micro_batches})})


def _start(trial: Trial, options: Options, emit: Emit) -> dict[str, torch.Tensor] | None:
    """The weights that a trial starts from: its first stage's, those of `init_from`, or None.

    Raises ResultsError if the stage has no weights, InputError where the file is not the one that was planned.
    """
    if trial.parent is not None:
        return _stage_weights(trial, trial.parent, options, emit)
    start = trial.spec.model.init_from
    if start is None:
        return None
    if (
        trial_id(trial.spec, trial.seed, trial.data_fingerprint, trial.parents, start_sha256(trial.spec))
        != trial.trial_id
    ):
        raise InputError(f"model.init_from: {start} has changed since it was planned; give the same command again")
    return read_weights(find(start))


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
    """Train a stage that `child` needs again, since its weights were not kept.

    Another experiment, in which it is a tuning trial, may have run it first. Its record stays. Raises ResultsError if
    other weights come out.
    """
    store = Store(options.root)
    emit(Warned(f"trial {child.trial_id} needs {identity}, whose weights were not kept: training it again"))
    trial, record = _recorded(store, identity)
    place = _checkpoints(trial, options)
    (again,) = _train([_Member(trial, place, place.latest()[0])], options, lambda event: None, None)
    if again.result.weights_sha256 != record.result.weights_sha256:
        raise ResultsError(
            f"trial {child.trial_id} needs {identity}, whose weights were not kept; retraining it gave "
            f"different weights than its record. Move {store.folder(identity)} aside and rerun the command"
        )
    replace_durably(store.weights(identity), again.files[WEIGHTS])
    place.clear()


def _recorded(store: Store, identity: str) -> tuple[Trial, Record]:
    """The trial of a committed record, without its names, and the record."""
    record = store.read(identity)
    assert record is not None
    networks = {role: _recorded(store, parent)[0].spec for role, parent in (record.networks or {}).items()}
    trial = Trial(
        trial_id=identity, arm="", levels={}, setting={}, seed=record.seed, role="stage",
        spec=TrialSpec.model_validate(record.spec), data_fingerprint=record.data_fingerprint,
        parents=record.parents, networks=networks,
    )  # fmt: skip
    return trial, record


def _orphans(trials: Sequence[Trial], store: Store) -> list[TrialOutcome] | None:
    """Outcomes of trials of which an earlier stage failed; None if every stage is there."""
    parents = [store.read(parent) for trial in trials for parent in trial.parents.values()]
    lost = next((record for record in parents if record is not None and record.status != "ok"), None)
    if lost is None:
        return None
    reason = f"stage {lost.trial_id} {lost.status}: {lost.reason}"[:MAX_TEXT]
    return [TrialOutcome(Result(), lost.status, reason)] * len(trials)


def set_precision(precision: str) -> None:
    """fp32 means fp32: tf32 only where the spec says so."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
