"""What stages pass to each other: typed folders on disk.

A type says what a reader may rely on, the path where it is. Nothing in this module opens a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Artifact:
    """A named folder (or, for data a user brings, a file)."""

    path: Path
    name: str = ""
    kind: ClassVar[str] = "artifact"


class Checkpoint(Artifact):
    """A Hugging Face folder: config.json, *.safetensors, tokenizer.json and a chat template."""

    kind = "checkpoint"


class RewardModel(Artifact):
    """A Hugging Face sequence classifier with one output, and calibration.json {"m", "d"} from held-out data."""

    kind = "reward-model"


class Dataset(Artifact):
    """Rows as rows*.jsonl, rows*.jsonl.gz or rows*.parquet in a folder, or one such file.

    The columns are in r1pipe/text/rows.py. A stage's own dataset also holds card.json (counts) and, where rows were
    dropped, dropped.jsonl with a `reason`.
    """

    kind = "dataset"


class Prompts(Dataset):
    """Rows to be answered: id, prompt, domain, language, and answer or tests where they can be checked."""

    kind = "prompts"


class Chats(Dataset):
    """Rows to be imitated: id, messages (the last one the assistant's), domain, language, source."""

    kind = "chats"


class Pairs(Dataset):
    """Rows to be compared: id, prompt, chosen, rejected (response strings), margin."""

    kind = "pairs"


class Labels(Dataset):
    """Rows to be classified: id, prompt, response, safe (1 or 0)."""

    kind = "labels"


class Report(Artifact):
    """Scores of a checkpoint: scores.json, and rows.jsonl with one line a response.

    scores.json is {"<checkpoint>": {"<suite>": {"pass@1", "stderr", "n", ...}}}.
    """

    kind = "report"


ARTIFACTS: dict[str, type[Artifact]] = {
    artifact.kind: artifact
    for artifact in (Checkpoint, RewardModel, Dataset, Prompts, Chats, Pairs, Labels, Report)
}
