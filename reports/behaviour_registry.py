"""The figures of the paper's other evaluations that need no people."""

from __future__ import annotations

from reports import behaviour_figures, outlier_figures
from reports.figure_spec import FigureSpec

WHY_EMPTY = "the study measured no behaviours of this kind."
SEEDS = "Mean over seeds, 95 % intervals over"
BEHAVIOUR_FIGURES = (
    FigureSpec(
        name="figure-40-occupations",
        section="behaviours",
        title="Gender bias of occupations before and after RLHF",
        caption="After figure 40 of Bai et al. (2022). The bias of an occupation is the mean over 12 pairs of ln P(it "
        "| woman) − ln P(it | man) after “For work, the … is a”. Left: the mean of its size. "
        f"{SEEDS} occupations, and on the right over pairs; noise adds to the size of a bias, which is never 0.",
        why_empty=WHY_EMPTY,
        table=behaviour_figures.occupations_table,
        draw=behaviour_figures.draw_occupations,
        columns=2,
        optional=True,
    ),
    FigureSpec(
        name="figure-17-sentiment",
        section="behaviours",
        title="Sentiment about groups before and after RLHF",
        caption="After figure 17 of Bai et al. (2022). What a classifier takes for positive of sentences that the "
        f"model completed greedily in a dialogue. {SEEDS} sentences, for all groups over their beginnings.",
        why_empty=WHY_EMPTY,
        table=behaviour_figures.sentiment_table,
        draw=behaviour_figures.draw_sentiment,
        columns=2,
        optional=True,
    ),
    FigureSpec(
        name="figure-22-layers",
        section="behaviours",
        title="Harmful requests as outliers, by layer",
        caption="After figures 22 (left) and 39 of Bai et al. (2022). AUROC of harmful against helpful prompts by the "
        "last token's activations; distances are from half of the helpful prompts. The relative distance is the "
        f"Mahalanobis distance less that of the diagonal of the covariance. {SEEDS} prompts.",
        why_empty=WHY_EMPTY,
        table=outlier_figures.layers_table,
        draw=outlier_figures.draw_layers,
        columns=2,
        optional=True,
    ),
    FigureSpec(
        name="figure-22-distances",
        section="behaviours",
        title="Distances of harmful and helpful requests, largest size",
        caption="After figure 22 (right) of Bai et al. (2022): one seed and split, at the last layer of up to six and "
        "the middle one of more, which was chosen beforehand. The outermost bars hold what lies beyond them.",
        why_empty=WHY_EMPTY,
        table=outlier_figures.distances_table,
        draw=outlier_figures.draw_distances,
        columns=2,
        optional=True,
    ),
    FigureSpec(
        name="figure-23-exposure",
        section="behaviours",
        title="Harmful requests found by a head that was shown a few",
        caption="After figure 23 of Bai et al. (2022). A linear head on the last token's activations, at the last "
        "layer of up to six and the middle one of more, with each harmful prompt shown as often as makes up for their "
        f"number. {SEEDS} prompts, mean over splits.",
        why_empty=WHY_EMPTY,
        table=outlier_figures.exposure_table,
        draw=outlier_figures.draw_exposure,
        columns=2,
        optional=True,
    ),
    FigureSpec(
        name="figure-37-answers",
        section="behaviours",
        title="Loss on good and bad answers before and after RLHF",
        caption="After figure 37 of Bai et al. (2022), on chosen and rejected responses of held-out comparisons. The "
        f"difference is above 0 where chosen responses are likelier. {SEEDS} conversations; changes are paired on "
        "comparisons, and what differs between runs is not in their intervals.",
        why_empty=WHY_EMPTY,
        table=behaviour_figures.answers_table,
        draw=behaviour_figures.draw_answers,
        columns=3,
        optional=True,
    ),
    FigureSpec(
        name="figure-34-likelier-answer",
        section="behaviours",
        title="How often the policy finds the chosen response likelier",
        caption="After figure 34 of Bai et al. (2022). Share of held-out comparisons whose chosen response has the "
        f"higher mean log-probability a token. {SEEDS} conversations. Dashed: the accuracy of the size's PMs, of "
        "both halves, with the most comparisons, on all that are held out.",
        why_empty=WHY_EMPTY,
        table=behaviour_figures.agreement_table,
        draw=behaviour_figures.draw_agreement,
        columns=3,
        optional=True,
    ),
)
