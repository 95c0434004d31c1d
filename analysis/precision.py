"""How many items pilots asked for, and how precise the paired difference on them came out."""

from __future__ import annotations

from typing import Any

from analysis.frames import Study

KEYS = ("task", "k_shot", "metric")


def precision_rows(study: Study, tax: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for every size and task of a pilot: what was wanted and what was reached.

    ``wanted`` and ``reached`` are half-widths of 95 % intervals of the paired difference in the metric's own unit,
    ``reached`` that of the tax against the base at the pilot's checkpoint (None where there is no such tax), which with
    several seeds has the variation between runs as well, that no number of items lessens. ``needed`` is what this
    size's pilot asked for (None: more than it can say); all sizes got what the most demanding one did, up to the file.
    """
    taxes = {(row["model"], row["at"], *(row[key] for key in KEYS)): row for row in tax if row["before"] == "base"}
    counted = {
        (record.config["tasks"].get("num_fewshot", 0), task): counts["n_file"]
        for record in study.main_of_kind("benchmark")
        for task, counts in record.summary.get("items", {}).items()
    }
    rows = []
    for record in study.main_of_kind("pilot"):
        model, at = study.model(record).name, record.config.get("at") or "end"
        for found in record.summary["tasks"]:
            row = taxes.get((model, at, *(found[key] for key in KEYS)))
            low, high = (row["low"], row["high"]) if row else (None, None)
            reached = None if low is None or high is None else (high - low) / 2
            wanted = record.config["precision"]
            rows.append(
                {"model": model, "at": at, **{key: found[key] for key in KEYS}, "wanted": wanted, "reached": reached}
                | {"met": None if reached is None else reached <= wanted, "n_pilot": found["n"]}
                | {"n_changed": found["n_changed"], "needed": found["needed"], "n_items": row and row["n_items"]}
                | {"n_file": counted.get((found["k_shot"], found["task"]), found["n_file"])}
            )
    return rows
