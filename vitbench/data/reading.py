"""How images are read, as part of a data set's name: `folder:PATH?scale=minmax&split=blocks`.

The fields `data.scale` and `data.split` of an experiment become part of the name, so that wherever a name goes, its
images are read the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from vitbench.base.errors import InputError
from vitbench.data.source import Raw
from vitbench.data.types import Split
from vitbench.spec.trial import DrawnBy, Scale

ALLOWED = {"scale": get_args(Scale), "split": get_args(DrawnBy)}


@dataclass(frozen=True)
class Reading:
    """How deep pixels become 8 bits, and how splits that the data set lacks are drawn."""

    scale: Scale | None = None
    split: DrawnBy = "random"

    def apply(self, raw: Raw) -> Raw:
        """The same images, to be read this way."""
        val, test = (None if split is None else self._scaled(split) for split in (raw.val, raw.test))
        return replace(raw, train=self._scaled(raw.train), val=val, test=test, blocks=self.split == "blocks")

    def _scaled(self, split: Split) -> Split:
        return split if split.encoded is None else replace(split, encoded=replace(split.encoded, scale=self.scale))


def parse_reading(name: str) -> tuple[str, Reading]:
    """The name without `scale` and `split`, and what they say; a path that exists is taken whole, with its `?`.

    Raises InputError for a value that is not allowed.
    """
    bare, mark, query = name.partition("?")
    path = name.partition(":")[2]
    if not mark or (path and Path(path).expanduser().exists()):
        return name, Reading()
    chosen: dict[str, str] = {}
    others: list[str] = []
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if key not in ALLOWED:
            others.append(part)
        elif value not in ALLOWED[key] or key in chosen:
            raise InputError(f"data.name: {name}: {key}={value}; allowed once: {', '.join(ALLOWED[key])}")
        else:
            chosen[key] = value
    kept = f"{bare}?{'&'.join(others)}" if others else bare
    reading = Reading(cast(Scale | None, chosen.get("scale")), cast(DrawnBy, chosen.get("split", "random")))
    return kept, reading
