"""Plans, studies and states as tables for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from sweeps.check import LoadedStudy, load_study, shipped_studies
from sweeps.graph import expand
from sweeps.load import StudyError
from sweeps.numbers import format_bytes, format_count, format_flops, format_seconds
from sweeps.plan import Plan, machine_for, make_plan
from sweeps.progress import printable


def show(table: Table, lines: Iterable[str] = ()) -> None:
    """Print a table and lines after it; as wide as it needs to be where there is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=400)
    console.print(table)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def make_table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    """An empty table; the columns named in ``numbers`` are right-aligned."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in set(numbers) else "left", overflow="fold")
    return table


def plan_table(content: dict[str, Any]) -> Table:
    """The plan summed by kind and size."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for stage in content["stages"]:
        name = (stage["config"].get("size") or {}).get("name", "")
        groups.setdefault((stage["kind"], name), []).append(stage)
    heads = ("stages", "done", "parameters", "FLOPs", "each", "all", "memory", "disk")
    table = make_table("kind", "size", *heads, numbers=heads)
    for (kind, name), stages in groups.items():
        n_params = stages[0]["n_params"]
        seconds = [stage["seconds"] for stage in stages]
        too_large = " too large" if not all(stage["fits_memory"] for stage in stages) else ""
        table.add_row(
            kind,
            name,
            str(len(stages)),
            str(sum(stage["finished"] for stage in stages)),
            "" if n_params is None else format_count(n_params),
            format_flops(sum(stage["flops"] for stage in stages)),
            format_seconds(max(seconds)),
            format_seconds(sum(seconds)),
            format_bytes(max(stage["memory_bytes"] for stage in stages)) + too_large,
            format_bytes(sum(stage["disk_bytes"] for stage in stages)),
        )
    return table


def plan_lines(content: dict[str, Any]) -> list[str]:
    """The plan's sums and what they rest on, as sentences."""
    totals, machine = content["totals"], content["machine"]
    corrected = ", corrected by finished stages" if content["refined_by_finished_stages"] else ""
    lines = [
        f"{totals['remaining']} of {totals['stages']} stages to run: {format_flops(totals['flops'])} FLOPs, "
        f"about {format_seconds(totals['wall_seconds'])}, up to {format_bytes(totals['peak_memory_bytes'])} of memory "
        f"a stage, {format_bytes(totals['disk_bytes'])} of disk",
        f"on {machine['name']}: {machine['rates']}{corrected}",
    ]
    too_large = [s["stage_id"] for s in content["stages"] if not s["fits_memory"]]
    if too_large:
        memory = format_bytes(machine["memory_bytes"])
        lines.append(
            f"too large for the {memory} of {machine['name']}: {len(too_large)} stages, {', '.join(too_large)}"
        )
    unknown = {s["config"]["size"]["name"] for s in content["stages"] if "size" in s["config"] and not s["n_params"]}
    if unknown:
        lines.append(f"not estimated, shape not known: {', '.join(sorted(unknown))}")
    return lines + [f"assumed: {text}" for text in content["assumed"]]


def studies_table() -> Table:
    """The shipped studies, cheapest first: sizes, stages, and what they cost on this machine or on a named GPU."""
    heads = ("stages", "about", "memory", "disk")
    table = make_table("study", "sizes", *heads, "on", "description", numbers=heads)
    described = [(loaded, estimate(loaded)) for loaded in map(load_shipped, shipped_studies())]
    for loaded, plan in sorted(described, key=lambda pair: pair[1].wall_seconds()):
        table.add_row(
            loaded.name,
            ", ".join(loaded.size_names),
            str(len(plan.graph)),
            format_seconds(plan.wall_seconds()),
            format_bytes(max(cost.memory_bytes for cost in plan.costs.values())),
            format_bytes(sum(cost.disk_bytes for cost in plan.costs.values())),
            plan.machine.name,
            escape(" ".join(loaded.study.description.split())),
        )
    return table


def estimate(loaded: LoadedStudy) -> Plan:
    """A study's plan on the machine it is meant for; files it still needs are guessed."""
    graph = expand(loaded, may_lack_files=True)
    return make_plan(graph, machine_for(graph))


def load_shipped(name: str) -> LoadedStudy:
    """A shipped study as it is, or, where it must be told where its data are, with a stand-in."""
    try:
        return load_study(name)
    except StudyError:
        return load_study(name, [f"{key}=not-given" for key in ("data.path", "text.path", "text.held_out")])


def status_table(content: dict[str, Any]) -> Table:
    """One row a stage."""
    table = make_table("stage", "status", "time", "what", numbers=("time",))
    styles = {"done": "green", "failed": "red", "damaged": "red", "diverged": "yellow", "running": "cyan"}
    for stage in content["stages"]:
        what = stage["error"] or (f"{stage['progress']:.0%}" if stage["progress"] is not None else "")
        seconds = "" if stage["seconds"] is None else format_seconds(stage["seconds"])
        status = stage["status"]
        table.add_row(stage["stage_id"], f"[{styles.get(status, 'default')}]{status}[/]", seconds, escape(what))
    return table


def escape(text: str) -> str:
    """``text`` as rich shows it unchanged, without control characters."""
    from rich.markup import escape as rich_escape

    return rich_escape(printable(text))


def share_lines(content: dict[str, Any]) -> list[str]:
    """What evaluating policies took of their training, in one line, or none where nothing has been evaluated."""
    rows = content["evaluation_shares"]
    if not rows:
        return []
    share = sum(row["evaluation_seconds"] for row in rows) / sum(row["ppo_seconds"] for row in rows)
    most = max(row["share"] for row in rows)
    policies = f"{len(rows)} polic{'y' if len(rows) == 1 else 'ies'}"
    return [f"evaluations of policies took {share:.0%} of their PPO runs' time ({policies}; most {most:.0%})"]


def status_line(content: dict[str, Any]) -> str:
    """``demo: 12 done, 1 failed, 3 waiting``."""
    return f"{content['study']}: " + ", ".join(f"{n} {status}" for status, n in content["counts"].items())
