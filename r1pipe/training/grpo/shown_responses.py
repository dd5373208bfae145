"""Some responses of a rollout now and then, for people: a curve of rewards does not say what a policy has learned."""

from __future__ import annotations

from typing import Any

from r1pipe.here import Here
from r1pipe.schema import GRPOParams
from r1pipe.training.grpo.prompt_order import updates_per_rollout
from r1pipe.training.grpo.rollout import Rollout

# Prompts of which the first response is shown (our choice).
SHOWN_PROMPTS = 4


def show_some(
    rollout: Rollout, rows: list[dict[str, Any]], params: GRPOParams, here: Here, step: int
) -> None:
    """Write the first response to each of some prompts into responses.jsonl, if they are due.

    They are due where one of the rollout's updates is a multiple of `responses_every`. So an attempt that goes on shows
    the same ones.

    Args:
        rollout: judged.
        rows: what an example's `row` is the index of.
        step: updates made before this rollout.
    """
    every = params.responses_every
    if every is None or -step % every >= updates_per_rollout(params):
        return
    assert rollout.judged is not None
    scores = rollout.judged.scores
    texts = rollout.texts
    shown = []
    for place in range(0, len(texts), params.num_generations)[:SHOWN_PROMPTS]:
        rewards = {}
        # A reward that does not apply to a row says nothing of its response.
        for name, values in scores.components.items():
            if scores.applied[name][place]:
                rewards[name] = values[place]
        row = rows[rollout.examples[place]["row"]]
        shown.append(
            {
                "prompt": row["prompt"],
                "response": texts[place],
                "reward": scores.totals[place],
                "rewards": rewards,
            }
        )
    here.show(step, shown)
