"""The split: by conversation, seeded, independent of other rows, with nested orders and whole conversations."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hh_scaling.comparisons import Comparison
from hh_scaling.inputs import DataError
from hh_scaling.splits import GOLD, HELD_OUT, SPLITS, SplitIndex, SplitPlan, conversation_id, seeded_code, split_of

SEED, FRACTION = 3, 0.2


def rows(n: int, per_conversation: int = 3, source: str = "f:1") -> list[Comparison]:
    """``n`` distinct comparisons, several to a first turn."""
    return [
        Comparison(f"\n\nHuman: question {i // per_conversation}\n\nAssistant:", f" yes {i}", f" no {i}", "t", source)
        for i in range(n)
    ]


def index_of(comparisons: list[Comparison], seed: int = SEED, fraction: float = FRACTION) -> SplitIndex:
    index = SplitIndex(seed, fraction)
    for row in comparisons:
        index.add(row, conversation_id(row.prompt))
    return index


def plan_of(comparisons: list[Comparison], limit: int | None = None, drop: bool = True, seed: int = SEED) -> SplitPlan:
    return index_of(comparisons, seed).plan(limit, drop)


def test_case_and_spacing_do_not_make_another_conversation() -> None:
    first = conversation_id("\n\nHuman: What is  THIS?\n\nAssistant:")
    assert first == conversation_id("\n\nHuman: what is this?\n\nAssistant: x\n\nHuman: y\n\nAssistant:")
    assert first != conversation_id("\n\nHuman: what is that?\n\nAssistant:")
    # sha256("what is this?"), from coreutils' sha256sum
    assert first == "d7ceda28c0edf789"


def test_conversations_without_a_first_question_are_not_thrown_together() -> None:
    prompts = [f"\n\nHuman: \n\nAssistant: {i}\n\nHuman: x\n\nAssistant:" for i in range(2)]
    assert conversation_id(prompts[0]) != conversation_id(prompts[1])


def test_the_borders_between_parts_count() -> None:
    assert seeded_code(0, "ab", "c") != seeded_code(0, "a", "bc")
    assert seeded_code(0, "a") != seeded_code(1, "a") != seeded_code(-1, "a")


def test_fractions() -> None:
    n = 20_000
    counts = Counter(split_of(f"{i:016x}", 0.12, 0) for i in range(n))
    for part, expected in enumerate((0.44, 0.44, 0.12)):
        # within 4 standard errors of a binomial
        assert abs(counts[part] / n - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


def test_assignment_and_relative_order_do_not_depend_on_other_rows() -> None:
    everything = rows(600)
    whole, part = plan_of(everything), plan_of(everything[100:500])
    np.testing.assert_array_equal(whole.split[100:500], part.split)
    for split in range(3):
        here = np.flatnonzero(part.split == split)
        np.testing.assert_array_equal(np.argsort(whole.order[100:500][here]), np.argsort(part.order[here]))


def test_no_conversation_is_in_two_parts() -> None:
    comparisons = rows(600)
    plan = plan_of(comparisons)
    parts: dict[str, set[int]] = {}
    for row, split in zip(comparisons, plan.split, strict=True):
        parts.setdefault(conversation_id(row.prompt), set()).add(int(split))
    assert all(len(found) == 1 for found in parts.values())


def test_order_is_a_permutation_within_each_part_and_depends_on_the_seed() -> None:
    plan, other = plan_of(rows(600)), plan_of(rows(600), seed=SEED + 1)
    for split in range(3):
        order = plan.order[plan.split == split]
        assert sorted(order) == list(range(len(order)))
        # rank correlation with the source's order: sd 1/sqrt(n - 1)
        assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 4 / np.sqrt(len(order) - 1)
    assert (plan.split != other.split).any()


def test_duplicates_are_dropped_from_files_and_kept_in_the_world() -> None:
    comparisons = [*rows(300), *rows(100)]
    plan = plan_of(comparisons)
    assert plan.dropped == {"duplicate": 100}
    assert plan.kept.tolist() == [True] * 300 + [False] * 100
    assert (plan.order[300:] == -1).all()
    world = [*rows(300, source="world"), *rows(100, source="world")]
    kept = plan_of(world, drop=False)
    assert kept.kept.all()
    assert kept.dropped == {}
    gaps = np.abs(kept.order[:100] - kept.order[300:])
    assert np.median(gaps) > 10  # copies are spread over the order, not neighbours


def test_the_held_out_limit_keeps_whole_conversations() -> None:
    comparisons = rows(600)
    unlimited = plan_of(comparisons)
    plan = plan_of(comparisons, limit=50)
    n_held_out = int((unlimited.split == HELD_OUT).sum())
    held_out = plan.kept & (plan.split == HELD_OUT)
    assert held_out.sum() == 48  # sixteen conversations of three
    assert plan.dropped == {"over_max_held_out": n_held_out - 48}
    conversations = Counter(conversation_id(comparisons[i].prompt) for i in np.flatnonzero(held_out))
    assert set(conversations.values()) == {3}
    np.testing.assert_array_equal(plan.kept[plan.split != HELD_OUT], True)


def test_prompts_are_the_first_of_their_kind() -> None:
    plan = plan_of(rows(600))
    assert plan.new_prompt.sum() == 200
    assert plan.new_prompt.tolist() == [i % 3 == 0 for i in range(600)]
    for split in range(3):
        order = plan.prompt_order[plan.new_prompt & (plan.split == split)]
        assert sorted(order) == list(range(len(order)))


@pytest.mark.parametrize(("n", "limit"), [(0, None), (3, None), (600, 2)])
def test_an_empty_part_is_an_error(n: int, limit: int | None) -> None:
    with pytest.raises(DataError) as caught:
        plan_of(rows(n), limit)
    message = str(caught.value)
    assert message.startswith("comparisons: a part is empty (train ")
    assert message.endswith("held_out_fraction 0.2); expected at least one comparison in each")
    assert all(name in message for name in SPLITS[:GOLD]) and "gold" not in message


# ---------------------------------------------------------------- the gold part


def test_without_a_gold_part_every_conversation_stays_where_it_was() -> None:
    """The first 60 places, written down before there was a gold part."""
    before = "110121210110001110102011110111202100200010100120010102001110"
    assert "".join(str(split_of(f"{i:016x}", 0.12, 0)) for i in range(60)) == before
    assert "".join(str(split_of(f"{i:016x}", 0.12, 0, 0.0)) for i in range(60)) == before


def test_the_gold_part_is_taken_before_the_halves_and_leaves_the_held_out_part_alone() -> None:
    n = 20_000
    with_gold = [split_of(f"{i:016x}", 0.12, 0, 0.3) for i in range(n)]
    without = [split_of(f"{i:016x}", 0.12, 0) for i in range(n)]
    assert [i for i in range(n) if with_gold[i] == HELD_OUT] == [i for i in range(n) if without[i] == HELD_OUT]
    counts = Counter(with_gold)
    for part, expected in enumerate((0.29, 0.29, 0.12, 0.3)):
        # within 4 standard errors of a binomial
        assert abs(counts[part] / n - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


def test_gold_conversations_are_in_no_other_part() -> None:
    comparisons = rows(600)
    index = SplitIndex(SEED, FRACTION, 0.25)
    for row in comparisons:
        index.add(row, conversation_id(row.prompt))
    plan = index.plan(None, True)
    of = {
        part: {rows_.prompt for rows_, s in zip(comparisons, plan.split, strict=True) if s == part} for part in range(4)
    }
    assert of[GOLD] and not of[GOLD] & (of[0] | of[1] | of[HELD_OUT])
    assert sorted(plan.order[plan.split == GOLD]) == list(range(int((plan.split == GOLD).sum())))
    assert index.parts == SPLITS


def test_an_empty_gold_part_is_an_error() -> None:
    index = SplitIndex(SEED, FRACTION, 1e-9)
    for row in rows(600):
        index.add(row, conversation_id(row.prompt))
    with pytest.raises(DataError, match=r"gold 0, from 200 conversations, held_out_fraction 0.2, gold_fraction 1e-09"):
        index.plan(None, True)


def test_columns() -> None:
    index = index_of(
        [
            Comparison("\n\nHuman: a\n\nAssistant:", "long", "s", "b", "f:1", p_chosen=0.25),
            Comparison("\n\nHuman: a\n\nAssistant:", "s", "long", "a", "f:2"),
            Comparison("\n\nHuman: a\n\nAssistant:", "ab", "éé", "b", "f:3"),
        ]
    )
    assert index.column("longer").tolist() == [1, 0, 0.5]
    assert index.column("tranche").tolist() == [0, 1, 0]
    assert index.tranches == ["b", "a"]
    np.testing.assert_array_equal(index.column("p_chosen"), [0.25, np.nan, np.nan])
