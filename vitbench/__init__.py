"""vitbench: the ablations of the ViT paper, with statistics. `load_records` gives finished trials as a DataFrame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitbench.store.frame import load_records

__all__ = ["load_records"]


def __getattr__(name: str) -> Any:
    """`load_records`, loaded when it is first asked for: pandas is too slow for every command to wait for it."""
    if name in __all__:
        from vitbench.store import frame

        return getattr(frame, name)
    raise AttributeError(f"module 'vitbench' has no attribute {name!r}")
