"""What was left out, and how everything was measured, in sentences computed from the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from analysis.rate_check import RATE_RULE
from reports.formats import format_estimate, format_number, join_words, plural
from reports.frontier_figures import unresolved
from reports.gold_source import gold_sentence, scorer_sentences
from reports.law_sentences import law_methods
from reports.results import has_value, rows_of, usable
from reports.robustness_sentences import robustness_methods
from reports.way_sentences import way_methods

Row = Mapping[str, Any]


def left_out_sentences(results: Row) -> list[str]:
    """Comparisons dropped, stages missing or diverged, checkpoints and tasks that could not be used, failed fits."""
    lines = [
        _dropped(results),
        _votes_left_out(results),
        _cut(results),
        _excluded(results),
        _unresolved(results),
        _uninformative(results),
        _failed_fits(results),
    ]
    return [line for line in lines if line] or ["Nothing was left out, dropped or diverged."]


def _dropped(results: Row) -> str:
    data = results.get("data") or {}
    dropped = {str(reason): int(n) for reason, n in (data.get("dropped") or {}).items() if n}
    if not data.get("n_rows"):
        return ""
    reasons = f": {join_words([f'{n:,} {reason}' for reason, n in dropped.items()])}" if dropped else ""
    n_empty = int(data.get("empty_responses") or 0)
    empty = f" Kept although a response is empty: {n_empty:,}." if n_empty else ""
    return f"Of {data['n_rows']:,} comparisons read, {data['n_rows'] - data['n_kept']:,} were dropped{reasons}.{empty}"


def _votes_left_out(results: Row) -> str:
    """A question's answers and their pairs are counted apart, so there is no number that these are of."""
    votes = (results.get("data") or {}).get("votes") or {}
    dropped = [f"{int(n):,} {reason}" for reason, n in (votes.get("dropped") or {}).items() if n]
    return f"Besides {votes['n_kept']:,} votes there were, left out: {join_words(dropped)}." if dropped else ""


def _cut(results: Row) -> str:
    """What the length limit did to the comparisons of the main preference models: cut ones are kept, equal ones not."""
    rows = [row for row in rows_of(results, "pm") if row["tranche"] == "all"]
    found = []
    if equal := sum(row.get("equal_after_truncation") or 0 for row in rows):
        n = equal + sum(row["n_trained"] for row in rows)
        found.append(f"dropped, since both sides were then the same: {equal:,} of {n:,} for training")
    known = [row for row in rows if row.get("truncated") is not None]
    if cut := sum(row["truncated"] for row in known):
        found.append(f"cut and kept: {cut:,} of {sum(row['n_trained'] for row in known):,} for training")
    held_out = [(row["held_out_truncated"], row["accuracy"]["n"]) for row in known if row.get("held_out_truncated")]
    if held_out:
        found.append(f"cut and kept: up to {max(held_out)[0]:,} of {max(held_out)[1]:,} held out")
    models = f"{plural(len(rows), 'preference model')} together"
    return f"The length limit of preference models (training: {models}): {'; '.join(found)}." if found else ""


def _excluded(results: Row) -> str:
    rows = rows_of(results, "excluded")
    if not rows:
        return ""
    kinds = Counter(str(row.get("kind") or "other") for row in rows)
    counts = join_words([f"{n} {kind}" for kind, n in sorted(kinds.items())])
    return (
        f"{plural(len(rows), 'thing')} left out of the analysis or used in part ({counts}), each with its reason below."
    )


def _unresolved(results: Row) -> str:
    rows = [row for row in rows_of(results, "frontier") if row["step"] > 0]
    hollow = sum(map(unresolved, rows))
    if not hollow:
        return ""
    return (
        f"{hollow} of {plural(len(rows), 'checkpoint')} have a KL below two standard errors: drawn hollow, not fitted."
    )


def _uninformative(results: Row) -> str:
    rows = [row for row in rows_of(results, "tax") if not row.get("informative", True)]
    if not rows:
        return ""
    tasks = sorted({f"{row['task']} ({row['format']})" for row in rows})
    return (
        f"{plural(len(rows), 'tax row')} of {join_words(tasks)} were not above chance before RLHF by two standard "
        "errors: shown hollow, in no mean, trend or crossover." + _barely(results)
    )


def _barely(results: Row) -> str:
    """How many rows count as informative but are too near chance for means and trends."""
    rows = [row for row in rows_of(results, "tax") if row.get("informative") and row.get("normalised") is not None]
    near = sorted({f"{row['task']} ({row['format']}) at {row['model']}" for row in rows if not row.get("enters_means")})
    return f" Above chance by less than four, and so in no mean, trend or claim: {join_words(near)}." if near else ""


def _failed_fits(results: Row) -> str:
    fits = rows_of(results, "fits")
    failed = [fit for fit in fits if not usable(fit) or fit["status"] not in ("ok", "at_bound")]
    if not failed:
        return ""
    names = join_words(
        [f"{fit['law']} of {fit['y']} ({fit['group']}: {str(fit['status']).replace('_', ' ')})" for fit in failed]
    )
    return f"{len(failed)} of {plural(len(fits), 'fit')} did not give usable parameters: {names}."


# ---------------------------------------------------------------- how


def method_sentences(results: Row) -> list[str]:
    """Estimators, formulas, intervals, n and seeds, as far as this study used them."""
    lines = [_data(results), _seeds(results)]
    if rows_of(results, "pm"):
        lines.append(
            "Preference models: P(A beats B) = 1 / (1 + exp(score B − score A)); accuracy is the share of held-out "
            "comparisons whose chosen response scores higher, ties counting one half. The length baseline picks the "
            "longer response of the same comparisons; the Bayes ceiling is the mean of max(p, 1 − p) where the world's "
            "label probability p is known."
        )
    lines += _further(results)
    if rows_of(results, "distillation"):
        lines.append(
            "Context distillation minimises KL(teacher ‖ model) after every token but the first of each text; the "
            "teacher is a base that has read the prompt, and the model has not. The KL is over the teacher's most "
            "likely tokens and one bucket for all others, a lower bound on that over all tokens. Models learn on "
            "dialogues of the train half and plain training text; the numbers are of held-out text."
        )
    if rows_of(results, "frontier"):
        lines += [_kl(results), _responses(results)]
        lines.append(
            "Scores along RLHF are mean differences from the same policy's start on the same prompts. "
            "√KL = √max(KL, 0), its standard error se(KL) / (2 √KL). Lines are score = c · √KL, through the origin, "
            "fitted to checkpoints whose KL is at least two standard errors. With fewer than three runs at a size the "
            "slopes' spread between runs is averaged over sizes, taken as alike although their PMs' units differ."
        )
        lines += [*way_methods(results), *robustness_methods(results)]
        lines += [_gold_rule(results), gold_sentence(results), *scorer_sentences(results)]
    if rows_of(results, "tax"):
        lines.append(_tax(results))
    lines += law_methods(results)
    lines.append(
        "Intervals are 95 %, from t with standard errors clustered by conversation, prompt or document; where several "
        "runs met the same items, items and runs are crossed. With two seeds the training variance is barely known and "
        "intervals are wide; with one they are conditional on that run. Slopes with size have base models as clusters "
        "and t on their number less two. Seeds of one base are one cluster; with one base alone they are clusters, and "
        "intervals are given that base."
    )
    return [line for line in lines if line]


def _further(results: Row) -> list[str]:
    """How the further tables of preference models were made, as far as the study has them."""
    lines = []
    if rows_of(results, "pm_turns") or rows_of(results, "pm_floor"):
        lines.append(
            "How preference models score is measured on those trained on the largest number of comparisons that every "
            "size has, pooled over runs. Differences between turns are taken within tranches, which differ in turns "
            "and in how easy they are. Lengths match where they differ by at most a tenth of the longer. The last "
            "class of turns holds all later ones once few conversations reach them. For densities and thresholds each "
            "preference model's mean over the held-out responses is subtracted. Score differences are binned by their "
            "own quantiles."
        )
    if rows_of(results, "pm_shares") or rows_of(results, "pm_weights"):
        lines.append(
            "A comparison counts as helpful or harmless by the start of its tranche's name. Mixtures have the same "
            "number of comparisons in all; weights apply to the data as they come. The mean accuracy gives both kinds "
            "one half whatever their numbers. The best mixture of a size is chosen on one half of the conversations "
            "and compared on the other, both ways."
        )
    if rows_of(results, "pm_pretraining") or rows_of(results, "pm_extra"):
        lines.append(
            "Votes are a second set of comparisons, none of them on a question that held-out or gold comparisons ask. "
            "Models with and without them are of the train half and learn the same comparisons by the same rule; votes "
            "add steps. Their votes were drawn once, so intervals leave out how another draw would change them."
        )
    if rows_of(results, "pm_probes"):
        lines.append(
            "Probes are files of comparisons that finished preference models of the train half, trained on the largest "
            "number, are also judged on. Comparisons with the same first question are one cluster, which every run "
            "meets; slopes with size are fitted to all sizes together by generalised least squares."
        )
    if rows_of(results, "rate_check"):
        lines.append(f"Learning rates, the verdict on the rule. {RATE_RULE[0].upper()}{RATE_RULE[1:]}")
    if lines or rows_of(results, "pm_curve"):
        lines.append(
            "Detectable is the smallest true difference that a two-sided 5 % test finds with 80 % power: se · "
            "(t(.975) + t(.80)), 2.8 standard errors with many degrees of freedom. Where Holm adjusts p over m tests "
            "(learning rates, tasks) .975 becomes 1 − .025/m, the level of its first rejection."
        )
    return lines


def _data(results: Row) -> str:
    data = results.get("data") or {}
    splits = data.get("splits") or {}
    if not splits:
        return ""
    parts = [
        f"{name.replace('_', ' ')} {split['n']:,} from {split['n_conversations']:,} conversations"
        for name, split in splits.items()
    ]
    length = (data.get("length_baseline") or {}).get("all")
    prior = (
        f" On the held-out part the longer response is the chosen one in {_share(length)}." if has_value(length) else ""
    )
    return f"Comparisons ({data.get('source')}), split by the first human turn: {join_words(parts)}.{prior}"


def _share(estimate: Row | None) -> str:
    known = dict(estimate or {})
    if known.get("low") is None and known.get("se") is not None:
        return f"{format_number(known['value'], 3)} (standard error {format_number(known['se'], 3)}, n={known['n']:,})"
    return format_estimate(known)


def _seeds(results: Row) -> str:
    rows = [*rows_of(results, "pm"), *rows_of(results, "frontier")]
    seeds = sorted({row["seed"] for row in rows if row.get("seed") is not None})
    bases = sorted({row["seed_base"] for row in rows if row.get("seed_base") is not None})
    if not seeds:
        return ""
    text = f"Seeds of preference models and policies: {join_words(list(map(str, seeds)))}"
    return f"{text}; of base models: {join_words(list(map(str, bases)))}." if bases else f"{text}."


def _kl(results: Row) -> str:
    rows = rows_of(results, "frontier")
    estimators = sorted({row["kl"].get("estimator", "k1") for row in rows})
    prompts = sorted({row["kl"]["n"] for row in rows if row["kl"].get("n")})
    numbers = join_words([f"{n:,}" for n in prompts])
    text = (
        f"KL(policy ‖ reference) is the {join_words(estimators)} estimate, in nats, mean over {numbers} prompts, one "
        "response each: "
    )
    if "exact" in estimators:
        text += (
            "the sum over sampled tokens of the KL between the two next-token distributions, over the whole "
            "vocabulary. A stop text's tokens count, though the response is cut before them. The sums of ln policy − "
            "ln reference (k1) and of r − 1 − ln r with r = reference / policy (k3) have the same mean and more "
            "spread; k3's grows fast with KL. "
        )
    if "k1" in estimators:
        text += "k1 is the sum over response tokens of ln policy − ln reference. "
    return (
        text + "All are unbiased and none is clamped: k1 may come out negative and is kept with its sign in the tables."
    )


def _responses(results: Row) -> str:
    if not any(has_value(row.get("score_train_controlled")) for row in rows_of(results, "frontier")):
        return ""
    return (
        "With length held, a score's change is (mean s − b · (mean l − mean l₀)) − mean s₀: s and l are the scores and "
        "lengths of an evaluation's responses, those with ₀ the first evaluation's, b the least-squares slope of s on "
        "l. It takes out what goes with length, which need not be what length causes. Distinct-n is the number of "
        "different n-grams of words in all responses of an evaluation over the number of all."
    )


def _tax(results: Row) -> str:
    bounded = next((row for row in rows_of(results, "tax") if row.get("normalised") is not None), None)
    loss = next((row for row in rows_of(results, "tax") if row.get("unit") == "bits_per_byte"), None)
    margins = [f"{format_number(bounded['margin'] * 100, 1)} normalised points"] if bounded else []
    margins += [f"{format_number(loss['margin'], 3)} bits per byte"] if loss else []
    return (
        "Tax = before − after on the same items (after − before where lower is better), divided by 1 − chance; "
        "positive is a cost. A task counts as equivalent if the 90 % interval lies within the margin "
        f"({join_words(margins)}), else as tax or bonus if p < .05 after Holm's adjustment over the tasks of a "
        "size, else as inconclusive. What is detectable is se · (t(1 − .025/m) + t(.80)) with m tasks. Means, "
        "trends and claims take tasks at least four standard errors above chance before RLHF (a score just above two "
        "was likely lucky and would fall back), give them equal weight, take the tasks that all sizes share where "
        "these are two or more, and leave out policies that collapsed at the end."
    )


def _gold_rule(results: Row) -> str:
    rules = [str(row["gold_rule"]) for row in rows_of(results, "overoptimisation") if row.get("gold_rule")]
    return f"The gold score's verdict. {rules[0][0].upper()}{rules[0][1:]}" if rules else ""
