"""Pictures on a page: recorded with their sha256, refused where changed, and only of images that may be shown."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread, imsave
from sample_rows import class_token_experiment, class_token_rows, row, store_run

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, open_images
from vitbench.report.pages.page import report
from vitbench.report.run_pictures import add_samples, pictures_of, record_picture, sample_sheet

EVIL = '<script>alert(1)</script>" onerror="alert(2)'


def png(value: int = 0) -> bytes:
    out = io.BytesIO()
    imsave(out, np.full((4, 4, 3), value, dtype=np.uint8), format="png", metadata={"Software": ""})
    return out.getvalue()


def digit_rows(data: str = "digits") -> list[dict[str, object]]:
    return [row("a", {}, 0, 90.0, data=data)]


def test_samples_stand_by_class_and_are_recorded_once(tmp_path: Path) -> None:
    assert add_samples(tmp_path, digit_rows(), DataOptions(), any_data=False) == ""
    first = (tmp_path / "assets/samples.png").read_bytes()
    sheet = imread(tmp_path / "assets/samples.png")
    data = open_images("digits", DataOptions())
    threes = np.flatnonzero(data.train.labels == 3)
    top, left = 3 * 34, 5 * 34
    expected = data.train.read(int(threes[5]))[..., 0].repeat(4, axis=0).repeat(4, axis=1) / 255
    assert np.allclose(sheet[top : top + 32, left : left + 32, 0], expected, atol=1e-6)
    (found,) = pictures_of(tmp_path, "assets")
    assert found.caption.startswith("The first training images of digits, one row per class: 0, 1")
    add_samples(tmp_path, digit_rows(), DataOptions(), any_data=False)
    assert (tmp_path / "assets/samples.png").read_bytes() == first


def test_images_that_may_not_be_published_need_to_be_asked_for(tmp_path: Path) -> None:
    assert "--images" in add_samples(tmp_path, digit_rows("cifar10"), DataOptions(), any_data=False)
    note = add_samples(tmp_path, digit_rows("folder:../../x"), DataOptions(), any_data=True)
    assert note.startswith("no samples: ")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_changed_or_was_never_recorded_is_refused(tmp_path: Path) -> None:
    record_picture(tmp_path, "one", png(), "One.")
    record_picture(tmp_path, "two", png(9), "Two.")
    assert [picture.caption for picture in pictures_of(tmp_path, "assets")] == ["One.", "Two."]
    (tmp_path / "assets/two.png").write_bytes(png(200))
    with pytest.raises(InputError, match=r"two\.png: its sha256 differs"):
        pictures_of(tmp_path, "assets")
    (tmp_path / "assets/two.png").write_bytes(png(9))
    (tmp_path / "assets/three.png").write_bytes(png())
    with pytest.raises(InputError, match=r"three\.png"):
        pictures_of(tmp_path, "assets")


def test_small_images_are_enlarged_and_large_ones_thinned() -> None:
    split = open_images("fake_colour", DataOptions()).train
    assert sample_sheet(split, range(2)).shape == (2 * 34, 12 * 34, 3)
    assert sample_sheet(split, range(2))[-2:].min() == 255


@pytest.mark.slow
def test_analyses_stand_on_the_page_with_caption_and_numbers_and_do_no_harm(tmp_path: Path) -> None:
    experiment, rows = class_token_experiment(), class_token_rows(3)
    folder = store_run(tmp_path, experiment, rows)
    (folder / "analysis").mkdir()
    (folder / "analysis/distance.svg").write_text(f"<svg xmlns='http://www.w3.org/2000/svg'>{EVIL}</svg>")
    (folder / "analysis/distance.png").write_bytes(png())
    (folder / "analysis/distance.md").write_text(f"Mean attention distance {EVIL}")
    (folder / "analysis/distance.csv").write_text(f"layer,pixels\n0,{EVIL.replace(chr(34), '')}\n1,4.5\n")
    (found,) = pictures_of(folder, "analysis")
    assert found.path == "analysis/distance.svg"
    assert found.table is not None
    assert found.table.rows[1] == ("1", "4.5")
    report(experiment, rows, folder)
    text = (folder / "index.html").read_text()
    assert "Looking inside" in text
    assert "Mean attention distance &lt;script&gt;" in text
    assert "<script" not in text
    attributes: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: attributes.update(name for name, _ in attrs)  # type: ignore[method-assign]
    parser.feed(text)
    assert "alt" in attributes
    assert "onerror" not in attributes
    assert "data:image/svg+xml;base64," in text
