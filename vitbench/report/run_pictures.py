"""Pictures that cannot be rebuilt from records: sample images, reconstructions, analyses of trained networks.

`<run>/assets/` holds raw pictures of images, each with its sha256 in `SHA256SUMS` (as sha256sum writes it); a picture
that is not listed, or is not the one that was listed, is refused. `<run>/analysis/` holds drawings. In both,
`<name>.md` is a picture's caption as plain text and `<name>.csv` a table beside it.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.image import imsave

from vitbench.base.contained import check_folders, exists, read, read_text
from vitbench.base.durable import replace_all
from vitbench.base.errors import InputError, printable
from vitbench.data import DataOptions, find, open_images
from vitbench.data.types import ImageData, Pixels, Split
from vitbench.report.formats import Table
from vitbench.report.verdict_text import data_names
from vitbench.stats.table import Row

SUMS = "SHA256SUMS"
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
"""Picture files that a page shows; of a drawing saved as both, the last."""
MAX_PICTURE_BYTES = 16 << 20
MOST_ROWS = 40
"""Rows of a table beside a picture; the file has them all."""
NUM_CLASSES, NUM_EACH = 10, 12
LEAST_PIXELS = 32
"""Side of a sample on the sheet; smaller images are enlarged by a whole factor."""


@dataclass(frozen=True)
class Picture:
    """A picture to be put into a page: its address as data, words for those who do not see it, a table."""

    name: str
    path: str
    address: str
    caption: str
    table: Table | None


def pictures_of(folder: Path, kind: str) -> list[Picture]:
    """The pictures of a run in `assets` or `analysis`, by name. Raises InputError for an asset that changed."""
    check_folders(folder, folder / kind)
    paths = {path.stem: path for suffix in TYPES for path in sorted((folder / kind).glob(f"*{suffix}"))}
    if kind == "assets":
        sums = _sums(folder / kind)
        for path in paths.values():
            if sums.get(path.name) != hashlib.sha256(read(path, MAX_PICTURE_BYTES)).hexdigest():
                raise InputError(
                    f"{path}: its sha256 differs from the one in {SUMS}; remove the picture or create it again"
                )
    return [_picture(path) for _, path in sorted(paths.items())]


def _picture(path: Path) -> Picture:
    words = path.with_suffix(".md")
    caption = read_text(words, MAX_PICTURE_BYTES).strip() if exists(words) else path.stem.replace("_", " ")
    content = base64.b64encode(read(path, MAX_PICTURE_BYTES)).decode()
    address = f"data:{TYPES[path.suffix]};base64,{content}"
    return Picture(path.stem, f"{path.parent.name}/{path.name}", address, caption, _table(path.with_suffix(".csv")))


def _table(path: Path) -> Table | None:
    """The table beside a picture; None without one."""
    if not exists(path):
        return None
    header, *rows = csv.reader(io.StringIO(read_text(path, MAX_PICTURE_BYTES))) or [[]]
    cells = tuple(tuple(printable(cell) for cell in row) for row in rows if len(row) == len(header))
    title = f"{path.stem.replace('_', ' ')}: the numbers"
    return Table(title, tuple(header), cells).head(MOST_ROWS, "rows") if cells else None


def _sums(assets: Path) -> dict[str, str]:
    """{file name: sha256} as recorded."""
    path = assets / SUMS
    lines = read_text(path, MAX_PICTURE_BYTES).splitlines() if exists(path) else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def record_picture(folder: Path, name: str, png: bytes, caption: str) -> None:
    """Puts a picture of images into the run's `assets/` with its caption and sha256."""
    assets = folder / "assets"
    check_folders(folder, assets)
    sums = _sums(assets) | {f"{name}.png": hashlib.sha256(png).hexdigest()}
    lines = "".join(f"{digest}  {file}\n" for file, digest in sorted(sums.items()))
    replace_all(assets, {f"{name}.png": png, f"{name}.md": f"{caption}\n".encode(), SUMS: lines.encode()})


def add_samples(folder: Path, rows: Sequence[Row], options: DataOptions, any_data: bool) -> str:
    """Save sample images of the run's first data set if they are missing; return the reason if that is impossible.

    Pixels that may not be published (`Source.pixels_publishable`) are saved only with `any_data`.
    """
    name = next(iter(data_names(rows)), "")
    if not name or (folder / "assets/samples.png").is_file():
        return ""
    try:
        canonical, _, source = find(name)
        if not (source.pixels_publishable or any_data):
            return f"{canonical}: its pixels may not be published; --images shows them on your own pages"
        data = open_images(name, options)
    except InputError as error:
        return f"no samples: {error}"
    sheet = sample_sheet(data.train, range(data.facts.num_classes))
    png = io.BytesIO()
    imsave(png, sheet, format="png", metadata={"Software": ""})
    record_picture(folder, "samples", png.getvalue(), _sample_caption(data))
    return ""


def sample_sheet(split: Split, classes: Sequence[int]) -> Pixels:
    """A sheet `uint8 [H, W, 3]`: one row per class (the first ten) with its first images, white between them."""
    rows = []
    for label in classes[:NUM_CLASSES]:
        images = [_cell(split.read(int(i))) for i in np.flatnonzero(split.labels == label)[:NUM_EACH]]
        rows.append(images + [np.full_like(images[0], 255)] * (NUM_EACH - len(images)) if images else [])
    height = max((image.shape[0] for row in rows for image in row), default=0)
    width = max((image.shape[1] for row in rows for image in row), default=0)
    kept = [row for row in rows if row]
    sheet = np.full((len(kept) * (height + 2), NUM_EACH * (width + 2), 3), 255, dtype=np.uint8)
    for i, row in enumerate(kept):
        for k, image in enumerate(row):
            top, left = i * (height + 2), k * (width + 2)
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _cell(image: Pixels) -> Pixels:
    """The image in three colours, enlarged by a whole factor where it is small, thinned where it is large."""
    side = max(image.shape[:2])
    factor = -(-LEAST_PIXELS // side)
    step = max(1, side // (2 * LEAST_PIXELS))
    colour: Pixels = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    enlarged: Pixels = colour[::step, ::step].repeat(factor, axis=0).repeat(factor, axis=1)
    return enlarged


def _sample_caption(data: ImageData) -> str:
    names = data.facts.class_names[:NUM_CLASSES]
    classes = f": {', '.join(names)}" if names else ""
    return f"The first training images of {data.facts.name}, one row per class{classes}."
