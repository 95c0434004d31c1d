"""The figures of other ways to a higher score than training: the best of n, and weights in between."""

from __future__ import annotations

from reports import way_figures
from reports.figure_spec import FigureSpec

WAY_FIGURES = (
    FigureSpec(
        name="best-of-n-sqrt-kl",
        section="frontier",
        title="The best of n samples beside PPO, against √KL",
        caption="After Gao et al. (2023). Blue: of n samples of the reference the one that the train PM scores "
        "highest, at n = 1, 2, 4, … of one pool for each prompt, with the law d (α − β d) where it was identified; the "
        "KL is that of the formula less what ties take away. Red: checkpoints of PPO, each line a run. 95 % intervals "
        "over prompts; the points of either are not independent.",
        why_empty="no pool of samples was drawn from a reference.",
        table=way_figures.best_of_n_table,
        draw=way_figures.draw_beside,
        columns=3,
        optional=True,
    ),
    FigureSpec(
        name="interpolation-sqrt-kl",
        section="frontier",
        title="Weights between reference and policy beside PPO, against √KL",
        caption="Blue: weights on the straight line from the reference (α = 0) to the policy at the end (α = 1). Red: "
        "checkpoints of PPO's training, each line a run. Changes from the policy's start on the same prompts, with "
        "95 % intervals over prompts; the end at α = 1 is that of training, and α = 0 is off 0 by the noise of "
        "sampling the reference twice.",
        why_empty="no weights between a reference and its policy were evaluated.",
        table=way_figures.interpolation_table,
        draw=way_figures.draw_beside,
        columns=3,
        optional=True,
    ),
)
