"""How many cases the fuzz tests try: a few hundred in the normal suite, VITBENCH_FUZZ times as many in the long one.

`VITBENCH_FUZZ=20 pytest tests/test_fuzz_*.py` draws other cases every time and prints the seed of one that fails; the
short profile draws the same ones every time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("VITBENCH_FUZZ", "1"))

quick = settings(
    deadline=None,
    database=None,
    derandomize=TIMES == 1,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


def cases(number: int) -> settings:
    """`number` cases, or VITBENCH_FUZZ times as many."""
    return settings(quick, max_examples=number * TIMES)
