"""Some training steps of the student that ships on one device, to see that they work and how fast they are.

python -m r1pipe.models.trial_step cuda:0
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

import r1pipe
from r1pipe.models.loading import load_model

STUDENT = Path(r1pipe.__file__).parent / "embedded" / "data" / "student"
ROWS, TOKENS = 16, 256
SECONDS = 5.0
WARM_UP = 2


def trial(device: str) -> str:
    """Updates with AdamW for some seconds, in words.

    Raises:
        RuntimeError: a step fails, or a loss is not finite.
    """
    # Made-up tokens: what is tried is the machine, not the model.
    torch.manual_seed(0)
    model: Any = load_model(STUDENT, training=True)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids_BT = torch.randint(0, model.config.vocab_size, (ROWS, TOKENS), device=device)
    steps = 0
    began = 0.0
    while steps < WARM_UP or time.perf_counter() - began < SECONDS:
        loss = model(input_ids=ids_BT, labels=ids_BT).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        # reading it waits for the device
        if not loss.isfinite().item():
            raise RuntimeError("the loss of a training step is not finite")
        steps += 1
        # The first steps allocate memory and choose kernels.
        if steps == WARM_UP:
            began = time.perf_counter()
    speed = (steps - WARM_UP) * ROWS * TOKENS / (time.perf_counter() - began)
    return f"{steps} training steps work, {speed:,.0f} tokens a second of a small model"


if __name__ == "__main__":
    print(trial(sys.argv[1]))
