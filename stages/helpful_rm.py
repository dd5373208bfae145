"""The helpful reward model: which of two summaries does the judge prefer?

Reads     model (dev3), pairs
Writes    reward_model
Paper     v2 3.1: 66,000 pairs, pairwise loss, scores the final summary only
Alone     r1pipe run-stage helpful-rm
"""

from __future__ import annotations

from r1pipe.artifacts import Checkpoint, Pairs, RewardModel
from r1pipe.here import Here
from r1pipe.schema import Ports, RewardModelParams, StageConfig


class Inputs(Ports):
    model: Checkpoint
    pairs: Pairs


class Outputs(Ports):
    reward_model: RewardModel


class Config(StageConfig):
    rm: RewardModelParams = RewardModelParams()
    """v2 3.1."""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    from r1pipe.data.io import read_rows
    from r1pipe.training.reward_model import train_pairwise

    pairs = read_rows(inputs.pairs.path, Pairs)
    return train_pairwise(
        inputs.model.path, pairs, config.rm, out=outputs.reward_model.path, here=here, seed=config.seed
    )
