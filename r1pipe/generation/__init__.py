"""Sampling responses from a model: in this process (hf, vllm) or behind a service (openai), chosen by `sampling.backend`.

A Generator draws units; sampling.py decides which units, keeps each on disk as it arrives, and verifies while others are drawn. What is
drawn follows from the config and the seed alone: not from a kill, the number of ranks, or what was ready first. Of a service that holds
only as far as it honours `seed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from r1pipe.errors import ConfigError, R1PipeError
from r1pipe.here import Here
from r1pipe.schema import Engine, Sampling

if TYPE_CHECKING:
    from r1pipe.data.candidates import Candidate
    from r1pipe.generation.sampler import Settle

Key = tuple[int | str, ...]
DENSE = {"Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM"}  # what R1 was distilled into, and Qwen3


@dataclass(frozen=True)
class Completion:
    """One response. `text` has no end token; `tokens` counts it; `finished` is False where max_tokens cut it."""

    text: str
    tokens: int
    finished: bool
    prompt_tokens: int = 0  # as a service counted them; 0 where nobody is paid
    refused: str = ""  # why a service would not answer at all


class Draw(NamedTuple):
    """Samples first, first + 1, ... first + n - 1 of a row (by its number)."""

    row: int
    first: int
    n: int


class Unit(NamedTuple):
    """What is drawn and kept as a whole. The key names it in this stage, whatever was drawn before."""

    key: Key
    draws: list[Draw]

    @property
    def rows(self) -> list[int]:
        """The row of each sample."""
        return [draw.row for draw in self.draws for _ in range(draw.n)]


class Generator(Protocol):
    """A model with the rows that it answers."""

    in_flight: int  # units at a time; `draw` is called from threads

    @property
    def alone(self) -> bool:
        """It computes on this machine's CPU: verifying beside it would slow both (spinning OpenMP threads)."""
        ...

    @property
    def remote(self) -> bool:
        """It computes elsewhere."""
        ...

    def cohorts(self, rounds: bool) -> list[list[int]]:
        """The rows' numbers in the order in which they are asked, cut into what goes through its rounds together.

        Args:
            rounds: rows may be asked again, when it is known what was right.
        """
        ...

    def units(self, prefix: tuple[int, ...], draws: Sequence[Draw]) -> list[Unit]:
        """One round of a cohort, cut up; `prefix` is new with every round."""
        ...

    def draw(self, unit: Unit) -> list[Completion]:
        """The unit's samples, draw after draw.

        Raises:
            NoAnswer: a service has none for this unit; others may have one.
        """
        ...

    def halted(self, tokens_in: int, tokens_out: int) -> R1PipeError | None:
        """Why nothing more is to be drawn after so many tokens; None while it may go on."""
        ...


def load_generator(
    checkpoint: Path | None,
    rows: list[dict[str, Any]],
    sampling: Sampling,
    template: str,
    seed: int,
    world_size: int = 1,
) -> Generator:
    """The back end that the config names.

    Args:
        checkpoint: of hf and vllm; None of openai.
        template: `chat` or the path of a template file (r1pipe/text/rendering.py).
        world_size: processes that share a budget.

    Raises:
        ConfigError: no model, two models, or a service whose address or key is missing.
        MissingToolError: vllm is not installed.
    """
    if mismatch := sampling.mismatch(checkpoint is not None):
        raise ConfigError(
            mismatch, fix="give inputs.model, or sampling: {backend: openai, endpoint: {base_url: ..., model: ...}}"
        )
    if sampling.endpoint is not None:
        from r1pipe.generation.openai import Service

        return Service(rows, sampling, sampling.endpoint, template, seed, world_size)
    assert checkpoint is not None
    if sampling.backend == "vllm":
        from r1pipe.generation.vllm import VLLM

        return VLLM(checkpoint, rows, sampling, template, seed)
    from r1pipe.generation.hf import HF

    return HF(checkpoint, rows, sampling, template, seed)


def sample_seed(seed: int, row_id: str, number: int) -> int:
    """The seed of one sample, 31 bits: of the run's seed, the row and the sample's index, and of nothing else (vllm takes the first's and counts on)."""
    return int.from_bytes(sha256(f"{seed}:{row_id}:{number}".encode()).digest()[:4]) & 0x7FFFFFFF


def sample(
    checkpoint: Path | None,
    rows: list[dict[str, Any]],
    sampling: Sampling,
    template: str,
    here: Here,
    seed: int,
    label: str = "samples",
) -> list[list[Completion]]:
    """Draw `sampling.n` responses to every row.

    Args:
        checkpoint, template: as in load_generator.
        label: names the files in workdir; a stage that samples twice uses two.

    Returns:
        The responses in the rows' order; on ranks other than 0 nothing, once their share is drawn.

    Raises:
        BudgetError, StageError: see r1pipe/generation/sampler.py. What was drawn stays in workdir.
    """
    from r1pipe.generation.sampler import Sampler

    if not rows:
        return []
    sampler = Sampler(
        load_generator(checkpoint, rows, sampling, template, seed, here.world_size), rows, sampling.n, here, label
    )
    return [[completion for completion, _ in drawn] for drawn in sampler.run()]


def sample_and_settle(
    checkpoint: Path | None,
    rows: list[dict[str, Any]],
    sampling: Sampling,
    template: str,
    here: Here,
    seed: int,
    source: str,
    settle: Settle,
    stop_after: int | None = None,
    asked: list[dict[str, Any]] | None = None,
    label: str = "samples",
    engine: Engine = "local",
) -> list[list[Candidate]]:
    """Draw up to `sampling.n` candidates of every row and settle them (verify, filter) while others are drawn.

    Args:
        source: the candidates' source.
        settle: what becomes of candidates, each for itself: it may drop and rewrite. Runs in a thread of its own.
        stop_after: a row is drawn no further once so many different candidates are kept. A round draws as many as are missing, so exactly
            those samples are drawn that one after the other would have been.
        asked: the rows as the model gets them, where that is not as they are; their ids are unique.
        label: names the files in workdir; a stage that samples twice uses two.
        engine: this process, or a Ray cluster (r1pipe/generation/ray_cluster.py).

    Returns:
        The candidates of every row, in the order of samples; on ranks other than 0 nothing, once their share is drawn.

    Raises:
        BudgetError, StageError: see r1pipe/generation/sampler.py. What was drawn stays in workdir.
        MissingToolError, ConfigError: no Ray, or no cluster.
    """
    from r1pipe.generation.sampler import Sampler

    if not rows:
        return []
    asked = [
        {"id": row["id"], "prompt": row["prompt"]} for row in asked or rows
    ]  # all that a generator reads: with `ray` it travels
    load = partial(load_generator, checkpoint, asked, sampling, template, seed, here.world_size)
    if engine == "ray":
        from r1pipe.generation.ray_cluster import RaySampler

        budgeted = (
            sampling.endpoint is not None
            and (sampling.endpoint.budget_tokens or sampling.endpoint.budget_money) is not None
        )
        sampler: Sampler = RaySampler(load, budgeted, rows, sampling.n, here, label, source, settle, stop_after)
    else:
        sampler = Sampler(load(), rows, sampling.n, here, label, source, settle, stop_after)
    return [[candidate for _, candidate in drawn] for drawn in sampler.run()]
