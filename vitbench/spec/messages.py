"""Messages about a user's values, one line each: place, value, what is allowed, the nearest spelling."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from vitbench.base.errors import nearest
from vitbench.spec.trial import Frozen

Loc = tuple[str | int, ...]
Locate = Callable[[Loc], str]
"""Turns a place in the data into words: `a.yaml:7: base.model.depth`."""

_NEEDED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "tuple_type": "a list",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "string_pattern_mismatch": "a name (letters, digits, '.', '_', '-'; at most 80; a letter or digit first)",
}

MAX_LISTED = 24
"""Longer lists of names are shown as the sections that hold them."""


def translate(error: ValidationError, locate: Locate) -> list[str]:
    """One line for every value that a spec refuses; the alternatives of a union share one line."""
    needed: dict[str, list[str]] = {}
    lines: dict[str, str] = {}
    for item in error.errors(include_url=False):
        where = locate(item["loc"])
        if item["type"] in _NEEDED:
            needed.setdefault(where, []).append(_NEEDED[item["type"]].format(**item.get("ctx", {})))
            lines[where] = f"{where}: needs {' or '.join(needed[where])}, not {show(item['input'])}"
        else:
            lines[where + item["msg"]] = f"{where}: {_words(item, error.title)}"
    return list(lines.values())


def _words(item: Any, title: str) -> str:
    kind, loc = item["type"], item["loc"]
    if kind == "extra_forbidden":
        return "unknown key" + hint(str(loc[-1]), _keys(title, loc[:-1]))
    if kind == "missing":
        return f"the key {loc[-1]!r} is missing"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        near = nearest(str(item["input"]), allowed, 1)
        return f"{show(item['input'])} is not allowed; allowed: {', '.join(allowed)}{'.' + near if near else ''}"
    return str(item["msg"]).removeprefix("Value error, ")


ELSEWHERE = {
    "warmup_epochs": "train.warmup_fraction, a share of the steps (0.05)",
    "warmup_steps": "train.warmup_fraction, a share of the steps (0.05)",
    "warmup_lr": "train.warmup_fraction: the warm-up starts near 0",
    "pretrained": "model.init_from: timm:NAME",
    "finetune": "model.init_from, a folder or timm:NAME",
    "resume": "nothing: the same command resumes",
    "learning_rate": "train.lr",
    "optimizer": "train.opt",
    "scheduler": "train.sched",
    "lr_schedule": "train.sched",
    "dropout": "model.drop_rate",
    "drop_path": "model.drop_path_rate",
    "label_smoothing": "train.smoothing",
    "amp": "train.precision: bf16",
    "color_jitter": "train.augment: medium",
    "aa": "train.augment: medium, which has RandAugment",
    "ema": "train.model_ema: true",
    "class_weight": "train.class_weights",
    "random_erasing": "train.reprob, the share of images",
    "gradient_accumulation_steps": "train.grad_accum",
    "max_grad_norm": "train.clip_grad",
    "max_steps": "train.steps",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "image_size": "data.img_size",
    "input_size": "data.img_size",
    "hidden_size": "model.embed_dim",
    "num_hidden_layers": "model.depth",
    "num_attention_heads": "model.num_heads",
    "pool_type": "model.global_pool",
}
"""{setting of timm or transformers: what to write here}."""


def hint(word: str, allowed: Iterable[str]) -> str:
    """`". Did you mean 'model.depth'?"`: the nearest name with the same last part, else any near name, else all."""
    names = list(allowed)
    if instead := ELSEWHERE.get(word.rpartition(".")[2]):
        return f". Use {instead}"
    alike = [name for name in names if "." in name and name.rpartition(".")[2] == word.rpartition(".")[2]]
    if near := nearest(word, alike or names, 1):
        return "." + near
    if alike:
        return f". Did you mean {' or '.join(repr(name) for name in alike[:3])}?"
    groups = dict.fromkeys(re.sub(r"\..*", ".*", name) for name in names)
    return f"; allowed: {', '.join(names if len(names) <= MAX_LISTED else groups)}"


def show(value: Any) -> str:
    """A value as a file would write it, cut to one short line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def key_path(loc: Loc) -> str:
    """`claims[0].arms[1]` for ("claims", 0, "arms", 1)."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def _keys(title: str, loc: Loc) -> list[str]:
    """The keys of the spec at `loc` inside the spec called `title`."""
    model: type[BaseModel] = {cls.__name__: cls for cls in Frozen.__subclasses__()}[title]
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            model = next(iter(_models(model.model_fields[part].annotation)), model)
    return list(model.model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The spec classes inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
