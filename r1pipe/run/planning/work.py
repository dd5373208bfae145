"""What each stage will do: rows and tokens, followed through the figure from the sources to the last checkpoint.

Nothing is read but configs and, of sources, their first prompts and how many rows a small file has. What cannot be
known is guessed, and each guess is a sentence that `plan` prints.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from r1pipe.config.loader import Pipeline, Stage
from r1pipe.config.validation import blocks
from r1pipe.data.sources import WORLD_GROUPS, Source
from r1pipe.errors import InputError
from r1pipe.run.planning.known_models import known_shape
from r1pipe.run.planning.lengths import (
    PROMPT_GUESS,
    Length,
    guess,
)
from r1pipe.run.planning.model_shape import ModelShape, read_shape
from r1pipe.run.planning.row_counts import (
    WORLD_PROBLEMS,
    WORLD_REQUESTS,
    Rows,
    count_rows,
    prompt_tokens,
    together,
)
from r1pipe.schema import GRPOParams, Sampling, SFTParams
from r1pipe.schema.training import DPOParams, RewardModelParams
from r1pipe.text.rows import HARMFUL_DOMAIN, LOOKALIKE_DOMAIN, REASONING_DOMAINS

# Rows of a source whose size is not known.
ROWS_GUESS = 10_000
# The share of the prompts for which a data stage finds a row to keep, and how slowly rows grow with those asked for:
# some prompts have many, others hardly any.
KEPT_GUESS = 0.7
SEVERAL = 0.8
# The share of the pairs that a judge is sure of.
CLEAR_GUESS = 0.4
# Of the tokenizer that ships.
WORLD_VOCABULARY = 2000


@dataclass(frozen=True)
class Draw:
    """Responses drawn by a stage.

    Attributes:
        sampling: the settings.
        prompts: how many are answered, `n` times each.
    """

    sampling: Sampling
    prompts: float
    n: float
    prompt: float
    answer: float


@dataclass
class Work:
    """What a stage does.

    Attributes:
        shape: of the model that is trained or asked; None where there is none.
        draws: of a data stage or an evaluation.
        length: of RL's responses.
        rows: that a training reads in an epoch.
        reward_models: further models that RL asks.
        asks_service: it waits for others' machines, whose speed is not known.
    """

    stage: Stage
    shape: ModelShape | None = None
    params: GRPOParams | SFTParams | RewardModelParams | DPOParams | None = None
    pretraining: Any = None
    draws: list[Draw] = field(default_factory=list)
    length: Length | None = None
    rows: Rows = Rows(0)
    reward_models: int = 0
    asks_service: bool = False


class Figure:
    """The work of all stages of a pipeline.

    Args:
        model: stands for the base, the first model that the user brings, if given.
        lengths: stage -> tokens of its responses, as stated or as a run showed them.
        counted: stage, or stage/port -> rows that a run has made.

    Attributes:
        notes: guesses, as sentences.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        model: ModelShape | None = None,
        lengths: dict[str, Length] | None = None,
        counted: dict[str, float] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.model = model
        self.lengths = lengths or {}
        self.counted = counted or {}
        self.notes: list[str] = []
        self._base = ""
        self._shapes: dict[str, ModelShape | None] = {}
        self._made: dict[tuple[str, str], Rows] = {}
        self.works = {name: self._work(stage) for name, stage in pipeline.stages.items()}

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    # --- models -------------------------------------------------------------------------------------------------------

    def _shape(self, stage: Stage) -> ModelShape | None:
        """The shape of the model that a stage reads; what a stage makes has the shape of what it was made from."""
        edges = stage.inputs.get("model")
        if edges is None or isinstance(edges, dict):
            return None
        if edges.origin == "stage":
            return self._shapes.get(edges.stage)
        if edges.origin == "embedded":
            assert edges.path is not None, "what ships lies on this disk"
            return read_shape(edges.path)
        # What `--model` stands for is the base: the first model that the user brings.
        self._base = self._base or edges.text
        if self.model is not None and edges.text == self._base:
            return self.model
        if edges.path is not None and (edges.path / "config.json").is_file():
            return read_shape(edges.path)
        if edges.origin == "hub":
            return self._of_hub(edges.text.removeprefix("hub:"))
        return known_shape(edges.name)

    def _of_hub(self, text: str) -> ModelShape | None:
        """From the hub's cache on this disk, or by name; nothing is downloaded."""
        # By name first: the cache is a slow place to look.
        known = known_shape(text)
        if known is not None:
            return known
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(text.split("@")[0], "config.json")
        if isinstance(cached, str):
            return read_shape(Path(cached).parent)
        return None

    # --- stages -------------------------------------------------------------------------------------------------------

    def _work(self, stage: Stage) -> Work:
        try:
            shape = self._shape(stage)
        except InputError as error:
            self.note(f"{stage.name}: {error.what}")
            shape = None
        config: Any = stage.config
        if hasattr(config, "architecture"):
            shape = _pretrained_shape(config.architecture)
        self._shapes[stage.name] = shape
        rows = self._read(stage)
        if stage.name in self.lengths:
            rows = replace(rows, answer=self.lengths[stage.name].at(0))
        work = Work(
            stage,
            shape,
            rows=rows,
        )
        if hasattr(config, "grpo"):
            self._reinforce(work, config.grpo)
        elif hasattr(config, "sft"):
            work.params = config.sft
        elif hasattr(config, "rm"):
            work.params = config.rm
        elif hasattr(config, "dpo"):
            work.params = config.dpo
        elif hasattr(config, "pretraining"):
            work.pretraining = config.pretraining
        else:
            self._draw(work, config)
        # Stages below read what this one makes.
        self._publish(work)
        return work

    def _reinforce(self, work: Work, params: GRPOParams) -> None:
        work.params = params
        name = work.stage.name
        work.reward_models = sum(port.endswith("_rm") for port in work.stage.inputs)
        if params.resample:
            self.note(f"{name}: that a third of the groups has no signal and is drawn again is a guess")
        work.length = self.lengths.get(name) or _known(work)
        if work.length is None:
            work.length = guess(max(phase.max_tokens for phase in params.phases))
            tokens = round(work.length.points[0][1])
            self.note(
                f"{name}: responses of {tokens:,} tokens on average are a guess (half of max_tokens); "
                "--length STAGE=TOKENS says better"
            )

    def _draw(self, work: Work, config: Any) -> None:
        """Responses that a data stage or an evaluation draws."""
        name = work.stage.name
        samplings = [way.sampling for way in getattr(config, "passes", [])]
        # general-data asks the model that is its writer
        asks = getattr(config, "writer", config)
        sampling = getattr(asks, "sampling", None)
        if not samplings and isinstance(sampling, Sampling):
            samplings = [sampling]
        for sampling in samplings:
            length = self.lengths.get(name) or _known(work) or guess(sampling.max_tokens)
            if sampling.endpoint is not None:
                self._ask_service(work, sampling, length)
                continue
            if work.shape is None:
                continue
            if length.origin == "guess":
                tokens = round(length.at(0))
                self.note(
                    f"{name}: responses of {tokens:,} tokens on average are a guess (half of max_tokens)"
                )
            draw = Draw(
                sampling,
                work.rows.count,
                _asked(config, sampling, work.rows),
                work.rows.prompt,
                length.at(0),
            )
            work.draws.append(draw)

    def _ask_service(self, work: Work, sampling: Sampling, length: Length) -> None:
        """Say what a service will be asked for, as a note: it takes none of our GPUs."""
        service = sampling.endpoint
        assert service is not None
        work.asks_service = True
        requests = work.rows.count * sampling.n
        tokens_in = requests * work.rows.prompt
        tokens_out = requests * length.at(0)
        money = (tokens_in * service.price_in + tokens_out * service.price_out) / 1e6
        price = f", {money:,.2f} of money" if money else ""
        guessed = ", if responses are half of max_tokens" if length.origin == "guess" else ""
        self.note(
            f"{work.stage.name} asks {service.model}: {requests:,.0f} requests at most, {tokens_in:,.0f} tokens of "
            f"prompts and {tokens_out:,.0f} of responses{price}{guessed}"
        )

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _read(self, stage: Stage) -> Rows:
        """All rows that a stage reads."""
        read = [
            self._made[edge.stage, edge.port]
            for _, edge in stage.edges()
            if (edge.stage, edge.port) in self._made
        ]
        named = {"prompts", "chats", "pairs", "labels", "general"}
        parts = []
        for port, edge in stage.edges():
            rows = self._made.get((edge.stage, edge.port))
            if rows is not None and port.split(".")[0] in named:
                parts.append(rows)
        return together(parts or read)

    def _publish(self, work: Work) -> None:
        """The rows of a stage's outputs."""
        stage = work.stage
        config: Any = stage.config
        kind = stage.kind.name
        for port in stage.outputs:
            rows = self._output(
                work,
                config,
                kind,
                port,
            )
            if rows is None:
                continue
            count = self.counted.get(f"{stage.name}/{port}", self.counted.get(stage.name))
            # The run counted what it made; held-out prompts are counted apart, or not at all.
            if count is not None and port != "heldout":
                rows = replace(rows, count=count)
            self._made[stage.name, port] = rows

    def _output(self, work: Work, config: Any, kind: str, port: str) -> Rows | None:
        name = work.stage.name
        if kind == "prompts":
            sources = config.source if port == "prompts" else config.heldout
            return self._of_sources(name, sources)
        if port == "chats":
            return self._chats(
                work,
                config,
                kind,
            )
        if port in ("pairs", "labels"):
            asked = work.rows.count * config.pairs_per_prompt * CLEAR_GUESS
            if port == "labels":
                benign = work.rows.count - work.rows.harmful
                asked = (
                    work.rows.harmful * config.labels_per_prompt + benign * config.benign_labels_per_prompt
                )
            judged = replace(work.rows, count=asked if work.draws else 0.0)
            if work.draws:
                judged = replace(judged, answer=work.draws[0].answer)
            return together([judged, self._of_sources(name, getattr(config, f"{port}_from"))])
        return None

    def _chats(self, work: Work, config: Any, kind: str) -> Rows:
        name = work.stage.name
        most = getattr(
            config,
            "max_rows",
            None,
        )
        if kind == "mix":
            count = work.rows.count
            if config.counts:
                count = sum(config.counts.values())
            return Rows(
                min(count, most or count),
                work.rows.prompt,
                work.rows.answer,
            )
        per_prompt = getattr(
            config,
            "per_prompt",
            1,
        )
        answer = work.draws[0].answer if work.draws else work.rows.answer
        count = work.rows.count * (KEPT_GUESS * per_prompt**SEVERAL if work.draws else per_prompt)
        reused = getattr(
            config,
            "reuse",
            None,
        )
        if kind == "general-data" and reused is not None:
            count += self._of_sources(name, reused).count
        if work.draws and name not in self.counted:
            self.note(f"{name}: rows for {KEPT_GUESS:.0%} of the prompts are a guess")
        return Rows(
            min(count, most or count),
            work.rows.prompt,
            answer,
        )

    def _of_sources(self, name: str, sources: Any) -> Rows:
        """The rows of a `source:` block."""
        found = [source for _, source in blocks(sources, Source)] if sources is not None else []
        if isinstance(sources, Source):
            found = [sources]
        elif isinstance(sources, list):
            found = [source for source in sources if isinstance(source, Source)]
        parts = [self._of_source(name, source) for source in found]
        return together(parts)

    def _of_source(self, name: str, source: Source) -> Rows:
        if source.world:
            return _of_world(source)
        prompt = prompt_tokens(source) or PROMPT_GUESS
        if source.count is not None:
            return Rows(
                source.count,
                prompt,
            )
        count = count_rows(source.path)
        if count is None:
            self.note(f"{name}: {ROWS_GUESS:,} rows are a guess: its source is large, or not on this machine")
            count = ROWS_GUESS
        share = 1 - sum(source.shares.values())
        if source.split != "train":
            share = source.shares.get(source.split, share)
        return Rows(
            count * share,
            prompt,
        )


def _known(work: Work) -> Length | None:
    """The length of responses about the world that ships by a model that has its tokenizer; else None."""
    if not work.rows.of_world or work.shape is None or work.shape.vocabulary != WORLD_VOCABULARY:
        return None
    return Length(((0.0, work.rows.answer),), "run")


def _of_world(source: Source) -> Rows:
    """Rows of the world that ships, its kinds in equal parts."""
    kinds = [kind for name in source.worlds for kind in WORLD_GROUPS[name]]
    assert source.count is not None, "the world needs a number"
    each = source.count / len(kinds)
    return together(
        replace(
            WORLD_PROBLEMS if kind in REASONING_DOMAINS else WORLD_REQUESTS,
            count=each,
            harmful=each * (kind == HARMFUL_DOMAIN),
            lookalike=each * (kind == LOOKALIKE_DOMAIN),
        )
        for kind in kinds
    )


def _asked(config: Any, sampling: Sampling, rows: Rows) -> float:
    """Responses to a prompt, on average: `asks` may say more for some domains."""
    asks = getattr(
        config,
        "asks",
        {},
    )
    if not asks or sampling.temperature == 0 or not rows.count:
        return sampling.n
    more = (asks.get(HARMFUL_DOMAIN, sampling.n) - sampling.n) * rows.harmful
    more += (asks.get(LOOKALIKE_DOMAIN, sampling.n) - sampling.n) * rows.lookalike
    return sampling.n + more / rows.count


def _pretrained_shape(architecture: Any) -> ModelShape:
    """The model that `pretrain` makes; its vocabulary is that of the world's tokenizer."""
    width = architecture.hidden_size // architecture.heads
    return ModelShape(
        family="qwen2",
        layers=architecture.layers,
        hidden=architecture.hidden_size,
        vocabulary=WORLD_VOCABULARY,
        heads=architecture.heads,
        key_heads=architecture.kv_heads,
        key_width=width,
        value_width=width,
        inner=architecture.intermediate_size,
        tied=True,
    )
