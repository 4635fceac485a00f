"""`vitbench init`: write a commented experiment file to start from."""

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
    """Write the starter to `path`, named after the file. Outside a checkout, add the schema beside it.

    Raises InputError if the file exists, does not end in .yaml, or its name cannot be an experiment's.
    """
    if path.suffix not in load.SUFFIXES:
        raise InputError(f"{path}: an experiment file ends in {' or '.join(load.SUFFIXES)}")
    if path.exists():
        raise InputError(f"{path}: already exists; init only writes new files")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no folder {path.parent}")
    schema_path = SHIPPED_SCHEMA if SHIPPED_SCHEMA.is_file() else path.parent / "schema.json"
    modeline = f"# yaml-language-server: $schema={os.path.relpath(schema_path, path.parent)}\n"
    text = modeline + STARTER.read_text().replace("NAME", path.stem)
    load.loads(text, str(path))
    if not schema_path.exists():
        write_durably(schema_path, json.dumps(schema(), indent=2).encode() + b"\n")
    write_durably(path, text.encode())
    console.print(f"Wrote {path}: two arms with the same tuning, and a claim. Edit it, then run", soft_wrap=True)
    console.print(f"  vitbench plan {path}\n  vitbench run {path}", highlight=False, soft_wrap=True)
    return 0
