"""The embedded world: a seeded generator of text, comparisons and benchmark items with an exact gold score.

facts (what is true) -> requests (what is asked) -> responses -> reading and gold (what they are worth)
-> dialogues (comparisons) -> text (pretraining) and items (benchmarks); ``World`` puts them together.
"""

from hh_scaling.world.dialogues import Comparison
from hh_scaling.world.gold import Gold
from hh_scaling.world.world import World

__all__ = ["Comparison", "Gold", "World"]
