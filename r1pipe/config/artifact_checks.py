"""Checks that a path looks like the artifact it is given as, by the names of files and the first row.

Nothing heavy is imported.
"""

from __future__ import annotations

from pathlib import Path

import r1pipe
from r1pipe.artifacts import Artifact, Chats, Checkpoint, Dataset, Labels, Pairs, Prompts, Report, RewardModel
from r1pipe.errors import InputError

EMBEDDED = Path(r1pipe.__file__).parent / "embedded" / "data"
# Datasets whose rows a plan looks at.
ROW_TYPES = (Prompts, Chats, Pairs, Labels)
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def missing_parts(
    type_: type[Artifact],
    path: Path,
    first_row: bool = True,
) -> str:
    """Why the path cannot be this artifact, in one sentence; empty if it looks right.

    Args:
        first_row: of a dataset, whether its first row is looked at too.
    """
    if not path.exists():
        return f"nothing is at {path}"
    if issubclass(type_, Checkpoint | RewardModel):
        return _checkpoint_problem(type_, path)
    if issubclass(type_, Report) and not (path / "scores.json").is_file():
        return f"{path} is not a report: it has no scores.json"
    if issubclass(type_, Dataset):
        return _dataset_problem(type_, path, first_row)
    return ""


def _checkpoint_problem(type_: type[Artifact], path: Path) -> str:
    if not path.is_dir():
        return f"{path} is a file; a {type_.kind} is a folder"
    missing = []
    if not (path / "config.json").is_file():
        missing.append("config.json")
    if not any(path.glob("*.safetensors")):
        # Python's pickles may run whatever their author likes when they are read.
        pickled = ", and weights in a pickle are not read" if any(path.glob("*.bin")) else ""
        missing.append(f"weights (*.safetensors{pickled})")
    if not any((path / name).is_file() for name in TOKENIZERS):
        missing.append("a tokenizer (tokenizer.json)")
    if issubclass(type_, RewardModel) and not (path / "calibration.json").is_file():
        missing.append("calibration.json")
    if not missing:
        return ""
    return f"{path} is not a {type_.kind}: it lacks {', '.join(missing)}{_instead(path)}"


def _instead(path: Path) -> str:
    """Where the checkpoint may be, or what else this is."""
    if (path / "adapter_config.json").is_file():
        return "; it is an adapter, which has to be merged into its model first (peft: merge_and_unload)"
    if any(path.glob("*.gguf")):
        return "; it holds GGUF, which is for running a model; take the checkpoint that it was made of"
    within = [*path.glob("*/config.json"), *path.glob("snapshots/*/config.json")]
    if not within:
        return ""
    newest = max(within, key=lambda config: config.stat().st_mtime)
    return f"; there is one at {newest.parent}"


def _dataset_problem(
    type_: type[Dataset],
    path: Path,
    first_row: bool,
) -> str:
    """Checks the first row only: the stage that reads the dataset checks the others, and a whole Parquet file."""
    from r1pipe.data.files import dataset_files, read_raw
    from r1pipe.data.io import check_row, in_our_columns
    from r1pipe.data.row_checks import Tally

    try:
        first_file = dataset_files(path)[0]
        if first_file.name.endswith(".parquet"):
            return "" if first_file.stat().st_size else f"{first_file} is empty"
        if not first_row:
            return "" if first_file.stat().st_size else f"{path} is empty"
        for where, row in read_raw(path):
            check_row(in_our_columns(row, type_, where, Tally()), type_, where, {})
            return ""
    except InputError as error:
        fix = f" ({error.fix})" if error.fix else ""
        return f"{error.where}: {error.what}{fix}"
    return f"{path} is empty"
