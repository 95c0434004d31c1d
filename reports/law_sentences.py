"""What score against √KL follows over sizes: which law, whether sizes are alike, peaks, and how far a KL can carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.formats import (
    format_estimate,
    format_interval,
    format_number,
    format_p,
    format_span,
    join_words,
    plural,
)
from reports.results import has_value, rows_of
from reports.sentences import sign
from reports.tables import HtmlTable

Row = Mapping[str, Any]
ALL = "all"
NAMES = {"score_train": "train PM", "score_test": "test PM", "score_gold": "gold"}
LAWS = {
    "sqrt-kl-linear": "a line in √KL", "sqrt-kl-power": "a power of √KL", "bon": "d (α − β d)", "rl": "d (α − β ln d)",
}  # fmt: skip


def law_sentences(results: Row) -> list[str]:
    """One sentence for each question that the study can be asked about its frontier's laws."""
    lines = [_aicc_sentence(results, score) for score in NAMES]
    lines += [_farther_sentence(results, score) for score in NAMES]
    lines += [_slopes_sentence(row) for row in rows_of(results, "frontier_slopes")]
    lines += [_exponent_sentence(row) for row in rows_of(results, "frontier_slopes")]
    lines += [_peak_sentence(results, law) for law in ("bon", "rl")]
    return [line for line in [*lines, _bound_sentence(results)] if line]


def _aicc_sentence(results: Row, score: str) -> str:
    rows = [row for row in rows_of(results, "frontier_laws") if row["score"] == score]
    sizes = list(dict.fromkeys(str(row["model"]) for row in rows if row["model"] != ALL))
    known = [row for row in rows if row["delta_aicc"] is not None]
    compared = list(dict.fromkeys(str(row["model"]) for row in known if row["model"] != ALL))
    if not sizes:
        return ""
    if not compared:
        return (
            f"Which law the {NAMES[score]} score follows cannot be said: neighbouring evaluations of a run are so "
            "alike that they are worth too few independent points."
        )
    whole = [row for row in known if row["model"] == (ALL if len(compared) > 1 else compared[0])]
    best = min(whole, key=lambda row: float(row["delta_aicc"]))
    tied = [LAWS[row["law"]] for row in whole if row["delta_aicc"] <= 2]
    others = [f"{LAWS[row['law']]} +{format_number(row['delta_aicc'], 1)}" for row in whole if row["delta_aicc"] > 2]
    found = f"{tied[0]} is best" if len(tied) == 1 else f"{join_words(tied)} do equally well"
    where = "" if len(compared) == len(sizes) else f" at {join_words(compared)}"
    return (
        f"The {NAMES[score]} score against √KL{where}, by AICc with {format_number(best['n_effective'], 0)} "
        f"independent points in {best['n_points']}: {found}{'; ' + join_words(others) if others else ''}."
    )


def _farther_sentence(results: Row, score: str) -> str:
    rows = [r for r in rows_of(results, "frontier_laws") if r["score"] == score and r["held_out_rmse"] is not None]
    sizes = len({str(row["model"]) for row in rows})
    if not sizes:
        return ""
    wins = {law: sum(row["law"] == law and row["beats_last_value"] for row in rows) for law in LAWS}
    parts = [f"{LAWS[law]} at {count}" for law, count in wins.items()]
    return (
        f"Fitted to checkpoints nearer than two thirds of the farthest √KL and asked for the others' {NAMES[score]} "
        f"score, laws are closer than each run's last near checkpoint at so many of {plural(sizes, 'size')}: "
        f"{join_words(parts)}."
    )


def _slopes_sentence(row: Row) -> str:
    name, p = NAMES[row["score"]], row["p_equal"]
    if p is None:
        return f"Whether the {name} score's slopes differ between sizes cannot be tested: {row['note'] or 'no spread'}."
    differ = "differ" if p < 0.05 else "do not measurably differ"
    tested = f"F({row['df1']}, {row['df2']}) = {format_number(row['f'], 2)}, p {_equals(p)}"
    trend = row["per_ln_params"]
    moved = {1: "grow", -1: "shrink"}.get(sign(trend))
    change = "" if moved is None else f" They {moved} with size, by {format_estimate(trend, signed=True)} per ln N."
    return f"Slopes of the {name} score per √nat {differ} between sizes ({tested}; {_unit(row)}).{change}"


def _unit(row: Row) -> str:
    return "in units of the gold score" if row["unit"] == "gold" else f"in {row['unit']}"


def _equals(p: float) -> str:
    text = format_p(p)
    return text if text.startswith("<") else f"= {text}"


def _exponent_sentence(row: Row) -> str:
    exponent = row["kl_exponent"]
    if not has_value(exponent) or row["holds_half"] is None:
        return ""
    word = "holds" if row["holds_half"] else "excludes"
    return (
        f"The exponent of KL for the {NAMES[row['score']]} score is {format_estimate({**exponent, 'n': None})}, mean "
        f"of {plural(row['n_runs'], 'run')}; the interval {word} one half."
    )


def _peak_sentence(results: Row, law: str) -> str:
    rows = [row for row in rows_of(results, "frontier_peaks") if row["law"] == law and row["score"] == "score_gold"]
    parts = [_passed(row) for row in rows if row["verdict"] == "in range"]
    for verdict, words in (("beyond the range", "beyond what was trained"), ("no peak", "nowhere, it bends upward"),
                           ("not identified", "at a place that cannot be told")):  # fmt: skip
        here = [str(row["model"]) for row in rows if row["verdict"] == verdict]
        parts += [f"{words} at {join_words(here)}"] if here else []
    return f"The law {LAWS[law]} puts the gold score's peak {'; '.join(parts)}." if parts else ""


def _passed(row: Row) -> str:
    place = row["sqrt_kl_peak"]
    text = f"at √KL {format_number(place['value'], 2)} {format_interval(place, 2)}"
    top = row["reward_peak"]
    height = "" if not has_value(top) else f", height {format_estimate({**top, 'n': None})}"
    return f"{text}{height} ({row['model']})"


def _bound_sentence(results: Row) -> str:
    rows = [row for row in rows_of(results, "reward_bound") if row["score"] == "score_gold"]
    rows = rows or [row for row in rows_of(results, "reward_bound") if row["score"] == "score_test"]
    if not rows:
        return ""
    shares = [float(row["largest_share"]) for row in rows]
    above = [str(row["model"]) for row in rows if row["verdict"] == "above"]
    said = f" At {join_words(above)} it is above: its tails are heavier than the bound's." if above else ""
    return (
        f"At its best the {NAMES[rows[0]['score']]} score rose by {format_span(shares, 2)} of √(2σ²·KL), the most that "
        f"a score with Gaussian tails can at that KL (σ over the reference's own responses).{said}"
    )


def law_methods(results: Row) -> list[str]:
    """How laws, slopes, peaks and the bound were found, as far as the study has them."""
    lines = []
    if rows_of(results, "frontier_laws"):
        lines.append(
            "Laws of score against √KL share a shape over a size's runs, each run with a height of its own. K points "
            "of a run count as K (1 − ρ)/(1 + ρ), ρ the autocorrelation of neighbouring residuals. Peaks have "
            "Fieller's interval of α/β; one beyond the farthest point was not seen. Slopes are compared by an F test "
            "in which a base model (or a seed, where a size has one base) is one observation."
        )
    if rows_of(results, "tax_per_reward"):
        lines.append(
            "At a matched gold reward, the largest that every run reached, the tax is read between a run's "
            "checkpoints, linearly in the rise of the gold score. Tax per unit of reward has Fieller's interval, items "
            "and prompts crossed with the same runs."
        )
    return lines


# ---------------------------------------------------------------- tables


def law_tables(results: Row) -> list[HtmlTable]:
    """Laws compared and peaks; empty ones are left out."""
    tables = [_comparison_table(results), _peak_table(results)]
    return [table for table in tables if table.rows]


def _comparison_table(results: Row) -> HtmlTable:
    rows = [
        [
            str(row["model"]), NAMES[row["score"]], LAWS[row["law"]],
            f"{row['n_points']} in {plural(row['n_runs'], 'run')}", format_number(row["n_effective"], 1),
            _known(row["delta_aicc"], 1), _known(row["weight"], 3), _known(row["held_out_rmse"], 3),
            _known(row["last_value_rmse"], 3), {True: "yes", False: "no"}.get(row["beats_last_value"], "–"),
        ]
        for row in rows_of(results, "frontier_laws")
    ]  # fmt: skip
    head = ["size", "score", "law", "points", "worth", "AICc above the best", "Akaike weight"]
    head += ["error farther out", "error of the last value", "beats it"]
    return HtmlTable("Laws of score against √KL", head, rows, numbers=(4, 5, 6, 7, 8))


def _peak_table(results: Row) -> HtmlTable:
    rows = [
        [
            str(row["model"]), NAMES[row["score"]], LAWS[row["law"]], format_estimate(_plain(row["alpha"])),
            format_estimate(_plain(row["beta"])), _place(row), format_estimate(row["reward_peak"]),
            format_number(row["farthest_sqrt_kl"], 2), str(row["verdict"]),
        ]
        for row in rows_of(results, "frontier_peaks")
    ]  # fmt: skip
    head = ["size", "score", "law", "α", "β", "√KL at the peak (Fieller)", "height", "farthest √KL", "peak"]
    return HtmlTable("Peaks of the laws that have one", head, rows, numbers=(7,))


def _place(row: Row) -> str:
    place = row["sqrt_kl_peak"]
    if not has_value(place):
        return "–"
    where = format_number(place["value"], 2)
    return f"{where}, no finite interval" if row["kind"] == "none" else f"{where} {format_interval(place, 2)}"


def _plain(param: Row) -> dict[str, Any]:
    return {**param, "n": None}


def _known(value: float | None, decimals: int) -> str:
    return "–" if value is None else format_number(value, decimals)
