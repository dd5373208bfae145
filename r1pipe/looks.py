"""Does a path look like the artifact it is given as? Light checks on names and first rows; nothing heavy is imported."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import r1pipe
from r1pipe.artifacts import Artifact, Checkpoint, Dataset, Report, RewardModel

EMBEDDED = Path(r1pipe.__file__).parent / "embedded" / "data"
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")


def data_files(path: Path) -> list[Path]:
    """The files that hold a dataset's rows."""
    if path.is_file():
        return [path] if path.name.endswith(SUFFIXES) else []
    named = sorted(p for p in path.glob("rows*") if p.name.endswith(SUFFIXES))
    return named or sorted(p for p in path.rglob("*") if p.name.endswith((".jsonl", ".jsonl.gz", ".parquet")) and p.name != "dropped.jsonl")


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
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        lacks.append("a tokenizer (tokenizer.json)")
    if issubclass(type_, RewardModel) and not (path / "calibration.json").is_file():
        lacks.append("calibration.json")
    return f"{path} is no {type_.kind}: it lacks {', '.join(lacks)}" if lacks else ""


def _dataset(type_: type[Artifact], path: Path) -> str:
    files = data_files(path)
    if not files:
        return f"{path} holds no rows: it is none of, and has none of, rows*{{{', '.join(SUFFIXES)}}}"
    columns = _first_columns(files[0])
    if isinstance(columns, str):
        return columns
    return ""


def _first_columns(file: Path) -> list[str] | str:
    """The first row's columns; a sentence where there is no first row."""
    if file.name.endswith(".parquet") or file.suffix == ".json":
        return [] if file.stat().st_size else f"{file} is empty"
    try:
        with gzip.open(file, "rt", encoding="utf8") if file.suffix == ".gz" else file.open(encoding="utf8") as stream:
            first = next((line for line in stream if line.strip()), "")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        return f"{file} cannot be read: {error}"
    if not first:
        return f"{file} is empty"
    try:
        row = json.loads(first)
    except ValueError as error:
        return f"{file}:1 is not JSON: {error}"
    return list(row) if isinstance(row, dict) else f"{file}:1 is not a JSON object"
