"""rejection-sampling from a real server, `transformers serve` with the shipped base, and from the same checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from real_server import BASE, DRAWN, server

__all__ = ["server"]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("template", ["chat", "file"])
def test_the_same_stage_from_a_server_and_in_this_process(server: str, template: str, tmp_path: Path) -> None:
    from r1pipe.artifacts import Chats, Checkpoint, Prompts
    from r1pipe.config.registry import load_kind
    from r1pipe.embedded.world import problems
    from r1pipe.here import Here
    from r1pipe.text.rendering import TEMPLATES

    stage = load_kind("rejection-sampling")
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in problems("train", ("math",), 24, 0, ("en",)))
    )

    def run(name: str, model: Path | None, **back_end: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
        for folder in ("work", "out"):
            (tmp_path / name / folder).mkdir(parents=True)
        here = Here("test", tmp_path / name / "work", tmp_path / "metrics.jsonl", tmp_path / "progress.jsonl")
        config = {
            "sampling": {"temperature": 1.0, "top_p": 1.0, "n": 4, "max_tokens": 80, **back_end},
            "template": "chat" if template == "chat" else str(TEMPLATES / "embedded-zero.txt"),
            "filters": {"form": "auto", "min_language": None},
        }
        inputs = stage.Inputs(
            model=Checkpoint(model) if model else None, prompts=Prompts(tmp_path / "p.jsonl")
        )
        metrics = stage.run(
            stage.Config(**config), inputs, stage.Outputs(chats=Chats(tmp_path / name / "out")), here
        )
        return metrics, [
            json.loads(line) for line in (tmp_path / name / "out" / "rows.jsonl").read_text().splitlines()
        ]

    ours, _ = run("here", BASE)
    endpoint = {"base_url": server, "model": str(BASE), "max_in_flight": 2, "extra": DRAWN}
    # This server knows no other fields than OpenAI's.
    with pytest.warns(UserWarning, match="refuses top_k, min_p, repetition_penalty .status 422"):
        served, rows = run("there", None, backend="openai", endpoint=endpoint)
    assert served["candidates"] == ours["candidates"] == 96 and rows
    assert abs(served["pass_rate"] - ours["pass_rate"]) < 0.25, (
        "another stream of random numbers, the same model"
    )
    texts = [
        row["messages"][-1]["content"].removesuffix("<|end|>") for row in rows
    ]  # transformers 5.23 leaves the end token where it takes thinking apart
    assert all(text.startswith("<think>") and "</think>" in text and "<|" not in text for text in texts)
