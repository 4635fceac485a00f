#!/usr/bin/env bash
# Ray 2.60.0, ray.init() in a program that handles SIGTERM itself.
#
# Behaviour: `ray.init()` replaces the driver's SIGTERM handler by one that calls `sys.exit`, and `ray.shutdown()` leaves
# that one in place. The handlers of SIGINT and SIGHUP stay as they were.
# Why it surprises: a program that installs a handler in order to save its work on SIGTERM (a job scheduler's warning, a
# spot machine's notice) keeps its handlers with every other library it starts. Here it loses one of three in silence, for
# good, and notices only when a real SIGTERM ends it without the save.
# What vitbench does: with `--engine ray` it puts its own handlers back after `ray.init()`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv -q "$folder/venv"
uv pip install -q --python "$folder/venv/bin/python" ray==2.60.0
cat >"$folder/run.py" <<'PY'
import signal
import sys

import ray


def save_and_stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
for number in NUMBERS:
    signal.signal(number, save_and_stop)
kept = {}
print("Ray", ray.__version__)
ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
for when in ("after init", "after shutdown"):
    kept[when] = {number.name: signal.getsignal(number) is save_and_stop for number in NUMBERS}
    print(when, "own handler kept:", kept[when])
    ray.shutdown()
sys.exit(any(kept[when] != {"SIGTERM": False, "SIGINT": True, "SIGHUP": True} for when in kept))
PY
RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 "$folder/venv/bin/python" "$folder/run.py"
