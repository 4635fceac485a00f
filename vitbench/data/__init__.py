"""Where images come from: uint8 arrays or files, labels and facts, without torch."""

from __future__ import annotations

from vitbench.data.catalog import DATASETS, facts, find, open_images
from vitbench.data.decode import centre_crop, cut
from vitbench.data.description import describe
from vitbench.data.known_sizes import NOMINAL, facts_or_nominal
from vitbench.data.prepared import with_prepared
from vitbench.data.quality import check
from vitbench.data.splits import Partition, partition, partition_sizes
from vitbench.data.types import (
    Counts,
    DataOptions,
    Facts,
    ImageData,
    Split,
    channel_stats,
    cropped_share,
    fits_in_memory,
    histogram,
    moments,
    resident,
)

__all__ = [
    "DATASETS",
    "NOMINAL",
    "Counts",
    "DataOptions",
    "Facts",
    "ImageData",
    "Partition",
    "Split",
    "centre_crop",
    "channel_stats",
    "check",
    "cropped_share",
    "cut",
    "describe",
    "facts",
    "facts_or_nominal",
    "find",
    "fits_in_memory",
    "histogram",
    "moments",
    "open_images",
    "partition",
    "partition_sizes",
    "resident",
    "with_prepared",
]
