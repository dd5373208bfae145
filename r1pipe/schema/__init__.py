"""The pydantic models from which stages build their Config, Inputs and Outputs.

The docstring under each field says its meaning, unit and source: a section of the paper (v1, v2 = versions 1 and 2 of
arXiv 2501.12948), or 'our choice'. A default stands here and nowhere else. Batch sizes are global; the numbers for
each device are derived at launch.
"""

from r1pipe.schema.base import (
    Launch,
    Model,
    Ordered,
    PathOr,
    Ports,
    Shipped,
    Slurm,
    StageConfig,
    Text,
    TextFile,
)
from r1pipe.schema.grpo import LOSS_TYPES, GRPOParams, VLLMRollout
from r1pipe.schema.rl_phases import Phase, RewardSpec
from r1pipe.schema.safeguards import AuditParams, Guards
from r1pipe.schema.sampling import (
    SHIPPED_TEMPLATES,
    Engine,
    EngineConfig,
    JudgeEndpoint,
    Sampling,
    SamplingConfig,
    SamplingEndpoint,
    ServedModel,
    TemplateName,
)
from r1pipe.schema.training import (
    DPOParams,
    PointwiseParams,
    RewardModelParams,
    RowLimits,
    SFTParams,
    Training,
)

__all__ = [
    "AuditParams",
    "DPOParams",
    "Engine",
    "EngineConfig",
    "GRPOParams",
    "Guards",
    "JudgeEndpoint",
    "LOSS_TYPES",
    "Launch",
    "Model",
    "Ordered",
    "PathOr",
    "Phase",
    "PointwiseParams",
    "Ports",
    "RewardModelParams",
    "RewardSpec",
    "RowLimits",
    "SFTParams",
    "Sampling",
    "SamplingConfig",
    "SamplingEndpoint",
    "ServedModel",
    "Shipped",
    "Slurm",
    "StageConfig",
    "Text",
    "TextFile",
    "Training",
    "SHIPPED_TEMPLATES",
    "TemplateName",
    "VLLMRollout",
]
