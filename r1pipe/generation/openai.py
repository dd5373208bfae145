"""The back end `openai`: a model behind any service that speaks OpenAI's protocol. It needs no checkpoint and no GPU.

One request is one sample, with a seed of its own. r1pipe/text/endpoint.py says how a request is retried. With
`template: chat` the service applies its own chat template (/chat/completions); with a template file we render the
prompt (/completions). Thinking that the service returns apart (`reasoning_content` or `reasoning`) is put back between
its tags, and so is a tag that the prompt has already opened. A request that the service refuses, such as one that is
too long, becomes a sample without text and with the reason; a later attempt of the stage asks again.

vLLM, SGLang and llama.cpp apply what the model's generation_config.json says of top_k, min_p and repetition_penalty
unless a request says otherwise. So requests say that nothing is cut off and nothing penalised; `extra` may say
otherwise. What service it is, and so what it calls the fields, stands in its list of models. A service that refuses
them, as OpenAI's own does, is asked without them, with a warning.

The budget is checked before each request, so it is exceeded by at most what is in flight then. Replies that could not
be read are not counted, because their cost is unknown.

Stop strings are not sent: services leave them out of the text, and do not tell which one it was. The text is cut here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from r1pipe.errors import BudgetError, R1PipeError, StageError
from r1pipe.generation.contract import Draw, Sample, Unit, sample_seed
from r1pipe.schema import Sampling, SamplingEndpoint
from r1pipe.text.chat_format import prefill_of
from r1pipe.text.endpoint import Endpoint, NoAnswer, Unreadable, plain_drawing
from r1pipe.text.rendering import read_template, render_prompt
from r1pipe.text.response import THINK_CLOSE, THINK_OPEN, join_response


class Service:
    """A model that is called over HTTP."""

    occupies_cpu = False
    remote = True

    def __init__(
        self,
        rows: list[dict[str, Any]],
        sampling: Sampling,
        endpoint: SamplingEndpoint,
        template: str,
        *,
        seed: int,
        world_size: int,
    ) -> None:
        self._rows = rows
        self._sampling = sampling
        self._config = endpoint
        self._seed = seed
        self._budget_share = 1 / world_size
        self._template = read_template(template)
        self._read_reply = partial(_read_reply, prefill=prefill_of(self._template or ""))
        self.max_in_flight = endpoint.max_in_flight
        path = "/chat/completions" if self._template is None else "/completions"
        self._endpoint = Endpoint(
            endpoint.base_url.rstrip("/") + path,
            api_key_env=endpoint.api_key_env,
            timeout=endpoint.timeout,
            retries=endpoint.retries,
            max_in_flight=self.max_in_flight,
        )

    # Asked when something is drawn: whoever only plans needs no service.
    @cached_property
    def _plain_drawing(self) -> dict[str, Any]:
        fields = plain_drawing(self._config.base_url, self._config.api_key_env)
        return {name: value for name, value in fields.items() if name not in self._config.extra}

    def cohorts(self, rounds: bool) -> list[list[int]]:
        return [[row] for row in range(len(self._rows))]

    def units(self, prefix: tuple[int, ...], draws: Sequence[Draw]) -> list[Unit]:
        units = []
        for draw in draws:
            for index in range(draw.first, draw.first + draw.n):
                # Named by the row's id, so that other rows of a later attempt change nothing.
                units.append(Unit((self._rows[draw.row]["id"], index), [Draw(draw.row, index, 1)]))
        return units

    def draw(self, unit: Unit) -> list[Sample]:
        ((row, index, _),) = unit.draws
        try:
            sample = self._endpoint.answer(self._body(row, index), self._read_reply, self._plain_drawing)
            return [_cut_behind(sample, self._sampling.stop)]
        except NoAnswer as error:
            if not error.refused:
                raise
            return [Sample("", 0, False, refused=error.why)]

    def _body(self, row: int, index: int) -> dict[str, Any]:
        prompt = render_prompt(self._rows[row], self._template)
        body = {
            "model": self._config.model,
            "messages" if self._template is None else "prompt": prompt,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "max_tokens": self._sampling.max_tokens,
            "seed": sample_seed(self._seed, self._rows[row]["id"], index),
            **self._config.extra,
        }
        # null in `extra` removes a field.
        return {name: value for name, value in body.items() if value is not None}

    def stop_reason(self, tokens_in: int, tokens_out: int) -> R1PipeError | None:
        if self._endpoint.gave_up:
            return StageError(
                f"{self._config.base_url} gives no answers any more: {self._endpoint.why}",
                fix="check the service, then run the same command again: what was drawn is kept",
            )
        money = (tokens_in * self._config.price_in + tokens_out * self._config.price_out) / 1e6
        for name, budget, spent in (
            ("budget_tokens", self._config.budget_tokens, tokens_in + tokens_out),
            ("budget_money", self._config.budget_money, money),
        ):
            if budget is not None and spent >= budget * self._budget_share:
                what = f"{name} is used up: {tokens_in} prompt tokens and {tokens_out} response tokens"
                what += f", {money:.4g} of money" if money else ""
                shared = ", shared by the ranks" if self._budget_share < 1 else ""
                fix = (
                    f"raise sampling.endpoint.{name} (now {budget:g}{shared}), and run the same command again"
                )
                return BudgetError(what, fix=fix)
        return None


def _cut_behind(sample: Sample, stop: Sequence[str]) -> Sample:
    """Return the sample up to the end of its first stop string; what was paid for stays counted."""
    ends = [sample.text.index(text) + len(text) for text in stop if text in sample.text]
    return replace(sample, text=sample.text[: min(ends)], finished=True) if ends else sample


def _read_reply(reply: Any, prefill: str = "") -> Sample:
    """Return the sample in a reply of either path.

    Args:
        prefill: the beginning of the response that our prompt has already written.

    Raises:
        Unreadable: the reply has no text, no reason why it ended, or no count of tokens.
    """
    try:
        choice = reply["choices"][0]
        usage = reply["usage"]
        message = choice.get("message")
        text = choice["text"] if message is None else message["content"] or ""
        thinking = message and (message.get("reasoning_content") or message.get("reasoning"))
        finish_reason = choice["finish_reason"]
        tokens = int(usage["completion_tokens"])
        prompt_tokens = int(usage["prompt_tokens"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise Unreadable(f"the reply is not a completion with its usage: {str(reply)[:200]!r}") from None

    if finish_reason == "content_filter":
        return Sample("", tokens, False, prompt_tokens, refused="its content filter")
    if finish_reason not in ("stop", "length") or not isinstance(text, str):
        raise Unreadable(f"the completion ended with {finish_reason!r}, not with 'stop' or 'length'")
    if thinking:
        # A response that was cut in its thinking has no summary, so the tag stays open.
        cut_in_thinking = not text and finish_reason == "length"
        text = THINK_OPEN + thinking if cut_in_thinking else join_response(thinking, text)
    elif THINK_OPEN not in text.partition(THINK_CLOSE)[0] and THINK_CLOSE in text:
        # The service's chat template has opened the thinking, and the reply begins within.
        text = (prefill or THINK_OPEN) + text
    else:
        text = prefill + text
    return Sample(text, tokens, finish_reason == "stop", prompt_tokens)
