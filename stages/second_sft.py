"""The second SFT: reasoning and general chats, from the base again and not from the model that RL made.

Reads     model (base), chats (the mix)
Writes    checkpoint (dev3)
Paper     v2 3.2, B.3.3, B.4.2; v1 2.3.3: 804,745 rows, two epochs (v1) or two to three (v2)
Alone     r1pipe run-stage second-sft
"""

from __future__ import annotations

from r1pipe.artifacts import Chats, Checkpoint
from r1pipe.here import Here
from r1pipe.schema import Ports, RowLimits, SFTParams, StageConfig


class Inputs(Ports):
    model: Checkpoint
    chats: Chats


class Outputs(Ports):
    checkpoint: Checkpoint


class Config(StageConfig):
    gets_ready = True

    sft: SFTParams = SFTParams()
    """v2 B.4.2."""

    row_limits: RowLimits = RowLimits()
    """What rows may lack. Not part of the fingerprint."""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    from r1pipe.data.io import read_rows
    from r1pipe.training.sft.sft_training import train_sft

    chats = read_rows(inputs.chats.path, Chats, config.row_limits)
    return train_sft(
        inputs.model.path, chats, config.sft, out=outputs.checkpoint.path, here=here, seed=config.seed
    )
