"""The safety reward model: is this whole response, thinking included, safe?

Reads     model (dev3), labels
Writes    reward_model
Paper     v2 3.1: 106,000 prompts, responses labelled safe or unsafe, pointwise
Alone     r1pipe run-stage safety-rm
"""

from __future__ import annotations

from r1pipe.artifacts import Checkpoint, Labels, RewardModel
from r1pipe.here import Here
from r1pipe.schema import PointwiseParams, Ports, StageConfig


class Inputs(Ports):
    model: Checkpoint
    labels: Labels


class Outputs(Ports):
    reward_model: RewardModel


class Config(StageConfig):
    rm: PointwiseParams = PointwiseParams()
    """v2 3.1."""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    from r1pipe.data.io import read_rows
    from r1pipe.training.reward_model import train_pointwise

    labels = read_rows(inputs.labels.path, Labels)
    return train_pointwise(
        inputs.model.path, labels, config.rm, out=outputs.reward_model.path, here=here, seed=config.seed
    )
