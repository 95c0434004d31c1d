"""What the tax is against the gold reward, recipes at equal reward, and what larger sizes were predicted to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.formats import format_estimate, format_number, join_words, plain_label, plural
from reports.results import has_value, rows_of
from reports.tables import HtmlTable
from reports.tax_figures import at_phrase, by_place, recipe_label, taken

Row = Mapping[str, Any]
QUANTITIES = {
    "pm accuracy": "PM accuracy", "pm log_loss": "PM log loss", "mean tax": "the mean tax",
    "score per sqrt(KL)": "the slope of score against √KL",
}  # fmt: skip


def reward_sentences(results: Row) -> list[str]:
    """The tax per unit of gold reward, and recipes beside each other where they reached the same."""
    rows = [{**row, **row["tax"]} for row in rows_of(results, "tax_per_reward") if has_value(row["tax"])]
    lines = [_per_reward(place, here) for place, here in by_place(rows).items() if not here[0]["at"].startswith("gold")]
    compared: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows_of(results, "at_equal_reward"):
        if row["before"] == "base":
            compared.setdefault((row["recipe"], row["other"], row["k_shot"]), []).append(row)
    return lines + [_equal_reward(rows) for rows in compared.values()]


def _per_reward(place: str, rows: list[Row]) -> str:
    told = [row for row in rows if (row["per_reward"] or {}).get("kind") == "interval"]
    open_ = [str(row["model"]) for row in rows if row not in told]
    values = "; ".join(
        f"{row['model']} {format_estimate({**row['per_reward'], 'n': None}, signed=True, scale=100)}" for row in told
    )
    text = f"Per unit of gold reward the mean tax {at_phrase(place)}, in chance-normalised points, is "
    text += values or "not to be told at any size"
    if open_:
        reason = "the reward cannot be told from 0"
        text += f" (no finite interval at {join_words(open_)}: {reason})" if told else f": {reason}"
    return f"{text}."


def _equal_reward(rows: list[Row]) -> str:
    """Two recipes over all sizes: what one costs more than the other where both had gained as much."""
    plain, other = (plain_label(recipe_label(str(rows[0][key]))) for key in ("recipe", "other"))
    shots = f", {rows[0]['k_shot']}-shot" if rows[0]["k_shot"] else ""
    known = [row for row in rows if has_value(row["difference"])]
    unknown = "; ".join(f"{row['model']}: {row['note']}" for row in rows if row not in known)
    if not known:
        return f"{other} and {plain} cannot be compared at equal gold reward{shots}: {unknown}."
    values = "; ".join(
        f"{row['model']} {format_estimate({**row['difference'], 'n': None}, signed=True, scale=100)} where both had "
        f"gained {format_number(row['reward'], 2)} ({plural(len(row['tasks']), 'task')}, "
        f"{plural(row['n_seeds'], 'seed')})"
        for row in known
    )
    cheaper = {
        name: [str(row["model"]) for row in known if row["verdict"] == row[key]]
        for key, name in (("other", other), ("recipe", plain))
    }
    found = [f"{name} costs less at {join_words(sizes)}" for name, sizes in cheaper.items() if sizes]
    left = f" Not compared: {unknown}." if unknown else ""
    return (
        f"At equal gold reward{shots}, {' and '.join(found) or 'neither measurably costs less'}: mean tax of {plain} "
        f"minus that of {other}, in chance-normalised points, {values}.{left}"
    )


def reward_tables(results: Row) -> list[HtmlTable]:
    """The tax, the reward and their ratio for every size and place, and recipes beside each other."""
    rows = [
        [
            str(row["model"]), taken(row, results), str(row["before"]),
            format_estimate(row["tax"], signed=True, scale=100), format_estimate(row["reward"], signed=True),
            _ratio(row["per_reward"]), str(row["n_seeds"]),
        ]
        for row in rows_of(results, "tax_per_reward")
    ]  # fmt: skip
    head = ["model", "taken", "before", "mean tax (normalised points)", "gold reward", "points per unit of reward"]
    table = HtmlTable("Tax and gold reward at the same checkpoints", [*head, "seeds"], rows, numbers=(6,))
    return [one for one in (table, equal_reward_table(results)) if one.rows]


def equal_reward_table(results: Row) -> HtmlTable:
    """Two recipes at equal gold reward: the mean tax of either and the difference."""
    rows = [
        [
            str(row["model"]), f"{row['before']}, {row['k_shot']}-shot", recipe_label(str(row["recipe"])),
            recipe_label(str(row["other"])), "–" if row["reward"] is None else format_number(row["reward"], 2),
            *(_points(row[key]) for key in ("tax", "other_tax", "difference")), str(row["n_seeds"]),
            recipe_label(row["verdict"]) if row["verdict"] in (row["recipe"], row["other"]) else str(row["verdict"]),
            str(row["note"] or "–"),
        ]
        for row in rows_of(results, "at_equal_reward")
    ]  # fmt: skip
    head = ["model", "before", "recipe", "other", "gold reward of both", "mean tax (points)", "of the other"]
    return HtmlTable(
        "Recipes at equal gold reward, on common chains", [*head, "difference", "seeds", "costs less", "note"], rows,
        numbers=(4, 8), wide=(10,),
    )  # fmt: skip


def _points(estimate: Row | None) -> str:
    return format_estimate(estimate, signed=True, scale=100) if has_value(estimate) else "–"


def _ratio(ratio: Row | None) -> str:
    if not has_value(ratio) or ratio is None:
        return "–"
    if ratio["kind"] == "none":
        return f"{format_number(ratio['value'] * 100, 1, True)}, no finite interval"
    return format_estimate({**ratio, "n": None}, signed=True, scale=100)


# ---------------------------------------------------------------- predictions


def prediction_sentences(results: Row) -> list[str]:
    """Which laws, fitted without the largest size or number of comparisons, came closer than the last value."""
    rows = [row for row in rows_of(results, "predictions") if row["left_out"] == 1 and row["verdict"] is not None]
    lines = []
    for quantity, words in QUANTITIES.items():
        for axis, largest in (("n_params", "size"), ("n_comparisons", "number of comparisons")):
            here = [row for row in rows if (row["quantity"], row["axis"]) == (quantity, axis)]
            if here:
                lines.append(_predicted(words, largest, here))
    return lines


def _predicted(words: str, largest: str, rows: list[dict[str, Any]]) -> str:
    parts = []
    for law in dict.fromkeys(str(row["law"]) for row in rows):
        here = [row for row in rows if row["law"] == law]
        wins = sum(row["verdict"] == "beats last value" for row in here)
        inside = [row["in_band"] for row in here if row["in_band"] is not None]
        bands = f", {sum(inside)} of {len(inside)} within the 95 % band" if inside else ""
        parts.append(f"{law} closer in {wins} of {len(here)}{bands}")
    return f"Without the largest {largest}, {words} predicted there, against the last value: {'; '.join(parts)}."


def prediction_table(results: Row) -> HtmlTable:
    """Every prediction with what was observed and how far off the naive forecasts were."""
    rows = [
        [
            QUANTITIES.get(row["quantity"], str(row["quantity"])), str(row["group"]), str(row["law"]),
            str(row["left_out"]), f"{row['at']:,.0f}", _number(row["observed"]), _band(row),
            _number(row["error"], True),
            _number(row["last_value_error"], True), _number(row["mean_error"], True),
            str(row["verdict"] or "not fitted"), str(row["note"] or "–"),
        ]
        for row in rows_of(results, "predictions")
    ]  # fmt: skip
    head = ["quantity", "group", "law", "left out", "at", "observed", "predicted", "error", "error of the last value"]
    head += ["of the mean", "", "note"]
    return HtmlTable(
        "The largest sizes and numbers of comparisons, left out and predicted", head, rows,
        empty="Too few sizes to leave any out.", numbers=(3, 4, 5, 7, 8, 9), wide=(11,),
    )  # fmt: skip


def _band(row: Row) -> str:
    if row["predicted"] is None:
        return "–"
    return format_estimate({"value": row["predicted"], "low": row["low"], "high": row["high"]})


def _number(value: float | None, signed: bool = False) -> str:
    return "–" if value is None else format_number(value, 3, signed)
