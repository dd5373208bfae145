"""RL for all scenarios (stage 2): reasoning goes on, and in the last phase people's preferences join.

Reads     model (dev3), prompts (reasoning), general (each row helpful or harmful), helpful_rm, safety_rm, and heldout
          (optional)
Writes    checkpoint (r1)
Paper     v2 3.2.2, eq. 8-10; v1 2.3.4: temperature 0.7; 1,700 updates, general prompts and preference rewards only in
          the last 400, since a longer use of model-based rewards is hacked (B.5)
Alone     r1pipe run-stage alignment-rl

Helpfulness scores the final summary only, safety the whole response. A general row is in one of the two sets and gets
that set's reward; format and language apply to every row. The mix of prompts in a batch is not published (our choice).
"""

from __future__ import annotations

from r1pipe.artifacts import Checkpoint, Prompts, RewardModel
from r1pipe.here import Here
from r1pipe.schema import AuditParams, GRPOParams, Phase, Ports, RewardSpec, StageConfig, TemplateName

RULES = [
    RewardSpec(name="accuracy"),
    RewardSpec(name="code"),
    RewardSpec(name="format", params={"form": "r1"}),
    RewardSpec(name="language"),
]
PREFERENCES = [RewardSpec(name="helpful"), RewardSpec(name="harmless")]


class Inputs(Ports):
    model: Checkpoint
    prompts: Prompts
    general: Prompts
    helpful_rm: RewardModel
    safety_rm: RewardModel
    heldout: Prompts | None = None


class Outputs(Ports):
    checkpoint: Checkpoint


class Config(StageConfig):
    gets_ready = True

    template: TemplateName = "chat"

    grpo: GRPOParams = GRPOParams(
        phases=[
            Phase(steps=1300, temperature=0.7, rewards=RULES),
            Phase(
                steps=400,
                temperature=0.7,
                prompts={"prompts": 0.5, "general": 0.5},
                rewards=[*RULES, *PREFERENCES],
            ),
        ]
    )
    """v2 3.2.2."""

    audit: AuditParams = AuditParams()
    """What the rewards must show before they train. Not part of the fingerprint."""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    from r1pipe.data.io import read_rows
    from r1pipe.rewards import MODEL_PORTS

    prompts = {
        "prompts": read_rows(inputs.prompts.path, Prompts),
        "general": read_rows(inputs.general.path, Prompts),
    }
    heldout = read_rows(inputs.heldout.path, Prompts) if inputs.heldout else []

    # A fault of the rows is told before torch is imported.
    from r1pipe.training.grpo.grpo_training import train_grpo
    from r1pipe.training.reward_model import Scorer

    # Rewards that are models; a phase that does not name them does not ask them.
    models = {name: Scorer(getattr(inputs, port).path) for name, port in MODEL_PORTS.items()}
    return train_grpo(
        checkpoint=inputs.model.path,
        prompts=prompts,
        heldout=heldout,
        params=config.grpo,
        template=config.template,
        out=outputs.checkpoint.path,
        here=here,
        seed=config.seed,
        models=models,
        audit=config.audit,
    )
