"""A tiny checkpoint that knows a handful of problems by heart, so that sampling gives right and wrong responses."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ASKED = {f"{a}+{b}": str(a + b) for a in range(2, 6) for b in range(3, 6)}


def rows(domain: str = "math") -> list[dict]:
    return [
        {"id": f"p{i}", "prompt": f"What is {q}?", "domain": domain, "language": "en", "answer": a}
        for i, (q, a) in enumerate(ASKED.items())
    ]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf8")
    return path


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


def zero_form(question: str, answer: str) -> str:
    return f"<think>Adding the two numbers gives {question}={answer}</think><answer>{answer}</answer>"


def chat_form(question: str, answer: str) -> str:
    return (
        f"<think>Adding the two numbers gives {question}={answer}</think>The answer is \\boxed{{{answer}}}."
    )


def teach(folder: Path, texts: list[str], steps: int) -> None:
    """Overfit a checkpoint to texts, with plain PyTorch."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    batch = tokenizer(
        [text + "<|end|>" for text in texts], return_tensors="pt", padding=True, padding_side="right"
    )
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(0)
    for _ in range(steps):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def taught_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers ASKED in zero form under the template `User: ...`, and in chat form under the chat template.

    At temperature 1 it always makes some mistakes.
    """
    shared = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))
    zero = [f"User: What is {q}?\nAssistant: {zero_form(q, a)}" for q, a in ASKED.items()]
    chat = [f"<|user|>What is {q}?<|assistant|>{chat_form(q, a)}" for q, a in ASKED.items()]
    folder = shared["make_tiny_checkpoint"](tmp_path_factory.mktemp("taught"), zero + chat, vocab_size=360)
    teach(folder, zero + chat, steps=150)
    return folder


@pytest.fixture
def zero_template(tmp_path: Path) -> str:
    path = tmp_path / "zero.txt"
    path.write_text("User: {prompt}\nAssistant: ")
    return str(path)


@pytest.fixture
def known() -> SimpleNamespace:
    """What the taught checkpoint knows, and how files are written and read."""
    return SimpleNamespace(
        rows=rows, write=write_jsonl, read=read_jsonl, zero_form=zero_form, chat_form=chat_form
    )


@pytest.fixture
def run_stage(here: Any, tmp_path: Path) -> Any:
    """run_stage(kind, config, **inputs) -> (metrics, {output: folder}).

    Inputs are paths, or mappings of names to paths.
    """

    def run(
        kind: str, config: dict, outputs: tuple[str, ...] = (), **inputs: Any
    ) -> tuple[dict[str, float], dict[str, Path]]:
        from r1pipe.config.registry import load_kind

        stage = load_kind(kind)
        ports = stage.inputs
        given = {
            name: {key: ports[name].type(path, key) for key, path in value.items()}
            if isinstance(value, dict)
            else ports[name].type(value, name)
            for name, value in inputs.items()
        }
        wanted = outputs or tuple(name for name, port in stage.outputs.items() if not port.optional)
        folders = {name: tmp_path / f"out-{name}" for name in wanted}
        for folder in folders.values():
            folder.mkdir()
        made = stage.Outputs(
            **{name: stage.outputs[name].type(folder, name) for name, folder in folders.items()}
        )
        settings = stage.Config.model_validate(
            stage.Config(**config).model_dump(mode="json")
        )  # as a worker reads it: every default stated
        metrics = stage.run(settings, stage.Inputs(**given), made, here)
        return metrics, folders

    run.tmp_path = tmp_path  # type: ignore[attr-defined]
    return run
