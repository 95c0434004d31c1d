"""What people write, made ready for the models: numbers with suffixes, single values for lists, partial sections.

One walk over a model's fields, so that a section inherits these conveniences from its annotations alone.
"""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel

from sweeps.numbers import parse_number


def complete(model: type[BaseModel], value: Any) -> Any:
    """``value`` with its numbers parsed and its nested sections filled up from the defaults of ``model``'s fields."""
    shorthand = getattr(model, "shorthand", None)
    if shorthand is not None and value is not None and not isinstance(value, dict):
        value = {shorthand: value}
    if not isinstance(value, dict):
        return value
    result = {}
    for key, given in value.items():
        info = model.model_fields.get(key)
        if info is None:
            result[key] = given
            continue
        if given is None and not info.is_required() and types.NoneType not in typing.get_args(info.annotation):
            continue  # null where no null is meant: as if it were not written
        if isinstance(given, dict) and isinstance(info.default, BaseModel):
            # A partial schedule keeps the rest of this section's schedule, not of schedules in general.
            given = info.default.model_dump(mode="json", exclude_defaults=True) | given
        result[key] = complete_field(info.annotation, given)
    return result


def complete_field(annotation: Any, value: Any) -> Any:
    """``value`` made ready for a field of this annotation."""
    if value is None:
        return None
    options = alternatives(annotation)
    nested = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
    if nested:
        return complete(nested[0], value)
    sequences = [option for option in options if typing.get_origin(option) in (tuple, list)]
    if sequences:
        item = typing.get_args(sequences[0])[0]
        return [complete_field(item, v) for v in (value if isinstance(value, list) else [value])]
    if int in options or float in options:
        return complete_number(value)
    return value


def complete_number(value: Any) -> Any:
    """A number from text; true and false stay words, since Python would take them for 1 and 0."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        number = parse_number(value)
        return value if number is None else number
    return value


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, looking through ``Annotated`` and ``Optional``; one member where it is no union."""
    if typing.get_origin(annotation) is typing.Annotated:
        return alternatives(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [a for member in typing.get_args(annotation) for a in alternatives(member) if a is not types.NoneType]
    return [annotation]


def model_at(model: type[BaseModel], path: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The model class of the section at ``path`` below ``model``, or None where there is no section."""
    current: Any = model
    for part in path:
        if isinstance(part, int):
            continue
        if not (isinstance(current, type) and issubclass(current, BaseModel)) or part not in current.model_fields:
            return None
        options = alternatives(current.model_fields[part].annotation)
        inner = [o for o in options if typing.get_origin(o) in (tuple, list)]
        if inner:
            options = alternatives(typing.get_args(inner[0])[0])
        current = options[0]
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None
