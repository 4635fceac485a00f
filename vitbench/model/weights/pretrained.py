"""Weights of timm's model zoo, as a safetensors file."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save

from vitbench.base.durable import replace_durably
from vitbench.base.errors import InputError, nearest
from vitbench.data.source import optional


def fetch(name: str, path: Path) -> None:
    """Write the weights that timm has for the model `name` to `path`.

    Raises InputError where timm is not installed, knows no such weights, or cannot get them.
    """
    where = f"model.init_from: timm:{name}"
    timm = optional("timm", "timm", where)
    if not timm.is_model_pretrained(name):
        names = dict.fromkeys(n if "." in name else n.partition(".")[0] for n in timm.list_models(pretrained=True))
        raise InputError(f"{where}: timm has no pre-trained weights of that name.{nearest(name, names)}")
    try:
        state = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # from a refused connection to a damaged download, in several libraries' words
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{where}: cannot be loaded ({reason[0]})") from error
    replace_durably(path, save({key: tensor.contiguous() for key, tensor in state.items()}))
