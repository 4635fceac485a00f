"""Parquet as Hugging Face's `datasets`, pandas and others write it: the right images under the right names."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_sets import picture, png, write_parquet

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, Split, facts, open_images
from vitbench.data.readers import hub


@pytest.fixture
def options(tmp_path: Path) -> DataOptions:
    return DataOptions(data_dir=tmp_path / "sets", cache_dir=tmp_path / "cache")


def contents(split: Split) -> list[tuple[int, bytes]]:
    """Labels and pixels, sorted."""
    return sorted((int(label), split.read(i).tobytes()) for i, label in enumerate(split.labels))


def expected(labels: dict[int, int], **size: int) -> list[tuple[int, bytes]]:
    """`{picture key: label}` as `contents` gives it."""
    return sorted((label, picture(key, **size).tobytes()) for key, label in labels.items())


def refused(name: str, options: DataOptions) -> str:
    with pytest.raises(InputError) as caught:
        open_images(name, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pngs(keys: range) -> list[bytes]:
    return [png(picture(key)) for key in keys]


def write(path: Path, table: pa.Table) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return f"parquet:{path}"


def cells(keys: range) -> pa.Array:
    return pa.array([{"bytes": content, "path": None} for content in pngs(keys)])


def everything(name: str, options: DataOptions) -> list[tuple[int, bytes]]:
    """Training and test images of a set without splits."""
    data = open_images(name, options)
    return sorted(contents(data.train) + contents(data.test))


# Names


def test_splits_that_number_their_classes_differently_are_mapped_by_name(options: DataOptions, tmp_path: Path) -> None:
    names = {"train": ["a", "b", "c"], "test": ["c", "b", "a"], "validation": ["b", "a", "c"]}
    for split, start in {"train": 0, "test": 10, "validation": 20}.items():
        labels = [names[split].index("abc"[key % 3]) for key in range(start, start + 6)]
        write_parquet(tmp_path / "set" / f"{split}.parquet", pngs(range(start, start + 6)), labels, names[split])
    data = open_images(f"parquet:{tmp_path / 'set'}", options)
    assert data.facts.class_names == ("a", "b", "c")
    assert contents(data.test) == expected({key: key % 3 for key in range(10, 16)})


def test_two_files_of_one_split_are_mapped_by_name(options: DataOptions, tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "train-0.parquet", pngs(range(2)), [0, 1], ["a", "b"])
    write_parquet(tmp_path / "set" / "train-1.parquet", pngs(range(2, 4)), [0, 1], ["b", "a"])
    assert everything(f"parquet:{tmp_path / 'set'}", options) == expected({0: 0, 1: 1, 2: 1, 3: 0})


@pytest.mark.parametrize("test_names", [["a", "b", "d"], ["x", "y", "z"]])
def test_a_test_class_that_is_no_training_class_is_refused_with_both_lists(
    test_names: list[str], options: DataOptions, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "set" / "train.parquet", pngs(range(3)), [0, 1, 2], ["a", "b", "c"])
    write_parquet(tmp_path / "set" / "test.parquet", pngs(range(3)), [0, 1, 2], test_names)
    line = refused(f"parquet:{tmp_path / 'set'}", options)
    assert f"training: [a, b, c]; test: [{', '.join(test_names)}]" in line


def test_names_beside_numbers_without_names_are_refused(options: DataOptions, tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "train.parquet", pngs(range(3)), [0, 1, 2], ["a", "b", "c"])
    write_parquet(tmp_path / "set" / "test.parquet", pngs(range(3)), [0, 1, 2])
    assert "disagree on their labels: names and numbers without names" in refused(
        f"parquet:{tmp_path / 'set'}", options
    )


def test_the_hub_reader_maps_by_name(options: DataOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows:
        def __init__(self, keys: range, names: list[str]) -> None:
            self.cells = [{"image": {"bytes": png(picture(k)), "path": None}, "label": k % 2} for k in keys]
            self.column_names, self.cache_files = ["image", "label"], []
            self.features = {"label": SimpleNamespace(names=names)}

        def cast_column(self, column: str, feature: object) -> Rows:
            return self

        def __getitem__(self, key: Any) -> Any:
            return [cell[key] for cell in self.cells] if isinstance(key, str) else self.cells[key]

    splits = {"train": Rows(range(4), ["cat", "dog"]), "test": Rows(range(4, 6), ["dog", "cat"])}
    monkeypatch.setattr(hub, "_open", lambda name, download: splits)
    monkeypatch.setattr(hub, "optional", lambda *_: SimpleNamespace(Image=lambda decode: decode))
    data = open_images("hf:org/pets", options)
    assert contents(data.train) == expected({0: 0, 1: 1, 2: 0, 3: 1})
    assert contents(data.test) == expected({4: 1, 5: 0})
    splits["test"].features["label"].names = ["dog", "cow"]
    assert "class 'cow' of the test split is no class" in refused("hf:org/pets", options)


# Labels


LABELS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "text": (pa.array(["dog", "cat"] * 4), ("cat", "dog")),
    "large text": (pa.array(["dog", "cat"] * 4, pa.large_string()), ("cat", "dog")),
    "dictionary": (pa.array(["dog", "cat"] * 4).dictionary_encode(), ("cat", "dog")),
    "pandas category": (pa.array(pd.Series(["dog", "cat"] * 4, dtype="category")), ("cat", "dog")),
    "boolean": (pa.array([True, False] * 4), ("false", "true")),
    "numbers as text": (pa.array(["10", "9"] * 4), ("9", "10")),
    "uint64": (pa.array([1, 0] * 4, pa.uint64()), ("0", "1")),
    "int8": (pa.array([1, 0] * 4, pa.int8()), ("0", "1")),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_kind(kind: str, options: DataOptions, tmp_path: Path) -> None:
    labels, names = LABELS[kind]
    name = write(tmp_path / "a.parquet", pa.table({"image": cells(range(8)), "label": labels}))
    assert facts(name, options).class_names == names
    assert everything(name, options) == expected({key: 1 - key % 2 for key in range(8)})


def test_labels_that_would_wrap_are_refused(options: DataOptions, tmp_path: Path) -> None:
    labels = pa.array([0, 1, 0, 2**64 - 1], pa.uint64())
    line = refused(write(tmp_path / "a.parquet", pa.table({"image": cells(range(4)), "label": labels})), options)
    assert "1 of 4 labels are above 9223372036854775807 (row 3 holds 18446744073709551615" in line


def test_columns_of_other_names(options: DataOptions, tmp_path: Path) -> None:
    table = pa.table({"photo id": cells(range(8)), "label": ["x"] * 8, "species": ["oak", "ash"] * 4})
    name = write(tmp_path / "a.parquet", table)
    assert everything(f"{name}?image=photo id&label=species", options) == expected({k: 1 - k % 2 for k in range(8)})
    assert everything(f"{name}?label=species", options) == everything(f"{name}?image=photo+id&label=species", options)
    assert "no label column named 'genus' among photo id, label, species" in refused(f"{name}?label=genus", options)
    assert "option 'lable' is unknown; allowed: image, label, split_column" in refused(f"{name}?lable=x", options)


# Images


def test_raw_bytes_and_paths(options: DataOptions, tmp_path: Path) -> None:
    labels = pa.array([0, 1] * 4)
    for key in range(8):
        (tmp_path / f"{key}.png").write_bytes(png(picture(key)))
    relative = pa.array([f"{key}.png" for key in range(8)])
    absolute = pa.array([{"bytes": None, "path": str(tmp_path / f"{key}.png")} for key in range(8)])
    images = {"bytes": pa.array(pngs(range(8))), "paths": relative, "absolute": absolute}
    for kind, column in images.items():
        name = write(tmp_path / f"{kind}.parquet", pa.table({"image": column, "label": labels}))
        assert everything(name, options) == expected({key: key % 2 for key in range(8)})
    before = facts(name, options).fingerprint
    (tmp_path / "3.png").write_bytes(png(picture(33)))
    assert facts(name, options).fingerprint != before, "a changed image file is seen"
    (tmp_path / "3.png").unlink()
    (tmp_path / "5.png").unlink()
    line = refused(name, options)
    assert f"row 3: no bytes, only the path {tmp_path}/3.png, where there is no file (so for 2 rows)" in line
    assert "to_parquet" in line


@pytest.mark.parametrize("kind", ["grey", "channel last", "channel first", "flat", "fixed size", "ragged"])
def test_nested_lists(kind: str, options: DataOptions, tmp_path: Path) -> None:
    in_chans = 3 if kind.startswith("channel") else 1
    arrays = [picture(key, 6, 6, in_chans) for key in range(8)]
    cell: Any = [array.squeeze().tolist() for array in arrays]
    if kind == "channel first":
        cell = [array.transpose(2, 0, 1).tolist() for array in arrays]
    elif kind == "flat":
        cell = [array.ravel().tolist() for array in arrays]
    elif kind == "ragged":
        cell[3][2] = [1]
    fixed = pa.list_(pa.list_(pa.uint8(), 6), 6)
    column = pa.array(cell, fixed) if kind == "fixed size" else pa.array(cell)
    name = write(tmp_path / "a.parquet", pa.table({"image": column, "label": [0, 1] * 4}))
    if kind == "ragged":
        assert "row 3: the lists of the image differ in length" in refused(name, options)
        return
    size = {"height": 6, "width": 6, "in_chans": in_chans}
    assert everything(name, options) == expected({key: key % 2 for key in range(8)}, **size)


@pytest.mark.parametrize("scale", [1 / 255, 200])
def test_nested_lists_that_are_not_bytes_are_never_scaled_silently(
    scale: float, options: DataOptions, tmp_path: Path
) -> None:
    arrays = [picture(key, 6, 6, 1)[..., 0].astype(float) * scale for key in range(8)]
    column = pa.array([(array.round().astype(int) if scale > 1 else array).tolist() for array in arrays])
    name = write(tmp_path / "a.parquet", pa.table({"image": column, "label": [0, 1] * 4}))
    assert "would be clipped; state how they become 8 bits" in refused(name, options)


# Splits


def test_a_split_column_is_honoured(options: DataOptions, tmp_path: Path) -> None:
    splits = ["train"] * 4 + ["test"] * 2 + ["validation"] * 2
    table = pa.table({"image": cells(range(8)), "label": ["b", "a"] * 4, "split": splits})
    data = open_images(write(tmp_path / "a.parquet", table), options)
    assert contents(data.test) == expected({4: 1, 5: 0})
    assert set(contents(data.train)) >= set(expected({0: 1, 1: 0, 2: 1, 3: 0}))
    wrong = table.set_column(2, "split", pa.array(["train"] * 7 + ["extra"]))
    assert "column split, row 7 holds 'extra', which names no split" in refused(
        write(tmp_path / "b.parquet", wrong), options
    )


def test_file_names_and_the_column_must_agree(options: DataOptions, tmp_path: Path) -> None:
    for name, split in {"train": "train", "test": "train"}.items():
        table = pa.table({"image": cells(range(4)), "label": [0, 1] * 2, "split": [split] * 4})
        write(tmp_path / "set" / f"{name}.parquet", table)
    assert "test.parquet has rows whose column split says 'train'" in refused(f"parquet:{tmp_path / 'set'}", options)


@pytest.mark.parametrize("folder", ["set", "train_test_split", "test", "my-training-data"])
@pytest.mark.parametrize("names", [("trainset", "testset"), ("train", "val"), ("x-train-0-of-1", "x-test-0-of-1")])
def test_the_files_own_name_decides(folder: str, names: tuple[str, str], options: DataOptions, tmp_path: Path) -> None:
    for name, keys in zip(names, (range(6), range(6, 9)), strict=True):
        write_parquet(tmp_path / folder / f"{name}.parquet", pngs(keys), [key % 2 for key in keys])
    data = open_images(f"parquet:{tmp_path / folder}", options)
    assert contents(data.train) == expected({key: key % 2 for key in range(6)})
    assert contents(data.test) == expected({6: 0, 7: 1, 8: 0})


def test_hidden_and_system_folders_are_left_out(options: DataOptions, tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "train.parquet", pngs(range(6)), [0, 1] * 3)
    for folder in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        write_parquet(tmp_path / "set" / folder / "train.parquet", pngs(range(20, 26)), [0, 1] * 3)
    assert everything(f"parquet:{tmp_path / 'set'}", options) == expected({key: key % 2 for key in range(6)})


def test_a_gzipped_file_is_named(options: DataOptions, tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", pngs(range(4)), [0, 1] * 2)
    packed = gzip.compress((tmp_path / "a.parquet").read_bytes())
    (tmp_path / "a.parquet").write_bytes(packed)
    assert "a.parquet: packed with gzip; unpack it" in refused(f"parquet:{tmp_path / 'a.parquet'}", options)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.parquet.gz").write_bytes(packed)
    assert "a packed file is there: unpack it" in refused(f"parquet:{tmp_path / 'set'}", options)


def test_the_metadata_of_datasets_is_read(options: DataOptions, tmp_path: Path) -> None:
    """The names as `datasets` 5.2 writes them, with a struct that has its fields in the other order."""
    info = {"info": {"features": {
        "image": {"_type": "Image"}, "label": {"names": ["daisy", "rose"], "_type": "ClassLabel"},
    }}}  # fmt: skip
    images = pa.array([{"path": f"{key}.png", "bytes": png(picture(key))} for key in range(6)])
    table = pa.table({"image": images, "label": pa.array([0, 1] * 3)})
    name = write(tmp_path / "a.parquet", table.replace_schema_metadata({"huggingface": json.dumps(info)}))
    assert facts(name, options).class_names == ("daisy", "rose")
    assert everything(name, options) == expected({key: key % 2 for key in range(6)})


def test_pandas_writes_rows_of_bytes(options: DataOptions, tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": pngs(range(6)), "label": np.array(["a", "b"] * 3)}, index=range(10, 16))
    frame.to_parquet(tmp_path / "a.parquet")
    assert everything(f"parquet:{tmp_path / 'a.parquet'}", options) == expected({key: key % 2 for key in range(6)})
