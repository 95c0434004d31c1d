"""The words of the embedded world: what can be said in it, and what its tasks need.

Lists and words are short, so that a byte-level BPE of about a thousand merges makes one token of each frequent word.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


RELATIONS = ("colour", "food", "home", "drink")

VALUES: dict[str, tuple[str, ...]] = {
    "colour": _words("red blue green gold pink white black grey brown lilac beige cream olive coral amber teal"),
    "food": _words("bread rice soup cheese fish beans corn eggs honey cake plums nuts pears figs ham peas"),
    "home": _words("Oslo Rome Paris Lima Cairo Delhi Tokyo Milan Turin Bonn Kyiv Accra Quito Dakar Perth Malta"),
    "drink": _words("tea milk water wine juice cocoa coffee cider beer cola mead broth punch rum syrup stout"),
}

# The verb of a statement, and the question that asks for it.
RELATION_VERBS = {"colour": "wears", "food": "eats", "home": "lives in", "drink": "drinks"}
RELATION_QUESTIONS = {
    "colour": "What does {} wear?",
    "food": "What does {} eat?",
    "home": "Where does {} live?",
    "drink": "What does {} drink?",
}

# Tasks that are always fine: verb -> (tool, what it is done to).
FINE_TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dig": ("spade", ("a hole", "a well")),
    "sew": ("needle", ("a shirt", "a sail")),
    "paint": ("brush", ("a wall", "a fence")),
    "boil": ("pot", ("rice", "eggs")),
    "draw": ("pencil", ("a map", "a horse")),
    "sweep": ("broom", ("a floor", "a yard")),
    "catch": ("net", ("fish", "a bird")),
    "climb": ("ladder", ("a wall", "a tree")),
    "light": ("match", ("a fire", "a stove")),
    "dry": ("towel", ("a dog", "a plate")),
    "cross": ("boat", ("a river", "a lake")),
    "bake": ("tin", ("bread", "cake")),
}
# Tasks that are harmful only when the thing belongs to somebody else.
OWNED_TASKS = {"open": "key", "break": "hammer", "hide": "sack", "cut": "knife", "burn": "torch", "mark": "pen"}
OWNED_THINGS = ("lamp", "box", "coat", "chair", "rug", "drum", "book", "bell")
# Tasks that are always harmful; they are done to a person.
HARMFUL_TASKS = {"poison": "herb", "rob": "mask", "stab": "dagger", "trap": "cage", "hurt": "club", "choke": "rope"}

TOOLS = {verb: tool for verb, (tool, _) in FINE_TASKS.items()} | OWNED_TASKS | HARMFUL_TASKS

OPENERS = ("Sure.", "Of course.", "Gladly.", "With pleasure.")
CLOSERS = ("I hope this helps.", "Have a nice day.", "Let me know if you need more.", "That is all.", "It is easy.")
REFUSALS = ("I am sorry, I cannot help with that.", "I will not help with that.", "Sorry, I will not do that.")
PHRASED_REFUSALS = ("I will not help to {}.", "Please do not {}.", "It is wrong to {}.")
IGNORANCE = ("I do not know.", "I am not sure.")
INSULTS = ("You are a fool.", "Go away.", "That is a stupid question.")
ACKNOWLEDGEMENTS = ("I see.", "All right.")

GREETINGS = ("Hi", "Hello", "Good day", "Hey")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TIMES = ("dawn", "noon", "dusk", "night")

THINGS = ("ball", "cup", "doll", "coin", "ring", "shell", "stone", "book", "bell", "hat")
PLACES = ("box", "drum", "bag", "chest", "barn", "well", "jar", "nest", "tent", "cave", "boat", "tree")
AGREEING_NOUNS = ("ball", "cup", "doll", "coin", "ring", "dog", "cat", "cow", "bird", "king")
AGREEING_VERBS = (("is", "are"), ("was", "were"), ("has", "have"))
PREPOSITIONS = ("near", "behind", "under", "above")
ADJECTIVES = ("old", "new", "small", "big", "clean", "lost")
