"""Sampling from a service: what is asked, kept, stopped and gone on with."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from service import output, rows, run_stage, sampling, stats, write_prompts, writer

from r1pipe.data.candidates import Candidate
from r1pipe.errors import BudgetError, ConfigError, MissingToolError, StageError
from r1pipe.generation.backends import load_generator
from r1pipe.generation.contract import Sample, Unit, sample_seed
from r1pipe.generation.openai import Service
from r1pipe.generation.sampling import sample, sample_and_verify
from r1pipe.schema import Sampling


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with writer() as base_url:
        yield base_url


def journal(folder: Path, name: str = "samples-0-of-1") -> list[tuple[str, int]]:
    return [
        tuple(json.loads(line)["key"])
        for line in (folder / "work" / f"{name}.jsonl").read_text().splitlines()
    ]


def test_thinking_that_comes_apart_is_put_back_and_what_is_cut_is_not_finished(
    service: str, here: Any
) -> None:
    whole = sample(None, rows(), Sampling(**sampling(service)), "chat", here=here, seed=0, label="whole")
    apart = sample(
        None, rows(), Sampling(**sampling(service, "apart")), "chat", here=here, seed=0, label="apart"
    )
    assert whole == apart and {one.finished for drawn in whole for one in drawn} == {True, False}
    cut = next(one for drawn in whole for one in drawn if not one.finished)
    assert "</think>" not in cut.text and cut.tokens >= 20 and cut.prompt_tokens == len("What is 2+3?")
    assert len({one.text for one in whole[0]}) > 1, "each sample has a seed of its own"


@pytest.mark.parametrize(
    ("kind", "extra", "sent"),
    [
        ("writer", {}, (-1, 0.0, 1.0)),
        ("vllm", {}, (-1, 0.0, 1.0)),
        ("vllm", {"top_k": 20, "repetition_penalty": None}, (20, 0.0, None)),
    ],
)
def test_a_service_draws_from_the_model_s_own_distribution(
    kind: str, extra: dict[str, Any], sent: tuple[Any, ...], here: Any
) -> None:
    """vLLM would apply the checkpoint's generation_config.json, also behind a service that does not say so."""
    with writer(kind) as service:
        sample(None, rows(1), Sampling(**sampling(service, n=1, extra=extra)), "chat", here=here, seed=0)
        asked = stats(service)["last"]
    assert tuple(asked.get(name) for name in ("top_k", "min_p", "repetition_penalty")) == sent


def test_a_service_that_refuses_the_fields_is_asked_without_them(here: Any) -> None:
    """As OpenAI's own does, with 400; what was asked for by `extra` stays."""
    with writer("strict") as service:
        settings = Sampling(**sampling(service, extra={"top_k": 20}, max_in_flight=2))
        with pytest.warns(UserWarning, match="refuses min_p, repetition_penalty .status 400") as told:
            drawn = sample(None, rows(2), settings, "chat", here=here, seed=0)
        counted = stats(service)
    assert sum(one.category is UserWarning for one in told) == 1
    assert all(one.text for samples in drawn for one in samples)
    assert "min_p" not in counted["last"] and counted["last"]["top_k"] == 20
    # Those in flight when the first was refused, and no more.
    assert 1 <= counted["refused"] <= 2 and counted["requests"] == 16 + counted["refused"]


def test_a_refusal_for_another_reason_changes_nothing(here: Any) -> None:
    with writer() as service:
        settings = Sampling(**sampling(service, "too-long", max_in_flight=1))
        drawn = sample(None, rows(2), settings, "chat", here=here, seed=0)
        assert stats(service)["last"]["repetition_penalty"] == 1.0
    assert {one.refused for one in drawn[0]} == {"""status 400: '{"error": "context length exceeded"}'"""}
    assert not any(one.refused for one in drawn[1])


@pytest.mark.parametrize(
    ("said", "prefill", "text"),
    [
        ("2+2=4</think>4", "", "<think>2+2=4</think>4"),
        ("2+2=4</think>4", "<think>\n", "<think>\n2+2=4</think>4"),
        ("2+2", "<think>\n", "<think>\n2+2"),
        ("<think>2+2=4</think>4", "", "<think>2+2=4</think>4"),
        ("4", "", "4"),
    ],
)
def test_a_reply_that_begins_within_its_thinking(said: str, prefill: str, text: str) -> None:
    from r1pipe.generation.openai import _read_reply

    usage = {"completion_tokens": 5, "prompt_tokens": 3}
    reply = {"choices": [{"message": {"content": said}, "finish_reason": "stop"}], "usage": usage}
    assert _read_reply(reply, prefill).text == text


def test_with_a_template_file_the_prompt_is_ours(service: str, here: Any, tmp_path: Path) -> None:
    (tmp_path / "zero.txt").write_text("User: {prompt}\nAssistant: ")
    (drawn,) = sample(
        None,
        rows(1),
        Sampling(**sampling(service, n=1, extra={"top_p": None, "min_p": 0.1})),
        str(tmp_path / "zero.txt"),
        here=here,
        seed=7,
    )
    asked = stats(service)["last"]
    assert (
        asked["prompt"] == "User: What is 2+3?\nAssistant: "
        and asked["seed"] == sample_seed(7, "p0", 0)
        and "top_p" not in asked
        and asked["min_p"] == 0.1
    )
    assert drawn[0].text.startswith("<think>Adding")


def test_early_stop_draws_what_one_after_the_other_would(service: str, tmp_path: Path) -> None:
    run_stage(tmp_path / "all", service, per_prompt=8, filters={"max_repetition": None})
    verdicts = {}
    for line in (tmp_path / "all/work/samples-verdicts-0-of-1.jsonl").read_text().splitlines():
        record = json.loads(line)
        verdicts[tuple(record["key"])] = not record["verdicts"][0]["reason"]
    texts = {
        tuple(r["key"]): r["samples"][0]["text"]
        for r in map(json.loads, (tmp_path / "all/work/samples-0-of-1.jsonl").read_text().splitlines())
    }
    wanted = set()
    for row in rows():
        kept: set[str] = set()
        for number in range(8):
            if len(kept) < 2:
                wanted.add((row["id"], number))
                kept |= {texts[row["id"], number]} if verdicts[row["id"], number] else set()
    for in_flight in 1, 8:
        folder = tmp_path / str(in_flight)
        early = sampling(service, max_in_flight=in_flight)
        run_stage(folder, service, sampling=early, stop_after=2, filters={"max_repetition": None})
        assert set(journal(folder)) == wanted and len(wanted) < 12 * 8
    assert output(tmp_path / "1") == output(tmp_path / "8")
    rates = json.loads(output(tmp_path / "1")["card.json"])["pass_rates"]
    assert set(rates) == {row["id"] for row in rows()} and 0 < sum(rates.values()) / 12 < 1


@pytest.mark.parametrize(
    "budget", [{"budget_tokens": 1000}, {"budget_money": 0.02, "price_in": 10, "price_out": 20}]
)
def test_a_budget_stops_cleanly_and_a_larger_one_goes_on(
    service: str, tmp_path: Path, budget: dict[str, float]
) -> None:
    run_stage(tmp_path / "whole", service)
    with pytest.raises(BudgetError, match="is used up: ") as caught:
        run_stage(tmp_path / "poor", service, sampling=sampling(service, max_in_flight=2, **budget))
    assert (
        "of 12 rows are done" in caught.value.where and "raise sampling.endpoint.budget" in caught.value.fix
    )
    paid = journal(tmp_path / "poor")
    records = [
        json.loads(line)["samples"][0]
        for line in (tmp_path / "poor/work/samples-0-of-1.jsonl").read_text().splitlines()
    ]
    spent = sum(one["tokens"] + one["prompt_tokens"] for one in records)
    assert (
        0 < len(paid) < 96 and f"{sum(one['tokens'] for one in records)} response tokens" in caught.value.what
    )
    if "budget_tokens" in budget:
        assert 1000 <= spent < 1000 + 2 * 60, "at most what was in flight is too much"
    with pytest.raises(BudgetError):
        run_stage(tmp_path / "poor", service, sampling=sampling(service, **budget))
    assert journal(tmp_path / "poor") == paid, "the same budget buys nothing more"
    run_stage(tmp_path / "poor", service)
    assert output(tmp_path / "poor") == output(tmp_path / "whole")


def test_from_the_command_line_a_larger_budget_goes_on(service: str, tmp_path: Path) -> None:
    from engine import r1pipe

    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    block = {
        "inputs": {"prompts": "./p.jsonl"},
        "outputs": {"chats": "c"},
        "sampling": sampling(service, budget_tokens=1000),
    }
    (tmp_path / "t.yaml").write_text(json.dumps({"stages": {"rejection-sampling": block}}))
    poor = r1pipe(tmp_path, "run-all", "t.yaml")
    assert (
        poor.returncode == 1
        and "budget_tokens is used up" in poor.stderr
        and "raise sampling.endpoint.budget_tokens" in poor.stderr
    ), poor.stderr
    before = stats(service)["requests"]
    rich = r1pipe(
        tmp_path,
        "run-all",
        "t.yaml",
        "--set",
        "stages.rejection-sampling.sampling.endpoint.budget_tokens=100000",
    )
    assert rich.returncode == 0, rich.stderr
    assert stats(service)["requests"] - before < 12 * 8 - 15, "what was paid for is not asked again"


def test_what_is_refused_is_dropped_with_its_reason_and_asked_again_later(
    service: str, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="refused 8 requests; the last reason: status 400.*context length"):
        run_stage(tmp_path, service, sampling=sampling(service, "too-long"))
    dropped = [json.loads(line) for line in output(tmp_path)["dropped.jsonl"].splitlines()]
    assert [row["id"] for row in dropped if row["reason"] == "refused by the service"] == ["p0"] * 8
    assert "p0" not in {key[0] for key in journal(tmp_path)}


def test_many_refusals_in_a_row_stop_nothing(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come first in every attempt: counted as failures, they would stop the stage every time."""
    from r1pipe.text import endpoint

    monkeypatch.setattr(endpoint, "GIVE_UP_AFTER", 4)
    with pytest.warns(UserWarning, match="refused 8 requests; the last reason: status 400"):
        run_stage(tmp_path, service, sampling=sampling(service, "too-long", max_in_flight=1))
    rates = json.loads(output(tmp_path)["card.json"])["pass_rates"]
    assert set(rates) == {f"p{i}" for i in range(1, 12)}, (
        "of a prompt that was refused nobody knows how hard it is"
    )


def test_a_service_that_goes_away_costs_nothing_that_it_said(service: str, tmp_path: Path) -> None:
    with pytest.raises(BudgetError):
        run_stage(tmp_path, service, sampling=sampling(service, budget_tokens=500))
    paid = journal(tmp_path)
    with pytest.raises(StageError, match="no answers any more: status 500"):
        run_stage(tmp_path, service, sampling=sampling(service, "broken", retries=0))
    assert journal(tmp_path) == paid
    with pytest.raises(StageError, match="3 requests had no answer; the last reason: Connect"):
        run_stage(
            tmp_path / "few",
            "http://127.0.0.1:9/v1",
            count=3,
            sampling=sampling("http://127.0.0.1:9/v1", n=1, retries=0),
        )


def test_ranks_share_the_rows_and_another_number_of_them_repeats_nothing(
    service: str, tmp_path: Path
) -> None:
    run_stage(tmp_path / "one", service, stop_after=3)
    # Before the ranks start: a file that one of them wrote while the other reads it would be cut short.
    write_prompts(tmp_path / "two")
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(run_stage, tmp_path / "two", service, rank=1, world=2, stop_after=3)
        run_stage(tmp_path / "two", service, rank=0, world=2, stop_after=3)
        second.result()
    assert output(tmp_path / "two") == output(tmp_path / "one")

    before = stats(service)["requests"]
    run_stage(tmp_path / "two", service, stop_after=3)
    assert stats(service)["requests"] == before
    assert output(tmp_path / "two") == output(tmp_path / "one")


def test_verdicts_are_given_while_others_are_drawn_and_change_nothing(
    service: str, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_verdicts = threading.Event()
    plain_draw = Service.draw

    def draw(self: Service, unit: Unit) -> list[Sample]:
        if unit.key == ("p3", 3):
            assert first_verdicts.wait(60), "the first verdicts wait for the last draw"
        return plain_draw(self, unit)

    def verify(candidates: list[Candidate]) -> list[Candidate]:
        first_verdicts.set()
        return [
            candidate if "=5" in candidate.response else candidate.drop("other") for candidate in candidates
        ]

    monkeypatch.setattr(Service, "draw", draw)
    settings = Sampling(**sampling(service, "slow", n=4, max_in_flight=4))
    verified = sample_and_verify(
        None, rows(4), settings, "chat", here=here, seed=0, source="sampled", verify=verify
    )
    samples = sample(None, rows(4), settings, "chat", here=here, seed=0, label="alone")
    assert [(candidate.response, candidate.reason) for of_row in verified for candidate in of_row] == [
        (drawn.text, "" if "=5" in drawn.text else "other") for of_row in samples for drawn in of_row
    ]


def test_cold_start_data_samples_from_a_teacher_too(service: str, tmp_path: Path) -> None:
    metrics = run_stage(
        tmp_path,
        service,
        kind="cold-start-data",
        stop_after=1,
        filters={"max_repetition": None},
        after={"max_repetition": None},
    )
    assert (
        metrics["kept"] >= 10
        and len(journal(tmp_path)) < 48
        and "pass_rates" in json.loads(output(tmp_path)["card.json"])
    )


def test_one_model_and_not_two(service: str, tmp_path: Path) -> None:
    from r1pipe.config.loader import load

    base = (
        "stages: {rejection-sampling: {inputs: {prompts: ./p.jsonl%s}, outputs: {chats: c}, sampling: {%s}}}"
    )
    endpoint = "backend: openai, endpoint: {base_url: 'http://x/v1', model: m}"
    (tmp_path / "p.jsonl").write_text(json.dumps(rows()[0]) + "\n")
    (tmp_path / "t.yaml").write_text(base % ("", endpoint))
    load(tmp_path / "t.yaml")
    for inputs, block, message in [
        ("", "n: 2", "no model to sample from"),
        (", model: embedded:base", endpoint, "two models"),
        (", model: embedded:base", "backend: openai", "go together"),
        (", model: embedded:base", "vllm: {seed: 1}", "would be ignored"),
        ("", endpoint.replace("m}", "m, budget_money: 3}"), "price_in"),
        ("", endpoint + "}, stop_after: 2, per_prompt: 3, x: {", "unknown key"),
    ]:
        (tmp_path / "t.yaml").write_text(base % (inputs, block))
        with pytest.raises(ConfigError, match=message):
            load(tmp_path / "t.yaml")
    with pytest.raises(ConfigError, match="no model"):
        load_generator(None, rows(), Sampling(), "chat", seed=0)


def test_how_a_service_is_called_is_not_in_the_fingerprint(tmp_path: Path) -> None:
    from r1pipe.config.registry import load_kind
    from r1pipe.run.fingerprints import NOT_FINGERPRINTED

    def dumped(kind: str, **endpoint: Any) -> dict[str, Any]:
        block = {"backend": "openai", "endpoint": {"base_url": "http://x/v1", "model": "m", **endpoint}}
        config = {"passes": [{"sampling": block}]} if kind == "evaluate" else {"sampling": block}
        return load_kind(kind).Config(**config).model_dump(mode="json", exclude=NOT_FINGERPRINTED)

    for kind in "rejection-sampling", "cold-start-data", "preference-data", "evaluate":
        assert dumped(kind) == dumped(kind, base_url="http://y/v1", budget_tokens=9, retries=1, price_in=2)
        assert dumped(kind) != dumped(kind, model="other") != dumped(kind, extra={"top_k": 5})


def test_vllm_that_is_not_there(tiny_checkpoint: Path) -> None:
    try:
        import vllm  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        with pytest.raises(MissingToolError, match="r1pipe.vllm"):
            load_generator(tiny_checkpoint, rows(), Sampling(backend="vllm"), "chat", seed=0)
    else:
        pytest.skip("vLLM is installed")
