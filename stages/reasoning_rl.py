"""Reasoning RL (stage 1): the cold-started model learns to reason, and to stay in one language.

Reads     model (dev1), prompts, heldout (optional)
Writes    checkpoint (dev2)
Paper     v2 3.2.1 and B.6; v1 2.3.2: R1-Zero's RL plus the language-consistency reward, clip range 10
Alone     r1pipe run-stage reasoning-rl

The number of updates is not published ('until convergence', v1): the default is our choice.
"""

from __future__ import annotations

from r1pipe.artifacts import Checkpoint, Prompts
from r1pipe.here import Here
from r1pipe.schema import AuditParams, GRPOParams, Phase, Ports, RewardSpec, StageConfig, TemplateName

# All have weight 1 (v2 3.2.1, eq. 7).
REWARDS = [
    RewardSpec(name="accuracy"),
    RewardSpec(name="code"),
    RewardSpec(name="format", params={"form": "r1"}),
    RewardSpec(name="language"),
]


class Inputs(Ports):
    model: Checkpoint
    prompts: Prompts
    heldout: Prompts | None = None


class Outputs(Ports):
    checkpoint: Checkpoint


class Config(StageConfig):
    gets_ready = True

    template: TemplateName = "chat"

    grpo: GRPOParams = GRPOParams(phases=[Phase(steps=2000, rewards=REWARDS)])
    """v2 3.2.1."""

    audit: AuditParams = AuditParams()
    """What the rewards must show before they train. Not part of the fingerprint."""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    from r1pipe.data.io import read_rows

    prompts = {"prompts": read_rows(inputs.prompts.path, Prompts)}
    heldout = read_rows(inputs.heldout.path, Prompts) if inputs.heldout else []

    # A fault of the rows is told before torch is imported.
    from r1pipe.training.grpo.grpo_training import train_grpo

    return train_grpo(
        checkpoint=inputs.model.path,
        prompts=prompts,
        heldout=heldout,
        params=config.grpo,
        template=config.template,
        out=outputs.checkpoint.path,
        here=here,
        seed=config.seed,
        audit=config.audit,
    )
