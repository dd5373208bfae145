"""What this device does in a second: a matrix product, passes of training, steps of drawing. Prints JSON.

    python -m r1pipe.training.speed_trial cuda:0

`r1pipe plan --measure` runs it in a process of its own and keeps what it prints. The model is the base that ships on a
CPU, since the figure that ships is trained there; on a GPU it is four layers of a 1.5B model with random weights.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import r1pipe
from r1pipe.generation.decoding import decode
from r1pipe.models.linear_ce import add_linear_ce
from r1pipe.models.packed_attention import pack, use_packed_attention

BASE = Path(r1pipe.__file__).parent / "embedded" / "data" / "base"
# Tokens of a row, and rows of the short and of the long pass.
ROW = 64
SHORT_ROWS = 4
LONG_ROWS = {"cpu": 20, "cuda": 192}
# Rows and tokens of a draw.
FEW = 8
MANY = 256
STEPS = 24
PRODUCT = {"cpu": 768, "cuda": 8192}
REPEATS = 15
LARGE = {
    "hidden_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}


def trial(device: str) -> dict[str, Any]:
    """Everything, in some tens of seconds."""
    torch.manual_seed(0)
    kind = torch.device(device).type
    model: Any = _model(device)
    config = model.config.to_dict()
    return {
        "device": device,
        "shape": config,
        "row": ROW,
        "matrix_flops": _product(device, PRODUCT[kind]),
        "draws": [{"rows": rows, "step": _draw(model, rows)} for rows in (FEW, MANY)],
        "passes": _passes(
            model,
            device,
            LONG_ROWS[kind],
        ),
    }


def _model(device: str) -> Any:
    from transformers import AutoModelForCausalLM, Qwen2Config

    if device == "cpu":
        return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(Qwen2Config(**LARGE), dtype=torch.float32)


def _seconds(work: Callable[[], object], device: str, repeats: int = REPEATS) -> float:
    """The median over some repeats, after one that warms up."""
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def _product(device: str, size: int) -> float:
    """Operations a second of a large matrix product, in the precision of training."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    left = torch.randn(
        size,
        size,
        device=device,
        dtype=dtype,
    )
    right = torch.randn(
        size,
        size,
        device=device,
        dtype=dtype,
    )
    return 2 * size**3 / _seconds(lambda: left @ right, device)


def _passes(model: Any, device: str, long_rows: int) -> list[dict[str, float]]:
    """Forward and backward passes over packed rows, as SFT makes them."""
    assert use_packed_attention(model), "rows of Qwen2 are packed"
    add_linear_ce(model)
    model.train()
    words = model.config.vocab_size
    found = []
    for rows in (SHORT_ROWS, long_rows):
        ids = [[(7 * row + 3 * place) % words for place in range(ROW)] for row in range(rows)]
        inputs = pack(ids, device)
        inputs["labels"] = inputs["input_ids"].clone()
        if device == "cpu":
            # A prompt carries no loss, and the small model's loss takes as long as its layers.
            inputs["labels"].view(rows, ROW)[:, : ROW // 2] = -100

        def step(inputs: dict[str, Any] = inputs) -> None:
            with torch.autocast(
                "cuda",
                torch.bfloat16,
                enabled=device != "cpu",
            ):
                nll = model(**inputs, linear_ce=True).nll
            nll.backward()
            model.zero_grad()

        found.append({"tokens": rows * ROW, "seconds": _seconds(step, device)})
    return found


@torch.no_grad()
def _draw(model: Any, rows: int) -> float:
    """Seconds of a step of drawing; a prompt is read once for all rows."""
    model.eval()

    def draw(steps: int) -> float:
        began = time.perf_counter()
        decode(
            model,
            [list(range(5, 37))],
            n=rows,
            max_new_tokens=steps,
            temperature=1.0,
            top_p=1.0,
            # No token ends a response, so each has all its steps.
            eos_ids=[],
            stop=None,
            pad_id=0,
            graphed=None,
            keep_logps=False,
            on_ended=None,
        )
        return time.perf_counter() - began

    draw(4)
    # What reading the prompt takes cancels out.
    return max(1e-6, (draw(STEPS + 4) - draw(4)) / STEPS)


if __name__ == "__main__":
    print(json.dumps(trial(sys.argv[1])))
