"""Distillation: a small base imitates the mix that made dev3; no RL.

Reads     model (student base), chats (the mix)
Writes    checkpoint (r1-distill-*)
Paper     v2 B.4.3, Table 6; v1 2.4. The learning rate is the 1.5B student's; Table 6 has the others
Alone     r1pipe run-stage distill
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

    sft: SFTParams = SFTParams(lr=1e-4, batch_size=64)
    """v2 B.4.3 and Table 6, Qwen-1.5B."""

    row_limits: RowLimits = RowLimits()
    """What rows may lack. Not part of the fingerprint."""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    from r1pipe.data.io import read_rows
    from r1pipe.training.sft.sft_training import train_sft

    chats = read_rows(inputs.chats.path, Chats, config.row_limits)
    return train_sft(
        inputs.model.path, chats, config.sft, out=outputs.checkpoint.path, here=here, seed=config.seed
    )
