"""Mappings whose order decides something: another order is another config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine import config, r1pipe, states

from r1pipe.config.loader import Stage, load
from r1pipe.run.digests import Digests
from r1pipe.run.fingerprints import Fingerprints
from r1pipe.run.states import differences
from r1pipe.run.store import RunFolder

MIX = "stages: {mix: {inputs: {chats: %s}, outputs: {chats: mixed}}}"
TEACHER = "{sampling: {backend: openai, endpoint: {base_url: 'http://x/v1', model: m}}}"
COLD_INPUTS = "inputs: {prompts: ./a.jsonl, model: embedded:base}"
COLD = f"stages: {{cold-start-data: {{{COLD_INPUTS}, outputs: {{chats: c}}, sources: %s}}}}"
PROMPTS = "stages: {prompts: {source: [{path: a.jsonl, %s}], outputs: {prompts: p}}}"


def recorded(folder: Path, text: str) -> tuple[Stage, dict[str, Any], str]:
    """The first stage of a config, what would be recorded of it, and its fingerprint."""
    pipeline = load(config(folder, text))
    (name, stage), *_ = pipeline.stages.items()
    fingerprints = Fingerprints(pipeline, Digests(RunFolder("t", folder)))
    return stage, json.loads(json.dumps(fingerprints.material(name))), fingerprints.of(name)


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    for name in "ab":
        rows = [
            {
                "id": f"x{n}",
                "domain": name,
                "prompt": f"{name}{n}",
                "messages": [
                    {"role": "user", "content": "?"},
                    {"role": "assistant", "content": f"{name}{n}"},
                ],
            }
            for n in range(3)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "one", "other", "says"),
    [
        (
            MIX,
            "{a: ./a.jsonl, b: ./b.jsonl}",
            "{b: ./b.jsonl, a: ./a.jsonl}",
            ["inputs.chats: order a, b -> b, a"],
        ),
        (
            COLD,
            f"{{zero-traces: , direct: {TEACHER}}}",
            f"{{direct: {TEACHER}, zero-traces: }}",
            ["sources: order zero-traces, direct -> direct, zero-traces"],
        ),
        (
            PROMPTS,
            "shares: {dev: 0.1, heldout: 0.2}",
            "shares: {heldout: 0.2, dev: 0.1}",
            ["source.0.shares: order dev, heldout -> heldout, dev"],
        ),
        (PROMPTS, "columns: {prompt: q, answer: a}", "columns: {answer: a, prompt: q}", []),
    ],
)
def test_what_another_order_changes(chats: Path, text: str, one: str, other: str, says: list[str]) -> None:
    stage, before, fingerprint = recorded(chats, text % one)
    assert recorded(chats, text % one)[2] == fingerprint
    _, after, moved = recorded(chats, text % other)
    assert differences(before, after, stage, {}) == says and (moved != fingerprint) == bool(says)


def test_a_mix_in_another_order_is_stale(chats: Path) -> None:
    config(chats, MIX % "{a: ./a.jsonl, b: ./b.jsonl}")
    done = r1pipe(chats, "run-all", "t.yaml")
    assert done.returncode == 0, done.stderr
    assert states(chats) == {"mix": "done"}
    config(chats, MIX % "{b: ./b.jsonl, a: ./a.jsonl}")
    assert states(chats) == {"mix": "stale"}
    refused = r1pipe(chats, "run-all", "t.yaml")
    assert refused.returncode == 2 and "inputs.chats: order a, b -> b, a" in refused.stderr
    (
        chats / "runs/t/mix/manifest.json"
    ).unlink()  # as if it had been killed: going on would read rows of one input as those of the other
    assert states(chats) == {"mix": "stale"}
    assert r1pipe(chats, "run-all", "t.yaml", "--rebuild", "mix").returncode == 0
    assert states(chats) == {"mix": "done"}
