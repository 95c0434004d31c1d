"""What a stage costs, from its configuration and its model's shape alone: tokens, FLOPs, seconds, memory, disk.

Counted: 2 FLOPs a non-embedding parameter and token of a forward pass, attention, and the output projection where
logits are needed; a backward pass costs two forward passes. Lengths that only the data know are assumed (and said
so in ``ASSUMED``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hh_scaling.configs import (
    BaseConfig,
    BehaviourConfig,
    BenchmarkConfig,
    BestOfNConfig,
    Compute,
    DataConfig,
    ForeignPMConfig,
    InterpolationConfig,
    PilotConfig,
    PMConfig,
    PMPConfig,
    PPOConfig,
    PPOTraining,
    ReferenceConfig,
    TeacherConfig,
    TokenizerConfig,
)
from sweeps.known_models import ModelShape
from sweeps.machines import GIB, Machine

ASSUMED = (
    "a comparison's sides and a prompt fill 60 % of the maximal length, a response 80 %",
    "two thirds of a comparison's side are its prompt, which is computed once for both",
    "a benchmark item has 60 tokens and 4 answers of 10 (a world's 20 in all), an example 70 (a world's 15), a task "
    "without a limit 2,000 items",
)
FILL, RESPONSE_FILL, PROMPT_SHARE = 0.6, 0.8, 2 / 3
PROMPT_TOKENS, BYTES_A_TOKEN = 120, 4  # of a world's prompt; of a prompt's text
ITEM_TOKENS, EXAMPLE_TOKENS, TASK_ITEMS = 100, 70, 2000  # an item's question is computed once for its answers
WORLD_ITEM_TOKENS, WORLD_EXAMPLE_TOKENS = 20, 15  # measured: 18 an item
ITEM_SECONDS = 4e-4  # of a benchmark besides the model: its prompts, tokens and rows
OCCUPATION_ROWS = 720  # sentences about occupations, each counted once with both of its sides and tenses
HUB_BYTES = 3e8  # of a data set on the hub
PROCESS_BYTES = 0.45 * GIB  # an interpreter with torch and transformers loaded
ACTIVATION_BYTES = (
    34  # a token, layer and unit of width, kept for the backward pass in 16 bits (34 s b h without attention)
)


@dataclass(frozen=True)
class Cost:
    """One stage's estimated cost. ``passes`` counts layer launches, which small models spend their time on."""

    tokens: float = 0.0
    flops: float = 0.0
    layer_passes: float = 0.0
    bytes_read: float = 0.0  # weights read again for every sampled token
    memory_bytes: float = PROCESS_BYTES
    disk_bytes: float = 1e6
    fixed_seconds: float = 0.3
    seconds: float = 0.0


@dataclass(frozen=True)
class Sizing:
    """What costs depend on besides the stage's configuration."""

    shape: ModelShape
    scorer: ModelShape  # of the train preference model, which may be of another size
    followers: tuple[ModelShape, ...]  # of those that score evaluations alone: test, gold
    n_pairs: float  # in its part, where a stage takes all
    n_held_out: float  # comparisons


def stage_cost(config: Any, sizing: Sizing | None, machine: Machine) -> Cost:
    """The cost of a stage on ``machine``; only fixed costs where the model's shape is not known."""
    formula = FORMULAS.get(type(config).__name__)
    if formula is None or (sizing is None and not isinstance(config, DataConfig | TokenizerConfig)):
        return Cost(seconds=Cost.fixed_seconds)
    cost = formula(config, sizing)
    compute = getattr(config, "compute", Compute())
    return replace(cost, seconds=seconds_on(machine, cost, compute))


def seconds_on(machine: Machine, cost: Cost, compute: Compute) -> float:
    """Arithmetic, launches and memory traffic one after another, plus what does not scale."""
    rate = machine.flops_bf16 if compute.dtype == "bf16" else machine.flops_float32
    threads = 1 if machine.is_gpu else compute.threads
    arithmetic = cost.flops / (rate * threads)
    return (
        arithmetic
        + cost.layer_passes * machine.layer_seconds
        + cost.bytes_read / machine.bytes_per_second
        + (cost.fixed_seconds)
    )


def forward(shape: ModelShape, context: float, logits: bool) -> float:
    """FLOPs of a forward pass, a token."""
    attention = 2 * shape.n_layers * shape.d_model * context
    return 2 * shape.n_params + attention + (2 * shape.d_model * shape.vocab_size if logits else 0)


def training_memory(shape: ModelShape, micro_tokens: float, logits: bool, trained: float = 1.0) -> float:
    """Bytes: float32 weights, gradients and two Adam moments of the trained part, activations, logits."""
    n = shape.n_params_total
    activations = micro_tokens * shape.n_layers * shape.d_model * ACTIVATION_BYTES * trained
    return (
        PROCESS_BYTES + 4 * n + 12 * n * trained + activations + (micro_tokens * shape.vocab_size * 10 if logits else 0)
    )


# ---------------------------------------------------------------- formulas, one a kind


def data_cost(config: DataConfig, sizing: Sizing | None) -> Cost:
    """Generating a world's text, or reading, splitting and writing the files."""
    if config.world is not None:
        n_comparisons = config.world.n_comparisons + config.world.n_votes
        size = 6.0 * config.world.n_text_tokens + 500.0 * n_comparisons
        return Cost(tokens=config.world.n_text_tokens, disk_bytes=size, fixed_seconds=1 + size / 1.5e6)
    files = [file for source in (config.comparisons, config.votes) if source for file in source.files]
    files += [*config.text.files, *config.text.held_out] if config.text else []
    size = sum(file.bytes * (3.0 if file.name.endswith((".gz", ".xz")) else 1.0) for file in files)
    hubs = [source for source in (config.comparisons, config.votes) if source is not None and source.hub is not None]
    size = size + HUB_BYTES * len(hubs) or HUB_BYTES
    return Cost(disk_bytes=size, memory_bytes=PROCESS_BYTES + 3 * size, fixed_seconds=2 + size / 2e7)


def tokenizer_cost(config: TokenizerConfig, sizing: Sizing | None) -> Cost:
    """Merging byte pairs over the text read."""
    return Cost(fixed_seconds=1 + config.max_bytes / 4e6, memory_bytes=PROCESS_BYTES + 10 * config.max_bytes)


def base_cost(config: BaseConfig, sizing: Sizing) -> Cost:
    """Pretraining and held-out loss of a rung; of a model that exists, fetching and the held-out loss."""
    shape, training = sizing.shape, config.training
    logits_flops = forward(shape, training.context, logits=True)
    evaluation = training.eval_tokens * logits_flops
    eval_passes = training.eval_tokens / training.context * shape.n_layers
    if config.size.n_params is None:
        size = 4.0 * shape.n_params_total
        memory = PROCESS_BYTES + size + 4.0 * config.compute.micro_batch_tokens * shape.vocab_size
        disk = size if config.size.gguf is not None or config.size.weights_sha256 is not None else 1e6
        return Cost(training.eval_tokens, evaluation, eval_passes, 0.0, memory, disk, fixed_seconds=3 + size / 4e7)
    steps = training.n_tokens / (training.batch_rows * training.context)
    tokens_a_pass = min(training.batch_rows * training.context, config.compute.micro_batch_tokens)
    return Cost(
        tokens=training.n_tokens + training.eval_tokens,
        flops=3 * training.n_tokens * logits_flops + evaluation,
        layer_passes=3 * steps * shape.n_layers + eval_passes,
        memory_bytes=training_memory(shape, tokens_a_pass, logits=True),
        disk_bytes=4.0 * shape.n_params_total + 2e6,
    )


def reference_cost(config: ReferenceConfig, sizing: Sizing) -> Cost:
    """Fine-tuning on chosen responses, or on a teacher's answers."""
    shape, training = sizing.shape, config.training
    tokens = training.n_examples * training.max_length * FILL
    return Cost(
        tokens=tokens,
        flops=3 * tokens * forward(shape, training.max_length * FILL, logits=True),
        layer_passes=3 * training.n_examples / training.batch_size * shape.n_layers,
        memory_bytes=training_memory(shape, config.compute.micro_batch_tokens, logits=True),
        disk_bytes=4.0 * shape.n_params_total,
    )


def teacher_cost(config: TeacherConfig, sizing: Sizing) -> Cost:
    """A forward pass over every example; the prompt is computed once, but every token attends to it."""
    shape, wanted = sizing.shape, config.targets
    prompt = PROMPT_TOKENS if config.prompt is None else config.prompt.bytes / BYTES_A_TOKEN
    tokens = (wanted.n_examples + wanted.n_held_out) * wanted.max_length * FILL
    micro = config.compute.micro_batch_tokens
    return Cost(
        tokens=tokens,
        flops=tokens * forward(shape, 2 * prompt + wanted.max_length * FILL, logits=True),
        layer_passes=tokens / micro * shape.n_layers,
        memory_bytes=PROCESS_BYTES
        + 4.0 * shape.n_params_total
        + micro * (shape.vocab_size * 12.0 + shape.d_model * ACTIVATION_BYTES),
        disk_bytes=tokens * wanted.top_k * (6.0 if shape.vocab_size <= 1 << 16 else 8.0),
    )


def pm_cost(config: PMConfig | PMPConfig, sizing: Sizing) -> Cost:
    """One pass over the pairs (lower layers forward only where they are frozen), and scores of the held-out ones at
    its end and at every point of ``eval_at``; a pair's prompt is computed once."""
    shape, training = sizing.shape, config.training
    more = 1 + (config.extra_share if isinstance(config, PMConfig) else 0)
    n_pairs = (config.n_comparisons or sizing.n_pairs) * more * training.n_epochs
    n_scored = sizing.n_held_out * (1 + len(training.eval_at))
    pair_tokens = (2 - PROMPT_SHARE) * training.max_length * FILL
    trained = min(1.0, (training.trainable_layers or shape.n_layers) / shape.n_layers)
    flops = forward(shape, training.max_length * FILL, logits=False)
    tokens = pair_tokens * (n_pairs + n_scored)
    batch_tokens = min(training.batch_size * pair_tokens / FILL, config.compute.micro_batch_tokens)
    passes = (1 + 2 * trained) * n_pairs * pair_tokens + n_scored * pair_tokens
    crew = 4.0 * trained * shape.n_params_total * (config.compute.threads - 1)  # a gradient for each further process
    return Cost(
        tokens=tokens,
        flops=pair_tokens * flops * (n_pairs * (1 + 2 * trained) + n_scored),
        layer_passes=passes / (batch_tokens * FILL) * shape.n_layers,
        memory_bytes=training_memory(shape, batch_tokens, logits=False, trained=trained) + crew,
        disk_bytes=4.0 * shape.n_params_total + 200.0 * n_scored,
    )


def foreign_pm_cost(config: ForeignPMConfig, sizing: Sizing) -> Cost:
    """Fetching and loading a model that exists."""
    size = 4.0 * sizing.shape.n_params_total
    return Cost(memory_bytes=PROCESS_BYTES + size, fixed_seconds=3 + size / 4e7)


def ppo_cost(config: PPOConfig, sizing: Sizing) -> Cost:
    """Sampling, scoring and training of every rollout, and the evaluations."""
    shape, pm, training = sizing.shape, sizing.scorer, config.training
    prompt, response = training.max_prompt_tokens * FILL, training.max_response_tokens * RESPONSE_FILL
    length = prompt + response
    n_evals = training.n_updates // training.eval_every + 1
    rollouts = training.n_updates * training.batch_size + n_evals * training.n_eval_prompts
    logits = 2 * shape.d_model * shape.vocab_size * response  # only on the response
    policy = length * forward(shape, length / 2, logits=False) + logits
    scoring = length * forward(pm, length / 2, logits=False)
    trained = training.n_updates * training.batch_size * training.n_epochs
    following = sum(length * forward(other, length / 2, logits=False) for other in sizing.followers)
    # A rollout: sampling, the policy's and the reference's log-probabilities, and the train PM; an evaluation also
    # the test and the gold PM. Training: three passes an epoch.
    flops = rollouts * (3 * policy + scoring) + n_evals * training.n_eval_prompts * following + 3 * trained * policy
    sampling_steps = (training.n_updates + n_evals) * (training.max_response_tokens + 2)
    micro = config.compute.micro_batch_tokens
    models = 4.0 * (shape.n_params_total * 2 + sum(other.n_params_total for other in (pm, *sizing.followers)))
    # For each further process a gradient and a sampling copy in 16 bits.
    crew = 6.0 * shape.n_params_total * (config.compute.threads - 1)
    text, more_flops, more_memory = ppo_additions(training, sizing, length * (rollouts + 3 * trained))
    return Cost(
        tokens=rollouts * response + trained * length + text,
        flops=flops + more_flops,
        layer_passes=sampling_steps * shape.n_layers + (3 * trained + 4 * rollouts) * length / micro * shape.n_layers,
        bytes_read=sampling_steps * 2.0 * shape.n_params_total,
        memory_bytes=training_memory(shape, micro, logits=True) + models + crew + more_memory,
        disk_bytes=4.0 * shape.n_params_total * (1 + len(training.keep_sqrt_kl))
        + 600.0 * n_evals * training.n_eval_prompts,
        fixed_seconds=1.0,
    )


def ppo_additions(training: PPOTraining, sizing: Sizing, passed: float) -> tuple[float, float, float]:
    """Tokens of pretraining text, and FLOPs and bytes of it, of a critic of its own and of adapters (which save bytes:
    no gradient, no moments, no second copy of the weights). ``passed``: tokens through the policy, backward twice."""
    shape, flops, memory = sizing.shape, 0.0, 0.0
    steps = training.n_updates * training.n_epochs * training.batch_size / training.minibatch_size
    text = steps * training.ptx_rows * training.ptx_context if training.ptx_coef else 0.0
    flops += 3 * text * forward(shape, training.ptx_context, logits=True)
    if training.critic == "separate":
        critic = sizing.scorer if training.value_init == "pm" else shape
        flops += passed * forward(critic, training.max_prompt_tokens * FILL, logits=False)
        memory += 16.0 * critic.n_params_total
    if training.lora_rank is not None:
        memory -= 16.0 * shape.n_params_total
    return text, flops, memory


def best_of_n_cost(config: BestOfNConfig, sizing: Sizing) -> Cost:
    """Sampling every prompt ``n_samples`` times, and scoring each sample by the train, the test and the gold PM."""
    shape, scorers, sampling = sizing.shape, (sizing.scorer, *sizing.followers), config.sampling
    response = sampling.max_response_tokens * RESPONSE_FILL
    length = sampling.max_prompt_tokens * FILL + response
    n = float(sampling.n_samples * sampling.n_prompts)
    generated = length * forward(shape, length / 2, logits=False) + 2 * shape.d_model * shape.vocab_size * response
    scored = sum(length * forward(pm, length / 2, logits=False) for pm in scorers)
    steps = n / min(sampling.sample_rows, n) * (sampling.max_response_tokens + 2)
    passes = sum(pm.n_layers for pm in scorers) * n * length / config.compute.micro_batch_tokens
    models = 4.0 * (shape.n_params_total + sum(pm.n_params_total for pm in scorers))
    cache = 8.0 * sampling.sample_rows * length * shape.n_layers * shape.d_model  # keys and values
    return Cost(
        tokens=n * length,
        flops=n * (generated + scored),
        layer_passes=steps * shape.n_layers + passes,
        bytes_read=steps * 2.0 * shape.n_params_total,
        memory_bytes=PROCESS_BYTES + models + cache,
        disk_bytes=150.0 * n,
        fixed_seconds=1.0,
    )


def interpolation_cost(config: InterpolationConfig, sizing: Sizing) -> Cost:
    """As many of PPO's evaluations as there are alphas; nothing is trained, and the weights at ``keep`` are saved."""
    n, training = len(config.alphas), config.training
    alone = training.model_copy(update={"n_updates": 1, "eval_every": 1, "batch_size": 1, "keep_sqrt_kl": ()})
    pair = ppo_cost(config.model_copy(update={"training": alone}), sizing)  # two evaluations, next to no training
    weights = 4.0 * sizing.shape.n_params_total
    return replace(
        pair,
        tokens=pair.tokens * n / 2,
        flops=pair.flops * n / 2,
        layer_passes=pair.layer_passes * n / 2,
        bytes_read=pair.bytes_read * n / 2,
        memory_bytes=pair.memory_bytes + weights,
        disk_bytes=weights * len(config.keep) + 600.0 * n * training.n_eval_prompts,
    )


def benchmark_cost(config: BenchmarkConfig | PilotConfig, sizing: Sizing) -> Cost:
    """A forward pass over every item with its examples and all its answers."""
    shape, tasks = sizing.shape, config.tasks
    items = len(tasks.tasks) * (tasks.limit or TASK_ITEMS)
    worlds = sum(name.startswith("world_") for name in tasks.tasks) / len(tasks.tasks)
    one = worlds * WORLD_ITEM_TOKENS + (1 - worlds) * ITEM_TOKENS
    examples = worlds * WORLD_EXAMPLE_TOKENS + (1 - worlds) * EXAMPLE_TOKENS
    tokens = items * (one + tasks.num_fewshot * examples)
    return Cost(
        tokens=tokens,
        flops=tokens * forward(shape, ITEM_TOKENS, logits=True),
        layer_passes=tokens / config.compute.micro_batch_tokens * shape.n_layers,
        memory_bytes=PROCESS_BYTES
        + 4.0 * shape.n_params_total
        + config.compute.micro_batch_tokens * (shape.vocab_size * 6.0 + shape.d_model * ACTIVATION_BYTES),
        disk_bytes=300.0 * items,
        fixed_seconds=1.0 + ITEM_SECONDS * items,
    )


def pilot_cost(config: PilotConfig, sizing: Sizing) -> Cost:
    """The same on a pilot's items, before and after."""
    one = benchmark_cost(config, sizing)
    return replace(one, tokens=2 * one.tokens, flops=2 * one.flops, layer_passes=2 * one.layer_passes)


def behaviour_cost(config: BehaviourConfig, sizing: Sizing) -> Cost:
    """A forward pass over every occupation, answer and prompt, and the heads of outlier exposure."""
    shape, tasks = sizing.shape, config.tasks
    rows = {"occupations": OCCUPATION_ROWS, "answers": 2 * tasks.n_comparisons, "outliers": 2 * tasks.n_prompts}
    tokens = float(ITEM_TOKENS * sum(rows[name] for name in tasks.of))
    return Cost(
        tokens=tokens,
        flops=tokens * forward(shape, ITEM_TOKENS, logits=True),
        layer_passes=tokens / config.compute.micro_batch_tokens * shape.n_layers,
        memory_bytes=PROCESS_BYTES
        + 4.0 * shape.n_params_total
        + config.compute.micro_batch_tokens * (shape.vocab_size * 6.0 + shape.d_model * ACTIVATION_BYTES),
        disk_bytes=100.0 * sum(rows.values()),
        fixed_seconds=4.0,
    )


FORMULAS: dict[str, Callable[[Any, Any], Cost]] = {
    "DataConfig": data_cost,
    "TokenizerConfig": tokenizer_cost,
    "BaseConfig": base_cost,
    "TeacherConfig": teacher_cost,
    "ReferenceConfig": reference_cost,
    "PMPConfig": pm_cost,
    "PMConfig": pm_cost,
    "ForeignPMConfig": foreign_pm_cost,
    "PPOConfig": ppo_cost,
    "BestOfNConfig": best_of_n_cost,
    "InterpolationConfig": interpolation_cost,
    "BenchmarkConfig": benchmark_cost,
    "PilotConfig": pilot_cost,
    "BehaviourConfig": behaviour_cost,
}
