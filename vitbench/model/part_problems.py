"""Why the parts of a transformer do not go together, in lines for the user. No torch."""

from __future__ import annotations

from vitbench.model.mechanisms import (
    MODEL_KINDS,
    channel_mixer_of,
    parts_of,
    patch_embed_of,
    position_of,
    readout_of,
    stage_models,
    stages_by_mixer,
    stages_of,
    token_mixer_of,
    token_mixers_of,
)
from vitbench.model.sizes import known
from vitbench.spec.mechanism import registered
from vitbench.spec.trial import ModelSpec


def part_problems(model: ModelSpec) -> list[str]:
    """The first that apply, one line each: problems of the parts, fields of other encodings, capabilities that no part
    gives, and problems of the positions, which may ask for what the token mixer gives."""
    return (
        stages_of(model).problems(model)
        or _parallel_problems(model)
        or _problems_by_stage(model)
        or _placement_problems(model)
        or _lacking(model)
        or list(dict.fromkeys(line for stage in stage_models(model) for line in position_of(stage).problems(stage)))
    )


def _lacking(model: ModelSpec) -> list[str]:
    """Capabilities that a part needs and no part gives, or not the token mixer of every stage."""
    parts, mixers = parts_of(model), token_mixers_of(model)
    of_mixers = frozenset.intersection(*(mixer.gives for mixer in mixers))
    of_others = frozenset[str]().union(*(part.gives for part in parts if part.kind != "token_mixer"))
    given = of_mixers | of_others | ({"class_token"} if model.class_token else set())
    return [
        f"model.{MODEL_KINDS[part.kind]}: {part.text()} needs {', '.join(sorted(missing)).replace('_', ' ')}, "
        f"which {', '.join(mixer.text() for mixer in mixers if missing - mixer.gives)} does not give"
        for part in parts
        if (missing := part.needs - given)
    ]


def _problems_by_stage(model: ModelSpec) -> list[str]:
    """Problems of every part but the positions in the stages that have it, each line once."""
    stages = stage_models(model)
    problems = [
        *patch_embed_of(model).problems(model),
        *(line for mixer, own_stages in stages_by_mixer(model) for line in mixer.problems_of_stages(own_stages)),
        *(line for stage in stages if stage.without != "mlp" for line in channel_mixer_of(stage).problems(stage)),
        *readout_of(model).problems(stages[-1]),
        *_removal_problems(model),
    ]
    return list(dict.fromkeys(problems))


def subset_problems(model: ModelSpec, seen: str = "the blocks see some of them") -> list[str]:
    """Why the blocks of a transformer cannot see other tokens than the grid's patches, one line each."""
    parts = (position_of(model), token_mixer_of(model))
    problems = [
        f"model.{MODEL_KINDS[part.kind]}: {part.text()} needs every patch of the grid, and {seen}"
        for part in parts
        if "subset" not in part.gives
    ]
    if model.pos_placement != "stem":
        problems.append(f"model.pos_placement: {model.pos_placement} needs every patch of the grid; stem does not")
    return problems


def _removal_problems(model: ModelSpec) -> list[str]:
    """What leaves nothing of an image where a branch is all of the signal."""
    problems = []
    if model.without == "residual" and model.drop_path_rate:
        problems.append("model.drop_path_rate: without residual connections a dropped branch leaves nothing; set 0")
    if model.without == "residual" and model.layer_scale is not None:
        problems.append(
            f"model.layer_scale: without residual connections {model.layer_scale:g} of the signal is left by every "
            "branch; set null"
        )
    return problems


def _parallel_problems(model: ModelSpec) -> list[str]:
    """Why blocks cannot run side by side."""
    if model.parallel == 1:
        return []
    given = f"model.parallel: {model.parallel}"
    problems = [
        f"{given} needs whole blocks on one grid that see their positions at the stem, and model.{field} is "
        f"{getattr(model, field)}; set {'null' if value is None else value}"
        for field, value in {"stages": "flat", "without": None, "pos_placement": "stem"}.items()
        if getattr(model, field) != value
    ]
    if known(model.depth) % model.parallel:
        problems.append(f"{given} does not divide model.depth, which is {model.depth}")
    return problems


def _placement_problems(model: ModelSpec) -> list[str]:
    """Fields of other encodings that this one does not have."""
    position, problems = position_of(model), []
    if model.pos_placement != "stem" and not position.absolute:
        named = ", ".join(name for name, cls in registered("position").items() if cls.absolute)  # type: ignore[attr-defined]
        problems.append(f"model.pos_placement: {model.pos_placement} is for {named}; {position.text()} has only stem")
    if model.relative_clip is not None and not position.offsets:
        problems.append(f"model.relative_clip: {position.text()} has no relative offsets to clip")
    return problems
