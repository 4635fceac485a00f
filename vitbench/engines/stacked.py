"""Trials of equal shapes run as stacks, one program per stack on one device; other trials run one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from contextlib import ExitStack

import torch

from vitbench.engines import local
from vitbench.engines.execute import OUT_OF_MEMORY, execute, free_memory
from vitbench.engines.memory import members_that_fit
from vitbench.engines.options import Emit, Options
from vitbench.engines.stacks import MAX_STACK, split, stack_key, stacks
from vitbench.plan.trials import Trial
from vitbench.store.events import Warned
from vitbench.store.trials import Store


def run(trials: Sequence[Trial], options: Options, emit: Emit) -> Generator[str, None, None]:
    """Yield the ids of trials as they are committed. If memory runs out, split the stack and all stacks like it.

    Trials that cannot be stacked, or whose first stage failed, run one at a time.
    """
    device, fits = torch.device(options.device), dict[str, int]()
    waiting = deque(stacks(trials))
    while waiting:
        stack = waiting.popleft()
        key = stack_key(stack[0])
        if key is None or len(stack) == 1:
            yield from local.run(stack, options, emit)
            continue
        if key not in fits:
            fits[key] = min(MAX_STACK, members_that_fit(stack[0], device))
        if len(stack) > fits[key]:
            waiting.extendleft(reversed(split(stack, fits[key])))
            continue
        try:
            done, alone = _executed(stack, options, emit)
        except OUT_OF_MEMORY as error:
            fits[key], why = len(stack) // 2, str(error)
        else:
            yield from done
            waiting.extendleft([trial] for trial in reversed(alone))
            continue
        free_memory()  # Not inside `except`: there the traceback still refers to the tensors.
        emit(Warned(f"out of memory on {len(stack)} stacked trials ({why}); at most {fits[key]} at once from now on"))
        waiting.extendleft(reversed(split(stack, fits[key])))


def _executed(stack: Sequence[Trial], options: Options, emit: Emit) -> tuple[list[str], list[Trial]]:
    """Train the missing trials of a stack under their locks; return the committed ids and the trials to run alone.

    Leave out trials that another process holds, and trials of which an earlier stage has no record yet.
    """
    store, mine, done, alone = Store(options.root), list[Trial](), list[str](), list[Trial]()
    with ExitStack() as locks:
        for trial in stack:
            parents = [store.read(parent) for parent in trial.parents.values()]
            if None in parents:
                continue
            if any(parent is not None and parent.status != "ok" for parent in parents):
                alone.append(trial)
            elif locks.enter_context(store.lock(trial.trial_id)):
                done.append(trial.trial_id)
                if store.read(trial.trial_id) is None:
                    mine.append(trial)
        if mine:
            execute(mine, options, emit)
    return done, alone
