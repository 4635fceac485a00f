"""`vitbench init`: a commented experiment file to begin with."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rich.console import Console

from vitbench.base.durable import write_durably
from vitbench.base.errors import InputError
from vitbench.spec import load
from vitbench.spec.json_schema import schema

STARTER = Path(__file__).parent / "starter.yaml"
SHIPPED_SCHEMA = Path(__file__).parents[3] / "schema.json"


def init(path: Path, console: Console) -> int:
    """Write the starter to `path`, named after the file; the schema beside it where no checkout has one to point to.

    Raises InputError where the file exists, where it is no YAML file, and where its name cannot name an experiment.
    """
    if path.suffix not in load.SUFFIXES:
        raise InputError(f"{path}: an experiment file ends in {' or '.join(load.SUFFIXES)}")
    if path.exists():
        raise InputError(f"{path}: exists already; init writes new files only")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no folder {path.parent}")
    known = SHIPPED_SCHEMA if SHIPPED_SCHEMA.is_file() else path.parent / "schema.json"
    modeline = f"# yaml-language-server: $schema={os.path.relpath(known, path.parent)}\n"
    text = modeline + STARTER.read_text().replace("NAME", path.stem)
    load.loads(text, str(path))
    if not known.exists():
        write_durably(known, json.dumps(schema(), indent=2).encode() + b"\n")
    write_durably(path, text.encode())
    console.print(f"{path} is written: two arms, tuned alike, and a claim. Make it yours, then", soft_wrap=True)
    console.print(f"  vitbench plan {path}\n  vitbench run {path}", highlight=False, soft_wrap=True)
    return 0
