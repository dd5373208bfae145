"""Cold start: a few thousand readable long chains of thought before RL.

Reads     model (base), chats (cold-start chats)
Writes    checkpoint (dev1)
Paper     v2 3.1, B.3.2, B.4.2; v1 2.3.1
Alone     r1pipe run-stage cold-start

Expect some scores below R1-Zero afterwards: the paper saw AIME fall from 77.9 to 59.0 here (v2 Table 3).
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
