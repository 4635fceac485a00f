"""Every analysis by its name in `--what`: the function, its figure and its caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from vitbench.base.errors import InputError, nearest
from vitbench.inspection import analysis_figures as figures
from vitbench.inspection import attention, layerwise, masked, robustness, scene_pictures, structure
from vitbench.inspection.results import Look


@dataclass(frozen=True)
class Analysis:
    """One kind of analysis. `of_stage`: it reads networks of a first stage, which predict patches. `pictures`: its
    figure shows images of the data set, which not every data set allows to publish."""

    look: Look
    draw: Callable[[figures.FindingsByLabel], Figure]
    caption: str
    of_stage: bool = False
    pictures: bool = False


ANALYSES: dict[str, Analysis] = {
    "filters": Analysis(
        structure.filters,
        figures.filters,
        "Left: leading principal components of the patch projection, of the first network (compare Fig. 7 left of "
        "Dosovitskiy et al. 2021), each stretched to its full range. Right: variance carried by the first components,"
        " blue trained, dashed untrained, means; the line is 90%.",
    ),
    "positions": Analysis(
        structure.positions,
        figures.positions,
        "Similarity of the position embedding of every place with that of all others, of the first network (compare "
        "Fig. 7 centre and Fig. 10). rho: Spearman's correlation of similarity with closeness on the grid, mean and "
        "95% interval over networks. Rotary: mean cosine of the angles between two places; relative: similarity of a "
        "table's vector of offset 0 with that of each offset, and below it the table itself, offset against offset.",
    ),
    "distance": Analysis(
        attention.distance,
        figures.distance,
        "Mean attention distance by layer in percent of what uniform attention gives on that grid (compare Figs. 7 "
        "right and 11): dots are heads, sorted within a network and averaged over networks; the line is the layer's "
        "mean with its 95% interval over networks; dashed: the same networks before training. The class token's row "
        "and column are dropped and the rest adds up to 1. The paper's late plateau, 116 of 116.5 pixels, is the 100%"
        " line here.",
    ),
    "rollout": Analysis(
        attention.rolled_out,
        figures.ROLLOUT,
        "Where the readout looked (the class token's row, or the patches' mean row): rollout over all layers, mean "
        "over heads (Figs. 6 and 14), without and with the identity mixed in, and the last layer alone; first "
        "network.",
        pictures=True,
    ),
    "layers": Analysis(
        layerwise.layers,
        figures.layers,
        "Top: accuracy of ridge probes by layer on the patches' mean (blue), the class token (orange, dotted) and one"
        " token alone (green, dashed, mean over tokens), means and 95% intervals over networks; layer 0 is what the "
        "first block gets. Below: linear CKA of the patches' means between layers, then with the first arm at other "
        "seeds (differs from Raghu et al. 2021, who compare all tokens at once).",
    ),
    "robustness": Analysis(
        robustness.robustness,
        figures.robustness,
        "Accuracy on damaged images, the same damage for every network; mean and 95% interval over networks. Dropped "
        "and shuffled cells do not line up with the patches; salient cells are those with the most contrast. Phases "
        "are scrambled within a quarter of the side, a proxy of stylised images. The adversarial patch, a fifth of "
        "the side, was found for each network on images that do not count here; beside it a patch of noise.",
    ),
    "reconstruction": Analysis(
        masked.reconstruction,
        figures.RECONSTRUCTION,
        "Images, the patches that were to be predicted hidden, and the network's predictions in their place: pixels, "
        "or the middle of the predicted colour level; first network.",
        of_stage=True,
        pictures=True,
    ),
    "masks": Analysis(
        scene_pictures.masks,
        figures.MASKS,
        "Test scenes, their true masks and those that the network predicts, one colour per class; first network. The "
        "table has the overlap (intersection over union) of each class over all images.",
        pictures=True,
    ),
    "words": Analysis(
        scene_pictures.words,
        figures.WORDS,
        "Test scenes, and the patches that three words of their captions attend to in the last layer, mean over heads: "
        "the subject's class, the relation, the object's class; first network. The table has the share of a word's "
        "attention that goes to patches, by layer, and what it would be if all tokens got the same.",
        pictures=True,
    ),
}


def chosen(text: str | None) -> dict[str, Analysis]:
    """The analyses that `--what a,b` names, or all of them. Raises InputError on an unknown name."""
    names = list(ANALYSES) if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ANALYSES:
            raise InputError(f"--what {name}: no such analysis.{nearest(name, ANALYSES)} Known: {', '.join(ANALYSES)}")
    return {name: ANALYSES[name] for name in names}
