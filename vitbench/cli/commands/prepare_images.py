"""`vitbench prepare`: decode a data set once for all runs; and what a run says about prepared images."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.text import Text

from vitbench.base.durable import size_words
from vitbench.base.errors import InputError, printable
from vitbench.base.signals import Stopped, stoppable
from vitbench.data import DataOptions, Facts, describe, open_images
from vitbench.data.catalog import locate
from vitbench.data.preparation import Preparation
from vitbench.data.prepared import Contents, ImgSize, PreparedSet, contents_of, prepared_sets
from vitbench.engines.options import num_cores
from vitbench.plan.trials import Builder, settings
from vitbench.report.live.progress import duration
from vitbench.spec import trial

LINE_SECONDS = 5.0
"""Between two lines of progress."""
MAX_SIDE = 4096
ORIGINAL = "original"


def prepare_images(
    name: str, form: tuple[str, int | None], options: DataOptions, jobs: int | None, console: Console
) -> int:
    """Prepare the images of `name` in a form: size and channels. Return the exit code."""
    size, in_chans = img_size_of(form[0]), form[1]
    if in_chans not in (None, 1):
        raise InputError(f"--in-chans {in_chans}: allowed is 1 (colour as grey); without it, images are as they are")
    data = open_images(name, options)
    data = data if in_chans is None else data.with_channels(in_chans)
    preparation = Preparation.of(data, size, options, jobs or num_cores())
    prepared = preparation.prepared
    for line in describe(data.facts):
        _print(console, line)
    if size is not None and data.facts.img_size is not None and max(trial.sides(size)) > data.facts.img_size:
        _print(console, f"note: the images of {data.facts.img_size} px are enlarged")
    if prepared.exists() and (reason := prepared.why_other()):
        _print(console, f"begins again: the set that is there cannot be used, {reason}")
    contents = prepared.contents
    num_shards = len(contents.all_places())
    about = "about " if contents.is_whole else ""
    volume = f"{about}{size_words(contents.num_bytes)} in {num_shards} shards"
    _print(console, f"{contents.words}, {volume}: {prepared.folder}")
    progress = DecodingProgress(contents, console)
    try:
        with stoppable():
            for done in preparation.run():
                progress.add(done.place.count, done.how == "decoded")
    except Stopped as stop:
        _print(console, progress.line())
        print("stopped; finished shards are kept, run the same command again to resume", file=sys.stderr)
        return stop.exit_code
    _print(console, f"complete: {progress.num_decoded} shards decoded, {progress.num_kept} kept and checked")
    return 0


def img_size_of(text: str) -> ImgSize | None:
    """`224` or `192x256` (height first) as `data.img_size` has it; None for `original`. Raises InputError."""
    if text == ORIGINAL:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= min(height, width) <= max(height, width) <= MAX_SIDE:
        raise InputError(
            f"--img-size {text}: allowed is a whole number from 1 to {MAX_SIDE}, HEIGHTxWIDTH, or {ORIGINAL}"
        )
    return height if height == width else (height, width)


class DecodingProgress:
    """Prints how far a preparation is, a line every few seconds."""

    def __init__(self, contents: Contents, console: Console) -> None:
        self.contents, self.console = contents, console
        self.num_decoded = self.num_kept = 0
        self.images_decoded = self.images_done = 0
        self.began = self.printed = time.monotonic()

    def add(self, num_images: int, decoded: bool) -> None:
        """Count a shard."""
        self.images_done += num_images
        if decoded:
            self.num_decoded += 1
            self.images_decoded += num_images
        else:
            self.num_kept += 1
        if time.monotonic() - self.printed >= LINE_SECONDS:
            self.printed = time.monotonic()
            _print(self.console, self.line())

    def line(self) -> str:
        """`3 of 12 shards, 2,673 of 10,000 images, 180 images/s, 41 s left`."""
        num_shards, total = len(self.contents.all_places()), self.contents.num_images
        line = f"{self.num_decoded + self.num_kept} of {num_shards} shards, {self.images_done:,} of {total:,} images"
        rate = self.images_decoded / max(time.monotonic() - self.began, 1e-9)
        if not self.images_decoded:
            return line
        return f"{line}, {rate:,.0f} images/s, {duration((total - self.images_done) / rate)} left"


def _print(console: Console, line: str) -> None:
    console.print(Text(printable(line)), soft_wrap=True)


@dataclass(frozen=True)
class DataUse:
    """The images of some trials: the name, size and channels by which they are prepared, and how crops are cut."""

    name: str
    img_size: ImgSize
    in_chans: int | None
    from_originals: bool

    def command(self, size: ImgSize | None) -> str:
        """The command that prepares these images."""
        word = ORIGINAL if size is None else "x".join(map(str, size)) if isinstance(size, tuple) else f"{size}"
        grey = " --in-chans 1" if self.in_chans == 1 else ""
        return f"`vitbench prepare '{self.name}' --img-size {word}{grey}`"


def prepared_lines(builders: Sequence[Builder], options: DataOptions) -> tuple[list[str], list[str]]:
    """Notes and warnings on prepared images that these experiments read, or cannot read."""
    sets, uses = list(prepared_sets(options)), dict.fromkeys(_uses(builders))
    notes, warnings = list[str](), list[str]()
    for use in uses if sets else ():
        facts = builders[0].facts_of(use.name)
        usable: dict[ImgSize | None, PreparedSet] = {}
        present = False
        for size in (use.img_size, None):
            prepared = _set_of(use, size, facts, options)
            present = present or prepared.exists()
            if prepared.exists() and (reason := prepared.why_not()):
                words = f"the prepared images {prepared.contents.form} are not used: {reason}"
                warnings.append(f"{_name(facts, use)}: {words}; {use.command(size)} mends it")
            elif prepared.exists():
                usable[size] = prepared
        notes += _use_of(use, facts, usable) if present else _other_sets(use, facts, sets)
    return notes, warnings


def _use_of(use: DataUse, facts: Facts, usable: Mapping[ImgSize | None, PreparedSet]) -> Iterator[str]:
    """Which prepared images are read for what."""
    for prepared in list(usable.values()) if use.from_originals else list(usable.values())[:1]:
        yield f"{_name(facts, use)}: prepared images {prepared.contents.form}, {prepared.folder}"
    if use.from_originals and usable and None not in usable:
        words = "crops of random sizes are cut from the original images, which are decoded for every training step"
        yield f"{_name(facts, use)}: {words}; {use.command(None)} saves that"


def warn_of_prepared(warnings: Sequence[str]) -> None:
    """Say on stderr which prepared images are not used."""
    for line in warnings:
        print(f"warning: {printable(line)}", file=sys.stderr)


def _uses(builders: Sequence[Builder]) -> Iterator[DataUse]:
    """The images of every arm and stage."""
    for builder in builders:
        setting = settings(builder.experiment)[0]
        for arm in builder.arms.values():
            for stage in builder.stages(arm, setting):
                data = stage.spec.data
                assert data.img_size is not None
                yield DataUse(data.name, data.img_size, data.in_chans, trial.crops_have_random_sizes(stage.spec))


def _set_of(use: DataUse, size: ImgSize | None, facts: Facts, options: DataOptions) -> PreparedSet:
    """The prepared set of these images; their files are looked at only if the fingerprint is that of their names."""
    stamp = locate(use.name, replace(options, download=False)).stamp if facts.fingerprint_note else ""
    return PreparedSet.of(contents_of(facts, stamp, size, use.in_chans), options)


def _other_sets(use: DataUse, facts: Facts, sets: Sequence[PreparedSet]) -> list[str]:
    """That these images are prepared in another form, or that the set's images have changed since."""
    same = [item.contents for item in sets if item.contents.fingerprint == facts.fingerprint]
    if same:
        forms = ", ".join(contents.form for contents in same)
        return [f"{_name(facts, use)}: prepared images are {forms}; they do not serve, the images are decoded"]
    if any(item.contents.name == facts.name for item in sets):
        return [f"{_name(facts, use)}: the images have changed since they were prepared; they are decoded"]
    return []


def _name(facts: Facts, use: DataUse) -> str:
    return f"{facts.name} at {trial.size_words(use.img_size)} px"
