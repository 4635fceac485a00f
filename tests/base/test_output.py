"""Output that outlasts its reader: what nobody reads is dropped, and the work that writes it goes on to its end."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

SCRIPT = """
import json, sys
from vitbench.base.output import outlast_readers
if sys.argv[1] == "lasting":
    outlast_readers()
from rich.console import Console
print(json.dumps({"first": 1}), flush=True)
sys.stdin.readline()
for _ in range(2000):
    print("x" * 100)
    Console().print("y" * 100)
print("to the end", file=sys.stderr)
sys.exit(3)
"""


def started(kind: str, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, kind], stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE
    )


def test_a_reader_that_leaves_ends_no_work() -> None:
    """`vitbench run x | head -1`; without the care for it the script ends early, with another exit code."""
    ends = {}
    for kind in ("lasting", "plain"):
        process = started(kind, subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b'{"first": 1}\n'
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(b"\n", timeout=120)
        ends[kind] = process.returncode, err
    assert ends["lasting"] == (3, b"to the end\n")
    assert ends["plain"][0] != 3


def test_a_terminal_that_is_closed_ends_no_work() -> None:
    ours, theirs = pty.openpty()
    process = started("lasting", theirs)
    os.close(theirs)
    assert b"first" in os.read(ours, 100)
    os.close(ours)
    _, err = process.communicate(b"\n", timeout=120)
    assert (process.returncode, err) == (3, b"to the end\n")


def test_what_is_read_is_what_was_written() -> None:
    process = started("lasting", subprocess.PIPE)
    out, _ = process.communicate(b"\n", timeout=120)
    assert out.count(b"x" * 100) == 2000
    assert process.returncode == 3
