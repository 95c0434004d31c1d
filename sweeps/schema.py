"""The JSON Schema of a study file, for editors and other programs: ``python -m sweeps.schema`` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hh_scaling.records import atomic_write
from sweeps.numbers import NUMBER_PATTERN
from sweeps.study import Study

PATH = Path(__file__).resolve().parent / "study.schema.json"
NULL = {"type": "null"}
PATHS = {"type": "array", "items": {"type": "string"}}


def study_schema() -> dict[str, Any]:
    """The schema of what a study file may say, conveniences of writing included."""
    schema = Study.model_json_schema()
    definitions = {name: relaxed(definition) for name, definition in schema.pop("$defs").items()}
    # What a section leaves out of its schedule keeps that section's value.
    definitions["Schedule"].pop("required")
    definitions["SizeEntry"] = {"anyOf": [definitions["SizeEntry"], written({"type": "integer"})]}
    definitions["VotesSection"] = {"anyOf": [definitions["VotesSection"], written(PATHS)]}
    definitions["PMChoice"] = {"anyOf": [definitions["PMChoice"], {"type": "string"}]}
    definitions["GoldChoice"] = {"anyOf": [definitions["GoldChoice"], {"enum": ["world", "largest"]}]}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hh-scaling study"}
    return head | relaxed(schema) | {"title": "hh-scaling study", "$defs": definitions}


def relaxed(schema: dict[str, Any]) -> dict[str, Any]:
    """An object's schema in which every property is as people may write it, or null where it has a default."""
    required = schema.get("required", [])
    properties = {
        name: written(value) if name in required else or_null(written(value))
        for name, value in schema.get("properties", {}).items()
    }
    return schema | {"properties": properties}


def written(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value with numbers also as text (24k) and a single value also for a list of one."""
    if "anyOf" in schema:
        return schema | {"anyOf": [written(option) for option in schema["anyOf"]]}
    if schema.get("type") in ("integer", "number"):
        kept = {key: schema[key] for key in ("default", "title") if key in schema}
        plain = {key: value for key, value in schema.items() if key not in kept}
        return kept | {"anyOf": [plain, {"type": "string", "pattern": NUMBER_PATTERN}]}
    if schema.get("type") == "array" and "items" in schema:
        items = written(schema["items"])
        kept = {key: schema[key] for key in ("default", "title") if key in schema}
        plain = {key: value for key, value in schema.items() if key not in kept}
        return kept | {"anyOf": [plain | {"items": items}, items]}
    return schema


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, or null, which stands for the default."""
    if "anyOf" in schema:
        options = schema["anyOf"]
        return schema if NULL in options else schema | {"anyOf": [*options, NULL]}
    kept = {key: schema[key] for key in ("default", "title") if key in schema}
    return kept | {"anyOf": [{key: value for key, value in schema.items() if key not in kept}, NULL]}


def schema_text() -> str:
    """The schema file's content."""
    return json.dumps(study_schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    atomic_write(PATH, schema_text())
