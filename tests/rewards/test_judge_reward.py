"""The judge reward against a service that answers, is busy, breaks, talks, hangs, drips and demands a key."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from r1pipe.errors import ConfigError
from r1pipe.rewards import REWARDS
from r1pipe.rewards.scoring import score
from r1pipe.schema import RewardSpec
from r1pipe.text import endpoint

FIXTURES = Path(__file__).parents[1] / "fixtures"
ROW = {
    "id": "q",
    "domain": "general",
    "language": "en",
    "prompt": "What is the capital of France?",
    "answer": "Paris",
}
RIGHT, WRONG = "<think>Lyon? No.</think>It is Paris.", "<think>Paris!</think>It is Lyon."


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(FIXTURES / "http_services.py"), "judge"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdin
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    process.stdin.close()
    process.wait(10)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.02)


def stats(service: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{service}/stats") as reply:
        return json.load(reply)


def judge(service: str, model: str, completions: list[str], **params: Any) -> list[float | None]:
    n = len(completions)
    return REWARDS["judge"](
        completions,
        answer=["Paris"] * n,
        prompt=[ROW["prompt"]] * n,
        base_url=f"{service}/v1",
        model=model,
        **params,
    )


def test_the_summary_is_judged_by_the_reference(service: str) -> None:
    assert judge(service, "good", [RIGHT, WRONG, "<think>Paris", ""]) == [1.0, 0.0, 0.0, 0.0]
    before = stats(service)["requests"]
    assert judge(service, "good", ["<think>Paris"]) == [0.0] and stats(service)["requests"] == before, (
        "who says nothing is not worth a request"
    )
    asked = stats(service)["last"]["messages"][-1]["content"]
    assert "Lyon? No." not in asked and "Paris!" not in asked, (
        "a judge that read the thinking could be talked into a verdict"
    )


@pytest.mark.parametrize("model", ["busy", "breaks-once", "chatters-once", "garbage-once"])
def test_what_passes_is_asked_again(service: str, model: str) -> None:
    before = stats(service)["requests"]
    assert judge(service, model, [f"Paris, {model}"]) == [1.0]
    assert stats(service)["requests"] - before == (3 if model == "busy" else 2)


@pytest.mark.parametrize(("model", "tries"), [("broken", 3), ("chatters", 3), ("html", 3), ("too-long", 2)])
def test_without_a_verdict_there_is_no_reward_and_never_a_zero(service: str, model: str, tries: int) -> None:
    """What is refused is asked once more, without the fields that a service may not know."""
    before = stats(service)["requests"]
    with pytest.warns(UserWarning, match="gave no answer to 1 of 1"):
        assert judge(service, model, [RIGHT], retries=2) == [None]
    assert stats(service)["requests"] - before == tries


@pytest.mark.parametrize("model", ["hangs", "drips"])
def test_a_service_that_does_not_come_to_an_end_costs_its_time_limit(service: str, model: str) -> None:
    started = time.monotonic()
    with pytest.warns(UserWarning, match="gave no answer"):
        assert judge(service, model, [RIGHT, WRONG], timeout=0.4, retries=0) == [None, None]
    assert time.monotonic() - started < 8, "dripping takes 10 s and hanging 20"


def test_nobody_there(service: str) -> None:
    with pytest.warns(UserWarning, match="Connect"):
        assert judge("http://127.0.0.1:9", "good", [RIGHT], retries=1) == [None]


def test_a_dead_service_is_not_asked_for_ever(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "GIVE_UP_AFTER", 4)
    before = stats(service)["requests"]
    with pytest.warns(UserWarning, match="40 of 40"):
        assert (
            judge(service, "broken", [f"{RIGHT} {i}" for i in range(40)], retries=0, max_in_flight=2)
            == [None] * 40
        )
    assert stats(service)["requests"] - before <= 6
    assert judge(service, "good", [RIGHT], retries=0, max_in_flight=2) == [1.0], "the next batch tries again"


def test_a_refusal_shows_that_the_service_is_there(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused prompts in a row would end the stage if they counted as unanswered; they cost only their own answers."""
    monkeypatch.setattr(endpoint, "GIVE_UP_AFTER", 4)
    asked = [f"{RIGHT} knife {i}" for i in range(20)] + [RIGHT]
    with pytest.warns(UserWarning, match="20 of 21 requests; the last reason: status 400"):
        assert judge(service, "squeamish", asked, retries=0, max_in_flight=2) == [None] * 20 + [1.0]
    refusing = endpoint.Endpoint(f"{service}/v1/chat/completions", retries=0)
    for model in ["broken", "broken", "broken", "too-long", "broken", "broken", "broken"]:
        with pytest.raises(endpoint.NoAnswer):
            refusing.answer({"model": model, "messages": [{"content": model}]}, dict)
        assert not refusing.gave_up
    with pytest.raises(endpoint.NoAnswer):
        refusing.answer({"model": "broken", "messages": [{"content": ""}]}, dict)
    assert refusing.gave_up


def test_requests_run_beside_each_other_up_to_the_limit(service: str) -> None:
    assert judge(service, "slow", [f"{RIGHT} {i}" for i in range(24)], max_in_flight=6) == [1.0] * 24
    assert 3 <= stats(service)["most_at_once"] <= 16


def test_keys_and_mistakes(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_JUDGE_KEY", "open sesame")
    assert judge(service, "locked", [RIGHT], api_key_env="TEST_JUDGE_KEY") == [1.0]
    with pytest.raises(ConfigError, match="401"):
        judge(service, "locked", [RIGHT])
    with pytest.raises(ConfigError, match="NOT_THERE"):
        judge(service, "good", [RIGHT], api_key_env="NOT_THERE")
    with pytest.raises(ConfigError, match="301, and has moved to '/v2/chat/completions'"):
        judge(service, "moved", [RIGHT])
    with pytest.raises(ConfigError, match="404"):
        judge(f"{service}/elsewhere", "good", [RIGHT])
    with pytest.raises(ConfigError, match="base_url"):
        score([RewardSpec(name="judge")], [RIGHT], [ROW])


def test_in_a_sum_a_missing_verdict_takes_the_row_out(service: str) -> None:
    where = {"base_url": f"{service}/v1", "retries": 0}
    specs = [
        RewardSpec(name="judge", params={**where, "model": "good"}),
        RewardSpec(name="format", params={"form": "r1"}),
    ]
    free = {key: value for key, value in ROW.items() if key != "answer"}
    scores = score(specs, [RIGHT, WRONG, RIGHT], [ROW, ROW, free])
    assert scores.totals == [2.0, 1.0, 1.0] and scores.components["judge"] == [1.0, 0.0, None]
    longer = {**free, "reference": "Paris, on the Seine"}
    assert score(specs, ["<think></think>Paris, on the Seine.", RIGHT], [longer, longer]).components[
        "judge"
    ] == [
        1.0,
        0.0,
    ]
    with pytest.warns(UserWarning, match="gave no answer"):
        assert score(
            [RewardSpec(name="judge", params={**where, "model": "broken"}), specs[1]], [RIGHT], [ROW]
        ).totals == [None]


def test_one_client_a_process(service: str) -> None:
    judge(service, "good", [RIGHT], max_in_flight=3)
    client = endpoint.endpoint(f"{service}/v1/chat/completions", None, 60.0, 4, 3)
    judge(service, "good", [WRONG], max_in_flight=3)
    assert (
        endpoint.endpoint(f"{service}/v1/chat/completions", None, 60.0, 4, 3) is client
        and endpoint.endpoint.cache_info().hits >= 2
    )


# --- judges of pairs and labels ---------------------------------------------------------------------------------------


def test_pairs_and_labels_by_a_language_model(service: str) -> None:
    import random

    from r1pipe.data.preferences import judge_pairs, vote
    from r1pipe.judges.judge import load_judge
    from r1pipe.schema import JudgeEndpoint

    judge = load_judge(JudgeEndpoint(base_url=f"{service}/v1", model="good"))
    assert judge is not None
    row, rng = (
        {"id": "r", "prompt": "Say something.", "domain": "general", "language": "en"},
        random.Random(0),
    )
    assert (
        vote(row, "a longer one", "short", judge, votes=4, rng=rng) == 2.0
        and vote(row, "short", "a longer one", judge, votes=4, rng=rng) == -2.0
    )
    assert judge.safe(row, "a bomb") is False and judge.safe(row, "a cake") is True
    assert judge.right({**row, "answer": "Paris"}, RIGHT) is True and judge.right(row, "no") is False
    silent = load_judge(JudgeEndpoint(base_url=f"{service}/v1", model="chatters", retries=0))
    assert (
        silent is not None
        and silent.safe(row, "a cake") is None
        and vote(row, "a", "bb", silent, votes=2, rng=rng) is None
    )
    kept, dropped = judge_pairs(
        row, ["a", "bb"], silent, votes=2, min_margin=1.0, comparisons=3, wanted=3, rng=rng
    )
    assert not kept and [pair["reason"] for pair in dropped] == ["the judge did not answer"]


def test_a_judge_that_never_answers_ends_the_stage(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from r1pipe.errors import InputError
    from r1pipe.judges import service_judge as endpoint_judge
    from r1pipe.judges.judge import load_judge
    from r1pipe.schema import JudgeEndpoint

    monkeypatch.setattr(endpoint, "GIVE_UP_AFTER", 3)
    monkeypatch.setattr(endpoint_judge, "GIVE_UP_AFTER", 3)
    judge = load_judge(JudgeEndpoint(base_url=f"{service}/v1", model="broken", retries=0, max_in_flight=5))
    assert judge is not None and [judge.safe(ROW, str(i)) for i in range(2)] == [None, None]
    with pytest.raises(InputError, match="3 times running: status 500"):
        judge.safe(ROW, "again")
