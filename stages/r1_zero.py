"""R1-Zero: reinforcement learning straight from the base model, no supervised step before it.

Reads     model (base), prompts, heldout (optional)
Writes    checkpoint (zero)
Paper     v2 section 2; v1 2.2: GRPO, accuracy + format rewards, no critic, no reward model
Alone     r1pipe run-stage r1-zero

The base is prompted with a plain template that names the tags (that of the embedded run does not name them). Nothing of
the response is prefilled, so the format reward is earned. The paper lengthens responses from 32,768 to 65,536 tokens
after 8,200 of 10,400 updates: two phases here. The student's own RL ('distillation against RL', v2 F.1) is a stage of
this kind.
"""

from __future__ import annotations

from r1pipe.artifacts import Checkpoint, Prompts
from r1pipe.here import Here
from r1pipe.schema import AuditParams, GRPOParams, Phase, Ports, RewardSpec, StageConfig, TemplateName

# They are summed with the same weight (v2 eq. 4).
REWARDS = [
    RewardSpec(name="accuracy"),
    RewardSpec(name="code"),
    RewardSpec(name="format", params={"form": "zero"}),
]


class Inputs(Ports):
    model: Checkpoint
    prompts: Prompts
    heldout: Prompts | None = None


class Outputs(Ports):
    checkpoint: Checkpoint


class Config(StageConfig):
    gets_ready = True

    template: TemplateName = "r1-zero"
    """v2 Table 1, in our wording; nothing is prefilled."""

    grpo: GRPOParams = GRPOParams(
        phases=[
            Phase(steps=8200, max_tokens=32768, rewards=REWARDS),
            Phase(steps=2200, max_tokens=65536, rewards=REWARDS),
        ]
    )
    """v2 2.1."""

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
