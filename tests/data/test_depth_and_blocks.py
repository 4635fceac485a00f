"""Deep images become 8 bits by a stated rule only; grey stays grey in every container; blocks keep neighbours."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_sets import picture, write_folder
from PIL import Image

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts, open_images, partition
from vitbench.data.decode import decode, read_header
from vitbench.data.depth import loses_bits, to_eight_bits
from vitbench.plan.resolve import resolve
from vitbench.plan.trial_id import trial_id
from vitbench.spec.trial import DataSpec, ModelSpec, Scale, TrainSpec, TrialSpec

DEEP = np.array([[0, 256, 511], [1000, 32768, 65535]], dtype=np.uint16)


@pytest.fixture
def options(tmp_path: Path) -> DataOptions:
    return DataOptions(data_dir=tmp_path / "sets", cache_dir=tmp_path / "cache")


def saved(pixels: np.ndarray, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **how)
    return buffer.getvalue()


def png16(colour_type: int, values: np.ndarray) -> bytes:
    """A PNG file of 16 bits per channel; Pillow cannot write grey with alpha. `values` is `[H, W, channels]`."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


EXPECTED: dict[Scale, list[list[int]]] = {
    "bits": [[0, 1, 1], [3, 128, 255]],
    "minmax": [[0, 1, 2], [4, 128, 255]],
}


@pytest.mark.parametrize("scale", ["bits", "minmax"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_by_a_stated_scale(kind: str, scale: Scale) -> None:
    content = saved(DEEP, kind) if kind != "PPM" else b"P5 3 2 65535\n" + DEEP.astype(">u2").tobytes()
    with pytest.raises(
        InputError, match=r"^a: values of 16-bit whole numbers would be clipped; state how .* data.scale"
    ):
        decode(content, "a", 1)
    assert decode(content, "a", 1, scale)[..., 0].tolist() == EXPECTED[scale]
    header = read_header(content, "a", scale)
    assert (header.in_chans, header.scaled, header.height, header.width) == (1, True, 2, 3)
    with pytest.raises(InputError, match=r"values from 0 to 65535; data.scale: none needs 0..255"):
        decode(content, "a", 1, "none")


def test_fractions_and_32_bit_numbers() -> None:
    fractions = np.array([[0.0, 0.5], [0.25, 1.0]], dtype=np.float32)
    content = saved(fractions, "TIFF")
    with pytest.raises(InputError, match="values of fractions would be clipped"):
        read_header(content, "a")
    assert decode(content, "a", 1, "bits")[..., 0].tolist() == [[0, 128], [64, 255]]
    assert decode(content, "a", 1, "minmax")[..., 0].tolist() == [[0, 128], [64, 255]]
    assert decode(saved(fractions * 200, "TIFF"), "a", 1, "none")[..., 0].tolist() == [[0, 100], [50, 200]]
    with pytest.raises(InputError, match=r"values from 0 to 2; data.scale: bits needs 0..1"):
        decode(saved(fractions * 2, "TIFF"), "a", 1, "bits")
    wide = saved(np.array([[0, 70000]], dtype=np.int32), "TIFF")
    assert decode(wide, "a", 1, "minmax")[..., 0].tolist() == [[0, 255]]
    with pytest.raises(InputError, match="32 bits have no known range"):
        decode(wide, "a", 1, "bits")
    for value in (np.nan, np.inf):
        with pytest.raises(InputError, match="no numbers, or are infinite"):
            to_eight_bits(np.array([[0.0, value]]), "minmax", 0, "a")
    assert to_eight_bits(np.full((2, 2), 7.0), "minmax", 0, "a").tolist() == [[0, 0], [0, 0]]


def test_16_bit_grey_with_alpha_is_grey_and_never_cut_silently() -> None:
    opaque = np.stack([DEEP, np.full_like(DEEP, 65535)], axis=-1)
    content = png16(4, opaque)
    assert Image.open(io.BytesIO(content)).mode == "RGBA", "why this needs a rule: Pillow says colour of 8 bits"
    for scale, message in ((None, "16-bit whole numbers would be clipped"), ("minmax", "use data.scale: bits")):
        with pytest.raises(InputError, match=message):
            decode(content, "a", 1, scale)  # type: ignore[arg-type]
    assert decode(content, "a", 1, "bits")[..., 0].tolist() == EXPECTED["bits"]
    assert read_header(content, "a", "bits").in_chans == 1
    clear = png16(4, np.stack([DEEP, np.zeros_like(DEEP)], axis=-1))
    assert decode(clear, "a", 1, "bits").min() == 255
    assert read_header(clear, "a", "bits").transparent


def deep_colour(kind: str) -> bytes:
    """A colour image of 16 bits per channel, its values 1000, 2000, ..., as other tools write it."""
    values = (np.arange(1, 13, dtype=np.uint16) * 1000).reshape(2, 2, 3)
    if kind == "PNG":
        return png16(2, values)
    if kind == "PPM":
        return b"P6\n2 2\n65535\n" + values.astype(">u2").tobytes()
    entries = {256: 2, 257: 2, 258: 150, 259: 1, 262: 2, 273: 8, 277: 3, 278: 2, 279: values.nbytes}
    head = struct.pack("<2sHI", b"II", 42, 8 + values.nbytes) + values.tobytes() + struct.pack("<H", len(entries))
    body = b"".join(struct.pack("<HHII", tag, 4, 3 if tag == 258 else 1, value) for tag, value in entries.items())
    body = body.replace(struct.pack("<HHI", 258, 4, 3), struct.pack("<HHI", 258, 3, 3))
    at = len(head) + len(body) + 4
    body = body.replace(struct.pack("<I", 150), struct.pack("<I", at))
    return head + body + struct.pack("<I", 0) + struct.pack("<3H", 16, 16, 16)


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF"])
def test_16_bit_colour_is_never_cut_silently(kind: str) -> None:
    content = deep_colour(kind)
    assert Image.open(io.BytesIO(content)).mode == "RGB", "why this needs a rule: Pillow says 8 bits"
    for scale, message in ((None, "16-bit whole numbers would be clipped"), ("minmax", "use data.scale: bits")):
        with pytest.raises(InputError, match=message):
            decode(content, "a", 3, scale)  # type: ignore[arg-type]
    pixels = decode(content, "a", 3, "bits")
    assert np.abs(pixels.astype(float).ravel() - np.arange(1, 13) * 1000 / 257).max() < 1
    assert read_header(content, "a", "bits")[2:] == (3, 1, False, True)


def test_jpeg_2000_states_its_bits_in_its_size_segment() -> None:
    grey = saved(np.arange(64, dtype=np.uint8).reshape(8, 8), "JPEG2000")
    assert decode(grey, "a", 1).shape == (8, 8, 1)
    start = grey.index(b"\xff\x4f\xff\x51")
    assert grey[start + 42] + 1 == 8
    deep = grey[: start + 42] + bytes([11]) + grey[start + 43 :]
    assert loses_bits(Image.open(io.BytesIO(grey)), deep)


def test_one_picture_trains_alike_in_every_container_with_an_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.rot90(picture(1, 4, 6), -1)
    for kind, how in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}.items():
        content = saved(picture(1, 4, 6), kind, exif=exif, **how)
        assert np.array_equal(decode(content, "a", 3), upright), kind
        header = read_header(content, "a")
        assert (header.height, header.width) == (6, 4), kind


def grey_palette() -> Image.Image:
    """A grey image with a palette that is not the identity, so that Pillow opens its GIF as a palette image."""
    image = Image.fromarray(picture(2, 8, 8, 1)[..., 0] % 4).convert("P")
    image.putpalette([level for grey in (200, 10, 90, 40) for level in (grey,) * 3])
    return image


def test_a_grey_set_stays_grey_in_every_format(options: DataOptions, tmp_path: Path) -> None:
    grey = Image.fromarray(picture(2, 8, 8, 1)[..., 0])
    for kind, image in {"PNG": grey_palette(), "GIF": grey_palette(), "WEBP": grey, "BMP": grey}.items():
        root = tmp_path / kind
        for name, side in {"a": image, "b": image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)}.items():
            (root / name).mkdir(parents=True)
            for i in range(4):
                side.rotate(90 * i).save(root / name / f"{i}.{kind.lower()}", kind)
        assert facts(f"folder:{root}", options).in_chans == 1, kind
    buffer = io.BytesIO()
    grey_palette().save(buffer, "GIF")
    assert Image.open(io.BytesIO(buffer.getvalue())).mode == "P"
    levels = np.array([200, 10, 90, 40])[picture(2, 8, 8, 1)[..., 0] % 4]
    assert np.array_equal(decode(buffer.getvalue(), "a", 1)[..., 0], levels)
    colour = grey_palette()
    colour.putpalette([200, 10, 10, 10, 10, 10, 90, 90, 90, 40, 40, 40])
    colour.save(tmp_path / "GIF" / "a" / "0.gif", "GIF")
    assert facts(f"folder:{tmp_path / 'GIF'}", options).in_chans == 3
    assert read_header(saved(picture(3), "WEBP"), "a").in_chans == 3


def test_the_scale_is_part_of_the_datas_identity_where_it_matters(options: DataOptions, tmp_path: Path) -> None:
    plain = f"folder:{write_folder(tmp_path / 'plain', {'a': 4, 'b': 4})}"
    assert facts(f"{plain}?scale=minmax", options).fingerprint == facts(plain, options).fingerprint
    for i, name in enumerate("aabb"):
        (tmp_path / "deep" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(DEEP + np.uint16(i)).save(tmp_path / "deep" / name / f"{i}.png")
    deep = f"folder:{tmp_path / 'deep'}"
    with pytest.raises(InputError, match=r"0.png: values of 16-bit .* data.scale: bits, minmax or none"):
        facts(deep, options)
    known = {scale: facts(f"{deep}?scale={scale}", options) for scale in ("bits", "minmax")}
    assert known["bits"].fingerprint != known["minmax"].fingerprint
    assert "4 images of more than 8 bits scaled by bits" in known["bits"].notes
    with pytest.raises(InputError, match="scale=log; allowed once: minmax, bits, none"):
        facts(f"{deep}?scale=log", options)


@pytest.mark.parametrize("source", ["npz", "parquet"])
@pytest.mark.parametrize("in_chans", [1, 3])
def test_deep_arrays_and_lists_are_scaled_too(source: str, in_chans: int, options: DataOptions, tmp_path: Path) -> None:
    images = np.stack([picture(key, 4, 4, in_chans).squeeze() for key in range(10)]) / 255
    labels = np.arange(10) % 2
    path = tmp_path / f"a.{source}"
    if source == "npz":
        np.savez(path, train_images=images, train_labels=labels)
    else:
        pq.write_table(pa.table({"image": images.tolist(), "label": labels}), path)
    with pytest.raises(InputError, match="values of fractions would be clipped"):
        open_images(f"{source}:{path}", options)
    data = open_images(f"{source}:{path}?scale=bits", options)
    found = sorted(data.train.read(i).tobytes() for i in range(len(data.train)))
    assert set(found) <= {picture(key, 4, 4, in_chans).tobytes() for key in range(10)}
    assert (data.facts.in_chans, data.facts.num_train + data.facts.num_test) == (in_chans, 10)


# Blocks


def test_blocks_are_the_last_fifth_of_each_class_in_file_order(options: DataOptions) -> None:
    from sklearn.datasets import load_digits

    data, target = open_images("digits?split=blocks", options), load_digits().target
    last = [row for c in range(10) for row in np.flatnonzero(target == c)[-round(0.2 * (target == c).sum()) :]]
    pixels = np.round(load_digits().images[last] * 255 / 16).astype(np.uint8)
    assert data.test.images is not None
    assert sorted(image.tobytes() for image in data.test.images) == sorted(image.tobytes() for image in pixels)
    assert data.facts.num_test == facts("digits", options).num_test
    assert data.facts.fingerprint != facts("digits", options).fingerprint


def test_validation_blocks_are_neighbours_and_move_with_the_seed(options: DataOptions) -> None:
    train = open_images("digits?split=blocks", options).train
    assert train.rank is not None
    starts = set()
    for seed in range(5):
        part = partition(train, seed, DataSpec(val_fraction=0.15))
        assert not set(part.train) & set(part.val)
        for c in range(10):
            in_order = train.rank[np.flatnonzero(train.labels == c)]
            ranks = np.sort(train.rank[part.val[train.labels[part.val] == c]])
            places = np.searchsorted(np.sort(in_order), ranks)
            assert np.array_equal(places, np.arange(places[0], places[0] + len(places)))
            assert len(places) == round(0.15 * len(in_order))
        starts.add(int(places[0]))
    assert len(starts) == 5
    assert np.array_equal(partition(train, 3, DataSpec()).val, partition(train, 3, DataSpec()).val)


def test_the_order_of_the_files_is_part_of_the_identity_of_blocks(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 10, "b": 10})
    before = {how: facts(f"folder:{root}{how}", options).fingerprint for how in ("", "?split=blocks")}
    (root / "a" / "000.png").rename(root / "a" / "zzz.png")
    assert facts(f"folder:{root}", options).fingerprint == before[""]
    assert facts(f"folder:{root}?split=blocks", options).fingerprint != before["?split=blocks"]


def test_fields_and_name_are_one_trial(options: DataOptions) -> None:
    def identity(data: DataSpec) -> str:
        known = facts(data.source, options)
        train = TrainSpec(steps=1)
        return trial_id(
            resolve(TrialSpec(model=ModelSpec(name="Mu/2"), data=data, train=train), known), 0, known.fingerprint, None
        )

    by_field, by_name = DataSpec(split="blocks"), DataSpec(name="digits?split=blocks")
    assert by_field.source == by_name.source == "digits?split=blocks"
    assert DataSpec(name="parquet:x?image=img", scale="bits").source == "parquet:x?image=img&scale=bits"
    assert identity(by_field) == identity(by_name) != identity(DataSpec())
