"""The figures of preference models, of the reference and of the check of learning rates, as entries of the registry."""

from __future__ import annotations

from reports import (
    distillation_figures,
    pm_data_figures,
    pm_figures,
    pm_mixing_figures,
    pm_pretraining_figures,
    pm_probe_figures,
    pm_score_figures,
    rate_figures,
)
from reports.figure_spec import FigureSpec

PM_FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec(
        name="figure-07-pm-accuracy",
        section="pm",
        title="Preference-model accuracy against data and against size",
        caption="After figure 7 of Bai et al. (2022). Points are means over seeds and halves, with 95 % intervals "
        "where there are any, small dots single preference models. Lines are log-linear fits inside the range "
        "of their data, bands the 95 % intervals of their mean: left one a size, right the joint fit in size and data; "
        "dashed, where its limit was found and its AICc is clearly lower than the log-linear law's, a law that levels "
        "off. All are judged on the same held-out comparisons.",
        why_empty="no preference model was trained and scored on held-out comparisons.",
        table=pm_figures.pm_accuracy_table,
        draw=pm_figures.draw_pm_accuracy,
    ),
    FigureSpec(
        name="pm-tranches",
        section="pm",
        title="Preference-model accuracy by tranche",
        caption="Every preference model trained on the largest number of comparisons, with its 95 % interval over "
        "conversations.",
        why_empty="the held-out comparisons are all of one tranche.",
        table=pm_figures.pm_tranche_table,
        draw=pm_figures.draw_pm_tranches,
        columns=3,
    ),
    FigureSpec(
        name="figure-31-pm-data",
        section="pm",
        title="Preference-model accuracy by kind of comparison and number trained on",
        caption="After figure 31 of Bai et al. (2022). Points are preference models trained on that many comparisons, "
        "means over runs with 95 % intervals (by tranche over conversations alone). Thin lines, where the pass "
        "over the largest number was also scored on its way, are that one pass of the train half. Points and laws are "
        "of both halves. Bands are the log-linear laws of the panel's comparisons, the 95 % interval of the mean; "
        "dashed, where its limit was found and its AICc is clearly lower than the log-linear law's, a law that levels "
        "off.",
        why_empty="the held-out comparisons are of one kind and no pass was scored on the way.",
        table=pm_data_figures.pm_data_table,
        draw=pm_data_figures.draw_pm_data,
        columns=3,
        optional=True,
    ),
    FigureSpec(
        name="pm-pretraining",
        section="pm",
        title="Preference-model accuracy with and without pretraining on votes",
        caption="The same comparisons, of the train half, learned from a fresh score head and from a preference model "
        "of votes, its head included. Means over runs with 95 % intervals; the table has the differences, "
        "paired by comparison and run, and what the votes alone have taught.",
        why_empty="no preference model was pretrained on votes beside one that was not.",
        table=pm_pretraining_figures.pretraining_table,
        draw=pm_pretraining_figures.draw_pretraining,
        columns=3,
        optional=True,
    ),
    FigureSpec(
        name="figure-20-pm-extra",
        section="pm",
        title="Preference-model accuracy with a second set of comparisons mixed in",
        caption="After figure 20 of Bai et al. (2022), judged on held-out comparisons of the first set. Votes are "
        "learned besides the same comparisons, in one pass; the share counts them against the comparisons. Left means "
        "over runs with 95 % intervals, right the differences from none, paired by held-out comparison and run.",
        why_empty="no votes were mixed into a preference model's comparisons.",
        table=pm_pretraining_figures.extra_table,
        draw=pm_pretraining_figures.draw_extra,
        columns=2,
        optional=True,
    ),
    FigureSpec(
        name="figure-08-pm-turns",
        section="scores",
        title="Preference-model accuracy by turn of the conversation",
        caption="After figure 8 of Bai et al. (2022). Held-out comparisons by the number of the turn that the two "
        "responses answer; late turns are one class once few conversations reach them. Means over the "
        "preference models trained on the largest number of comparisons, with 95 % intervals. Dotted: the longer "
        "response of the same comparisons; dashed, where it is known, the Bayes ceiling.",
        why_empty="the held-out comparisons are all of one turn.",
        table=pm_score_figures.turns_table,
        draw=pm_score_figures.draw_turns,
        optional=True,
    ),
    FigureSpec(
        name="figure-09-pm-calibration",
        section="scores",
        title="Preference-model accuracy against the difference of scores",
        caption="After figure 9 of Bai et al. (2022). Held-out comparisons in ten bins of equal number by the absolute "
        "difference of their two scores, with 95 % intervals. The dashed line is 1 / (1 + exp(−difference)), "
        "the accuracy that the scores promise: points above it are under-confident, below it over-confident. Dotted: "
        "how often the longer response is the chosen one in each bin.",
        why_empty="no preference model was scored on enough held-out comparisons.",
        table=pm_score_figures.calibration_table,
        draw=pm_score_figures.draw_calibration,
        columns=3,
        optional=True,
    ),
    FigureSpec(
        name="figure-25-pm-floor",
        section="scores",
        title="Preference-model accuracy where both responses score high",
        caption="After figure 25 of Bai et al. (2022). The comparisons whose lower score is at or above a threshold, "
        "placed by the part of all comparisons that the threshold leaves out, so that sizes compare although "
        "their scores have units of their own; the CSV has the thresholds. Each preference model's mean score "
        "was subtracted. Intervals are 95 %; the points of a line share comparisons.",
        why_empty="no preference model was scored on enough held-out comparisons.",
        table=pm_score_figures.floor_table,
        draw=pm_score_figures.draw_floor,
        columns=3,
        optional=True,
    ),
    FigureSpec(
        name="figure-14-pm-scores",
        section="scores",
        title="Scores of chosen and rejected responses",
        caption="After the left of figure 14 of Bai et al. (2022). Density of the scores that the preference models of "
        "the largest size give to held-out responses, each model's mean subtracted. Thin upright lines are the "
        "means.",
        why_empty="no preference model was scored on enough held-out comparisons.",
        table=pm_score_figures.scores_table,
        draw=pm_score_figures.draw_scores,
        columns=3,
        optional=True,
    ),
    FigureSpec(
        name="figure-05-pm-probes",
        section="scores",
        title="Preference-model accuracy on probes",
        caption="After the left of figure 5 of Bai et al. (2022). Comparisons besides the held-out part, from files "
        "that the study names, by the category of their rows; n counts comparisons. Means over the runs of the "
        "preference models trained on the largest number of comparisons, with 95 % intervals; comparisons about "
        "one question are one cluster. Dotted: always taking the longer response.",
        why_empty="the study names no probes.",
        table=pm_probe_figures.probes_table,
        draw=pm_probe_figures.draw_probes,
        columns=3,
        optional=True,
    ),
    FigureSpec(
        name="figure-10-pm-margins",
        section="scores",
        title="Margins of the largest preference model on probes",
        caption="After the left of figure 10 of Bai et al. (2022). Score of the chosen response minus that of the "
        "rejected one, all runs of the largest size together; n counts comparisons, of which each run judges all. "
        "A margin of 1 stands for odds of e : 1 in a calibrated model.",
        why_empty="the study names no probes.",
        table=pm_probe_figures.margins_table,
        draw=pm_probe_figures.draw_margins,
        columns=3,
        optional=True,
    ),
    FigureSpec(
        name="figure-19-pm-shares",
        section="mixing",
        title="Preference-model accuracy against the mixture of helpful and harmless comparisons",
        caption="After figure 19 of Bai et al. (2022). Preference models trained on the same number of comparisons, of "
        "which a part is harmless ones and the rest helpful ones, tested on each kind; means over runs with 95 % "
        "intervals. Below, the same divided by the best mixture of the size, chosen on one half of the "
        "conversations and compared on the other, both ways.",
        why_empty="no preference model was trained on a mixture of its own.",
        table=pm_mixing_figures.shares_table,
        draw=pm_mixing_figures.draw_grid,
        columns=2,
        optional=True,
    ),
    FigureSpec(
        name="figure-26-pm-shares-mean",
        section="mixing",
        title="Mean accuracy over both kinds against the mixture",
        caption="After figure 26 of Bai et al. (2022). Mean of the accuracies on helpful and on harmless comparisons, "
        "each kind with weight one half; on the right divided by the best mixture of the size, chosen on one half of "
        "the conversations and compared on the other, both ways.",
        why_empty="no preference model was trained on a mixture of its own.",
        table=pm_mixing_figures.shares_mean_table,
        draw=pm_mixing_figures.draw_grid,
        columns=2,
        optional=True,
    ),
    FigureSpec(
        name="figure-27-pm-weights",
        section="mixing",
        title="Preference-model accuracy against the weight of harmless comparisons",
        caption="After figure 27 of Bai et al. (2022). The loss weighs harmless comparisons λ and helpful ones 1, "
        "divided by the mean weight. Means over runs with 95 % intervals.",
        why_empty="no preference model was trained with a weight of its own.",
        table=pm_mixing_figures.weights_table,
        draw=pm_mixing_figures.draw_grid,
        columns=3,
        optional=True,
    ),
)

REFERENCE_FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec(
        name="figure-30-distillation",
        section="reference",
        title="Divergence from the prompted teacher along context distillation",
        caption="After figure 30 of Bai et al. (2022). A line a run: KL(teacher ‖ student) in nats a token of the "
        "examples of each part of the one pass, before its steps, with 95 % intervals over batches. The teacher reads "
        "the prompt and the student does not; the KL is over the teacher's most likely tokens and one bucket "
        "for all others.",
        why_empty="no reference was made by context distillation.",
        table=distillation_figures.curve_table,
        draw=distillation_figures.draw_curve,
        optional=True,
    ),
    FigureSpec(
        name="distillation-losses",
        section="reference",
        title="What distilled models make of held-out text",
        caption="Held-out responses (end token included) and plain text, means over runs with 95 % intervals; changes "
        "are paired by conversation or document and run. The base with the prompt is of the model's own size.",
        why_empty="no reference was made by context distillation.",
        table=distillation_figures.loss_table,
        draw=distillation_figures.draw_losses,
        columns=2,
        optional=True,
    ),
)

RATE_FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec(
        name="rate-check",
        section="rates",
        title="Other learning rates than the rule's",
        caption="Difference from the same seeds at the rate that the rule gives (factor 1), with 95 % intervals; the "
        "band is the margin within which a difference counts as none.",
        why_empty="no stage was repeated at another learning rate.",
        table=rate_figures.rate_table,
        draw=rate_figures.draw_rates,
        columns=3,
        optional=True,
    ),
)
