"""The preference models' further tables of ``results.json``, written by hand from formulas that a test can repeat.

Every value is a plain function of its row's labels, so a test can say what a figure or sentence must hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]
MOST = 8000  # comparisons of the largest count
COUNTS = (500, 1000, 2000, 4000)  # scored along the pass
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
WEIGHTS = (1.0, 2.0, 3.0, 4.0, 10.0)
FACTORS = (0.5, 1.0, 2.0)
LOSSES = {"base": 2.0, "prompted": 1.9, "distilled": 1.8}  # of a distillation, nats a token
LEVEL = {"all": 0.0, "helpful": -0.02, "harmless": 0.03}
CATEGORIES = {"all": 221, "harmless": 58, "helpful": 59, "honest": 61, "other": 43}  # comparisons of a probe


def estimate(value: float, se: float, n: int = 400) -> Row:
    """An estimate with a normal interval."""
    return {"value": value, "se": se, "low": value - 1.96 * se, "high": value + 1.96 * se, "n": n}


def difference(value: float, se: float, n: int = 400) -> Row:
    """A difference with its interval and the smallest one that would be found with 80 % power."""
    return {**estimate(value, se, n), "mde": 2.8 * se}


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def level(place: int) -> float:
    """Accuracy of the size at that place (0 the smallest) on all comparisons, at the most comparisons."""
    return 0.62 + 0.03 * place


def further_tables(sizes: Mapping[str, int]) -> dict[str, list[Row]]:
    """Every further table for these models (name to parameters, small to large)."""
    models = [{"model": name, "n_params": n} for name, n in sizes.items()]
    sized = [{**m, "n_comparisons": MOST, "n_runs": 2, "note": None} for m in models]
    return {
        "distillation": [row for i, m in enumerate(models) for row in distilled(m, i)],
        "distillation_curve": [row for i, m in enumerate(models) for row in distilled_along(m, i)],
        "frontier_slopes": [slopes(models)],
        "predictions": [prediction(models)],
        "tax_per_reward": [row for i, m in enumerate(models) for row in rewards(m, i)],
        "pooled": [row for i, m in enumerate(models) for row in mean_taxes(m, i)],
        "at_equal_reward": [row for i, m in enumerate(models) for row in recipes(m, i)],
        "pm_turns": [row for i, m in enumerate(sized) for row in turns(m, i)],
        "pm_calibration": [row for i, m in enumerate(sized) for row in calibration(m, i)],
        "pm_floor": [row for i, m in enumerate(sized) for row in floor(m, i)],
        "pm_scores": scores(sized[-1]),
        "pm_agreement": [row for i, m in enumerate(sized) for row in agreement(m, i)],
        "pm_shares": [row for i, m in enumerate(sized) for row in shares(m, i, len(sized))],
        "pm_weights": [row for i, m in enumerate(sized) for row in weights(m, i)],
        "pm_pretraining": [row for i, m in enumerate(models) for row in pretraining(m, i)],
        "pm_extra": [row for i, m in enumerate(sized) for row in extra(m, i)],
        "pm_curve": [row for i, m in enumerate(models) for row in curve(m, i)],
        "pm_probes": [row for i, m in enumerate(sized) for row in probes(m, i)],
        "pm_probe_slopes": probe_slopes(len(sized)),
        "pm_margins": margins(sized[-1]),
        "rate_check": [row for kind in ("base", "pm", "ppo") for m in models for row in rates(kind, m)],
        "best_of_n": [row for m in models for row in pools(m)],
        "interpolation": [row for m in models for row in between(m)],
        "robustness_points": [row for m in models for by in models for row in crossed_points(m, by, models)],
        "robustness": [parting(m, by, test) for m in models for by in models for test in models],
        "pm_size_effect": [row for m in models for row in size_effects(m, models)],
    }


def mean_taxes(model: Row, place: int) -> list[Row]:
    """The mean tax of plain PPO at √KL 1 and at its end: 2 points per unit of it, 1 less at every size."""
    labels = {**model, "n_params_total": 2 * model["n_params"], "recipe": "fake", "before": "base", "k_shot": 0}
    found = {"n_tasks": 2, "tasks": ["a", "b"], "n_seeds": 3, "suite": "common", "p": 0.01, "note": None}
    found |= dict.fromkeys(("fixed_effect", "random_effect", "tau2", "q", "i2", "prediction_low", "prediction_high"))
    return [
        {**labels, "at": at, "at_sqrt_kl": root, **estimate(0.02 * root - 0.01 * place, 0.004), **found}
        for at, root in (("sqrt_kl=1.0", 1.1), ("end", 2.5))
    ]


def recipes(model: Row, place: int) -> list[Row]:
    """Two mitigations that halve a tax of 4 points, or lower it by one more point at every size."""
    rows = []
    for other, tax in (("fake:ptx1", 0.02), ("fake interpolated", 0.03 - 0.01 * place)):
        labels = {**model, "before": "base", "k_shot": 0, "recipe": "fake", "other": other, "reward": 0.7}
        taxes = {"tax": estimate(0.04, 0.01), "other_tax": estimate(tax, 0.01)}
        found = {"difference": difference(0.04 - tax, 0.004), "verdict": other, "tasks": ["a", "b"]}
        rows.append(labels | taxes | found | {"n_seeds": 3, "note": None})
    return rows


def completed(results: Row) -> Row:
    """The results with every further table that the study has nothing for written by hand, for their own models."""
    sizes = {m["name"]: m["n_params"] for m in sorted(results["models"], key=lambda m: int(m["n_params"]))}
    by_hand = {key: rows for key, rows in further_tables(sizes).items() if not results.get(key)}
    return {**results, **by_hand}


def pools(model: Row) -> list[Row]:
    """The best of n without ties: every score rises by sqrt(KL)."""
    rows = []
    for n in (1, 2, 4, 8):
        kl = math.log(n) - (n - 1) / n
        row = {**model, "stage_id": f"pool-{model['model']}", "seed": 0, "n": n, "n_samples": 8}
        row |= {"kl": estimate(kl, 0.001 * kl), "kl_upper_bound": kl, "kl_log_n": math.log(n)}
        rows.append(row | scored(math.sqrt(kl)))
    return rows


def between(model: Row) -> list[Row]:
    """Weights in between: every score is sqrt(KL), which is 2 alpha."""
    head = {**model, "stage_id": f"line-{model['model']}", "seed": 0}
    return [{**head, "alpha": a, "kl": estimate(4 * a**2, a)} | scored(2 * a) for a in (0.0, 0.5, 1.0)]


def crossed_points(model: Row, by: Row, tests: Sequence[Row]) -> list[Row]:
    """A policy against a train PM and the best of n beside it: every score rises by sqrt(KL)."""
    head = {**model, "train_pm": by["model"], "train_pm_n_params": by["n_params"], "seed": 0, "status": "done"}
    judges: list[tuple[str, Row | None]] = [("train", None), ("gold", None), *(("test", test) for test in tests)]
    rows = []
    for way, score, pm in ((way, score, pm) for way in ("ppo", "best_of_n") for score, pm in judges):
        row = {**head, "way": way, "stage_id": f"{way}-{model['model']}-{by['model']}", "score": score}
        row |= {"pm": pm and pm["model"], "pm_n_params": pm and pm["n_params"]}
        for place, d in enumerate((0.0, 1.0, 2.0)):
            at = {"place": place, "kl": estimate(d**2, 0.1 * d), "sqrt_kl": d, "sqrt_kl_se": 0.05}
            rows.append(row | at | {"change": estimate(d, 0.1 * d)})
    return rows


def parting(model: Row, by: Row, test: Row) -> Row:
    """Train and test score part at sqrt(KL) = 1.5 where the train PM is no larger than the policy, else never."""
    parted = by["n_params"] <= model["n_params"]
    row = {**model, "train_pm": by["model"], "train_pm_n_params": by["n_params"], "reach": 2.0, "note": None}
    row |= {"test_pm": test["model"], "test_pm_n_params": test["n_params"], "rule": "as in the analysis."}
    row |= {"n_runs": 3, "parting_at_end": difference(0.4, 0.05)}
    return row | {"parting_sqrt_kl": estimate(1.5, 0.2) if parted else None}


def size_effects(model: Row, models: Sequence[Row]) -> list[Row]:
    """The large PM's policy has 0.3 more gold, and no more by the largest test PM."""
    head = {**model, "small": models[0]["model"], "large": models[-1]["model"], "n_runs": 1}
    head |= {"rule": "as in the analysis.", "note": None}
    gold = {"score": "gold", "pm": None, "difference": difference(0.3, 0.1), "verdict": "large"}
    test = {"score": "test", "pm": models[-1]["model"], "difference": difference(0.0, 0.1), "verdict": "inconclusive"}
    return [head | gold, head | test]


def scored(d: float) -> Row:
    """A point at sqrt(KL) = d where every score is d above the start."""
    return {"sqrt_kl": d, **{name: estimate(d, 0.1 * d) for name in ("score_train", "score_test", "score_gold")}}


def turns(model: Row, place: int) -> list[Row]:
    """The first turn is easier by 3 points, the others alike."""
    rows = []
    for turn, label, n in ((1, "1", 160), (2, "2", 140), (3, "3", 60), (4, "4+", 40)):
        lower = 0.0 if turn == 1 else 0.03
        row = {**model, "turn": turn, "label": label, "n_conversations": n}
        row["accuracy"] = estimate(level(place) + 0.02 - lower, 0.5 / math.sqrt(n), n)
        row["minus_first"] = None if turn == 1 else difference(-lower, 0.012 if turn == 2 else 0.05, n)
        rows.append(row)
    return rows


def calibration(model: Row, place: int) -> list[Row]:
    """Ten bins; accuracy is over the promise by 4 points, resolved in the outer five bins."""
    rows = []
    for k in range(10):
        x = (0.05 + 0.25 * k) * (0.5 + 0.4 * place)
        expected = logistic(x)
        row = {**model, "bin": k, "left": x - 0.1, "right": x + 0.1, "difference": x, "expected": expected}
        gap = min(0.04, 1 - expected)
        row["accuracy"] = estimate(expected + gap, 0.03, 40)
        row["gap"] = difference(gap, 0.03 if k < 5 else gap / 4, 40)
        rows.append(row)
    return rows


def floor(model: Row, place: int) -> list[Row]:
    """Accuracy falls by one point for each tenth of the comparisons left out."""
    rows = []
    for group, more in LEVEL.items():
        for k in range(10):
            row = {**model, "group": group, "share": k / 10, "threshold": -1.5 + 0.3 * k}
            row["accuracy"] = estimate(level(place) + more - 0.01 * k, 0.02 / math.sqrt(1 - k / 10), 400 - 40 * k)
            row["minus_all"] = None if k == 0 else difference(-0.01 * k, 0.03, 400 - 40 * k)
            rows.append(row)
    return rows


def scores(model: Row) -> list[Row]:
    """Normal densities, the chosen half a unit above the rejected."""
    rows = []
    edges = [-4 + 0.2 * k for k in range(41)]
    for group, more in LEVEL.items():
        for side, mean in (("chosen", 0.25 + more), ("rejected", -0.25 + more)):
            middles = [(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]
            density = [math.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi) for x in middles]
            quantiles = {"q05": -1.645, "q25": -0.674, "q50": 0.0, "q75": 0.674, "q95": 1.645}
            row = {**model, "group": group, "side": side, "mean": estimate(mean, 0.05), "sd": 1.0}
            row |= {name: mean + z for name, z in quantiles.items()} | {"edges": edges, "density": density}
            rows.append(row)
    return rows


def agreement(model: Row, place: int) -> list[Row]:
    """Two seeds; halves agree more at larger sizes."""
    found = {"agreement": estimate(0.72 + 0.05 * place, 0.02), "correlation": estimate(0.5 + 0.12 * place, 0.03)}
    return [{**model, "seed": seed, **found} for seed in (0, 1)]


def shares(model: Row, place: int, n_sizes: int) -> list[Row]:
    """Each kind's accuracy rises with its part, from below chance; the smallest size bends most; and the main PM."""
    rows = []
    steep = 0.4 * (1 - 0.5 * place / max(n_sizes - 1, 1))
    for share in (None, *SHARES):
        part = 0.5 if share is None else share
        of = {"helpful": level(place) - steep * (1 - part) ** 2, "harmless": level(place) + 0.03 - steep * part**2}
        of["mean"] = (of["helpful"] + of["harmless"]) / 2
        best = {"helpful": level(place), "harmless": level(place) + 0.03}
        best["mean"] = level(place) + 0.015 - steep / 4
        for group, value in of.items():
            row = {**model, "helpful_share": share, "group": group, "accuracy": estimate(value, 0.02)}
            row["minus_chance"] = difference(value - 0.5, 0.02)
            row["relative"] = difference(value / best[group], 0.0 if value == best[group] else 0.02)
            row["best_share"] = {"helpful": 1.0, "harmless": 0.0, "mean": 0.5}[group]
            rows.append(row)
    return rows


def weights(model: Row, place: int) -> list[Row]:
    """Helpful accuracy falls with the logarithm of the weight, less at larger sizes; harmless accuracy rises."""
    rows = []
    for weight in WEIGHTS:
        change = {"helpful": -0.03 * math.log(weight) / (1 + place), "harmless": 0.01 * math.log(weight)}
        change["mean"] = (change["helpful"] + change["harmless"]) / 2
        for group, value in change.items():
            start = level(place) + LEVEL.get(group, 0.005)
            row = {**model, "harmless_weight": weight, "group": group, "accuracy": estimate(start + value, 0.02)}
            rows.append({**row, "minus_one": None if weight == 1 else difference(value, 0.01)})
    return rows


def pretraining(model: Row, place: int) -> list[Row]:
    """Pretraining adds 4 points at the fewest comparisons (less at larger sizes) and none at the most; votes alone."""
    alone = {"n_comparisons": 0, "pretrained": True, "accuracy": estimate(0.6, 0.02), "difference": None}
    rows: list[Row] = [{**model, **alone, "n_runs": 2, "note": None}]
    for count in (COUNTS[0], MOST):
        plain = level(place) - 0.02 * math.log(MOST / count)
        gain = 0.0 if count == MOST else 0.04 / (1 + place)
        for pretrained in (False, True):
            row = {**model, "n_comparisons": count, "pretrained": pretrained, "n_runs": 2, "note": None}
            row["accuracy"] = estimate(plain + gain * pretrained, 0.02)
            rows.append({**row, "difference": difference(gain, 0.008) if pretrained else None})
    return rows


EXTRA = (0.0, 0.5, 1.0)


def extra(model: Row, place: int) -> list[Row]:
    """Votes cost the smallest size 3 points a whole share, the others nothing."""
    rows = []
    for share in EXTRA:
        change = -0.03 * share if place == 0 else 0.0
        row = {**model, "extra_share": share, "accuracy": estimate(level(place) + change, 0.02)}
        rows.append({**row, "difference": difference(change, 0.01) if share else None})
    return rows


def curve(model: Row, place: int, groups: Sequence[str] = ("all", "helpful", "harmless")) -> list[Row]:
    """Along the pass accuracy is a point below that of passes of their own, and the same at the end."""
    rows = []
    for group in groups:
        for pairs in (*COUNTS, MOST):
            end = pairs == MOST
            own = level(place) + LEVEL[group] - 0.02 * math.log(MOST / pairs)
            row = {**model, "group": group, "pairs": pairs, "n_comparisons": pairs, "at_end": end, "n_runs": 2}
            row |= {"accuracy": estimate(own - (0 if end else 0.01), 0.02), "note": None}
            row["separate"] = estimate(own, 0.02)
            rows.append({**row, "difference": None if end else difference(-0.01, 0.004)})
    return rows


UNITS = {
    "base": ("held_out_loss", "nats a token", False, 3.1, 0.02),
    "pm": ("log_loss", "nats", False, 0.63, 0.005),
    "ppo": ("gold", "sd of the gold score", True, 0.8, 0.1),
}
VERDICTS = {"base": "worse than x2 by 0.040", "pm": "within noise of the best", "ppo": "not established"}


def rates(kind: str, model: Row) -> list[Row]:
    """Twice the rate is better for bases by 0.04; nothing else is resolved; one policy at x2 diverged."""
    measure, unit, higher, value, margin = UNITS[kind]
    change = {0.5: 0.06, 1.0: 0.0, 2.0: -0.04} if kind == "base" else {0.5: 0.003, 1.0: 0.0, 2.0: -0.002}
    rows = []
    for factor in FACTORS:
        row = {**model, "kind": kind, "rate_factor": factor, "measure": measure, "unit": unit}
        row |= {"higher_is_better": higher, "value": estimate(value + change[factor], margin / 2), "margin": margin}
        row["difference"] = None if factor == 1 else difference(change[factor], margin / 2)
        row |= {"p_adjusted": None if factor == 1 else 0.2, "sqrt_kl": 2.1 * factor if kind == "ppo" else None}
        row |= {"n_diverged": int(kind == "ppo" and factor == 2), "n_seeds": 3, "note": None}
        rows.append({**row, "verdict": VERDICTS[kind], "best_factor": 2.0 if kind == "base" else 1.0})
    return rows


def probes(model: Row, place: int) -> list[Row]:
    """One probe: accuracy grows by two points a size, length reaches 0.6; comparisons are few."""
    rows = []
    for category, n in CATEGORIES.items():
        value = 0.55 + 0.02 * place + (0.1 if category == "harmless" else 0.0)
        row = {**model, "probe": "hhh_alignment", "category": category}
        row |= {"accuracy": estimate(value, 0.6 / math.sqrt(n), n), "length_accuracy": estimate(0.6, 0.03, n)}
        rows.append(row | {"accuracy_minus_length": difference(value - 0.6, 0.7 / math.sqrt(n), n)})
    return rows


def probe_slopes(n_sizes: int) -> list[Row]:
    """A slope is measured on everything and among harmless ones, has no interval among the others."""
    rows = []
    for category, n in CATEGORIES.items():
        row = {"probe": "hhh_alignment", "category": category, "n_sizes": n_sizes, "n": n, "note": None}
        slope = difference(0.012, 0.004 if category in ("all", "harmless") else 0.02, n_sizes)
        rows.append(row | {"per_doubling": None if category == "other" else slope})
    return rows


def margins(model: Row) -> list[Row]:
    """Normal margins about 0.2 with a standard deviation of 1; two comparisons err most."""
    rows, edges = [], [-3 + 0.25 * k for k in range(25)]
    for category, n in CATEGORIES.items():
        middles = [(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]
        row = {**model, "probe": "hhh_alignment", "category": category, "margin": estimate(0.2, 1 / math.sqrt(n), n)}
        row |= {"sd": 1.0, "q05": -1.445, "q25": -0.474, "q50": 0.2, "q75": 0.874, "q95": 1.845, "edges": edges}
        row["density"] = [math.exp(-((x - 0.2) ** 2) / 2) / math.sqrt(2 * math.pi) for x in middles]
        rows.append(row | {"lowest_rows": [17, 4], "lowest_margins": [-2.5, -2.25]})
    return rows


def slopes(models: Sequence[Row]) -> Row:
    """Slopes of the gold score that rise by a tenth from size to size."""
    sizes = [{**m, **estimate(1 + 0.1 * i, 0.05, 3)} for i, m in enumerate(models)]
    row = {"score": "score_gold", "unit": "gold", "slopes": sizes, "common": estimate(1.1, 0.03, 9), "n_runs": 9}
    row |= {"f": 2.0, "df1": 2, "df2": 6, "p_equal": 0.2, "per_ln_params": estimate(0.0, 0.1, 9), "note": None}
    return row | {"span_ln_params": 3.2, "kl_exponent": estimate(0.5, 0.02, 9), "holds_half": True}


def rewards(model: Row, place: int) -> list[Row]:
    """A tax of a tenth of the gold reward, at two distances."""
    rows = []
    for at, reward in (("sqrt_kl=1.0", 0.5), ("end", 1.0 + 0.1 * place)):
        row = {**model, "recipe": "r", "before": "base", "at": at, "k_shot": 0, "at_sqrt_kl": 2 * reward}
        row |= {"tax": estimate(0.1 * reward, 0.01), "reward": estimate(reward, 0.05), "tasks": ["t"], "n_seeds": 3}
        rows.append({**row, "per_reward": {**estimate(0.1, 0.01), "se": None, "kind": "interval"}, "note": None})
    return rows


def distilled(model: Row, place: int) -> list[Row]:
    """The distilled model halves the base's KL from its teacher, and the prompt costs nothing on plain text."""
    rows = []
    for part in ("responses", "text"):
        row = {**model, "teacher": "largest", "prompt": "hhh", "n_prompt_tokens": 400, "n_runs": 2, "part": part}
        row |= {"kl_base": estimate(0.4 + 0.1 * place, 0.02), "kl_distilled": estimate(0.2 + 0.05 * place, 0.01)}
        row |= {
            "nats_base": estimate(2.0, 0.05),
            "nats_prompted": estimate(1.9, 0.05),
            "nats_distilled": estimate(1.8, 0.05),
        }
        row |= {"kl_change": difference(-0.2 - 0.05 * place, 0.02), "distilled_minus_base": difference(-0.2, 0.02)}
        row |= {"distilled_minus_prompted": difference(-0.1, 0.02), "prompted_minus_base": difference(-0.1, 0.02)}
        rows.append({**row, "note": None})
    return rows


def distilled_along(model: Row, place: int) -> list[Row]:
    """KL in training, falling as one over the tokens."""
    run = {**model, "seed": 0, "stage_id": f"reference-{model['model']}", "teacher": "largest"}
    return [{**run, "tokens": n, "loss": estimate((1 + 0.1 * place) * 1000 / n, 0.01)} for n in (1000, 2000, 4000)]


def prediction(models: Sequence[Row]) -> Row:
    """Accuracy at the largest size from the others, a hundredth off where the last value is three."""
    sizes = [float(model["n_params"]) for model in models]
    row = {"quantity": "pm accuracy", "group": f"pm n={MOST}", "axis": "n_params", "law": "log-linear", "left_out": 1}
    row |= {"fitted_to": sizes[:-1], "at": sizes[-1], "observed": 0.68, "n_observed": 2, "predicted": 0.69}
    row |= {"low": 0.6, "high": 0.78, "error": 0.01, "last_value_error": -0.03, "mean_error": -0.045, "in_band": True}
    return row | {"verdict": "beats last value", "decades": 0.7, "note": None}
