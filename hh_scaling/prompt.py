"""The prompt that is distilled: a file's text, or example dialogues of the embedded world. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hh_scaling.configs import DataConfig, InputFile
from hh_scaling.inputs import DataError, locate
from hh_scaling.splits import TRAIN, conversation_id, split_of
from hh_scaling.world import World

HHH = Path(__file__).with_name("hhh_prompt.txt")  # helpful, honest and harmless: an introduction and dialogues
HUMAN = "\n\nHuman:"


def prompt_text(file: InputFile | None, data: DataConfig, n_dialogues: int, where: Mapping[str, str]) -> str:
    """The text that goes before every example, without blank characters at its end: every example begins anew.

    DataError when the file changed or is no text, or there is neither a file nor a world.
    """
    if file is None:
        return world_prompt(data, n_dialogues)
    ((_, path),) = locate([file], where)
    try:
        return path.read_text(encoding="utf-8").rstrip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); expected a prompt as plain text") from error


def world_prompt(data: DataConfig, n_dialogues: int) -> str:
    """``n_dialogues`` of one turn each, by turns a right answer and a refusal to harm.

    Their conversations are of the train half: none is held out, and none is of what other models are trained on.
    """
    if data.world is None:
        raise DataError("reference.prompt: the study has no world to make it from; expected hhh or a file")
    dialogues = World(data.world).example_dialogues()
    chosen: list[str] = []
    while len(chosen) < n_dialogues:
        wants_harm, (prompt, response, harmful) = len(chosen) % 2 == 1, next(dialogues)
        conversation = conversation_id(prompt)
        part = split_of(conversation, data.held_out_fraction, data.split_seed, data.gold_fraction)
        if part == TRAIN and harmful == wants_harm and prompt.count(HUMAN) == 1:
            chosen.append(f"{prompt} {response}")
    return "".join(chosen)
