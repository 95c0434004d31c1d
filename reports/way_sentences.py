"""The best of n and weights in between, in words and tables: who has more at equal √KL, and how KL was had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.formats import format_estimate, format_number, format_span, join_words, plural
from reports.results import has_value, rows_of
from reports.tables import HtmlTable

Row = Mapping[str, Any]
NAMES = {"best_of_n": "the best of n samples of the reference", "interpolation": "weights between reference and policy"}
SCORES = {"score_train": "train PM score", "score_test": "test PM score", "score_gold": "gold score"}
VERDICTS = {
    "best of n": "the best of n has more",
    "interpolation": "the weights in between have more",
    "PPO": "PPO has more",
    "inconclusive": "inconclusive",
    "no overlap": "they do not overlap",
}


def way_sentences(results: Row) -> list[str]:
    """One sentence per way and score that was compared with policies; nothing where no way was measured."""
    rows = [row for row in rows_of(results, "at_equal_kl") if row["score"] != "score_train"]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["way"], row["score"]), []).append(row)
    return [_sentence(way, score, found) for (way, score), found in sorted(groups.items())]


def _sentence(way: str, score: str, rows: list[Row]) -> str:
    parts = []
    for verdict, words in VERDICTS.items():
        here = [row for row in rows if row["verdict"] == verdict]
        if here:
            parts.append(f"{words} at {join_words([_size(row) for row in here])}")
    reach = [float(row[end]) for row in rows for end in ("sqrt_kl_low", "sqrt_kl_high") if row[end] is not None]
    where = f" (√KL {format_span(reach, 2)})" if reach else ""
    return f"{SCORES[score][0].upper()}{SCORES[score][1:]} of {NAMES[way]} against PPO at equal √KL{where}: " + (
        f"{'; '.join(parts)}."
    )


def _size(row: Row) -> str:
    if not has_value(row["difference"]):
        return str(row["model"])
    return f"{row['model']} ({format_estimate(row['difference'], signed=True)})"


def way_methods(results: Row) -> list[str]:
    """How the ways were measured and compared, as far as the study has them."""
    pools, lines = rows_of(results, "best_of_n"), rows_of(results, "interpolation")
    texts = []
    if pools:
        pooled = join_words([f"{n:,}" for n in sorted({row["n_samples"] for row in pools})])
        texts.append(
            f"Best of n: {pooled} samples of the reference for each held-out prompt, ranked by the train PM; at each n "
            "the score is the mean over all subsets of n, ties shared, relative to the mean of all samples. Its KL is "
            "ln n − (n − 1)/n, an upper bound that holds exactly where no two samples tie, less what the pool's ties "
            "take away; ln n is a cruder bound. All n share one pool and are not independent."
        )
    if lines:
        texts.append(
            "Weights in between: (1 − α) reference + α policy, in float32, without training, evaluated on the prompts "
            "and with the random stream of the policy's last evaluation, which α = 1 repeats."
        )
    rule = next((str(row["rule"]) for row in rows_of(results, "at_equal_kl") if row.get("rule")), None)
    return [*texts, *([f"Other ways beside PPO. {rule[0].upper()}{rule[1:]}"] if rule else [])]


# ---------------------------------------------------------------- tables


def way_tables(results: Row) -> list[HtmlTable]:
    """The best of n with its three KLs, and the points in between; those that the study has."""
    found = [best_of_n_rows_table(results), interpolation_rows_table(results)]
    return [table for table in found if table.rows]


def best_of_n_rows_table(results: Row) -> HtmlTable:
    """Per size, seed and n: the KL three ways and the scores."""
    rows = [
        [
            *_who(row),
            str(row["n"]),
            format_estimate(row["kl"]),
            format_number(row["kl_upper_bound"], 3),
            format_number(row["kl_log_n"], 3),
            format_number(row["sqrt_kl"], 2),
            *(format_estimate(row.get(name), signed=True) for name in SCORES),
        ]
        for row in _by_size(results, "best_of_n")
    ]
    head = ["model", "seed", "n", "KL, estimated (nats)", "upper bound ln n − (n − 1)/n", "bound ln n", "√KL"]
    title = f"The best of n by the train PM, change from the reference ({plural(len(rows), 'row')})"
    return HtmlTable(title, [*head, "train PM", "test PM", "gold"], rows, empty="No pool was sampled.", numbers=(2,))


def interpolation_rows_table(results: Row) -> HtmlTable:
    """Per size, seed and alpha: the KL and the scores."""
    rows = [
        [
            *_who(row),
            format_number(row["alpha"], 2),
            format_estimate(row["kl"]),
            format_number(row["sqrt_kl"], 2),
            *(format_estimate(row.get(name), signed=True) for name in SCORES),
        ]
        for row in _by_size(results, "interpolation")
    ]
    head = ["model", "seed", "α", "KL (nats)", "√KL", "train PM", "test PM", "gold"]
    title = f"Weights between reference and policy, change from the start ({plural(len(rows), 'row')})"
    return HtmlTable(title, head, rows, empty="No weights were interpolated.", numbers=(2,))


def _by_size(results: Row, key: str) -> list[dict[str, Any]]:
    return sorted(rows_of(results, key), key=lambda row: (row["n_params"], row["model"]))


def _who(row: Row) -> list[str]:
    return [str(row["model"]), "–" if row.get("seed") is None else str(row["seed"])]
