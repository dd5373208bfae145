"""preference-data: the rows that the two reward models learn from.

Reads     model (dev3), prompts (general, harmful, look-alike)
Writes    pairs and labels, each with card.json and, where rows were dropped, dropped.jsonl
Paper     v2 3.1: 66,000 pairs of helpfulness, 106,000 prompts with responses labelled safe or unsafe
Alone     r1pipe run-stage preference-data -c my.yaml

Several responses are sampled to each prompt. A judge votes four times on two of them, sides swapped at random. A pair
is kept where the mean verdict is clear (above 1 of 2), and pairs are thinned until chosen and rejected are of
comparable length over the set. Responses are labelled safe or unsafe. `pairs_from` and `labels_from` add files of
yours, or stand alone without a judge.

How the five verdicts become -2 to 2 is not published; the numbers are ours. The judge's verdicts are kept in workdir,
so a kill costs the rows in flight; rows on which it was silent are asked again. A response that a service refused to
give is not a candidate.

    preference-data:
      kind: preference-data
      inputs: {model: dev3, prompts: {general: general-train, safety: safety-train}}
      outputs: {pairs: pairs, labels: labels}
      judge: world
      also: world
      sampling: {temperature: 1.0, top_p: 1.0, n: 4, max_tokens: 64}

      # or, a language model as the judge:
      judge: {base_url: http://127.0.0.1:8000/v1, model: my-judge, api_key_env: JUDGE_KEY}

    from-files:
      kind: preference-data
      outputs: {pairs: pairs, labels: labels}
      pairs_from: {path: data/pandalm_pairs.jsonl.gz, shape: compared}
      labels_from:
        - {path: data/hh_harmless.jsonl.gz, shape: chosen-rejected}
        - path: data/xstest.jsonl.gz
          shape: refused
          columns: {domain: label}
          values: {domain: {safe: lookalike, unsafe: harmful}}
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from r1pipe.artifacts import Checkpoint, Labels, Pairs, Prompts
from r1pipe.data.sources import Sources
from r1pipe.data.writers import WriterName
from r1pipe.here import Here
from r1pipe.judges.judge import JudgeName
from r1pipe.schema import JudgeEndpoint, Ports, Sampling, StageConfig, TemplateName

if TYPE_CHECKING:
    from r1pipe.data.card import TokenCounter
    from r1pipe.data.preferences import Measure
    from r1pipe.judges.judge import Judge

Row = dict[str, Any]


class Inputs(Ports):
    model: Checkpoint | None = None
    prompts: dict[str, Prompts] | None = None


class Outputs(Ports):
    pairs: Pairs
    labels: Labels


class Config(StageConfig):
    judge: JudgeName | JudgeEndpoint = "none"
    """Who votes and labels (v2 3.1: V3): a name, or {base_url, model} of a language model; none = the files alone."""

    template: TemplateName = "chat"
    """`chat`, or a template file: the one that the checkpoint was trained with."""

    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, n=4)
    """Candidates of a prompt (number not published; our choice)."""

    also: WriterName = "none"
    """Adds a careful and a sloppy candidate of a named writer, so that both classes occur (our choice)."""

    votes: int = Field(default=4, ge=1, le=1000)
    """Verdicts on a pair, sides swapped at random (v2 3.1)."""

    min_margin: float = Field(default=1.0, ge=0, lt=2)
    """A pair is kept where |mean verdict| is above this (v2 3.1)."""

    comparisons: int = Field(default=3, ge=1, le=1000)
    """Pairs judged of one prompt at most (our choice)."""

    pairs_per_prompt: int = Field(default=1, ge=1)
    """Pairs kept of one prompt (our choice)."""

    length_tolerance: float = Field(default=0.05, gt=0, lt=1)
    """Mean lengths of chosen and rejected differ by at most this share (v2 3.1: 'comparable')."""

    labels_per_prompt: int = Field(default=4, ge=1)
    """Different responses labelled of one harmful request (our choice)."""

    benign_labels_per_prompt: int = Field(default=1, ge=0)
    """Labelled of any other prompt; these are safe, and would outnumber the rest (our choice)."""

    pairs_from: Sources | None = None
    """Pairs in files (66,000 in v2 3.1)."""

    labels_from: Sources | None = None
    """Labelled responses in files (106,000 prompts in v2 3.1)."""


class JudgedRows(NamedTuple):
    """Rows that a judge's answers became."""

    pairs: list[Row]
    unclear: list[Row]
    """Pairs without a clear preference."""
    labels: list[Row]


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Sample, vote and label, add files, balance, write."""
    from r1pipe.data.card import token_counter
    from r1pipe.data.io import read_several
    from r1pipe.data.preferences import balance, mean_lengths
    from r1pipe.data.sources import Loaded, load
    from r1pipe.generation.sampling import sample
    from r1pipe.judges.judge import load_judge

    judge = load_judge(config.judge)
    _check_ports(config, inputs, here)

    judged = JudgedRows([], [], [])
    if judge is not None:
        rows = read_several(inputs.prompts or {}, here.stage)
        model = inputs.model.path if inputs.model else None
        samples = sample(model, rows, config.sampling, config.template, here=here, seed=config.seed)
        if here.main:
            # Of equal responses one is a candidate: two would be compared with each other.
            candidates = [
                list(dict.fromkeys(drawn.text for drawn in of_row if not drawn.refused)) for of_row in samples
            ]
            judged = _judge_all(rows, candidates, judge, config, here)
    if not here.main:
        return {}

    files_of_pairs = load(config.pairs_from, Pairs, config.seed) if config.pairs_from else Loaded()
    files_of_labels = load(config.labels_from, Labels, config.seed) if config.labels_from else Loaded()
    labels = judged.labels + files_of_labels.rows

    measures = _measures(inputs)
    pairs, tipped = balance(judged.pairs + files_of_pairs.rows, measures, config.length_tolerance)
    dropped = Counter(row["reason"] for row in [*judged.unclear, *tipped, *files_of_pairs.dropped])
    _check_enough(pairs, labels, dropped, here)

    lengths = {name: mean_lengths(pairs, measure) for name, measure in measures.items()}
    tokens = token_counter(inputs.model.path) if inputs.model else None
    _write_pairs(outputs.pairs, pairs, [*judged.unclear, *tipped, *files_of_pairs.dropped], lengths, tokens)
    _write_labels(outputs.labels, labels, files_of_labels.dropped, tokens)

    metrics = {
        "pairs": len(pairs),
        "unclear": len(judged.unclear),
        "dropped_for_length": len(tipped),
        "labels": len(labels),
        "safe": sum(row["safe"] for row in labels) / len(labels),
    }
    for name, (chosen, rejected) in lengths.items():
        metrics[f"{name}/chosen"] = chosen
        metrics[f"{name}/rejected"] = rejected
    return metrics


# --- what must go together --------------------------------------------------------------------------------------------


def _check_ports(config: Config, inputs: Inputs, here: Here) -> None:
    from r1pipe.errors import ConfigError

    has_judge = config.judge != "none"
    has_model = inputs.model is not None or config.sampling.endpoint is not None
    has_prompts = bool(inputs.prompts)
    if len({has_judge, has_model, has_prompts}) > 1:
        raise ConfigError(
            "a judge, a model and prompts go together",
            here.stage,
            "give `judge`, `inputs.model` (or `sampling.endpoint`) and `inputs.prompts`, or none of them",
        )
    if not has_judge and (config.pairs_from is None or config.labels_from is None):
        raise ConfigError(
            "without a judge, pairs and labels come from files",
            here.stage,
            "give `pairs_from` and `labels_from`",
        )


# Why pairs are dropped -> what to do where it led.
_REMEDIES = {
    "no clear preference": "lower `min_margin`, or raise `sampling.n` or `comparisons`",
    "the judge did not answer": "see that the judge's service answers, and in the form that is asked for",
    "length balance": "widen `length_tolerance`",
    "the two responses are equal": "give pairs of different responses",
}


def _check_enough(pairs: list[Row], labels: list[Row], dropped: Counter[str], here: Here) -> None:
    from r1pipe.errors import InputError

    if not pairs and dropped:
        reason, most = dropped.most_common(1)[0]
        raise InputError(
            f"0 pairs kept: {most} of {dropped.total()} were dropped as `{reason}`",
            f"{here.stage}: " + ", ".join(f"{name} {number}" for name, number in dropped.most_common()),
            _REMEDIES.get(reason, "give other pairs"),
        )
    if not pairs:
        raise InputError(
            "0 pairs kept: no two responses to a prompt differ in their summary",
            here.stage,
            "raise `sampling.n` or its temperature, see that responses end before `sampling.max_tokens`, "
            "name a writer as `also`, or give prompts that are not harmful",
        )
    classes = {row["safe"] for row in labels}
    if len(classes) < 2:
        raise InputError(
            f"all {len(labels)} labels are {'safe' if 1 in classes else 'unsafe'}",
            here.stage,
            "add harmful prompts, a writer as `also`, or `labels_from`",
        )


# --- votes and labels -------------------------------------------------------------------------------------------------


def _judge_all(
    rows: list[Row], candidates: list[list[str]], judge: Judge, config: Config, here: Here
) -> JudgedRows:
    """Judge every row's responses, as many rows at a time as the judge takes; the results are in the rows' order."""
    from functools import partial

    from r1pipe.data.preferences import Heard
    from r1pipe.generation.journal import Job, digest_of, do_once

    def judge_once(row: Row, responses: list[str]) -> tuple[dict[str, Any], bool]:
        heard = Heard(judge)
        judged = _judge_row(row, responses, heard, config)
        return judged._asdict(), not heard.silent

    jobs = [
        Job((row["id"],), digest_of(row["prompt"], responses), partial(judge_once, row, responses))
        for row, responses in zip(rows, candidates, strict=True)
    ]
    total = JudgedRows([], [], [])
    for record in do_once(here, "judged", jobs, judge.max_in_flight):
        total.pairs.extend(record["pairs"])
        total.unclear.extend(record["unclear"])
        total.labels.extend(record["labels"])
    return total


def _judge_row(row: Row, responses: list[str], judge: Judge, config: Config) -> JudgedRows:
    """Pairs and labels of one prompt. A response that the judge does not label is left out.

    A request to refuse says nothing about helpfulness, so it gives labels only (v2 3.1).
    """
    from r1pipe.data.preferences import judge_pairs
    from r1pipe.data.writers import load_writer
    from r1pipe.text.rows import HARMFUL_DOMAIN

    rng = random.Random(f"{config.seed}:{row['id']}")
    writer = load_writer(config.also)
    if writer is not None:
        responses = [*responses, writer.write(row, rng, "careful"), writer.write(row, rng, "sloppy")]
    # Labels and comparisons are few, so a fixed order would decide who gets them.
    rng.shuffle(responses)

    harmful = row["domain"] == HARMFUL_DOMAIN
    pairs: list[Row] = []
    unclear: list[Row] = []
    if not harmful:
        pairs, unclear = judge_pairs(
            row,
            responses,
            judge,
            votes=config.votes,
            min_margin=config.min_margin,
            comparisons=config.comparisons,
            wanted=config.pairs_per_prompt,
            rng=rng,
        )

    labels: list[Row] = []
    base = {name: row[name] for name in ("prompt", "domain", "language") if name in row}
    wanted = config.labels_per_prompt if harmful else config.benign_labels_per_prompt
    different = list(dict.fromkeys(responses))
    for number, response in enumerate(different[:wanted]):
        safe = judge.safe(row, response)
        if safe is not None:
            labels.append({"id": f"{row['id']}#{number}", **base, "response": response, "safe": int(safe)})
    return JudgedRows(pairs, unclear, labels)


# --- what is written --------------------------------------------------------------------------------------------------


def _measures(inputs: Inputs) -> dict[str, Measure]:
    """How lengths are measured: in characters, and in tokens where a checkpoint brings a tokenizer."""
    if inputs.model is None:
        return {"characters": len}
    from r1pipe.models.loading import load_tokenizer

    tokenizer = load_tokenizer(inputs.model.path)
    return {
        "characters": len,
        "tokens": lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]),
    }


def _write_pairs(
    output: Pairs,
    pairs: list[Row],
    dropped: list[Row],
    lengths: dict[str, tuple[float, float]],
    tokens: TokenCounter | None,
) -> None:
    from r1pipe.data.io import write_rows

    card = {
        "rows": len(pairs),
        "lengths": {
            name: {"chosen": chosen, "rejected": rejected} for name, (chosen, rejected) in lengths.items()
        },
        "margins": Counter(row.get("margin") for row in pairs),
        "dropped": Counter(row["reason"] for row in dropped),
    }
    write_rows(output.path, pairs, dropped, card, tokens=tokens)


def _write_labels(output: Labels, labels: list[Row], dropped: list[Row], tokens: TokenCounter | None) -> None:
    from r1pipe.data.io import write_rows

    sides = Counter((row["domain"], "safe" if row["safe"] else "unsafe") for row in labels)
    domains = {
        domain: {side: sides[domain, side] for side in ("safe", "unsafe")}
        for domain in {row["domain"] for row in labels}
    }
    safe = sum(row["safe"] for row in labels)
    card = {"rows": len(labels), "safe": safe, "unsafe": len(labels) - safe, "domains": domains}
    write_rows(output.path, labels, dropped, card, tokens=tokens)
