"""TRL's DPOTrainer on pairs that are tokens already, and that can be stopped anywhere.

It stands in a module of its own so that r1pipe/training/dpo_training.py can be imported without transformers.
"""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer

from r1pipe.training.resumable import ResumableTrainer


class PreferenceTrainer(ResumableTrainer, DPOTrainer):
    """TRL's DPOTrainer on top of ResumableTrainer."""

    def _prepare_dataset(self, dataset: Any, *_given: Any) -> Any:
        """The rows are tokens, made as those of SFT; TRL's own rendering would leave out a template's prefill."""
        return dataset
