"""preference-data: what the two reward models learn from (v2 3.1).

Reads the checkpoint of the second SFT and prompts (general, harmful, look-alike), and draws several responses to each. A judge votes four
times on two responses, sides swapped at random; pairs are kept where the mean verdict is clear (> 1 of 2) and thinned until chosen and
rejected are of comparable length over the set. Responses are labelled safe or unsafe. Writes `pairs` and `labels`, each with
card.json and, where rows were dropped, dropped.jsonl. `pairs_from` and `labels_from` add files of yours, or stand alone without a judge.
The map of the five verdicts to -2..2 is not published; it is ours. What the judge says of a row is kept in workdir, so a kill costs the rows in
flight; rows on which it was silent are asked again. A response that a service refused to give is no candidate.

    preference-data:
      kind: preference-data
      inputs: {model: dev3, prompts: {general: general-train, safety: safety-train}}
      outputs: {pairs: pairs, labels: labels}
      judge: world
      also: world
      sampling: {temperature: 1.0, top_p: 1.0, n: 4, max_tokens: 64}

      # or, in the place of `judge: world`, a language model: judge: {base_url: http://127.0.0.1:8000/v1, model: my-judge, api_key_env: JUDGE_KEY}

    from-files:
      kind: preference-data
      outputs: {pairs: pairs, labels: labels}
      pairs_from: {path: data/pandalm_pairs.jsonl.gz, shape: compared}
      labels_from: [{path: data/hh_harmless.jsonl.gz, shape: chosen-rejected}, {path: data/xstest.jsonl.gz, shape: refused,
                    columns: {domain: label}, values: {domain: {safe: lookalike, unsafe: harmful}}}]

Alone: `r1pipe run-stage preference-data -c my.yaml`.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from pydantic import Field

from r1pipe.artifacts import Checkpoint, Labels, Pairs, Prompts
from r1pipe.data.sources import Sources
from r1pipe.data.writers import WriterName
from r1pipe.here import Here
from r1pipe.judges.judge import JudgeName
from r1pipe.schema import JudgeEndpoint, Ports, Sampling, StageConfig, TemplateName

if TYPE_CHECKING:
    from r1pipe.data.preferences import Measure
    from r1pipe.judges.judge import Judge

Rows = list[dict[str, Any]]


class Inputs(Ports):
    model: Checkpoint | None = None
    prompts: dict[str, Prompts] | None = None


class Outputs(Ports):
    pairs: Pairs
    labels: Labels


class Config(StageConfig):
    judge: JudgeName | JudgeEndpoint = Field(
        default="none",
        description="who votes and labels (v2 3.1: V3): a judge's name, or {base_url, model} of a language model; none = the files alone",
    )
    template: TemplateName = Field(
        default="chat", description="chat, or a template file: what the checkpoint was trained on"
    )
    sampling: Sampling = Field(
        default=Sampling(temperature=1.0, top_p=1.0, n=4),
        description="candidates of a prompt (number not published; our choice)",
    )
    also: WriterName = Field(
        default="none",
        description="adds a careful and a sloppy candidate of a named writer, so that both classes occur (our choice)",
    )
    votes: int = Field(default=4, ge=1, description="verdicts on a pair, sides swapped at random (v2 3.1)")
    min_margin: float = Field(
        default=1.0, ge=0, lt=2, description="a pair is kept where |mean verdict| is above this (v2 3.1)"
    )
    comparisons: int = Field(default=3, ge=1, description="pairs judged of one prompt at most (our choice)")
    pairs_per_prompt: int = Field(default=1, ge=1, description="pairs kept of one prompt (our choice)")
    length_tolerance: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="mean lengths of chosen and rejected differ by at most this share (v2 3.1: 'comparable')",
    )
    labels_per_prompt: int = Field(
        default=4, ge=1, description="different responses labelled of one harmful request (our choice)"
    )
    benign_labels_per_prompt: int = Field(
        default=1, ge=0, description="of any other prompt; these are safe, and would outnumber the rest (our choice)"
    )
    pairs_from: Sources | None = Field(default=None, description="pairs in files (66,000 in v2 3.1)")
    labels_from: Sources | None = Field(
        default=None, description="labelled responses in files (106,000 prompts in v2 3.1)"
    )


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Sample, vote, balance, label."""
    from r1pipe.data.card import token_counter
    from r1pipe.data.io import read_several, write_rows
    from r1pipe.data.preferences import balance, mean_lengths
    from r1pipe.data.sources import load
    from r1pipe.errors import ConfigError, InputError
    from r1pipe.generation import sample
    from r1pipe.judges.judge import load_judge

    judge = load_judge(config.judge)
    model = inputs.model.path if inputs.model else None
    if len({judge is None, model is None and config.sampling.endpoint is None, not inputs.prompts}) > 1:
        what = "a judge, a model and prompts go together"
        raise ConfigError(
            what,
            here.stage,
            "give `judge`, `inputs.model` (or `sampling.endpoint`) and `inputs.prompts`, or none of them",
        )
    if judge is None and (config.pairs_from is None or config.labels_from is None):
        raise ConfigError(
            "without a judge, pairs and labels come from files", here.stage, "give `pairs_from` and `labels_from`"
        )
    pairs: Rows = []
    labels: Rows = []
    unclear: Rows = []
    if judge is not None:
        rows = read_several(inputs.prompts or {}, here.stage)
        completions = sample(model, rows, config.sampling, config.template, here, config.seed)
        if here.main:
            candidates = [
                list(dict.fromkeys(one.text for one in samples if not one.refused)) for samples in completions
            ]
            pairs, unclear, labels = _judge(rows, candidates, judge, config, here)
    if not here.main:
        return {}
    files = [
        load(source, kind, config.seed) if source else None
        for source, kind in ((config.pairs_from, Pairs), (config.labels_from, Labels))
    ]
    pairs += files[0].rows if files[0] else []
    labels += files[1].rows if files[1] else []

    measures = _measures(inputs)
    pairs, tipped = balance(pairs, measures, config.length_tolerance)
    classes = Counter(row["safe"] for row in labels)
    if not pairs:
        raise InputError(
            f"0 pairs kept: {len(unclear)} unclear, {len(tipped)} dropped for length",
            here.stage,
            "lower `min_margin`, raise `sampling.n`, or widen `length_tolerance`",
        )
    if len(classes) < 2:
        raise InputError(
            f"all {len(labels)} labels are {'safe' if classes[1] else 'unsafe'}",
            here.stage,
            "add harmful prompts, a writer as `also`, or `labels_from`",
        )
    lengths = {name: mean_lengths(pairs, measure) for name, measure in measures.items()}
    dropped = [*unclear, *tipped, *(files[0].dropped if files[0] else [])]
    tokens = token_counter(inputs.model.path) if inputs.model else None
    card = {
        "rows": len(pairs),
        "lengths": {name: {"chosen": chosen, "rejected": rejected} for name, (chosen, rejected) in lengths.items()},
    }
    write_rows(
        outputs.pairs.path,
        pairs,
        dropped,
        {
            **card,
            "margins": Counter(row.get("margin") for row in pairs),
            "dropped": Counter(row["reason"] for row in dropped),
        },
        tokens,
    )
    sides = Counter((row["domain"], "safe" if row["safe"] else "unsafe") for row in labels)
    table = {
        domain: {side: sides[domain, side] for side in ("safe", "unsafe")}
        for domain in {row["domain"] for row in labels}
    }
    write_rows(
        outputs.labels.path,
        labels,
        files[1].dropped if files[1] else (),
        {"rows": len(labels), "safe": classes[1], "unsafe": classes[0], "domains": table},
        tokens,
    )
    metrics = {
        f"{name}/{side}": length
        for name, both in lengths.items()
        for side, length in zip(("chosen", "rejected"), both, strict=True)
    }
    return {
        "pairs": len(pairs),
        "unclear": len(unclear),
        "dropped_for_length": len(tipped),
        "labels": len(labels),
        "safe": classes[1] / len(labels),
        **metrics,
    }


def _judge(
    rows: Rows, candidates: list[list[str]], judge: Judge, config: Config, here: Here
) -> tuple[Rows, Rows, Rows]:
    """(clear pairs, unclear pairs, labels), in the rows' order, as many rows at a time as the judge takes."""
    from functools import partial

    from r1pipe.data.preferences import Heard
    from r1pipe.generation.journal import Job, digest_of, do_once

    def judged(row: dict[str, Any], responses: list[str]) -> tuple[dict[str, Any], bool]:
        heard = Heard(judge)
        pairs, unclear, labels = _judge_row(row, responses, heard.judge, config)
        return {"pairs": pairs, "unclear": unclear, "labels": labels}, not heard.silent

    jobs = [
        Job((row["id"],), digest_of(row["prompt"], responses), partial(judged, row, responses))
        for row, responses in zip(rows, candidates, strict=True)
    ]
    found = do_once(here, "judged", jobs, judge.max_in_flight)
    pairs, unclear, labels = ([item for of in found for item in of[part]] for part in ("pairs", "unclear", "labels"))
    return pairs, unclear, labels


def _judge_row(row: dict[str, Any], responses: list[str], judge: Judge, config: Config) -> tuple[Rows, Rows, Rows]:
    """Requests to refuse are no helpfulness prompts, so they give labels only (v2 3.1). What the judge does not label is left out."""
    from r1pipe.data.preferences import judge_pairs
    from r1pipe.data.writers import load_writer
    from r1pipe.text.rows import HARMFUL_DOMAIN

    pairs: Rows = []
    unclear: Rows = []
    rng = random.Random(f"{config.seed}:{row['id']}")
    if (writer := load_writer(config.also)) is not None:
        responses = [*responses, writer.write(row, rng, "careful"), writer.write(row, rng, "sloppy")]
    rng.shuffle(responses)
    if row["domain"] != HARMFUL_DOMAIN:
        pairs, unclear = judge_pairs(
            row, responses, judge, config.votes, config.min_margin, config.comparisons, config.pairs_per_prompt, rng
        )
    base = {name: row[name] for name in ("prompt", "domain", "language") if name in row}
    wanted = config.labels_per_prompt if row["domain"] == HARMFUL_DOMAIN else config.benign_labels_per_prompt
    verdicts = [
        (number, text, judge.safe(row, text)) for number, text in enumerate(list(dict.fromkeys(responses))[:wanted])
    ]
    labels = [
        {"id": f"{row['id']}#{number}", **base, "response": text, "safe": int(safe)}
        for number, text, safe in verdicts
        if safe is not None
    ]
    return pairs, unclear, labels


def _measures(inputs: Inputs) -> dict[str, Measure]:
    """Characters, and tokens where a checkpoint brings a tokenizer."""
    if inputs.model is None:
        return {"characters": len}
    from r1pipe.models.loading import load_tokenizer

    tokenizer = load_tokenizer(inputs.model.path)
    return {"characters": len, "tokens": lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])}
