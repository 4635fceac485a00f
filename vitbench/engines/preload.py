"""What the fork server imports once, so that trial processes share its memory.

The collector never visits these objects again: a visit writes to each of them, and a written page is copied.
"""

from __future__ import annotations

import gc

import torch.nested

import vitbench.engines.stacked

__all__ = ["torch", "vitbench"]

gc.collect()
gc.freeze()
