"""What comparisons of the embedded world can tell at best, and what they tell to readers who miss something."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from hh_scaling.world.dialogues import Comparison
from hh_scaling.world.gold import GoldScorer


def bayes_accuracy(comparisons: Sequence[Comparison]) -> float:
    """The accuracy of a reader who knows the gold scores: the mean of max(p, 1 - p)."""
    return sum(max(c.p_chosen, 1 - c.p_chosen) for c in comparisons) / len(comparisons)


def truth_blind_accuracy(scorer: GoldScorer, comparisons: Sequence[Comparison]) -> float:
    """The best accuracy of a reader who sees all but whether claims are true.

    Comparisons that look alike to such a reader (kind of request, and each response's gold score with truth unchecked)
    are taken together, and each group gets its better guess. The guess is made on the same comparisons,
    so with few of them the number is slightly too high.
    """
    groups: dict[tuple[object, ...], list[float]] = defaultdict(list)
    half_right = 0.0
    for c in comparisons:
        request = scorer.request(c.prompt)
        seen_chosen, seen_rejected = (
            tuple(round(part, 6) for part in scorer.score(c.prompt, response, check=False))
            for response in (c.chosen, c.rejected)
        )
        if seen_chosen == seen_rejected:
            half_right += 0.5
        else:
            better = c.p_chosen if seen_chosen > seen_rejected else 1 - c.p_chosen
            kind = request and (request.kind, request.harmful)
            groups[(kind, *sorted((seen_chosen, seen_rejected)))].append(better)
    guessed = sum(max(sum(ps), len(ps) - sum(ps)) for ps in groups.values())
    return (guessed + half_right) / len(comparisons)


def length_accuracy(comparisons: Sequence[Comparison]) -> float:
    """How often the longer response (characters) is the chosen one; equal lengths count one half."""
    return sum(
        0.5 if len(c.chosen) == len(c.rejected) else float(len(c.chosen) > len(c.rejected)) for c in comparisons
    ) / len(comparisons)
