"""The pydantic bases that stages declare themselves with.

Every field carries its unit, meaning and source: a paper section (v2 = arXiv 2501.12948v2), or 'our choice'. A default
stands here and nowhere else. Batch sizes are global; per-device numbers are derived at launch.
"""

from r1pipe.schema.base import Launch, Model, Ordered, PathOr, Ports, Slurm, StageConfig, Text, TextFile
from r1pipe.schema.grpo import LOSS_TYPES, AuditParams, GRPOParams, Guards, Phase, RewardSpec, VLLMRollout
from r1pipe.schema.sampling import (
    Engine,
    EngineConfig,
    JudgeEndpoint,
    Sampling,
    SamplingConfig,
    SamplingEndpoint,
    ServedModel,
    TemplateName,
)
from r1pipe.schema.training import RewardModelParams, SFTParams, Training

__all__ = [
    "AuditParams",
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
    "Ports",
    "RewardModelParams",
    "RewardSpec",
    "SFTParams",
    "Sampling",
    "SamplingConfig",
    "SamplingEndpoint",
    "ServedModel",
    "Slurm",
    "StageConfig",
    "Text",
    "TextFile",
    "Training",
    "TemplateName",
    "VLLMRollout",
]
