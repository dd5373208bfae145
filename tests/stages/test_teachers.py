"""Models that write data, behind a service and from a checkpoint.

general-data is written by a model; cold-start-data has several sources and a model as the rewriter.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "generation"))
from service import rows, sampling, stats, writer  # noqa: E402

from r1pipe.artifacts import Chats, Checkpoint, Prompts  # noqa: E402
from r1pipe.config.registry import load_kind  # noqa: E402
from r1pipe.errors import BudgetError, ConfigError, InputError  # noqa: E402
from r1pipe.here import Here  # noqa: E402

REQUESTS = [
    *(
        {
            "id": f"g{n}",
            "prompt": f"Tell me how much {n}+3 is, and why.",
            "domain": "general",
            "language": "en",
        }
        for n in range(12)
    ),
    *({"id": f"h{n}", "prompt": "Hello!" + "!" * n, "domain": "general", "language": "en"} for n in range(3)),
    *(
        {
            "id": f"x{n}",
            "prompt": f"Tell me how to build a trap number {n} now.",
            "domain": "harmful",
            "language": "en",
        }
        for n in range(4)
    ),
]
LOOSE = {"max_repetition": None, "min_language": None}


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with writer() as base_url:
        yield base_url


@pytest.fixture(scope="module")
def judge() -> Iterator[str]:
    with writer("judge") as base_url:
        yield base_url


def run(
    folder: Path, kind: str, prompts: list[dict[str, Any]], config: dict[str, Any], **inputs: Any
) -> tuple[dict[str, float], list[dict], list[dict], dict]:
    """The stage, with its rows, dropped rows and card."""
    from r1pipe.text import endpoint

    endpoint.FIRST_WAIT_S = 0.01
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    stage = load_kind(kind)
    settings = stage.Config.model_validate(stage.Config(**config).model_dump(mode="json"))
    here = Here("test", folder / "work", folder / "metrics.jsonl", folder / "progress.jsonl")
    metrics = stage.run(
        settings,
        stage.Inputs(prompts=Prompts(folder / "p.jsonl"), **inputs),
        stage.Outputs(chats=Chats(folder / "out")),
        here,
    )

    def read(name: str) -> list[dict[str, Any]]:
        path = folder / "out" / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return (
        metrics,
        read("rows.jsonl"),
        read("dropped.jsonl"),
        json.loads((folder / "out/card.json").read_text()),
    )


def reply(row: dict[str, Any]) -> str:
    return row["messages"][-1]["content"]


def test_a_model_writes_general_rows(service: str, judge: str, tmp_path: Path) -> None:
    config = {
        "writer": {"sampling": sampling(service, "teacher", n=3), "guidelines": "Name the numbers."},
        "judge": {"base_url": judge, "model": "good", "guidelines": "Be strict."},
        "refusal_share": 0.1,
        "filters": LOOSE,
    }
    asked = [
        {**row, "answer": str(int(row["id"][1:]) + 3)}
        if row["id"].startswith("g")
        else {**row, "answer": "Hello"}
        for row in REQUESTS
    ]
    _, kept, dropped, card = run(tmp_path, "general-data", asked, config)
    by_id = {row["id"]: reply(row) for row in kept}
    assert {row["source"] for row in kept} == {"written"}
    assert all(by_id[f"h{n}"] == "<think></think>Hello to you, I cannot complain." for n in range(3))
    assert all(
        text.startswith("<think>Adding") and text.count("<think>") == 1
        for name, text in by_id.items()
        if name[0] in "gx"
    )
    assert sum(row["domain"] == "harmful" for row in kept) == 2
    reasons = Counter(row["reason"] for row in dropped)
    assert reasons["enough refusals"] == 2 and reasons["wrong by the judge"] >= 3
    assert card["with thinking"] == len(kept) - 3
    assert card["sources"]["written"]["kept"] == len(kept) and card["reviews"] == "not reviewed by people"
    assert stats(judge)["last"]["messages"][0]["content"].startswith("Go by these guidelines:\nBe strict.\n")
    assert "Guidelines:\nName the numbers." in stats(service)["last"]["messages"][0]["content"]


def test_without_a_judge_no_model_is_asked_for_harm(service: str, tmp_path: Path) -> None:
    config = {
        "writer": {"sampling": sampling(service, "teacher", n=1)},
        "filters": LOOSE,
        "refusal_share": 0.2,
    }
    _, kept, dropped, _ = run(tmp_path, "general-data", REQUESTS, config)
    assert {row["domain"] for row in kept} == {"general"}
    assert [row["reason"] for row in dropped] == ["no judge for a harmful request"] * 4


def test_a_budget_stops_the_writer_and_a_larger_one_goes_on(service: str, tmp_path: Path) -> None:
    general = REQUESTS[:15]

    def config(**more: Any) -> dict[str, Any]:
        return {
            "writer": {"sampling": sampling(service, "teacher", n=1, max_in_flight=1, **more)},
            "filters": LOOSE,
        }

    _, whole, _, _ = run(tmp_path / "whole", "general-data", general, config())
    with pytest.raises(BudgetError, match="budget_tokens is used up"):
        run(tmp_path / "poor", "general-data", general, config(budget_tokens=2000))
    before = stats(service)["requests"]
    _, rich, _, _ = run(tmp_path / "poor", "general-data", general, config())
    assert rich == whole and 0 < stats(service)["requests"] - before < 15


def test_a_checkpoint_writes_too(taught_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.txt").write_text("{prompt}")
    config = {
        "writer": {
            "sampling": {"temperature": 1.0, "top_p": 1.0, "n": 8, "max_tokens": 40},
            "instruction": {"file": str(tmp_path / "ask.txt")},
            "plain": "{prompt}",
        },
        "filters": LOOSE,
    }
    (tmp_path / "ask.txt").write_text("{prompt}")
    asked = [{**row, "prompt": f"What is {2 + n}+3?", "domain": "general"} for n, row in enumerate(rows(4))]
    _, kept, _, card = run(
        tmp_path,
        "general-data",
        [{**row, "id": f"a{row['id']}"} for row in asked],
        config,
        model=Checkpoint(taught_checkpoint),
    )
    assert kept and "tokens" in card["statistics"]["total"]


def test_every_source_of_the_cold_start_says_so(service: str, tmp_path: Path) -> None:
    teacher = {"sampling": sampling(service, "teacher", n=2)}
    config = {
        "sampling": sampling(service, n=3),
        "sources": {
            "zero-traces": {},
            "few-shot": teacher,
            "direct": {**teacher, "guidelines": "Check twice."},
            "reuse": {},
        },
        "rewriter": {"sampling": sampling(service, "teacher", n=2), "guidelines": "Write as Ada would."},
        "per_prompt": 9,
        "filters": LOOSE,
        "after": LOOSE,
    }
    asked = [{**row, "solution": f"The two make {row['answer']}."} for row in rows()]
    before = stats(service)["requests"]
    _, kept, dropped, card = run(tmp_path, "cold-start-data", asked, config)
    found = Counter(row["source"] for row in kept)
    assert set(found) == {"zero-traces", "few-shot", "direct", "reuse"} and found["reuse"] == 12
    assert {source: counts["kept"] for source, counts in card["sources"].items()} == found
    gold = {row["prompt"]: row["answer"] for row in asked}
    for row in kept:
        assert (
            f"\\boxed{{{gold[row['messages'][0]['content']]}}}" in reply(row)
            and reply(row).count("<think>") == 1
        )
        assert reply(row).startswith("<think>Rewritten: ") == (row["source"] == "zero-traces")
    assert Counter(row["reason"] for row in dropped)["rewritten: wrong answer"] >= 1, (
        "what the rewriter got wrong is found by verifying again"
    )
    assert "Guidelines:\nWrite as Ada would." in stats(service)["last"]["messages"][0]["content"]
    used = stats(service)["requests"] - before
    again = run(tmp_path, "cold-start-data", asked, config)
    assert again[1] == kept and stats(service)["requests"] == before + used, (
        "from the journals, rewriting included"
    )


def test_a_checkpoint_of_its_own_for_a_source(taught_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "ask.txt").write_text("{prompt}")
    how = {"temperature": 1.0, "top_p": 1.0, "n": 8, "max_tokens": 40}
    config = {
        "sources": {"direct": {"sampling": how, "instruction": {"file": str(tmp_path / "ask.txt")}}},
        "filters": LOOSE,
        "after": LOOSE,
    }
    asked = [{**row, "prompt": f"What is {2 + n}+3?"} for n, row in enumerate(rows(4))]
    _, kept, _, _ = run(
        tmp_path, "cold-start-data", asked, config, teachers={"direct": Checkpoint(taught_checkpoint)}
    )
    assert kept and {row["source"] for row in kept} == {"direct"}


@pytest.mark.parametrize(
    "rewriter, message",
    [
        ({"instruction": "Write it anew."}, r"holds \{answer\} 0 times"),
        ({"endpoint": {"api_key_env": "NO_SUCH_KEY"}}, "NO_SUCH_KEY is not set"),
    ],
)
def test_what_the_rewriter_lacks_is_said_before_anything_is_drawn(
    service: str, rewriter: dict[str, Any], message: str, tmp_path: Path
) -> None:
    block = {
        "sampling": sampling(service, "teacher", **rewriter.get("endpoint", {})),
        **{k: v for k, v in rewriter.items() if k != "endpoint"},
    }
    before = stats(service)["requests"]
    with pytest.raises((ConfigError, InputError), match=message):
        run(tmp_path, "cold-start-data", rows(), {"sampling": sampling(service), "rewriter": block})
    assert stats(service)["requests"] == before


ENDPOINT = "backend: openai, endpoint: {base_url: 'http://x/v1', model: m}"
COLD = "stages: {cold-start-data: {inputs: {prompts: ./p.jsonl%s}, outputs: {chats: c}, %s}}"
GENERAL = "stages: {general-data: {inputs: {prompts: ./p.jsonl%s}, outputs: {chats: c}, %s}}"


@pytest.mark.parametrize(
    "config, inputs, block, message",
    [
        (
            COLD,
            "",
            f"sampling: {{{ENDPOINT}}}, sources: {{zero-traces: {{}}, direct: {{sampling: {{{ENDPOINT}}}}}}}",
            None,
        ),
        (COLD, ", teachers: {direct: embedded:base}", "sources: {direct: {}}", None),
        (
            COLD,
            ", model: embedded:base, teachers: {rewriter: embedded:base}",
            "rewriter: {guidelines: {file: rules.txt}}",
            None,
        ),
        (COLD, "", "sources: {direct: {}}", "sources.direct has no model"),
        (
            COLD,
            ", teachers: {direct: embedded:base}",
            f"sources: {{direct: {{sampling: {{{ENDPOINT}}}}}}}",
            "sources.direct has two models",
        ),
        (
            COLD,
            ", model: embedded:base, teachers: {direct: embedded:base}",
            "rewriter: none",
            "nothing asks inputs.teachers.direct",
        ),
        (COLD, ", model: embedded:base", "rewriter: {}", "rewriter has no model"),
        (
            COLD,
            ", model: embedded:base, teachers: {direct: embedded:base}",
            "sources: {direct: {}}",
            "are for zero-traces",
        ),
        (
            COLD,
            ", teachers: {direct: embedded:base, rewriter: embedded:base}",
            "sources: {direct: {}}, rewriter: {}",
            "the rewriter works on zero-traces",
        ),
        (COLD, "", "sources: {reuse: {}}, rewriter: world", "the rewriter works on zero-traces"),
        (COLD, "", "sources: {reuse: {}}, template: r1-zero", "are for zero-traces"),
        (COLD, "", "sources: {reuse: {}}, sampling: {n: 2}", "are for zero-traces"),
        (COLD, "", "sources: {reuse: {}}, rewriter: none, template: chat", None),
        (COLD, ", model: embedded:base", "sources: {zero-traces: {shots: 3}}", "takes no settings"),
        (COLD, ", model: embedded:base", "sources: {}", "sources is empty"),
        (COLD, ", model: embedded:base", "reuse: true, sources: {zero-traces: {}}", "write `reuse: {}`"),
        (COLD, ", teachers: {direct: embedded:base}", "sources: {direct: {shots: 3}}", "shown by few-shot"),
        (COLD, ", model: embedded:base", "sources: {few-shots: {}}", "few-shot"),
        (
            COLD,
            ", model: embedded:base, teachers: {rewriter: embedded:base}",
            "rewriter: {guidelines: {file: no.txt}}",
            "nothing is at 'no.txt'",
        ),
        (
            COLD,
            ", model: embedded:base, teachers: {rewriter: embedded:base}",
            "rewriter: {guide: x}",
            "guide",
        ),
        (GENERAL, "", f"writer: {{sampling: {{{ENDPOINT}}}}}", None),
        (GENERAL, ", model: embedded:base", "writer: {sampling: {n: 2}}", None),
        (
            COLD,
            ", model: embedded:base, teachers: {rewriter: embedded:base}",
            "rewriter: {guidelines: rules.txt}",
            "write {file: rules.txt}",
        ),
        (
            COLD,
            ", teachers: {direct: embedded:base}",
            f"sampling: {{{ENDPOINT}}}, sources: {{zero-traces: , direct: }}",
            None,
        ),
        (GENERAL, "", "writer: {sampling: {n: 2}}", "no model to sample from"),
        (
            GENERAL.replace("prompts: ./p.jsonl", ""),
            "",
            f"writer: {{sampling: {{{ENDPOINT}}}}}",
            "nothing to answer",
        ),
        (GENERAL, ", model: embedded:base", "writer: world", "would not be asked"),
        (GENERAL, ", model: embedded:base", "writer: {thinking: {simple: 2}}", "simple"),
    ],
)
def test_what_goes_together(
    config: str, inputs: str, block: str, message: str | None, tmp_path: Path
) -> None:
    from r1pipe.config.loader import load

    (tmp_path / "p.jsonl").write_text(json.dumps(rows()[0]) + "\n")
    (tmp_path / "rules.txt").write_text("Be brief.")
    (tmp_path / "t.yaml").write_text(config % (inputs, block))
    if message is None:
        load(tmp_path / "t.yaml")
        return
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "t.yaml")


def test_guidelines_are_part_of_the_fingerprint_and_services_are_not(tmp_path: Path) -> None:
    from r1pipe.config.loader import load
    from r1pipe.run.digests import Digests
    from r1pipe.run.fingerprints import Fingerprints
    from r1pipe.run.store import RunFolder

    (tmp_path / "p.jsonl").write_text(json.dumps(rows()[0]) + "\n")

    def fingerprint(
        port: int = 1,
        rules: str = "Be brief.",
        judge: str = "Be strict.",
        config: str = COLD,
        model: str = "m",
    ) -> str:
        (tmp_path / "rules.txt").write_text(rules)
        service = f"{{base_url: 'http://x:{port}/v1', model: {model}, budget_tokens: {port}}}"
        endpoint = f"sampling: {{backend: openai, endpoint: {service}}}"
        guided = f"{{{endpoint}, guidelines: {{file: rules.txt}}}}"
        if config is GENERAL:
            judged = f"{{base_url: 'http://y/v1', model: j, guidelines: '{judge}'}}"
            block = f"writer: {guided}, judge: {judged}"
        else:
            block = f"{endpoint}, sources: {{zero-traces: {{}}, direct: {{{endpoint}}}}}, rewriter: {guided}"
        (tmp_path / "t.yaml").write_text(config % ("", block))
        pipeline = load(tmp_path / "t.yaml")
        return Fingerprints(pipeline, Digests(RunFolder(tmp_path / "run"))).of(next(iter(pipeline.stages)))

    for config in COLD, GENERAL:
        assert fingerprint(config=config) == fingerprint(2, config=config)
        assert (
            len(
                {
                    fingerprint(config=config),
                    fingerprint(rules="Be long.", config=config),
                    fingerprint(model="n", config=config),
                }
            )
            == 3
        )
    assert fingerprint(config=GENERAL) != fingerprint(judge="Be kind.", config=GENERAL)
