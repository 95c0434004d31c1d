"""The figures of robustness: policies against train PMs of several sizes, followed by test PMs of all."""

from __future__ import annotations

from reports import robustness_figures
from reports.figure_spec import FigureSpec

WHY_EMPTY = "no policy was followed by test preference models of several sizes or trained against another size's."
ROBUSTNESS_FIGURES = (
    FigureSpec(
        name="robustness-scores",
        section="frontier",
        title="Score by train and test PMs of several sizes against √KL",
        caption="After figures 4 and 13 of Bai et al. (2022), a panel a policy size and the size of its train PM. "
        "Black: the PM that the policy was trained against; warm to dark: test PMs from small to large, trained on the "
        "other half. Changes from the start in standard deviations of each PM's held-out scores, with faint 95 % "
        "intervals over prompts; lines go through the origin and are fitted to a panel's runs. Dotted, with a grey "
        "95 % band: where the train PM's score parts from that of the largest test PM, by the rule under 'How it was "
        "measured'.",
        why_empty=WHY_EMPTY,
        table=robustness_figures.scores_table,
        draw=robustness_figures.draw_scores,
        columns=4,
        optional=True,
    ),
    FigureSpec(
        name="robustness-gold",
        section="frontier",
        title="Gold score by the size of the train PM, PPO and the best of n, against √KL",
        caption="A panel a policy size, a colour a train PM. Points: checkpoints of PPO with 95 % intervals over "
        "prompts, and its law d (α − β ln d) where it was identified. Dashed: the best of n samples of the reference "
        "by the same PM. Whether the gold score is the truth is said under 'How it was measured'.",
        why_empty=WHY_EMPTY,
        table=robustness_figures.gold_table,
        draw=robustness_figures.draw_gold,
        columns=2,
        optional=True,
    ),
    FigureSpec(
        name="robustness-parting",
        section="frontier",
        title="Where train and test score part, by policy size",
        caption="The √KL at which the train PM's score has risen 0.2 standard deviations more than the test PM's, with "
        "95 % intervals over prompts crossed with runs; a panel a test PM, a colour a train PM. Hollow, with an arrow: "
        "some run had not got there at this √KL, the farthest that all runs reached.",
        why_empty=WHY_EMPTY,
        table=robustness_figures.parting_table,
        draw=robustness_figures.draw_parting,
        columns=2,
        optional=True,
    ),
    FigureSpec(
        name="pm-size-effect",
        section="frontier",
        title="A large against a small train PM at equal √KL",
        caption="How much more a policy trained against the largest train PM has than one trained against the "
        "smallest, of the same size and seed and at the same √KL; positive: the large PM serves the policy better. 95 "
        "% intervals; where a size has one pair of runs they are over prompts alone.",
        why_empty=WHY_EMPTY,
        table=robustness_figures.effect_table,
        draw=robustness_figures.draw_effect,
        columns=3,
        optional=True,
    ),
)
