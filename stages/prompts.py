"""prompts: rows to be answered, from the embedded world or from files of yours.

Reads     nothing but its sources (r1pipe/data/sources.py)
Writes    prompts and, where the YAML names it, heldout: problems that are not in prompts, in no wording
Paper     v2 B.3.1 and Table 4 describe DeepSeek's prompts: mathematics, code, STEM, logic, general; Chinese or English
Alone     r1pipe run-stage gsm8k -c my.yaml

    gsm8k:
      kind: prompts
      source:
        {path: data/gsm8k_train.jsonl.gz, columns: {prompt: problem}, domain: word-problems, shares: {dev: 0.05}}
      heldout:
        path: data/gsm8k_train.jsonl.gz
        columns: {prompt: problem}
        domain: word-problems
        shares: {dev: 0.05}
        split: dev
      outputs: {prompts: train, heldout: dev}
"""

from __future__ import annotations

from collections import Counter

from r1pipe.artifacts import Prompts
from r1pipe.data.sources import Loaded, Sources
from r1pipe.here import Here
from r1pipe.schema import Ports, StageConfig


class Inputs(Ports):
    """None: the sources stand in the config."""


class Outputs(Ports):
    prompts: Prompts
    heldout: Prompts | None = None


class Config(StageConfig):
    source: Sources
    """A source, or a list of them (r1pipe/data/sources.py)."""

    heldout: Sources | None = None
    """The sources of the output `heldout`; needed where that is named."""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Load both parts, compare them, write. Code rows are left out where nothing can isolate them."""
    from r1pipe.data.io import write_rows
    from r1pipe.data.sources import load
    from r1pipe.errors import ConfigError

    if (config.heldout is None) != (outputs.heldout is None):
        raise ConfigError(
            "`heldout` and `outputs.heldout` go together, and one of them is missing",
            here.stage,
            "give both or none",
        )

    loaded = load(config.source, Prompts, config.seed, isolation=here.isolation)
    metrics: dict[str, float] = {"prompts": len(loaded.rows), "dropped": len(loaded.dropped)}
    if config.heldout and outputs.heldout:
        # Another seed, so that equal sources do not draw the same rows.
        heldout = load(config.heldout, Prompts, config.seed + 1, isolation=here.isolation)
        _check_disjoint(loaded, heldout, here)
        metrics["heldout"] = len(heldout.rows)
        if here.main:
            write_rows(outputs.heldout.path, heldout.rows, heldout.dropped, _card(heldout))
    if here.main:
        write_rows(outputs.prompts.path, loaded.rows, loaded.dropped, _card(loaded))
    return metrics


def _check_disjoint(training: Loaded, heldout: Loaded, here: Here) -> None:
    from r1pipe.errors import InputError
    from r1pipe.text.splits import content_key

    # By content, since files may give the same problem two ids, or two spellings.
    known = {content_key(row["prompt"]) for row in training.rows}
    shared = [row for row in heldout.rows if content_key(row["prompt"]) in known]
    if shared:
        raise InputError(
            f"{len(shared)} held-out problems are training problems as well, e.g. {shared[0]['id']!r}",
            here.stage,
            "use `split` and `shares` in both",
        )


def _card(loaded: Loaded) -> dict[str, object]:
    return {
        "rows": len(loaded.rows),
        "sources": loaded.sources,
        "domains": Counter(row["domain"] for row in loaded.rows),
        "languages": Counter(row.get("language", "unknown") for row in loaded.rows),
        "dropped": loaded.reasons,
    }
