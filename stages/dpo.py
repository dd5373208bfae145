"""DPO: preferences without reward models and without RL, to stand beside alignment-rl.

Reads     model (dev3), pairs
Writes    checkpoint
Paper     none: R1 trains two reward models and goes on with GRPO (v2 3.1, 3.2.2)
Alone     r1pipe run-stage dpo -c configs/ablations/dpo.yaml

DPO (arXiv 2305.18290) raises the probability of each pair's chosen response and lowers that of the rejected one, both
measured against the model that it began with. It reads whole responses, thinking included.
"""

from __future__ import annotations

from r1pipe.artifacts import Checkpoint, Pairs
from r1pipe.here import Here
from r1pipe.schema import DPOParams, Ports, StageConfig


class Inputs(Ports):
    model: Checkpoint
    pairs: Pairs


class Outputs(Ports):
    checkpoint: Checkpoint


class Config(StageConfig):
    dpo: DPOParams = DPOParams()


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    from r1pipe.data.io import read_rows
    from r1pipe.training.dpo_training import train_dpo

    pairs = read_rows(inputs.pairs.path, Pairs)
    return train_dpo(
        inputs.model.path, pairs, config.dpo, out=outputs.checkpoint.path, here=here, seed=config.seed
    )
