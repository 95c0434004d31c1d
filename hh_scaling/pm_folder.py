"""Where a preference model named on the command line lies: a stage of this project, or a folder or name elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hh_scaling.inputs import nearest
from hh_scaling.models import ModelError

OWN_KINDS = ("pm", "pmp")  # stages whose models are preference models


def own_folder(pm: str) -> tuple[str, bool]:
    """Where the model lies, and whether a stage of this project made it; ModelError for a stage of another kind."""
    if (found := stage_record(Path(pm))) is None:
        require_place(pm)
        return pm, False
    stage, kind = stage_folder(Path(pm)), found["kind"]
    if kind not in OWN_KINDS:
        raise ModelError(f"{pm}: of a {kind} stage; allowed: {' or '.join(OWN_KINDS)}, or a classifier elsewhere")
    return str(stage / "model"), True


def stored_mean(pm: str) -> float | None:
    """The mean score of the held-out comparisons that a stage of this project has stored; None elsewhere."""
    found = stage_record(Path(pm)) or {}
    mean = ((found.get("summary") or {}).get("mean_score") or {}).get("value")
    return None if mean is None else float(mean)


def stage_folder(path: Path) -> Path:
    """The folder that would hold the record of the stage whose folder, or whose model's folder, ``path`` is."""
    return path.parent if path.name == "model" and not (path / "record.json").is_file() else path


def stage_record(path: Path) -> dict[str, Any] | None:
    """The stage's record.json; None where there is none, or one that is of no stage. ModelError when unreadable."""
    record = stage_folder(path) / "record.json"
    if not record.is_file():
        return None
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{record}: not a readable record ({error}); expected the stage's own") from error
    return found if isinstance(found, dict) and "kind" in found else None


def require_place(pm: str) -> None:
    """ModelError when ``pm`` can only be a folder and none is there; a name, or ``owner/name``, may be on the hub."""
    path = Path(pm)
    may_be_on_hub = len(path.parts) == 1 or (len(path.parts) == 2 and not path.parent.is_dir())
    only_folder = path.is_absolute() or pm.startswith((".", "~")) or not may_be_on_hub
    if only_folder and not path.exists():
        raise ModelError(f"{pm}: no such folder{nearest(path)}; expected a PM stage's, a model's, or a name on the hub")
