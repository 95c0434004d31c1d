"""What no single field of a study can say: keys that contradict each other or ask for what cannot be."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hh_scaling.shapes import shape_for
from hh_scaling.tasks import TaskError, own_task
from hh_scaling.world.requests import P_HARMFUL
from sweeps.enough import by_class
from sweeps.load import KeyPath, nearest
from sweeps.routes import place_problems, route_problems
from sweeps.scoring import gold_source, lacks_own, scoring_problems
from sweeps.study import BaseSection, PMSection, PPOSection, Study
from sweeps.variants import largest_count, other_rates

Found = Iterator[tuple[KeyPath, str]]


def inconsistencies(study: Study, names: list[str]) -> Found:
    """Keys that contradict each other or ask for what cannot be, each with what is wrong and what is allowed."""
    yield from size_problems(study, names)
    yield from data_problems(study)
    yield from length_problems(study)
    yield from rate_problems(study)
    if study.pm is not None:
        yield from pm_problems(study.pm)
    yield from votes_problems(study)
    yield from stage_problems(study, names)
    yield from route_problems(study)
    yield from distillation_problems(study, names)
    yield from task_problems(study)
    yield from behaviour_problems(study)


def size_problems(study: Study, names: list[str]) -> Found:
    """Sizes without one source, of one name, or that no shape has; seeds that repeat, and more bases than seeds."""
    for i, entry in enumerate(study.sizes):
        given = [key for key in ("n_params", "hub", "path", "gguf") if getattr(entry, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            yield ("sizes", i), f"has {found} of n_params, hub, path, gguf (allowed: exactly one)"
        if names[i] in names[:i]:
            yield ("sizes", i), f"is called '{names[i]}' like an earlier one; give it another name"
        if entry.n_params is not None:
            try:
                shape_for(entry.n_params, entry.architecture or study.architecture)
            except ValueError as error:
                yield ("sizes", i, "n_params"), str(error)
    if len(set(study.seeds)) < len(study.seeds):
        yield ("seeds",), f"is {list(study.seeds)}; each seed may occur once"
    if (n := study.base_seeds) is not None:
        if n > len(study.seeds):
            yield ("base_seeds",), f"is {n} (allowed: at most the number of seeds, {len(study.seeds)})"
        elif n > 1 and "base" in study.share:
            yield ("base_seeds",), f"is {n}, but share has base, made once (allowed: 1, or share without base)"


def data_problems(study: Study) -> Found:
    """Comparisons from nowhere or from two places, and more of them than there are."""
    data, world = study.data, study.world
    sources = [key for key, given in (("world", world), ("data.path", data.path), ("data.hub", data.hub)) if given]
    if len(sources) != 1:
        found = " and ".join(sources) if sources else "none"
        example = "--set data.path=FOLDER" if not sources else f"leave out {sources[-1]}"
        yield ("data",), f"comparisons come from {found} (allowed: one of data.path, data.hub, world; {example})"
    if data.held_out_fraction >= 1 or data.held_out_fraction <= 0:
        yield ("data", "held_out_fraction"), f"is {data.held_out_fraction} (allowed: above 0 and below 1)"
    elif data.gold_fraction >= 1 - data.held_out_fraction:
        left = f"below {1 - data.held_out_fraction:g}, what the held-out part leaves"
        yield ("data", "gold_fraction"), f"is {data.gold_fraction} (allowed: {left})"
    elif world is not None and study.pm is not None:
        half = int(world.n_comparisons * (1 - data.held_out_fraction - data.gold_fraction) / 2)
        for i, n in enumerate(study.pm.n_comparisons):
            if n is not None and n > half * 1.02:
                yield ("pm", "n_comparisons", i), f"is {n} (allowed: about {half}, half of what the world makes)"
        yield from world_share_problems(study.pm, half)
    if study.text is not None and study.text.held_out and not study.text.path:
        yield ("text", "held_out"), "chooses among the files of text.path, which is not given; --set text.path=FOLDER"
    if world is not None and study.text is not None and study.text.path:
        yield ("text", "path"), "is given, but a world makes its own text (allowed: one of them)"


def world_share_problems(pm: PMSection, half: int) -> Found:
    """Shares that need more of a class than a world's half can have, four standard deviations left to chance."""
    most = largest_count(pm)
    for i, share in enumerate(pm.helpful_share if most is not None and most <= half else ()):
        expected = {"helpful": half * (1 - P_HARMFUL), "harmless": half * P_HARMFUL}
        for (name, there), wanted in zip(expected.items(), by_class(most or 0, share), strict=True):
            if wanted > there + 4 * (half * P_HARMFUL * (1 - P_HARMFUL)) ** 0.5:
                text = f"is {share:g}, which needs {wanted} {name} comparisons"
                yield ("pm", "helpful_share", i), f"{text} (allowed: about {there:.0f}, as many as a half has)"


def length_problems(study: Study) -> Found:
    """Sequences longer than a rung's positions."""
    if all(entry.n_params is None for entry in study.sizes):
        return
    limit = study.base.max_positions
    lengths: dict[KeyPath, int] = {("base", "context"): study.base.context}
    if study.reference.kind != "none":
        lengths["reference", "max_length"] = study.reference.max_length
    if study.pmp is not None:
        lengths["pmp", "max_length"] = study.pmp.max_length
    if study.pm is not None:
        lengths["pm", "max_length"] = study.pm.max_length
    if study.ppo is not None:
        lengths["ppo", "max_prompt_tokens"] = study.ppo.max_prompt_tokens + study.ppo.max_response_tokens
        lengths["ppo", "ptx_context"] = study.ppo.ptx_context + 1 if any(study.ppo.ptx_coef) else 0
    for key, length in lengths.items():
        if length > limit:
            what = "with max_response_tokens comes to" if key == ("ppo", "max_prompt_tokens") else "is"
            yield key, f"{what} {length} tokens (allowed: at most base.max_positions, {limit})"


def rate_problems(study: Study) -> Found:
    """Learning rates to vary that repeat, leave out the rule's own, or are written where only the sweep writes."""
    sections: dict[str, BaseSection | PMSection | PPOSection | None]
    sections = {"base": study.base, "pm": study.pm, "ppo": study.ppo}
    for name, section in sections.items():
        if section is None:
            continue
        factors = list(section.rate_factor)
        if 1 not in factors:
            yield (name, "rate_factor"), f"is {factors} (allowed: a list with 1, the rate of all that is built on)"
        if len(set(factors)) < len(factors):
            yield (name, "rate_factor"), "names a number twice"
        if section.schedule.rate_factor != 1:
            yield (name, "schedule", "rate_factor"), f"is made from {name}.rate_factor, the list of those to try"
    fixed = {"reference": study.reference, "pmp": study.pmp}
    for name, other in fixed.items():
        if other is not None and other.schedule.rate_factor != 1:
            yield (name, "schedule", "rate_factor"), "cannot be varied (allowed: rate_factor of base, pm or ppo)"
    if other_rates(study.base) and all(entry.n_params is None for entry in study.sizes):
        yield ("base", "rate_factor"), "varies how rungs are trained, but no size is one (allowed: 1)"


def pm_problems(pm: PMSection) -> Found:
    """Numbers, shares and weights that repeat or do not go together."""
    for key in ("n_comparisons", "helpful_share", "harmless_weight", "extra_share", "pretrained"):
        if len(set(getattr(pm, key))) < len(getattr(pm, key)):
            yield ("pm", key), f"names a {'value' if key == 'pretrained' else 'number'} twice"
    if pm.helpful_share and largest_count(pm) is None:
        yield ("pm", "helpful_share"), "needs a number as the largest of pm.n_comparisons, which has all"
    if pm.learning_curve and len(pm.n_comparisons) < 2:
        yield ("pm", "learning_curve"), "needs at least two numbers in pm.n_comparisons, this is one"
    if pm.learning_curve and pm.n_epochs > 1:
        yield ("pm", "learning_curve"), f"follows a single pass, pm.n_epochs is {pm.n_epochs} (allowed: 1)"
    if pm.eval_at:
        yield ("pm", "eval_at"), "is made from pm.n_comparisons; --set pm.learning_curve=true"


def votes_problems(study: Study) -> Found:
    """A second set of comparisons from nowhere or from two places, and what needs one or more of it than there is."""
    votes, pm, pmp = study.data.votes, study.pm, study.pmp
    made = study.world.n_votes if study.world is not None else 0
    if votes is not None and bool(votes.path) == bool(votes.hub):
        yield ("data", "votes"), f"has {'both' if votes.hub else 'neither'} of path and hub (allowed: exactly one)"
    if votes is not None and made:
        yield ("data", "votes"), "is given, but the world makes votes too (allowed: one of them; world.n_votes: 0)"
    if pmp is not None and pmp.eval_at:
        yield ("pmp", "eval_at"), "is for preference models alone, by pm.learning_curve (allowed: an empty list)"
    if pm is None:
        return
    if True in pm.pretrained and pmp is None:
        yield ("pm", "pretrained"), "has true, but there is no pmp section that says how; --set pmp={}"
    most = largest_count(pm)
    wanted: dict[KeyPath, int | None] = {}
    if True in pm.pretrained:
        wanted["pm", "pretrained"] = pmp.n_comparisons if pmp is not None else None
    if any(pm.extra_share):
        wanted["pm", "extra_share"] = None if most is None else round(max(pm.extra_share) * most)
    for share in pm.extra_share if most is not None else ():
        if share and most and not round(share * most):
            yield (
                ("pm", "extra_share"),
                f"has {share:g}, which is no vote beside {most} (allowed: 0, or {1 / most:g} to 1)",
            )
    for key, n in wanted.items():
        if votes is None and not made:
            yield key, f"needs votes; --set {'world.n_votes=10k' if study.world is not None else 'data.votes=FILE'}"
        elif votes is None and n is not None and n > made:
            yield key, f"needs {n} votes (allowed: at most world.n_votes, {made})"


def stage_problems(study: Study, names: list[str]) -> Found:
    """Names of sizes and checkpoints that do not exist, and stages without what they need."""
    pm, ppo = study.pm, study.ppo
    for section, chosen in (("pm", pm and pm.sizes), ("ppo", ppo and ppo.sizes)):
        for i, name in enumerate(chosen or ()):
            if name not in names:
                yield (section, "sizes", i), f"is '{name}' (allowed: {', '.join(names)}{nearest(name, names)})"
    yield from scoring_problems(study, names)
    if ppo is None or lacks_own(study):
        return
    if ppo.minibatch_size > ppo.batch_size:
        yield ("ppo", "minibatch_size"), f"is {ppo.minibatch_size} (allowed: at most batch_size, {ppo.batch_size})"
    yield from ppo_problems(study, ppo)
    yield from place_problems(study, ppo)


def ppo_problems(study: Study, ppo: PPOSection) -> Found:
    """Text to mix in that is not there, and values from a preference model that nothing can read."""
    if len(set(ppo.ptx_coef)) < len(ppo.ptx_coef):
        yield ("ppo", "ptx_coef"), "names a number twice"
    if any(ppo.ptx_coef) and study.world is None and (study.text is None or not study.text.path):
        yield ("ppo", "ptx_coef"), "mixes in pretraining text, but there is none; --set text.path=FOLDER"
    if ppo.value_init == "pm" and ppo.critic == "shared":
        yield ("ppo", "value_init"), "is pm, whose head fits its own trunk alone; --set ppo.critic=separate"
    elif ppo.value_init == "pm" and ppo.pm.is_foreign:
        yield ("ppo", "value_init"), "is pm, but ppo.pm is somebody else's model (allowed: zero)"


def behaviour_problems(study: Study) -> Found:
    """A sentiment classifier that is named twice or not at all."""
    choice = study.behaviours.sentiment if study.behaviours is not None else None
    if choice is not None and len(choice.given) != 1:
        found = " and ".join(choice.given) or "neither hub nor path"
        yield ("behaviours", "sentiment"), f"has {found} (allowed: one of hub, path)"


def distillation_problems(study: Study, names: list[str]) -> Found:
    """A teacher that does not exist or has other tokens, and texts or a prompt from a world that is not there."""
    reference = study.reference
    if reference.kind != "context_distillation":
        return
    if reference.teacher != "same" and reference.teacher not in names:
        allowed = ["same", *names]
        hint = nearest(reference.teacher, allowed)
        yield ("reference", "teacher"), f"is '{reference.teacher}' (allowed: {', '.join(allowed)}{hint})"
    elif reference.teacher != "same":
        rungs = [entry.n_params is not None for entry in study.sizes]
        if len(set(rungs)) > 1:
            text = f"is '{reference.teacher}', but the study mixes rungs with models that exist, whose tokens differ"
            yield ("reference", "teacher"), f"{text} (allowed: same)"
    if reference.prompt == "world" and study.world is None:
        yield ("reference", "prompt"), "is world, but the study has none (allowed: hhh, or a text file)"
    has_text = study.world is not None or (
        study.text is not None and bool(study.text.path or study.text.include_transcripts)
    )
    if reference.text_share > 0 and not has_text:
        text = f"is {reference.text_share:g}, but the study has no text (--set reference.text_share=0)"
        yield ("reference", "text_share"), text


def task_problems(study: Study) -> Found:
    """Benchmark tasks that do not exist, or whose items this study's data do not have; a precision of nothing."""
    if study.benchmarks is not None:
        if study.benchmarks.precision is not None and study.ppo is None:
            yield ("benchmarks", "precision"), "is of the difference that RLHF makes, but there is no ppo section"
        shots = study.benchmarks.num_fewshot
        if len(set(shots)) < len(shots):
            yield ("benchmarks", "num_fewshot"), "names a number twice"
    for i, name in enumerate(study.benchmarks.tasks if study.benchmarks is not None else ()):
        key = ("benchmarks", "tasks", i)
        try:
            task = own_task(name)
        except TaskError as error:
            yield key, str(error)
            continue
        if name.startswith("world_") and study.world is None:
            yield key, f"is {name}, whose items a world makes (allowed without one: local_*, or a task of lm-eval)"
        section = study.benchmarks
        if task is not None and task.shape == "code" and section is not None and not section.run_code:
            yield key, f"is {name}, which runs code that models write; --set benchmarks.run_code=true allows it"
        no_text = study.world is None and (study.text is None or not study.text.held_out)
        if task is not None and task.format == "loss" and no_text:
            yield key, f"is {name}, which needs held-out text; --set text.held_out='PATTERN' of file names"


def oddities(study: Study) -> Iterator[str]:
    """What is allowed but probably not meant, one line each."""
    if study.data.gold_fraction and gold_source(study) != "largest":
        yield "data.gold_fraction: keeps comparisons that nothing is trained on; --set ppo.gold=largest uses them"
    starts, mixed = (study.pm.pretrained, study.pm.extra_share) if study.pm is not None else ((), ())
    if study.pmp is not None and True not in starts:
        yield "pmp: no preference model starts from it, so none is made; --set 'pm.pretrained=[false, true]'"
    votes = study.data.votes is not None or (study.world is not None and study.world.n_votes > 0)
    if votes and True not in starts and not any(mixed):
        yield "votes: nothing is trained on them; --set 'pm.pretrained=[false, true]' or pm.extra_share=1 uses them"
    cores = os.cpu_count() or 1
    models = [study.base, study.reference, study.pmp, study.pm, study.ppo]
    sections = [study, *models, study.benchmarks, study.behaviours, *study.sizes]
    wanted = max((s.compute.threads or 0 for s in sections if s is not None), default=0)
    if wanted > cores:
        yield f"compute.threads: {wanted} threads, this machine has {cores} cores; stages will be slower, not wrong"
