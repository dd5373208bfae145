"""How responses are drawn, and models behind a service."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from r1pipe.schema.base import Model, PathOr, Shipped, StageConfig, Text
from r1pipe.schema.secrets import ServiceURL, VariableName

SHIPPED_TEMPLATES = ("r1-zero", "r1-zero-example")

TemplateName = Annotated[str, PathOr("chat", *SHIPPED_TEMPLATES), Shipped("templates/{value}.txt")]
"""How a prompt becomes text.

`chat` = the tokenizer's chat template; `r1-zero` = v2 Table 1 in our wording; `r1-zero-example` = the same with a
worked example, for a small base that would hardly ever find the form by itself; else a text file that holds {prompt}.
"""

Engine = Literal["local", "ray"]


class ServedModel(Model):
    """A language model behind any service that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, an API."""

    base_url: ServiceURL
    """As OpenAI's clients take it: http://127.0.0.1:8000/v1."""

    model: str
    """The name by which the service knows the model."""

    api_key_env: VariableName | None = None
    """Name of the environment variable that holds the key; none = no key."""

    timeout: float = Field(default=60.0, gt=0, le=10**6)
    """Seconds for one request."""

    retries: int = Field(default=4, ge=0, le=1000)
    """Further tries after a timeout, 429, 5xx or an unreadable reply, with growing pauses."""

    max_in_flight: int = Field(default=16, ge=1, le=4096)
    """Requests at a time on each rank."""

    extra: dict[str, Any] = Field(default_factory=dict)
    """More fields of the request, such as response_format. null removes a field that we would send."""


class JudgeEndpoint(ServedModel):
    """A language model as a judge.

    `model`, `extra`, `max_tokens` and `guidelines` enter the fingerprint; the other fields say how it is called.
    """

    max_tokens: int = Field(default=1024, ge=1)
    """Tokens of the judge's reply."""

    guidelines: Text | None = None
    """What else it should follow: a text, or {file: PATH}. For a judge that is a reward, a text."""


class SamplingEndpoint(ServedModel):
    """A language model that responses are drawn from.

    Only `model` and `extra` enter the fingerprint; the other fields say how it is called. The numbers are our choice.
    """

    timeout: float = Field(default=1800.0, gt=0, le=10**6)
    """Seconds for one whole response."""

    retries: int = Field(default=8, ge=0, le=1000)
    """Further tries after a timeout, 429, 5xx or an unreadable reply, with growing pauses."""

    max_in_flight: int = Field(default=64, ge=1, le=4096)
    """Requests at a time on each rank."""

    price_in: float = Field(default=0.0, ge=0)
    """Money for a million prompt tokens."""

    price_out: float = Field(default=0.0, ge=0)
    """Money for a million response tokens."""

    budget_tokens: int | None = Field(default=None, ge=1)
    """Prompt and response tokens of the stage. Nothing more is requested once they are used."""

    budget_money: float | None = Field(default=None, gt=0)
    """In the currency of the prices. Nothing more is requested once it is spent."""

    @model_validator(mode="after")
    def _budget_has_prices(self) -> SamplingEndpoint:
        if self.budget_money is not None and not self.price_in + self.price_out:
            raise ValueError("budget_money needs price_in and price_out")
        return self


def _stop_can_be_found(strings: list[str]) -> list[str]:
    for text in strings:
        if not text.strip() or not text.isascii():
            raise ValueError(
                f"a stop string is ASCII and more than white space, and {text!r} is not: tokens may hold parts of "
                "other characters"
            )
    return strings


StopList = Annotated[list[str], AfterValidator(_stop_can_be_found)]
"""Strings that end a response, such as `</answer>` where a base model would go on with the next question.

The string belongs to the response.
"""


class Sampling(Model):
    """How responses are drawn."""

    temperature: float = Field(default=0.6, ge=0, le=10)
    """0 = greedy. Evaluation uses 0.6 (v2 D.1), cold-start sampling 1.0 (v2 B.3.2)."""

    top_p: float = Field(default=0.95, gt=0, le=1)
    """v2 D.1."""

    max_tokens: int = Field(default=32768, ge=1, le=2**24)
    """Tokens of a response (v2 D.1)."""

    stop: StopList = Field(default_factory=list)
    """Strings that end a response beside the model's end token (our choice)."""

    n: int = Field(default=1, ge=1, le=2**20)
    """Responses to a prompt."""

    batch_size: int = Field(default=256, ge=1, le=2**20)
    """Sequences of one forward pass in each process; with vllm, sequences handed over at a time (our choice)."""

    backend: Literal["hf", "vllm", "openai"] = "hf"
    """hf = PyTorch in this process, vllm = vLLM in this process, openai = a service (r1pipe/generation)."""

    vllm: dict[str, Any] = Field(default_factory=dict)
    """For backend: vllm. Arguments of vllm.LLM."""

    endpoint: SamplingEndpoint | None = None
    """For backend: openai. The service."""

    @model_validator(mode="after")
    def _settings_fit_the_backend(self) -> Sampling:
        if (self.backend == "openai") != (self.endpoint is not None):
            raise ValueError("`backend: openai` and `endpoint: {base_url: ..., model: ...}` go together")
        if self.vllm and self.backend != "vllm":
            raise ValueError(f"`vllm` would be ignored: the backend is {self.backend}")
        return self

    def mismatch(self, has_model: bool) -> str:
        """Why responses cannot be drawn like this with (or without) a checkpoint; empty where they can."""
        if self.endpoint is not None and has_model:
            return f"two models to sample from: the input `model`, and `{self.endpoint.model}` behind sampling.endpoint"
        if self.endpoint is None and not has_model:
            return f"no model to sample from: `backend: {self.backend}` samples from the input `model`"
        return ""


class EngineConfig(StageConfig):
    """Base of the Configs of stages that sample and verify, on this machine or on a Ray cluster."""

    engine: Engine = "local"
    """ray = over the machines of a Ray cluster (r1pipe/generation/ray_cluster.py). Not part of the fingerprint."""

    @model_validator(mode="after")
    def _work_is_spread_once(self) -> EngineConfig:
        if self.engine == "ray" and (self.launch.num_processes != 1 or self.launch.nodes != 1):
            raise ValueError(
                "`engine: ray` spreads the work itself; leave out launch.num_processes and launch.nodes"
            )
        return self


class SamplingConfig(EngineConfig):
    """Base of the Configs of stages that sample from one model and keep some rows of each prompt.

    The model may be behind a service.
    """

    sampling: Sampling = Sampling()
    """How responses are drawn."""

    stop_after: int | None = Field(default=None, ge=1)
    """Different rows of a prompt after which it is sampled no further; none = sampling.n in any case (our choice)."""

    per_prompt: int = Field(default=1, ge=1)
    """Rows kept of one prompt, new samples before reused ones (not published; our choice)."""

    @model_validator(mode="after")
    def _stops_late_enough(self) -> SamplingConfig:
        if self.stop_after is not None and not self.per_prompt <= self.stop_after <= self.sampling.n:
            raise ValueError(
                f"stop_after {self.stop_after} must be at least per_prompt ({self.per_prompt}) "
                f"and at most sampling.n ({self.sampling.n})"
            )
        return self

    def mismatch(self, given: set[str]) -> str:
        return self.sampling.mismatch("model" in given)
