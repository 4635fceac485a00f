"""What a recommendation knows at any moment: the answers, the final comparison, the warnings; and its Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vitbench.recommend.arm_gaps import seeds_to_settle
from vitbench.recommend.experiments import DEFAULT, RECOMMENDED, RESNET
from vitbench.recommend.questions import FAMILY, MARGIN, RecipeQuestion
from vitbench.recommend.recipe import Recipe
from vitbench.recommend.search import Search
from vitbench.recommend.words import gap_words, hours_words, interval_words, lead_words, listed, recipe_words
from vitbench.stats.intervals import Interval

NAMES = {RECOMMENDED: "recommended", DEFAULT: "default ViT", RESNET: "ResNet of equal compute"}
AIM_WORDS = {
    "accuracy": "the highest validation accuracy",
    "speed": f"the most images per second within {MARGIN:g} point of the highest validation accuracy",
    "size": f"the fewest parameters within {MARGIN:g} point of the highest validation accuracy",
}

NOT_READ = "No test image has been read"


@dataclass(frozen=True)
class TestedArm:
    """One arm of the final comparison: test top-1 for new seeds and new images, and the lead over it."""

    recipe: Recipe
    accuracy: Interval
    lead: Interval | None
    speed: float
    params: int


@dataclass(frozen=True)
class Outcome:
    """Everything that the answer says. `tested` is empty before the final comparison; `looked`: it has begun."""

    data: str
    command: str
    budget_seconds: float
    used_seconds: float
    search: Search
    unasked: tuple[RecipeQuestion, ...]
    cautions: tuple[str, ...]
    tested: Mapping[str, TestedArm] = field(default_factory=dict)
    num_test_images: int = 0
    looked: bool = False
    looks: tuple[Mapping[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    recipe: Recipe | None = None
    """The recommended recipe; None before the first answer."""

    @property
    def same_as(self) -> str | None:
        """The baseline that the recommended recipe is, if it is one."""
        first = next((answer for answer in self.search.answers if answer.question.name == FAMILY), None)
        if self.recipe is None or first is None:
            return None
        arms = {DEFAULT: first.arms.get("vit"), RESNET: first.arms.get("resnet")}
        return next((n for n, tried in arms.items() if tried and tried.recipe.key == self.recipe.key), None)

    def headline_lines(self) -> list[str]:
        """The answer in a few sentences, and the warnings."""
        return [*headline(self), *(f"warning: {line}" for line in self.cautions)]

    @property
    def num_arms(self) -> int:
        """Different recipes that were trained."""
        return len(self.search.tried)


def headline(outcome: Outcome) -> list[str]:
    """What to use and how sure that is, in a few sentences."""
    if outcome.recipe is None:
        return ["No recommendation yet: no question has been answered."]
    frame = outcome.search.allocation.frame
    lines = [f"Use {recipe_words(outcome.recipe, frame)}."]
    recommended = outcome.tested.get(RECOMMENDED)
    if recommended is None:
        read = "The comparison on test images has under two seeds of every arm" if outcome.looked else NOT_READ
        lines.append(f"{read}: this rests on validation images alone, and is an answer so far.")
        return lines
    accuracy = interval_words(recommended.accuracy)
    lines.append(
        f"On {outcome.num_test_images:,} test images it has {accuracy}% top-1, on {recommended.accuracy.n} fresh "
        "seeds (95%, for new seeds and new images)."
    )
    for name, arm in outcome.tested.items():
        if arm.lead is not None:
            lines.append(f"Its lead over the {NAMES[name]} ({interval_words(arm.accuracy)}%) is {_lead(arm.lead)}.")
    if outcome.same_as is not None:
        lines.append(f"It is the {NAMES[outcome.same_as]} itself: no question found anything better.")
    return lines


def _lead(lead: Interval) -> str:
    """A lead with what its interval says about it."""
    words = f"{interval_words(lead, sign=True)} points"
    if lead.low is None or lead.high is None:
        return words
    if lead.low > 0.0:
        return f"{words}: sure at 95%"
    return f"{words}: it is behind" if lead.high < 0.0 else f"{words}: not sure"


def equal_lines(outcome: Outcome) -> list[str]:
    """What makes no difference on these images."""
    lines = []
    for answer in outcome.search.answers:
        equal = [each for each in answer.standing if each.state == "equal"]
        if equal and answer.chosen is not None:
            arms = listed([f"{each.arm} ({each.behind:.2f} ± {each.half:.2f} points behind)" for each in equal])
            lines.append(f"{answer.question.name}: {arms} no more than {MARGIN:g} point behind the best arm.")
    return lines


def open_lines(outcome: Outcome) -> list[str]:
    """What stayed open, and what settling it would cost."""
    search = outcome.search
    lines = []
    for answer in search.answers:
        for each in answer.standing:
            if each.state != "open":
                continue
            seeds = seeds_to_settle(each)
            cost = "more than 1,000 seeds"
            if seeds is not None:
                more = max(0, seeds - each.num_seeds)
                leader = answer.standing[0].arm
                seconds = sum(answer.arms[arm].seconds for arm in (each.arm, leader))
                cost = f"about {seeds} seeds, {hours_words(more * seconds / search.speeds.jobs / 3600)} more"
            half = "" if each.half is None else f" ± {each.half:.2f}"
            lines.append(
                f"{answer.question.name}: {each.arm} is {each.behind:.2f}{half} points behind; to settle it: {cost}."
            )
    for question in outcome.unasked:
        lines.append(f"{question.name}: not asked, the budget did not allow it. {question.words}")
    return lines


def method_lines(outcome: Outcome) -> list[str]:
    """How the answer came about."""
    search = outcome.search
    allocation = search.allocation
    lines = [
        f"{outcome.num_arms} recipes in {search.num_trainings} trainings were compared on validation images; the "
        f"choice took {AIM_WORDS[search.aim]}. The best of many looks better than it is, so the numbers above come "
        "from fresh seeds and from test images that no choice has seen.",
        f"Every training cost {allocation.frame.flops:.3g} FLOPs: {allocation.num_steps:,} steps of the default "
        f"ViT, {allocation.num_epochs:.1f} epochs. A longer training may change the order.",
        "The baselines have the learning rates that the first question chose for them.",
        f"Time used: {hours_words(outcome.used_seconds / 3600)} of {hours_words(outcome.budget_seconds / 3600)}.",
    ]
    if outcome.looks:
        look = outcome.looks[0]
        lines.append(
            f"These test images were read before: by {look.get('who')} at {look.get('when')}, for {look.get('root')}. "
            "If that changed a decision, the intervals are too narrow."
        )
    return lines


def markdown(outcome: Outcome) -> str:
    """The whole answer as Markdown."""
    return "\n".join(_markdown(outcome)) + "\n"


def _markdown(outcome: Outcome) -> Iterator[str]:
    yield f"# Recommendation for {outcome.data}"
    yield from ("", *headline(outcome), "")
    if outcome.cautions:
        yield from ("## Warnings", "", *(f"- {line}" for line in outcome.cautions), "")
    yield from ("## Questions", "", "| question | answer | how sure | arms |", "|---|---|---|---|")
    for answer in outcome.search.answers:
        arms = "; ".join(gap_words(each) for each in answer.standing)
        yield f"| {answer.question.words} | {answer.chosen or '-'} | {lead_words(answer)} | {arms} |"
    for title, lines in (
        ("What makes no difference here", equal_lines(outcome)),
        ("What stayed open", open_lines(outcome)),
        ("How this was found", method_lines(outcome)),
        ("Go on", list(outcome.notes)),
    ):
        if lines:
            yield from ("", f"## {title}", "", *(f"- {line}" for line in lines))
