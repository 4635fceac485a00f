"""Standard output and error that outlast their reader: `vitbench run x | head -1`, a terminal that was closed.

What nobody reads any more is dropped; it never ends the work that writes it.
"""

from __future__ import annotations

import errno
import io
import sys
from typing import Any, TextIO

LOST = (errno.EPIPE, errno.EIO, errno.ENXIO)
"""A pipe without a reader, a terminal that is gone."""


class _Lasting(io.FileIO):
    """A stream that drops what it is given once its reader is gone."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in LOST:
                raise
            return memoryview(content).nbytes


def outlast_readers() -> None:
    """Let stdout and stderr of this process outlast their readers. Streams that a caller replaced are left alone."""
    if sys.stdout is sys.__stdout__ and sys.__stdout__ is not None:
        sys.stdout = _lasting(sys.__stdout__)
    if sys.stderr is sys.__stderr__ and sys.__stderr__ is not None:
        sys.stderr = _lasting(sys.__stderr__)


def _lasting(stream: TextIO) -> TextIO:
    try:
        stream.flush()
        raw = _Lasting(stream.fileno(), "w", closefd=False)
    except (OSError, ValueError):  # No file behind it.
        return stream
    line_buffering = raw.isatty() or stream is sys.__stderr__
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=line_buffering)
