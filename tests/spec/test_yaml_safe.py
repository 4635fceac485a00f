"""The YAML reader: what plain words mean, what is refused, and on which line. Runs in under a second."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from vitbench.base.errors import InputError
from vitbench.spec.yaml import MAX_BYTES, MAX_DEPTH, dump, plain, read, read_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1.6e-2", 0.016),
        ("1E5", 1e5),
        ("+1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("0", 0),
        ("-7", -7),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", float(2**63)),
        ("303000000000000000000", 303e18),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_a_plain_word_is_a_number_a_truth_value_or_nothing(text: str, value: object) -> None:
    found = read(f"key: {text}", "f").value["key"]
    assert found == value
    assert type(found) is type(value)


# What a YAML 1.1 reader makes of these is in the second column: every one differs from the text.
TRAPS = [
    ("no", False),
    ("yes", True),
    ("on", True),
    ("off", False),
    ("010", 8),
    ("1:30", 90),
    ("0x10", 16),
    ("1_000", 1000),
    ("0b11", 3),
    (".inf", math.inf),
]


@pytest.mark.parametrize(("text", "trap"), TRAPS)
def test_what_yaml_1_1_would_change_stays_text(text: str, trap: object) -> None:
    assert yaml.safe_load(f"key: {text}")["key"] == trap
    assert read(f"key: {text}", "f").value["key"] == text


def test_dates_and_nan_stay_text() -> None:
    assert read("[2021-06-03, .nan, nan, -.inf]", "f").value == ["2021-06-03", ".nan", "nan", "-.inf"]


def test_quoted_and_block_scalars_are_text() -> None:
    assert read("a: '1e-3'\nb: \"true\"\nc: |\n  1\n", "f").value == {"a": "1e-3", "b": "true", "c": "1\n"}


def test_keys_are_text() -> None:
    assert read("1: a\ntrue: b\nnull: c\n1e-3: d", "f").value == {"1": "a", "true": "b", "null": "c", "1e-3": "d"}


def test_merge_keys_are_ordinary_keys() -> None:
    assert read("<<: {a: 1}", "f").value == {"<<": {"a": 1}}


def test_every_key_and_item_has_its_line() -> None:
    document = read("name: x\nfactors:\n  model.global_pool: [token,\n    avg]\narms:\n- a\n- {b: 1}\n", "f")
    assert document.lines == {
        (): 1,
        ("name",): 1,
        ("factors",): 2,
        ("factors", "model.global_pool"): 3,
        ("factors", "model.global_pool", 0): 3,
        ("factors", "model.global_pool", 1): 4,
        ("arms",): 5,
        ("arms", 0): 6,
        ("arms", 1): 7,
        ("arms", 1, "b"): 7,
    }


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

REFUSED = [
    ("a: 1\na: 2", "f.yaml:2: the key 'a' stands twice (first on line 1)"),
    (
        "a: 1\nb: {c: 1, c: 2}\na: 2",
        "f.yaml:2: the key 'c' stands twice (first on line 2)\nf.yaml:3: the key 'a' stands twice (first on line 1)",
    ),
    ("a: 1\nb: *a", "f.yaml:2: anchors and aliases ('&', '*') are not allowed: 'a'"),
    (BOMB, "f.yaml:1: anchors and aliases ('&', '*') are not allowed: 'a'"),
    ("&k a: 1", "f.yaml:1: a key must be plain text"),
    ("*k : 1", "f.yaml:1: a key must be plain text"),
    (
        "x: 1\na: !!python/object/apply:os.system [ls]",
        "f.yaml:2: tags ('!') are not allowed: 'tag:yaml.org,2002:python/object/apply:os.system'",
    ),
    ("a: !!float 1", "f.yaml:1: tags ('!') are not allowed: 'tag:yaml.org,2002:float'"),
    ("a: ! 1", "f.yaml:1: tags ('!') are not allowed: '!'"),
    ("!!str a: 1", "f.yaml:1: tags ('!') are not allowed: 'tag:yaml.org,2002:str'"),
    ("[" * 5000, f"f.yaml:1: nested more than {MAX_DEPTH} deep"),
    ("{a: " * 5000, f"f.yaml:1: nested more than {MAX_DEPTH} deep"),
    ("- " * 5000, f"f.yaml:1: nested more than {MAX_DEPTH} deep"),
    ("a: 1e999", "f.yaml:1: the number 1e999 is too large"),
    ("a: -1e999", "f.yaml:1: the number -1e999 is too large"),
    ("a: " + "9" * 400, f"f.yaml:1: the number {'9' * 40} is too large"),
    ("---\na: 1\n---\nb: 2", "f.yaml:3: a second document ('---'); one file holds one experiment"),
    ("? [a]\n: 1", "f.yaml:1: a key must be plain text"),
    ('x: 1\n"a\\nb": 1', "f.yaml:2: a key must be one line of text, not 'a\\nb'"),
    ("x: 1\na: \x07", "f.yaml:2: a control character (0x7)"),
    ('a: "\\x1b[31m"', "f.yaml:1: a control character (0x1b)"),
    ('a: "\\ud800"', "f.yaml:1: a control character (0xd800)"),
    ("a: \ud800", "f.yaml:1: a control character (0xd800)"),
    ("a: [1, 2", "f.yaml:1: not YAML: while parsing a flow sequence expected ',' or ']', but got '<stream end>'"),
    (
        "a:\n\t- b",
        "f.yaml:2: not YAML: while scanning for the next token found character '\\t' that cannot start any token",
    ),
    ("a: b: c", "f.yaml:1: not YAML: mapping values are not allowed here"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read(text, "f.yaml")
    assert str(error.value) == message


@pytest.mark.parametrize("text", ['a: "\\UFFFFFFFF"', f"%YAML {'9' * 5000}.1\n---\na: 1"])
def test_what_pyyaml_lets_out_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError, match=r"^f\.yaml:1: not YAML: "):
        read(text, "f.yaml")
    with pytest.raises((ValueError, OverflowError)):
        yaml.safe_load(text)


def test_depth_up_to_the_cap_is_read() -> None:
    assert read("[" * MAX_DEPTH + "]" * MAX_DEPTH, "f").value
    with pytest.raises(InputError):
        read("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "f")


def test_size_is_capped_in_bytes() -> None:
    fits = "# " + "é" * (MAX_BYTES // 2 - 1)
    assert read(fits, "f").value is None
    with pytest.raises(InputError, match=rf"^f: larger than {MAX_BYTES} bytes$"):
        read(fits + "é", "f")


def test_read_text(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfname: x")
    assert read_text(file) == "name: x"
    for raw, message in [(b"\xff", "not UTF-8 text (byte 0)"), (b" " * (MAX_BYTES + 1), "larger than 1000000 bytes")]:
        file.write_bytes(raw)
        with pytest.raises(InputError) as error:
            read_text(file)
        assert str(error.value) == f"{file}: {message}"
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_text(tmp_path)
    with pytest.raises(InputError, match="cannot be read: No such file or directory"):
        read_text(tmp_path / "b.yaml")


def test_plain_is_what_the_reader_uses() -> None:
    assert plain("1e-3") == 1e-3
    assert plain("010") == "010"


def test_what_is_dumped_is_read_back() -> None:
    shared = ["x", 1e-5, 1e20, True, None, 3]
    texts = [*(text for text, _ in TRAPS), "1e-3", "1e-05", "true", "null", "~", "", "16", " x", "x: y", "#x", "a\nb"]
    texts += [
        "a\tb",
        "*a",
        "&b",
        "!c",
        "'",
        '"',
        "é",
        "- x",
        "?",
        "=",
        "<<",
        "@",
        "`",
        "x" * 300,
        "y z " * 90,
        "\u00a0",
    ]
    data = {"1e-3": shared, "true": shared, "texts": texts, "nested": {"": {}, "[]": []}}
    assert read(dump(data), "f").value == data
    assert yaml.safe_load(yaml.safe_dump("1e-05")) == "1e-05"
    assert read(yaml.safe_dump("1e-05"), "f").value == 1e-5  # why a dump of our own
