"""The registry of figures: what each shows, the table behind it, who draws it, and what it is called in the paper."""

from __future__ import annotations

import pandas as pd

from reports import frontier_figures, law_figures, policy_figures, tax_along, tax_figures
from reports.behaviour_registry import BEHAVIOUR_FIGURES
from reports.figure_spec import FigureSpec
from reports.formats import format_number, join_words, plain_label
from reports.pm_registry import PM_FIGURES, RATE_FIGURES, REFERENCE_FIGURES
from reports.robustness_registry import ROBUSTNESS_FIGURES
from reports.way_registry import WAY_FIGURES

FIGURES: tuple[FigureSpec, ...] = (
    *PM_FIGURES,
    *REFERENCE_FIGURES,
    FigureSpec(
        name="figure-04-samples",
        section="frontier",
        title="Score on the train and the test preference model along RLHF",
        caption="After figure 4 of Bai et al. (2022). Change from the start on the same held-out prompts, single runs "
        "with 95 % intervals over prompts, means over runs without; where the dashed line (a preference model "
        "that RLHF never saw) stays below the solid one, part of the gain is particular to the train "
        "preference model. Every size is scored by preference models of its own size, in their own units.",
        why_empty="the study has no policy with evaluations.",
        table=frontier_figures.samples_table,
        draw=frontier_figures.draw_samples,
        columns=2,
    ),
    FigureSpec(
        name="figure-13-sqrt-kl",
        section="frontier",
        title="Score against √KL from the reference",
        caption="After figure 13 of Bai et al. (2022). Every point is a checkpoint with its 95 % interval over "
        "prompts; lines go through the origin and are fitted to each size's runs, and are dashed where they "
        "fit worse than a constant (R² below 0). Each size is scored by preference models of its own, so units "
        "differ between sizes. Points of one run lie on one trajectory and are not independent.",
        why_empty="the study has no policy with evaluations.",
        table=frontier_figures.sqrt_kl_table,
        draw=frontier_figures.draw_sqrt_kl,
    ),
    FigureSpec(
        name="gold-sqrt-kl",
        section="frontier",
        title="Gold score against √KL",
        caption="The score that stands in for people, as a change from the start; what gave it, and whether it is the "
        "truth, is said under 'How it was measured'. Each line is a run, with 95 % intervals over prompts. Stars, only "
        "at sizes whose gold score falls by the rule given there, mark each run's peak: the middle of three successive "
        "checkpoints with the highest mean.",
        why_empty="the study has no gold score: nobody but the train and the test PM judged the responses.",
        table=frontier_figures.gold_table,
        draw=frontier_figures.draw_gold,
        columns=3,
    ),
    FigureSpec(
        name="kl-estimators",
        section="frontier",
        title="KL from the reference by every estimator",
        caption="Mean over the same held-out prompts with 95 % intervals, summed over the tokens sampled and never "
        "clamped, each run a line. Exact (over the whole vocabulary at every token), k1 and k3 estimate the same "
        "KL(policy ‖ reference) and should agree within their intervals; once KL is large k3 is heavy-tailed, and its "
        "mean and interval come out too low more often than not. Reversed is KL(reference ‖ policy) on responses of "
        "the reference, another quantity.",
        why_empty="the study has no policy with evaluations.",
        table=policy_figures.kl_table,
        draw=policy_figures.draw_kl,
        columns=3,
    ),
    FigureSpec(
        name="responses-along-training",
        section="frontier",
        title="How responses change along RLHF",
        caption="Single runs with 95 % intervals over the same held-out prompts. Entropy is exact, over all tokens "
        "sampled. Different words and word pairs are counted over all responses of an evaluation together (distinct-n; "
        "jackknife intervals). With length held, the change of the score is read off at the mean length of the first "
        "evaluation, by a line of score on length through each evaluation's responses.",
        why_empty="the study has no policy with evaluations.",
        table=policy_figures.responses_table,
        draw=policy_figures.draw_responses,
        columns=3,
    ),
    FigureSpec(
        name="slopes-by-size",
        section="frontier",
        title="Slope of score against √KL by size",
        caption="Lines through the origin, means over each size's runs with 95 % intervals from the spread between "
        "runs of all sizes; dashed the slope common to all sizes. PM scores are in standard deviations of that PM's "
        "held-out scores, since every size is scored by PMs of its own. Parallel lines would lie on one level.",
        why_empty="there are no policies of two sizes.",
        table=law_figures.slopes_table,
        draw=law_figures.draw_slopes,
        columns=3,
        optional=True,
    ),
    *WAY_FIGURES,
    *ROBUSTNESS_FIGURES,
    FigureSpec(
        name="figure-03-mean-accuracy",
        section="tax",
        title="Mean benchmark accuracy before and after RLHF",
        caption="After figure 3 of Bai et al. (2022): base models and policies at the end of RLHF, equal weight to "
        "every accuracy task that all sizes took, mean over seeds, 95 % intervals over items only.",
        why_empty="no accuracy benchmark was taken.",
        table=tax_figures.mean_table,
        draw=tax_figures.draw_mean,
        columns=2,
    ),
    FigureSpec(
        name="figure-28-tasks",
        section="tax",
        title="Every benchmark before and after RLHF",
        caption="After figure 28 of Bai et al. (2022). Mean over seeds, 95 % intervals over items only; the dotted "
        "line is chance.",
        why_empty="no benchmark was taken.",
        table=tax_figures.tasks_table,
        draw=tax_figures.draw_tasks,
        columns=3,
    ),
    FigureSpec(
        name="tax-by-size",
        section="tax",
        title="The alignment tax by size",
        caption="Loss of quality from before to after RLHF on the same items, positive is a cost, with 95 % intervals; "
        "the band is the margin within which a difference counts as none. Hollow: the model was not above "
        "chance before RLHF and could not pay. The mean is over tasks at least four standard errors above "
        "chance before.",
        why_empty="no benchmark was taken both before and after RLHF.",
        table=tax_figures.tax_table,
        draw=tax_figures.draw_tax,
        columns=3,
    ),
    FigureSpec(
        name="tax-against-sqrt-kl",
        section="tax",
        title="The alignment tax against √KL",
        caption="Mean tax over tasks at every checkpoint that was benchmarked, by its mean √KL over runs, with 95 % "
        "intervals; positive is a cost, and the start costs nothing. Recipes that the study trains as mitigations "
        "have lines of their own; weights between start and end lie on the line of interpolation. Recipes may have "
        "different numbers of runs: the table of mean taxes counts them.",
        why_empty="no policy was benchmarked at a known √KL.",
        table=tax_along.sqrt_kl_table,
        draw=tax_along.draw_sqrt_kl,
        columns=tax_along.COLUMNS,
        optional=True,
    ),
    FigureSpec(
        name="tax-against-reward",
        section="tax",
        title="The alignment tax against the gold reward",
        caption="Mean tax over tasks and rise of the gold score at the same checkpoints, means over runs, with 95 % "
        "intervals of the tax; positive is a cost. Lines follow √KL from the start: where the gold score fell again "
        "they turn back.",
        why_empty="no policy has both benchmarks and a gold score.",
        table=tax_along.reward_table,
        draw=tax_along.draw_reward,
        columns=tax_along.COLUMNS,
        optional=True,
    ),
    FigureSpec(
        name="tax-at-equal-reward",
        section="tax",
        title="Mitigations beside plain PPO at equal gold reward",
        caption="Mean tax by size, each recipe read between its checkpoints where all runs of both on the same bases "
        "and seeds had gained the same gold reward, with 95 % intervals; positive is a cost. Both recipes answered the "
        "same items, so their difference, in the table, is known better than these intervals suggest.",
        why_empty="no two recipes reached a common gold reward.",
        table=tax_along.equal_reward_table,
        draw=tax_along.draw_equal_reward,
        columns=tax_along.COLUMNS,
        optional=True,
    ),
    *BEHAVIOUR_FIGURES,
    *RATE_FIGURES,
)


def alt_text(spec: FigureSpec, table: pd.DataFrame) -> str:
    """A sentence for those who cannot see the figure: what it plots, its panels, and where its points lie."""
    points = table[table["layer"] == "point"]
    panels = [plain_label(str(panel)) for panel in dict.fromkeys(table["panel"])]
    series = [plain_label(str(name)) for name in dict.fromkeys(points["series"].dropna())]
    return (
        f"{spec.title}. {len(panels)} panel{'s' if len(panels) > 1 else ''} ({join_words(panels)}); "
        f"series: {join_words(series)}; {len(points)} points from {format_number(points['y'].min())} "
        f"to {format_number(points['y'].max())}. The table below the figure has the numbers."
    )
