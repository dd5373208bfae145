"""What stages call: `sample` for responses, `sample_and_verify` for candidates that are verified meanwhile."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from r1pipe.data.candidates import Candidate
from r1pipe.generation.backends import load_generator
from r1pipe.generation.contract import Sample
from r1pipe.generation.sampling_loop import SamplingLoop, Verifier
from r1pipe.here import Here
from r1pipe.schema import Engine, Sampling


def sample(
    checkpoint: Path | None,
    rows: list[dict[str, Any]],
    sampling: Sampling,
    template: str,
    *,
    here: Here,
    seed: int,
    label: str = "samples",
) -> list[list[Sample]]:
    """Draw `sampling.n` responses to every row.

    Args:
        checkpoint: the model of hf and vllm; None for a service.
        rows: prompts, each with an `id` and a `prompt`.
        sampling: the config's block.
        template: `chat` or the path of a template file.
        here: where the stage runs; samples are kept in its workdir.
        seed: the run's.
        label: the files' name in workdir; a stage that samples twice uses two.

    Returns:
        The responses in the rows' order. Ranks other than 0 draw their share and return nothing.

    Raises:
        BudgetError: a service's budget is used up.
        StageError: a service did not answer. What was drawn stays in workdir.
    """
    if not rows:
        return []

    generator = load_generator(checkpoint, rows, sampling, template, seed=seed, world_size=here.world_size)
    loop = SamplingLoop(generator, rows, sampling.n, here=here, label=label)
    return [[sample for sample, _ in of_row] for of_row in loop.run()]


def sample_and_verify(
    checkpoint: Path | None,
    rows: list[dict[str, Any]],
    sampling: Sampling,
    template: str,
    *,
    here: Here,
    seed: int,
    source: str,
    verify: Verifier,
    stop_after: int | None = None,
    prompt_rows: list[dict[str, Any]] | None = None,
    label: str = "samples",
    engine: Engine = "local",
) -> list[list[Candidate]]:
    """Draw up to `sampling.n` candidates for every row and verify them while others are drawn.

    Args:
        checkpoint: the model of hf and vllm; None for a service.
        rows: prompts, each with an `id` and a `prompt`.
        sampling: the config's block.
        template: `chat` or the path of a template file.
        here: where the stage runs; samples and verdicts are kept in its workdir.
        seed: the run's.
        source: the candidates' source.
        verify: returns candidates with their verdicts, each independent of the others. It may drop and rewrite them.
            It is called in a thread of its own.
        stop_after: a row is drawn no further once this many different candidates are kept. A round draws as many as
            are missing, so the samples are exactly those that drawing one by one would give.
        prompt_rows: the rows as the model reads them, where its prompts are not the rows' own; their ids are unique.
        label: the files' name in workdir; a stage that samples twice uses two.
        engine: this process, or a Ray cluster (r1pipe/generation/ray_cluster.py).

    Returns:
        The candidates of every row, in the order of samples. Ranks other than 0 draw their share and return nothing.

    Raises:
        BudgetError: a service's budget is used up.
        StageError: a service did not answer. What was drawn stays in workdir.
        MissingToolError: Ray is not installed.
        ConfigError: there is no Ray cluster to join.
    """
    if not rows:
        return []

    # A generator reads nothing else, and with `ray` the rows travel to every worker.
    read_by_model = [
        {name: row[name] for name in ("id", "prompt", "system") if name in row} for row in prompt_rows or rows
    ]
    load = partial(
        load_generator, checkpoint, read_by_model, sampling, template, seed=seed, world_size=here.world_size
    )
    options = {"here": here, "label": label, "source": source, "verify": verify, "stop_after": stop_after}

    loop: SamplingLoop
    if engine == "ray":
        from r1pipe.generation.ray_cluster import RaySamplingLoop

        loop = RaySamplingLoop(load, rows, sampling.n, budgeted=_has_budget(sampling), **options)
    else:
        loop = SamplingLoop(load(), rows, sampling.n, **options)
    return [[candidate for _, candidate in of_row] for of_row in loop.run()]


def _has_budget(sampling: Sampling) -> bool:
    endpoint = sampling.endpoint
    return endpoint is not None and (endpoint.budget_tokens is not None or endpoint.budget_money is not None)
