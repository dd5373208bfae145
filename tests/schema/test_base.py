"""Blocks that state part of a field, over the default of the field."""

from __future__ import annotations

from pydantic import Field

from r1pipe.schema import GRPOParams, Phase, RewardSpec, Sampling, SFTParams, StageConfig


class Config(StageConfig):
    sft: SFTParams = Field(default=SFTParams(lr=1e-4, batch_size=64))
    sampling: Sampling = Field(default=Sampling(temperature=1.0, n=4))
    grpo: GRPOParams = Field(
        default=GRPOParams(phases=[Phase(steps=3, rewards=[RewardSpec(name="accuracy")])])
    )


def test_part_of_a_field_keeps_the_rest_of_its_default() -> None:
    config = Config.model_validate(
        {"sft": {"lr": 8e-5}, "sampling": {"max_tokens": 64}, "grpo": {"beta": 0.0}}
    )
    assert (config.sft.lr, config.sft.batch_size, config.sft.epochs) == (8e-5, 64, 2.0)
    assert (config.sampling.temperature, config.sampling.n, config.sampling.max_tokens) == (1.0, 4, 64)
    assert config.grpo.beta == 0.0 and config.grpo.steps == 3


def test_a_resolved_config_reads_back_as_itself() -> None:
    config = Config.model_validate({"sft": {"lr": 8e-5}})
    assert Config.model_validate(config.model_dump(mode="json")) == config
