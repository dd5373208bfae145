"""The back end `openai`: a model behind any service that speaks OpenAI's protocol; no checkpoint and no GPU here.

One request is one sample, with a seed of its own; how it is retried stands in r1pipe/endpoint.py. With `template: chat` the service's own chat
template is used (/chat/completions); with a template file we render the prompt (/completions). Thinking that the service hands out apart
(`reasoning_content`, or `reasoning`) is put back between its tags. A request that the service refuses, as one that is too long, is a
sample without a text and with the reason; it is asked again when the stage is.

The budget is looked at before each request, so that it is exceeded by at most what is in flight then. Replies that could not be read are
not counted: nobody knows what they cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r1pipe.endpoint import Endpoint, NoAnswer, Unreadable
from r1pipe.errors import BudgetError, R1PipeError, StageError
from r1pipe.generation import Completion, Draw, Unit, sample_seed
from r1pipe.schema import Sampling, SamplingEndpoint
from r1pipe.text.rendering import read_template, render_prompt
from r1pipe.text.response import THINK_OPEN, join_response


class Service:
    """A model that is asked over HTTP."""

    alone, remote = False, True

    def __init__(
        self,
        rows: list[dict[str, Any]],
        sampling: Sampling,
        endpoint: SamplingEndpoint,
        template: str,
        seed: int,
        world_size: int,
    ) -> None:
        self._rows, self._sampling, self._config, self._seed, self._share = (
            rows,
            sampling,
            endpoint,
            seed,
            1 / world_size,
        )
        self._template = read_template(template)
        url = endpoint.base_url.rstrip("/") + ("/chat/completions" if self._template is None else "/completions")
        self.in_flight = endpoint.max_in_flight
        self._endpoint = Endpoint(
            url,
            api_key_env=endpoint.api_key_env,
            timeout=endpoint.timeout,
            retries=endpoint.retries,
            max_in_flight=self.in_flight,
        )

    def cohorts(self, rounds: bool) -> list[list[int]]:
        return [[row] for row in range(len(self._rows))]

    def units(self, prefix: tuple[int, ...], draws: Sequence[Draw]) -> list[Unit]:
        return [
            Unit((self._rows[draw.row]["id"], number), [Draw(draw.row, number, 1)])
            for draw in draws
            for number in range(draw.first, draw.first + draw.n)
        ]

    def draw(self, unit: Unit) -> list[Completion]:
        ((row, number, _),) = unit.draws
        try:
            return [self._endpoint.answer(self._body(row, number), _read)]
        except NoAnswer as error:
            if not error.refused:
                raise
            return [Completion("", 0, False, refused=error.why)]

    def _body(self, row: int, number: int) -> dict[str, Any]:
        prompt = render_prompt(self._rows[row], self._template)
        body = {
            "model": self._config.model,
            "messages" if self._template is None else "prompt": prompt,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "max_tokens": self._sampling.max_tokens,
            "seed": sample_seed(self._seed, self._rows[row]["id"], number),
            **self._config.extra,
        }
        return {name: value for name, value in body.items() if value is not None}

    def halted(self, tokens_in: int, tokens_out: int) -> R1PipeError | None:
        config = self._config
        if self._endpoint.gave_up:
            what = f"{config.base_url} gives no answers any more: {self._endpoint.why}"
            return StageError(
                what, fix="see to the service; what was drawn is kept, and the same command goes on from there"
            )
        money = (tokens_in * config.price_in + tokens_out * config.price_out) / 1e6
        for name, budget, spent in (
            ("budget_tokens", config.budget_tokens, tokens_in + tokens_out),
            ("budget_money", config.budget_money, money),
        ):
            if budget is not None and spent >= budget * self._share:
                return BudgetError(
                    f"{name} is used up: {tokens_in} prompt tokens and {tokens_out} response tokens"
                    + (f", {money:.4g} of money" if money else ""),
                    fix=f"raise sampling.endpoint.{name} (now {budget:g}{'' if self._share == 1 else ', shared by the ranks'}), and the same command goes on",
                )
        return None


def _read(reply: Any) -> Completion:
    """A Completion of a reply of either path.

    Raises:
        Unreadable: no text, no reason why it ended, or no count of tokens.
    """
    try:
        choice, usage = reply["choices"][0], reply["usage"]
        message = choice.get("message")
        text = choice["text"] if message is None else message["content"] or ""
        thinking = message and (message.get("reasoning_content") or message.get("reasoning"))
        reason, tokens, prompt_tokens = (
            choice["finish_reason"],
            int(usage["completion_tokens"]),
            int(usage["prompt_tokens"]),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise Unreadable(f"the reply is no completion with its usage: {str(reply)[:200]!r}") from None
    if reason == "content_filter":
        return Completion("", tokens, False, prompt_tokens, refused="its content filter")
    if reason not in ("stop", "length") or not isinstance(text, str):
        raise Unreadable(f"the completion ended by {reason!r}, neither stop nor length")
    if thinking:
        text = join_response(thinking, text) if text or reason == "stop" else THINK_OPEN + thinking
    return Completion(text, tokens, reason == "stop", prompt_tokens)
