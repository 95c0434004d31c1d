"""Tables of preference models beyond their accuracy: differences with what they could have shown, and the rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reports.formats import format_count, format_difference, format_estimate, format_number, format_p
from reports.pm_score_figures import GROUP_TITLES
from reports.rate_figures import KINDS, factor_words, measure_words
from reports.results import has_value, models_by_size, rows_of
from reports.tables import HtmlTable

Row = Mapping[str, Any]
POWER = "detectable: the smallest true difference found with 80 % power"
BESIDE = ("the longer one wins", "accuracy at like length")  # columns beside an accuracy


def data_tables(results: Row) -> list[HtmlTable]:
    """Log loss by size and data, and the long pass beside passes of their own; only tables that have rows."""
    return _with_rows(loss_table(results), curve_table(results))


def score_tables(results: Row) -> list[HtmlTable]:
    """Turns, calibration, both scores high, the two halves' agreement, and probes; only tables that have rows."""
    tables = (turns_table(results), calibration_table(results), floor_table(results), agreement_table(results))
    return _with_rows(*tables, probes_table(results))


def mixing_tables(results: Row) -> list[HtmlTable]:
    """Mixtures and weights; only tables that have rows."""
    return _with_rows(shares_table(results), weights_table(results))


def rate_tables(results: Row) -> list[HtmlTable]:
    """The check of learning rates, where there was one."""
    return _with_rows(rate_table(results))


def _with_rows(*tables: HtmlTable) -> list[HtmlTable]:
    return [table for table in tables if table.rows]


# ---------------------------------------------------------------- data


def loss_table(results: Row) -> HtmlTable:
    """Pooled log loss, sizes down and numbers of comparisons across, with the calibration slope at the largest."""
    cells = {(row["model"], row["n_comparisons"]): row for row in rows_of(results, "pm_trend")}
    numbers = sorted({n for (_, n), row in cells.items() if has_value(row.get("log_loss"))})
    rows = []
    for model in models_by_size(results):
        here = [cells.get((model["name"], n)) for n in numbers]
        if any(cell is not None and has_value(cell.get("log_loss")) for cell in here):
            shown = ["–" if cell is None else format_estimate(cell.get("log_loss")) for cell in here]
            last = next(cell for cell in reversed(here) if cell is not None)
            slope = format_estimate(last.get("calibration_slope"))
            rows.append([str(model["name"]), format_count(model["n_params"]), *shown, slope])
    head = ["model", "parameters", *(f"{n:,} comparisons" for n in numbers)]
    return HtmlTable(
        "Held-out log loss in nats, mean over seeds and halves; the calibration slope is that at the most comparisons",
        [*head, "calibration slope"],
        rows,
        numbers=(1,),
    )


def curve_table(results: Row) -> HtmlTable:
    """Accuracy along the one longest pass beside passes of their own over as many comparisons."""
    rows = [
        [
            str(row["model"]),
            _group(row),
            f"{row['pairs']:,}",
            format_estimate(row["accuracy"]),
            "the end of the pass" if row["at_end"] else format_estimate(row.get("separate")),
            _difference(row.get("difference")),
            *_beside(row),
            _note(row),
        ]
        for row in rows_of(results, "pm_curve")
    ]
    head = ["model", "kind", "comparisons seen", "accuracy along the pass", "in a pass of its own", "difference"]
    caption = f"One long pass beside passes of their own ({POWER})"
    return HtmlTable(caption, [*head, *BESIDE, "note"], rows, wide=(8,), numbers=(2,))


# ---------------------------------------------------------------- scores


def turns_table(results: Row) -> HtmlTable:
    """Accuracy by turn, and against the first."""
    rows = [
        [
            str(row["model"]),
            str(row["label"]),
            f"{row['n_conversations']:,}",
            format_estimate(row["accuracy"]),
            _difference(row.get("minus_first")),
            format_estimate(row.get("log_loss")),
            *_beside(row),
            _note(row),
        ]
        for row in rows_of(results, "pm_turns")
    ]
    head = ["model", "turn", "conversations", "accuracy", "minus the first turn", "log loss", *BESIDE, "note"]
    caption = f"Accuracy and log loss (nats) by turn of the conversation ({POWER})"
    return HtmlTable(caption, head, rows, wide=(8,), numbers=(2,))


def calibration_table(results: Row) -> HtmlTable:
    """Accuracy by score difference, beside what the scores promise."""
    rows = [
        [
            str(row["model"]),
            f"{format_number(row['left'], 2)} to {format_number(row['right'], 2)}",
            format_estimate(row["accuracy"]),
            format_number(row["expected"], 3),
            _difference(row.get("gap")),
            _note(row),
        ]
        for row in rows_of(results, "pm_calibration")
    ]
    head = ["model", "difference of scores", "accuracy", "promised", "accuracy − promised", "note"]
    return HtmlTable(f"Accuracy by absolute difference of scores ({POWER})", head, rows, wide=(5,), numbers=(3,))


def floor_table(results: Row) -> HtmlTable:
    """Accuracy where both responses score high, against all comparisons of the kind."""
    rows = [
        [
            str(row["model"]),
            _group(row),
            f"{format_number(100 * row['share'], 0)} %",
            format_number(row["threshold"], 2),
            format_estimate(row["accuracy"]),
            _difference(row.get("minus_all")),
            _note(row),
        ]
        for row in rows_of(results, "pm_floor")
    ]
    head = ["model", "kind", "left out", "lower score at least", "accuracy", "minus all of the kind", "note"]
    return HtmlTable(f"Accuracy where both responses score high ({POWER})", head, rows, wide=(6,), numbers=(2, 3))


def agreement_table(results: Row) -> HtmlTable:
    """How far the preference models of the two halves agree."""
    rows = [
        [
            str(row["model"]),
            str(row["seed"]),
            f"{row['n_comparisons']:,}",
            format_estimate(row["agreement"]),
            format_estimate(row["correlation"]),
            _note(row),
        ]
        for row in rows_of(results, "pm_agreement")
    ]
    head = ["model", "seed", "comparisons", "prefer the same response", "correlation of score differences", "note"]
    caption = "Agreement of the two halves' preference models on held-out comparisons"
    return HtmlTable(caption, head, rows, wide=(5,), numbers=(2,))


def probes_table(results: Row) -> HtmlTable:
    """Accuracy on comparisons besides the held-out part, against always taking the longer response."""
    rows = [
        [
            str(row["model"]),
            str(row["probe"]),
            str(row["category"]),
            format_estimate(row["accuracy"]),
            format_estimate(row["length_accuracy"]),
            _difference(row.get("accuracy_minus_length")),
            _note(row),
        ]
        for row in rows_of(results, "pm_probes")
    ]
    head = ["model", "probe", "category", "accuracy", "the longer one wins", "accuracy minus that", "note"]
    return HtmlTable(f"Accuracy on probes ({POWER})", head, rows, wide=(6,))


# ---------------------------------------------------------------- mixtures, weights


def shares_table(results: Row) -> HtmlTable:
    """Accuracy of every mixture on each kind and their mean, and the mean over the size's best."""
    head = ["harmless", *_kinds_head("accuracy"), "mean / best mixture − 1"]
    return HtmlTable(
        f"Mixtures of helpful and harmless comparisons, the same number in all ({POWER})"
        + _length_words(rows_of(results, "pm_shares")),
        ["model", *head],
        _by_kind(rows_of(results, "pm_shares"), "helpful_share", _share_words, _from_best),
    )


def weights_table(results: Row) -> HtmlTable:
    """Accuracy at every weight on each kind and their mean, and against weight 1."""
    head = ["weight of harmless", *_kinds_head("accuracy"), *_kinds_head("minus weight 1")]
    return HtmlTable(
        f"Weights of harmless comparisons in the loss ({POWER})" + _length_words(rows_of(results, "pm_weights")),
        ["model", *head],
        _by_kind(rows_of(results, "pm_weights"), "harmless_weight", _weight_words, _from_one),
    )


KIND_NAMES = ("helpful", "harmless", "mean")


def _kinds_head(what: str) -> list[str]:
    return [f"{kind}: {what}" for kind in KIND_NAMES]


def _by_kind(
    rows: Sequence[Row], key: str, words: Callable[[Any], str], more: Callable[[dict[str, Row]], list[str]]
) -> list[list[str]]:
    """A line for every model and value of ``key``: the three accuracies, and what ``more`` makes of the three rows."""
    lines: dict[tuple[Any, Any], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row["model"], row[key]), {})[row["group"]] = row
    return [
        [str(model), words(value), *(_cell(kinds.get(name), "accuracy") for name in KIND_NAMES), *more(kinds)]
        for (model, value), kinds in lines.items()
    ]


def _cell(row: Row | None, key: str) -> str:
    return "–" if row is None else format_estimate(row[key])


def _share_words(share: float | None) -> str:
    return "as the data come" if share is None else f"{format_number(100 * (1 - share), 0)} %"


def _weight_words(weight: float) -> str:
    return format_number(weight, 2).rstrip("0").rstrip(".")


def _from_best(kinds: dict[str, Row]) -> list[str]:
    row = kinds.get("mean")
    if row is None or row["helpful_share"] == row.get("best_share"):
        return ["–" if row is None else "the best"]
    return [_difference(less_one(row.get("relative")))]


def _from_one(kinds: dict[str, Row]) -> list[str]:
    return [_difference((kinds.get(name) or {}).get("minus_one")) for name in KIND_NAMES]


def less_one(relative: Row | None) -> dict[str, Any] | None:
    """A ratio with its interval as a difference from 1."""
    if relative is None:
        return None
    ends = {key: None if relative.get(key) is None else relative[key] - 1 for key in ("value", "low", "high")}
    return {**relative, **ends}


# ---------------------------------------------------------------- rates


def rate_table(results: Row) -> HtmlTable:
    """Every factor of the learning rate with its difference from the rule's and the verdict on the rule."""
    rows = [
        [
            f"{row['model']}, {KINDS[row['kind']]}",
            factor_words(row["rate_factor"]),
            f"{measure_words(row)} ({row['unit']})",
            format_estimate(row["value"]),
            _difference(row.get("difference")),
            "–" if row.get("p_adjusted") is None else format_p(row["p_adjusted"]),
            "–" if row.get("margin") is None else format_number(row["margin"], 3),
            str(row["n_seeds"])
            + ("" if row.get("n_diverged") is None else f", {row['n_diverged'] or 'none'} diverged"),
            "–" if row.get("sqrt_kl") is None else format_number(row["sqrt_kl"], 2),
            str(row["verdict"]),
            _note(row),
        ]
        for row in rows_of(results, "rate_check")
    ]
    head = ["model", "rate", "measure", "value", "difference from ×1", "p (Holm)", "margin", "seeds", "√KL at the end"]
    return HtmlTable(
        f"The rule's learning rate and others ({POWER})",
        [*head, "verdict on the rule", "note"],
        rows,
        empty="No stage was repeated at another learning rate.",
        verdicts=(9,),
        wide=(10,),
    )


def _beside(row: Row) -> list[str]:
    """What length alone reaches on the row's comparisons, and the accuracy on those of like length."""
    return [format_estimate(row.get(key)) for key in ("length_accuracy", "length_matched_accuracy")]


def _length_words(rows: Sequence[Row]) -> str:
    """``; the longer one wins: 0.51 [...] (helpful), …``, the same comparisons on every line; empty where unknown."""
    found = {row["group"]: row["length_accuracy"] for row in rows if has_value(row.get("length_accuracy"))}
    words = [f"{format_estimate(level)} ({group})" for group, level in found.items()]
    return f"; the longer one wins: {', '.join(words)}" if words else ""


def _group(row: Row) -> str:
    return GROUP_TITLES.get(row["group"], str(row["group"])).removesuffix(" comparisons").lower()


def _difference(difference: Row | None) -> str:
    return format_difference(difference) if difference is not None and has_value(difference) else "–"


def _note(row: Row) -> str:
    return str(row.get("note") or "–")
