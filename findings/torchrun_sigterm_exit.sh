#!/usr/bin/env bash
# torch 2.15.0, torch.distributed.run (torchrun), static rendezvous on one machine, Python 3.11.
#
# Behaviour: torchrun that gets SIGTERM passes it on, waits for its workers, and then ends with exit code 1 and a traceback
# of SignalException, although its worker saved and left with 143 (128 + 15). The worker's code is in no code of torchrun.
# Why it surprises: a shell, Slurm and Kubernetes read 143 as "asked to stop" and 1 as "failed". A job script that requeues
# on 143 never does so under torchrun, and one that gives up on 1 gives up a run that only has to go on.
# What vitbench does: `--processes K` without torchrun ends with 143. docs/CLUSTER.md says that torchrun's own code is 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv -q "$folder/venv"
uv pip install -q --python "$folder/venv/bin/python" torch==2.15.0 numpy==2.4.0
cat >"$folder/worker.py" <<'PY'
import signal
import sys
import time
from pathlib import Path


def stop(*_):
    Path("saved").touch()
    sys.exit(143)


signal.signal(signal.SIGTERM, stop)
Path("ready").touch()
time.sleep(120)
PY
cd "$folder"

code_after_sigterm() {
    rm -f ready saved
    env --default-signal=INT "$@" >output.txt 2>&1 &
    local program=$! code=0
    for _ in $(seq 600); do [ -e ready ] && break || sleep 0.2; done
    [ -e ready ]
    kill -TERM "$program"
    wait "$program" || code=$?
    [ -e saved ]
    echo "$code"
}

python="$folder/venv/bin/python"
"$python" -c 'import torch; print("torch", torch.__version__)'
alone=$(code_after_sigterm "$python" worker.py)
launched=$(code_after_sigterm "$python" -m torch.distributed.run --standalone --nproc-per-node 1 worker.py)
echo "worker alone: $alone; torchrun, whose worker saved and left with 143: $launched"
tail -n 1 output.txt
[ "$alone" = 143 ] && [ "$launched" = 1 ]
