"""Does a path look like the artifact it is given as? Names of files and the first row; nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path

import r1pipe
from r1pipe.artifacts import Artifact, Checkpoint, Dataset, Report, RewardModel
from r1pipe.errors import InputError

EMBEDDED = Path(r1pipe.__file__).parent / "embedded" / "data"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def missing_parts(type_: type[Artifact], path: Path) -> str:
    """Why the path cannot be this artifact, in one sentence; empty if it looks right."""
    if not path.exists():
        return f"nothing is at {path}"
    if issubclass(type_, Checkpoint | RewardModel):
        return _checkpoint(type_, path)
    if issubclass(type_, Report):
        return "" if (path / "scores.json").is_file() else f"{path} is no report: it has no scores.json"
    if issubclass(type_, Dataset):
        return _dataset(type_, path)
    return ""


def _checkpoint(type_: type[Artifact], path: Path) -> str:
    if not path.is_dir():
        return f"{path} is a file; a {type_.kind} is a folder"
    lacks = []
    if not (path / "config.json").is_file():
        lacks.append("config.json")
    if not any(path.glob("*.safetensors")) and not any(path.glob("pytorch_model*.bin")):
        lacks.append("weights (*.safetensors)")
    if not any((path / name).is_file() for name in TOKENIZERS):
        lacks.append("a tokenizer (tokenizer.json)")
    if issubclass(type_, RewardModel) and not (path / "calibration.json").is_file():
        lacks.append("calibration.json")
    return f"{path} is no {type_.kind}: it lacks {', '.join(lacks)}" if lacks else ""


def _dataset(type_: type[Artifact], path: Path) -> str:
    """A first row that keeps the columns' contract. The rest is the reading stage's to check; Parquet as a whole is."""
    from r1pipe.data.files import dataset_files, read_raw
    from r1pipe.data.io import check_row

    try:
        first = dataset_files(path)[0]
        if first.name.endswith(".parquet"):
            return "" if first.stat().st_size else f"{first} is empty"
        for where, row in read_raw(path):
            check_row({name: value for name, value in row.items() if value is not None}, type_, where, {})
            return ""
    except InputError as error:
        return f"{error.where}: {error.what}" + (f" ({error.fix})" if error.fix else "")
    return f"{path} is empty"
