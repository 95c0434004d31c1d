"""The complete configuration of every kind of stage: frozen, validated, and what a stage's id is hashed from.

A configuration holds everything that decides a stage's result except its parents. Paths are not part of
it: input files are known by their content (``InputFile.sha256``) and found through ``Stage.where``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# 0 is not written into configurations, which keep the hash they had before there was a gold part.
# A size's name; not written where there is none, so that hashes stay.
OtherPM = Annotated[str | None, Field(exclude_if=lambda name: name is None)]
GoldFraction = Annotated[float, Field(ge=0, le=1, exclude_if=lambda value: value == 0)]
Limit = Annotated[float | None, Field(gt=0, exclude_if=lambda value: value is None)]  # not written where there is none
VOTES_TEMPERATURE = 4.0
KL_HORIZON, PTX_ROWS, PTX_CONTEXT, LORA_ALPHA = 10_000, 32, 128, 16.0
Dtype = Literal["float32", "bf16"]
Architecture = Literal["llama", "gpt_neox"]
Half = Literal["train", "test", "gold"]  # gold: neither half, see DataConfig.gold_fraction


class Config(BaseModel):
    """A frozen model that refuses unknown keys and non-finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Compute(Config):
    """How a stage computes; part of its hash because rounding depends on it."""

    threads: Positive = 1
    dtype: Dtype = "float32"  # of the matrix products; weights and optimiser state stay float32
    micro_batch_tokens: Positive = 2048  # tokens, padding included, in one forward pass
    attention: Literal["sdpa", "eager"] = "sdpa"  # eager is the faster one in bf16 on processors at short lengths
    device: str = "cpu"


class InputFile(Config):
    """A file a stage reads, known by its content; where it lies is not part of the hash."""

    name: str
    sha256: str
    bytes: int


# ---------------------------------------------------------------- data


class WorldConfig(Config):
    """The embedded synthetic world: everything generated is a function of these numbers."""

    seed: int = 0
    n_entities: Positive = 240
    n_values: Positive = 16
    n_text_tokens: Positive = 1_500_000  # approximate, counted as whitespace-separated words and marks
    n_comparisons: Positive = 16_384  # before the split into halves and held-out part
    temperature: PositiveFloat = 1.25  # of the Bradley-Terry labels
    n_items: Positive = 400  # per benchmark task
    # Noisier comparisons besides, see DataConfig.votes; neither number is written where it is the default.
    n_votes: Annotated[int, Field(ge=0, exclude_if=lambda n: n == 0)] = 0
    votes_temperature: Annotated[float, Field(gt=0, exclude_if=lambda t: t == VOTES_TEMPERATURE)] = VOTES_TEMPERATURE


class HHFiles(Config):
    """Human/Assistant comparisons from local files or a hub data set."""

    files: tuple[InputFile, ...] = ()
    hub: str | None = None  # e.g. "Anthropic/hh-rlhf"
    hub_revision: str | None = None


class TextFiles(Config):
    """Pretraining and held-out text from local files; empty when every size is pretrained elsewhere."""

    files: tuple[InputFile, ...] = ()
    held_out: tuple[InputFile, ...] = ()
    include_transcripts: bool = True  # the chosen transcripts of the train PM's half join the training text


class DataConfig(Config):
    """Where comparisons, text and prompts come from and how they are split."""

    world: WorldConfig | None = None
    comparisons: HHFiles | None = None
    text: TextFiles | None = None
    held_out_fraction: Fraction = 0.12  # of the conversations; the rest is halved
    gold_fraction: GoldFraction = 0.0  # of the conversations, taken before the halves: for the gold PM alone
    max_held_out: Positive | None = None  # comparisons kept in the held-out part
    split_seed: int = 0
    # A second set of comparisons, to pretrain preference models on or to mix in; without one not written.
    votes: Annotated[HHFiles | None, Field(exclude_if=lambda votes: votes is None)] = None


class TokenizerConfig(Config):
    """A byte-level BPE trained on the study's text."""

    vocab_size: Positive = 1024
    max_bytes: Positive = 20_000_000  # of text read for training


# ---------------------------------------------------------------- models


class SizeSpec(Config):
    """One model of a study: a rung trained here, or a model that exists. Exactly one source is set."""

    name: str  # what tables and figures call it
    n_params: Positive | None = None  # rung of a ladder: wanted non-embedding parameters
    architecture: Architecture = "llama"
    hub: str | None = None
    revision: str | None = None
    path: str | None = None  # a Hugging Face folder
    gguf: str | None = None  # a GGUF file or a folder/package that holds one; dequantized
    weights_sha256: str | None = None  # of a local folder's or file's weights
    trust_remote_code: bool = False


class Schedule(Config):
    """An AdamW run. The peak rate at width d is rate_factor * learning_rate * (128 / d) ** width_exponent."""

    learning_rate: PositiveFloat
    width_exponent: float = 0.0
    rate_factor: PositiveFloat = 1.0  # of the rule's rate; other than 1 only where the rule itself is checked
    warmup_fraction: Fraction = 0.03
    decay: Literal["constant", "linear"] = "constant"
    final_fraction: Fraction = 0.1  # of the peak rate, at the end of a linear decay
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    beta2: Fraction = 0.98
    eps: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0


class BaseTraining(Config):
    """Language-model pretraining of a rung."""

    n_tokens: Positive = 1_500_000
    context: Positive = 128  # tokens a row in training; also the model's position limit unless max_positions
    max_positions: Positive = 256
    batch_rows: Positive = 16
    output_init_scale: PositiveFloat = 0.05  # of attention and MLP output projections, times the usual
    schedule: Schedule = Schedule(learning_rate=3e-3, width_exponent=0.3, decay="linear", weight_decay=0.02)
    eval_tokens: Positive = 50_000  # of held-out text
    checkpoint_seconds: PositiveFloat = 120.0


class BaseConfig(Config):
    """A base language model: trained here (size.n_params) or taken from elsewhere."""

    size: SizeSpec
    seed: int
    training: BaseTraining
    compute: Compute


class ReferenceTraining(Config):
    """The model PPO starts from and is held to: the base itself, SFT on chosen responses, or a distilled context."""

    kind: Literal["none", "sft", "context_distillation"] = "none"
    n_examples: Positive = 4096
    batch_size: Positive = 32
    max_length: Positive = 128
    schedule: Schedule = Schedule(learning_rate=5e-4, width_exponent=0.5)


class ReferenceConfig(Config):
    size: SizeSpec
    seed: int
    training: ReferenceTraining
    compute: Compute


class DistillationTargets(Config):
    """On which texts a prompted teacher is asked, and what is kept of its answers (Bai et al. 2022, appendix A.1)."""

    n_examples: Positive = 4096
    text_share: Fraction = 0.5  # of the examples that are plain training text; the rest are dialogues
    max_length: Positive = 128  # tokens of an example, the prompt not counted
    top_k: Positive = 50  # probabilities kept after every token; all others are one bucket
    temperature: PositiveFloat = 1.0  # of teacher and student
    n_prompt_dialogues: Positive = 2  # in the prompt that a world makes: right answers and refusals by turns
    n_held_out: Positive = 256  # held-out dialogues on which the divergence is measured


class TeacherConfig(Config):
    """A base that answers with a prompt before every example; students of any size learn from its answers."""

    size: SizeSpec
    seed: int
    prompt: InputFile | None  # None: example dialogues of the world
    targets: DistillationTargets
    compute: Compute


# ---------------------------------------------------------------- preference models


class PMTraining(Config):
    """Preference-model training (Bai et al. 2022, section 3): one pass, fixed rate, score at the end token."""

    batch_size: Positive = 32
    max_length: Positive = 128  # tokens; longer prompts lose their beginning
    n_epochs: Positive = 1
    trainable_layers: Positive | None = None  # the top k layers; None: all. Lower layers run without gradient
    schedule: Schedule = Schedule(learning_rate=2.8e-4, width_exponent=1.0)
    eval_at: tuple[Positive, ...] = ()  # pairs seen after which the held-out part is scored along the pass
    checkpoint_seconds: PositiveFloat = 120.0


class PMPConfig(Config):
    """Preference-model pretraining: a preference model of the votes, which others start from."""

    size: SizeSpec
    seed: int
    n_comparisons: Positive | None  # the first n votes in their fixed order; None: all
    binarised: bool = False  # an absolute label for either side instead of one of the pair, see losses.binarised_loss
    training: PMTraining
    compute: Compute


class PMConfig(Config):
    size: SizeSpec
    seed: int
    half: Half
    n_comparisons: Positive | None  # nested subsets: the first n of the half in a fixed order; None: all
    helpful_share: Fraction | None = None  # of the n comparisons; None: as the data come
    harmless_weight: PositiveFloat = 1.0  # lambda of (L_helpful + lambda L_harmless) / mean weight (figure 27)
    training: PMTraining
    compute: Compute
    # Further comparisons that it is judged on, see hh_scaling.probes; without any not written, so that hashes stay.
    probes: Annotated[tuple[InputFile, ...], Field(exclude_if=lambda files: not files)] = ()
    # Whether it starts from the weights and the head of its parent "pmp" instead of a fresh head; written if true.
    pretrained: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    # Of the n comparisons: so many votes are trained on besides them (figure 20); 0 is not written.
    extra_share: Annotated[float, Field(ge=0, le=1, exclude_if=lambda share: share == 0)] = 0.0


class ForeignPMConfig(Config):
    """A sequence classifier that somebody else trained, to score responses; it is only fetched and tried."""

    size: SizeSpec  # its name and where it is from


# ---------------------------------------------------------------- PPO


class PPOTraining(Config):
    """PPO against the train PM with a per-token KL penalty (Bai et al. 2022, section 4.1 and appendix B.1)."""

    n_updates: Positive = 50  # rollout phases
    batch_size: Positive = 256  # prompts a rollout
    minibatch_size: Positive = 128
    n_epochs: Positive = 1
    max_prompt_tokens: Positive = 96
    max_response_tokens: Positive = 28
    temperature: PositiveFloat = 1.0
    sample_rows: Positive = 256  # responses sampled together; their cache of keys and values is what memory must hold
    kl_coef: Annotated[float, Field(ge=0)] = 0.001
    # The coefficient moves towards this KL of a response, in nats, see losses.adapted_kl_coef; without one not written.
    kl_target: Annotated[float | None, Field(gt=0, exclude_if=lambda target: target is None)] = None
    kl_horizon: Annotated[int, Field(gt=0, exclude_if=lambda n: n == KL_HORIZON)] = KL_HORIZON  # responses
    ptx_coef: Annotated[float, Field(ge=0, exclude_if=lambda coef: coef == 0)] = 0.0  # of the loss on pretraining text
    ptx_rows: Annotated[int, Field(gt=0, exclude_if=lambda n: n == PTX_ROWS)] = PTX_ROWS  # of text, a minibatch
    ptx_context: Annotated[int, Field(gt=0, exclude_if=lambda n: n == PTX_CONTEXT)] = PTX_CONTEXT  # tokens a row
    # Rank of adapters in all linear layers, which then are trained in place of the weights; None: full fine-tuning.
    lora_rank: Annotated[int | None, Field(gt=0, exclude_if=lambda rank: rank is None)] = None
    lora_alpha: Annotated[float, Field(gt=0, exclude_if=lambda alpha: alpha == LORA_ALPHA)] = LORA_ALPHA
    clip_range: PositiveFloat = 0.2
    value_clip_range: PositiveFloat = 0.2
    value_coef: Annotated[float, Field(ge=0)] = 0.5
    # Separate: a model of its own, which starts from the reference and zero or from the train PM. Both at other than
    # the default only are written.
    critic: Annotated[Literal["shared", "separate"], Field(exclude_if=lambda kind: kind == "shared")] = "shared"
    value_init: Annotated[Literal["zero", "pm"], Field(exclude_if=lambda start: start == "zero")] = "zero"
    gamma: Fraction = 1.0
    gae_lambda: Fraction = 0.95
    # To mean 0 and variance 1 over the rollout's response tokens; written only if false.
    whiten_advantages: Annotated[bool, Field(exclude_if=bool)] = True
    # The mean score of the reference's responses to the evaluations' prompts is taken off every score, so that values
    # that start from zero start right; where they start from the PM they know it, and nothing is taken off.
    center_scores: bool = True
    missing_eos_penalty: Annotated[float, Field(ge=0)] = 0.0  # off the score of a response that the limit cut
    schedule: Schedule = Schedule(
        learning_rate=2e-4, width_exponent=0.5, warmup_fraction=0.1, beta2=0.999, eps=1e-5, max_grad_norm=0.5
    )
    eval_every: Positive = 5  # updates
    n_eval_prompts: Positive = 256  # held-out prompts, the same at every evaluation
    keep_sqrt_kl: tuple[PositiveFloat, ...] = (1.0,)  # a checkpoint at the first evaluation past each
    # Past any of these at an evaluation the policy is called diverged and the run ends; None: no such limit.
    max_sqrt_kl: PositiveFloat | None = None
    min_entropy: Limit = None  # nats a sampled token
    max_score_drop: Limit = None  # of the mean train score below its best, in standard deviations of the first scores
    checkpoint_seconds: PositiveFloat = 180.0


def checkpoint_name(sqrt_kl: float) -> str:
    """What the checkpoint at this sqrt(KL) is called, in ``checkpoints.json`` and in ``BenchmarkConfig.at``."""
    return f"sqrt_kl={float(sqrt_kl)}"


class PPOConfig(Config):
    size: SizeSpec
    seed: int
    training: PPOTraining
    compute: Compute
    # Whether the world, where there is one and no gold PM among the parents, gives the gold score; written if false.
    world_gold: Annotated[bool, Field(exclude_if=bool)] = True
    train_pm: OtherPM = None  # the size of the train PM, where it is not the one that the study's main policies have


# ---------------------------------------------------------------- other ways to a higher score


class BestOfNSampling(Config):
    """A pool of samples of the reference for each held-out prompt; the last four are those of PPO's evaluations."""

    n_samples: Annotated[int, Field(ge=2)] = 64  # a prompt: N, the largest n that can be estimated
    n_prompts: Positive = 256  # held-out prompts, the first of those that PPO's evaluations use
    max_prompt_tokens: Positive = 96
    max_response_tokens: Positive = 28
    temperature: PositiveFloat = 1.0
    sample_rows: Positive = 256
    checkpoint_seconds: PositiveFloat = 180.0


class BestOfNConfig(Config):
    size: SizeSpec
    seed: int
    sampling: BestOfNSampling
    compute: Compute
    world_gold: Annotated[bool, Field(exclude_if=bool)] = True  # as in PPOConfig
    train_pm: OtherPM = None  # as in PPOConfig


def alpha_name(alpha: float) -> str:
    """What the weights at this alpha are called, in ``checkpoints.json`` and in ``BenchmarkConfig.at``."""
    return f"alpha={float(alpha)}"


class InterpolationConfig(PPOConfig):
    """Points on the straight line from the reference's weights to a policy's, evaluated as that policy was."""

    alphas: Annotated[tuple[Fraction, ...], Field(min_length=1)]  # 0 is the reference, 1 the policy
    keep: tuple[Fraction, ...] = ()  # of the alphas: whose weights are saved


# ---------------------------------------------------------------- benchmarks


class BenchmarkTasks(Config):
    """Which lm-eval tasks, on how many items."""

    tasks: tuple[str, ...] = ()
    files: tuple[InputFile, ...] = ()  # local benchmark files the tasks read
    limit: Positive | None = None  # items a task; a seeded subset, the same for every model
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    seed: int = 0
    # The fields below are not written where they are the default, so that hashes stay.
    run_code: Annotated[bool, Field(exclude_if=lambda value: not value)] = False  # whether models' code may be run
    lm_eval_files: Annotated[bool, Field(exclude_if=lambda value: not value)] = False  # also in lm-eval's own format


class PilotConfig(Config):
    """One model before and after RLHF on a few items of each task, to choose how many are needed."""

    size: SizeSpec
    seed: int
    at: str | None  # of the policy
    tasks: BenchmarkTasks
    precision: PositiveFloat  # half-width of the 95 % interval of the paired difference
    compute: Compute


class BenchmarkConfig(Config):
    """One model (or one checkpoint of a policy) on all tasks; pilots among the parents say how many items of each."""

    size: SizeSpec
    seed: int
    at: str | None = None  # "end" or "sqrt_kl=1.0" of a policy, "alpha=0.5" of an interpolation; None: the model itself
    tasks: BenchmarkTasks
    compute: Compute


# ---------------------------------------------------------------- the paper's other evaluations


class BehaviourTasks(Config):
    """Which of the paper's other evaluations that need no people, and on how much."""

    of: Annotated[tuple[Literal["occupations", "answers", "outliers"], ...], Field(min_length=1)] = (
        "occupations",
        "answers",
        "outliers",
    )
    n_comparisons: Positive = 512  # held-out ones whose answers are scored
    n_prompts: Annotated[int, Field(ge=20)] = 400  # of helpful and of harmful prompts each
    n_outliers: tuple[Positive, ...] = (1, 10, 100)  # harmful prompts that outlier exposure is shown
    n_splits: Positive = 3  # random halves of the helpful prompts
    seed: int = 0


class BehaviourConfig(Config):
    """One model (or one checkpoint of a policy)."""

    size: SizeSpec
    seed: int
    at: str | None = None  # as in BenchmarkConfig
    tasks: BehaviourTasks
    classifier: SizeSpec | None = None  # of sentiment; None: sentiment is not measured
    compute: Compute
