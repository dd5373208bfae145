"""Models behind a service, and how responses are drawn."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from r1pipe.schema.base import Model, PathOr, StageConfig, Text


class ServedModel(Model):
    """A language model behind any service that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, an API."""

    base_url: str = Field(description="as OpenAI's clients take it: http://127.0.0.1:8000/v1")
    model: str = Field(description="the name that the service knows the model by")
    api_key_env: str | None = Field(
        default=None, description="name of the environment variable with the key; none = no key"
    )
    timeout: float = Field(default=60.0, gt=0, description="seconds for one request")
    retries: int = Field(
        default=4,
        ge=0,
        description="further tries after a timeout, 429, 5xx or an unreadable reply, with growing pauses",
    )
    max_in_flight: int = Field(default=16, ge=1, description="requests at a time, a rank")
    extra: dict[str, Any] = Field(
        default_factory=dict, description="more fields of the request, as response_format; null leaves one of ours out"
    )


class JudgeEndpoint(ServedModel):
    """A language model as a judge. `model`, `extra`, `max_tokens` and `guidelines` enter the fingerprint: the rest is how it is asked."""

    max_tokens: int = Field(default=1024, ge=1, description="of the judge's reply")
    guidelines: Text | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="what else it should go by: a text, or {file: PATH}; of a reward a text",
    )


class SamplingEndpoint(ServedModel):
    """A language model that is sampled from. Only `model` and `extra` enter the fingerprint: the rest is how it is asked. The numbers are our choice."""

    timeout: float = Field(default=1800.0, gt=0, description="seconds for one whole response")
    retries: int = Field(
        default=8,
        ge=0,
        description="further tries after a timeout, 429, 5xx or an unreadable reply, with growing pauses",
    )
    max_in_flight: int = Field(default=64, ge=1, description="requests at a time, a rank")
    price_in: float = Field(default=0.0, ge=0, description="money for a million prompt tokens")
    price_out: float = Field(default=0.0, ge=0, description="money for a million response tokens")
    budget_tokens: int | None = Field(
        default=None,
        ge=1,
        description="prompt and response tokens of the stage; nothing more is asked once they are used",
    )
    budget_money: float | None = Field(
        default=None, gt=0, description="in the prices' currency; nothing more is asked once it is spent"
    )

    @model_validator(mode="after")
    def _priced(self) -> SamplingEndpoint:
        if self.budget_money is not None and not self.price_in + self.price_out:
            raise ValueError("budget_money needs price_in and price_out")
        return self


class Sampling(Model):
    """How responses are drawn."""

    temperature: float = Field(
        default=0.6, ge=0, description="0 = greedy; evaluation uses 0.6 (v2 D.1), cold-start sampling 1.0 (v2 B.3.2)"
    )
    top_p: float = Field(default=0.95, gt=0, le=1, description="v2 D.1")
    max_tokens: int = Field(default=32768, ge=1, description="tokens of a response (v2 D.1)")
    n: int = Field(default=1, ge=1, description="responses a prompt")
    batch_size: int = Field(
        default=256,
        ge=1,
        description="sequences a forward pass, per process; of vllm: sequences handed over at a time (our choice)",
    )
    backend: Literal["hf", "vllm", "openai"] = Field(
        default="hf",
        exclude_if=lambda value: value == "hf",
        description="hf = PyTorch here, vllm = vLLM here, openai = a service (r1pipe/generation)",
    )
    vllm: dict[str, Any] = Field(
        default_factory=dict, exclude_if=lambda value: not value, description="of vllm: vllm.LLM's arguments"
    )
    endpoint: SamplingEndpoint | None = Field(
        default=None, exclude_if=lambda value: value is None, description="of openai: the service"
    )

    @model_validator(mode="after")
    def _of_the_backend(self) -> Sampling:
        if (self.backend == "openai") != (self.endpoint is not None):
            raise ValueError("`backend: openai` and `endpoint: {base_url: ..., model: ...}` go together")
        if self.vllm and self.backend != "vllm":
            raise ValueError(f"`vllm` would be ignored: the backend is {self.backend}")
        return self

    def mismatch(self, has_model: bool) -> str:
        """Why it cannot be sampled like this with or without a checkpoint; empty where it can."""
        if self.endpoint is not None and has_model:
            return f"two models to sample from: the input `model`, and `{self.endpoint.model}` behind sampling.endpoint"
        return (
            ""
            if self.endpoint is not None or has_model
            else f"no model to sample from: `backend: {self.backend}` samples from the input `model`"
        )


Engine = Literal["local", "ray"]


class EngineConfig(StageConfig):
    """Base of the Configs of stages that sample and verify, here or on a Ray cluster. Which does not enter the fingerprint."""

    engine: Engine = Field(
        default="local",
        exclude_if=lambda value: value == "local",
        description="ray = over the machines of a Ray cluster (r1pipe/generation/ray_cluster.py)",
    )

    @model_validator(mode="after")
    def _spread_once(self) -> EngineConfig:
        if self.engine == "ray" and (self.launch.num_processes != 1 or self.launch.nodes != 1):
            raise ValueError("`engine: ray` spreads the work itself; leave out launch.num_processes and launch.nodes")
        return self


class SamplingConfig(EngineConfig):
    """Base of the Configs of stages that sample from one model, which may be behind a service, and keep some rows of each prompt."""

    sampling: Sampling = Sampling()
    stop_after: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda value: value is None,
        description="a prompt of which so many different rows are kept is sampled no further; none = always sampling.n (our choice)",
    )
    per_prompt: int = Field(
        default=1, ge=1, description="rows kept of one prompt, samples before reuse (not published; our choice)"
    )

    @model_validator(mode="after")
    def _stops_late_enough(self) -> SamplingConfig:
        if self.stop_after is not None and not self.per_prompt <= self.stop_after <= self.sampling.n:
            raise ValueError(
                f"stop_after {self.stop_after} must be at least per_prompt ({self.per_prompt}) and at most sampling.n ({self.sampling.n})"
            )
        return self

    def mismatch(self, given: set[str]) -> str:
        return self.sampling.mismatch("model" in given)


TemplateName = Annotated[str, PathOr("chat", "r1-zero")]
"""How a prompt becomes text: `chat` = the tokenizer's chat template; `r1-zero` = v2 Table 1 in our wording; else a text file holding {prompt}."""
