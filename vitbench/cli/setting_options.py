"""The advice for a spec field that is given as an option: `--lr 1e-3` is `--set train.lr=1e-3`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


def advice(option: str) -> str | None:
    """`Use --set train.lr=VALUE.` for `--lr`; None if no spec field has this name."""
    from vitbench.spec.paths import SPEC_PATHS  # Late: only a refused option needs it.

    field = option.lstrip("-").partition("=")[0].replace("-", "_")
    paths = [path for path in SPEC_PATHS if field in (path, path.rpartition(".")[2])]
    return f"Use {' or '.join(f'--set {path}=VALUE' for path in paths)}." if paths else None


class SettingsGroup(TyperGroup):
    """Commands whose unknown options name the spec field that is meant."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # typer holds a click of its own from 0.24 on, so the class has two homes.
            if type(error).__name__ == "NoSuchOption" and (words := advice(error.option_name)):  # type: ignore[attr-defined]
                error.message = f"{error.message}. {words}"  # type: ignore[attr-defined]
            raise
