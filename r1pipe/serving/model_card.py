"""README.md of an exported checkpoint: what it is, where it comes from, how good it is, how to run it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1pipe.serving.lineage import Lineage
from r1pipe.serving.modelfile import TEMPERATURE, TOP_P

OWN_LICENCE = "apache-2.0"
PROJECT_TAGS = ["r1pipe", "reasoning", "deepseek-r1-recipe"]


def model_card(
    lineage: Lineage,
    *,
    name: str,
    question: str,
    gguf: dict[str, str],
    notes: list[str],
) -> str:
    """The card, with its metadata on top.

    Args:
        question: what the examples ask.
        gguf: precision -> file name.
        notes: on the files, each a sentence.
    """
    from huggingface_hub import ModelCardData

    licence = licence_of(lineage)
    data = ModelCardData(
        model_name=name,
        license=licence,
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=_hub_names(lineage) or None,
        tags=PROJECT_TAGS + (["gguf"] if gguf else []),
        eval_results=_results(lineage) or None,
    )
    lines = [
        "---",
        data.to_yaml().strip(),
        "---",
        "",
        f"# {name}",
        "",
        _opening(lineage),
        "",
        *_section("How to run it", _how_to_run(name, question, gguf)),
        *_section("Scores", _score_table(lineage)),
        *_section("Where it comes from", _stage_table(lineage)),
        *_section("Data", _data(lineage)),
        *_section("Licence", [_licence_notes(lineage, licence)]),
        *_section("Notes", [f"- {note}" for note in notes]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def licence_of(lineage: Lineage) -> str | None:
    """The licence that all bases state, as the hub names it; None where they do not, or state several."""
    stated = {_licence_of_base(base) for base in lineage.bases}
    return stated.pop() if len(stated) == 1 else None


def _licence_of_base(base: str) -> str | None:
    if base.startswith("embedded:"):
        return OWN_LICENCE
    readme = Path(base) / "README.md"
    if base.startswith("hub:") or not readme.is_file():
        return None
    from huggingface_hub import ModelCard

    return ModelCard.load(readme, ignore_metadata_errors=True).data.get("license")


def _hub_names(lineage: Lineage) -> list[str]:
    hub = [base for base in lineage.bases if base.startswith("hub:")]
    return [base.removeprefix("hub:").partition("@")[0] for base in hub]


def _results(lineage: Lineage) -> list[Any]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=f"r1pipe/{suite}",
            dataset_name=suite,
            metric_type="pass@1",
            metric_name=_with_error(score),
            metric_value=round(score["pass@1"], 4),
        )
        for suite, score in _measured(lineage.own_scores)
    ]


def _measured(scores: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Suites whose score is a number."""
    for suite, score in scores.items():
        if isinstance(score, dict) and _is_number(score.get("pass@1")):
            yield suite, score


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _with_error(score: dict[str, Any]) -> str:
    error = score.get("stderr")
    known = f" ± {error:.3f} (standard error)" if _is_number(error) else ""
    count = f", {score['n']} problems" if "n" in score else ""
    return f"pass@1{known}{count}"


# --- sections ---------------------------------------------------------------------------------------------------------


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""] if lines else []


def _opening(lineage: Lineage) -> str:
    if not lineage.run:
        return "A checkpoint that was exported with r1pipe. No run's folder was beside it, so nothing else is known."
    bases = ", ".join(f"`{base}`" for base in lineage.bases)
    return (
        f"`{lineage.name}` of the run `{lineage.run}`: made with r1pipe, which runs the training recipe of DeepSeek-R1 "
        f"(arXiv 2501.12948). It was begun from {bases or 'nothing that the config names'}. It thinks between "
        "`<think>` and `</think>` and then gives its answer."
    )


def _how_to_run(name: str, question: str, gguf: dict[str, str]) -> list[str]:
    lines = [
        "```python",
        "from transformers import pipeline",
        "",
        'ask = pipeline("text-generation", model="FOLDER")  # where this README.md lies',
        f'messages = [{{"role": "user", "content": {question!r}}}]',
        f"reply = ask(messages, max_new_tokens=256, do_sample=True, temperature={TEMPERATURE}, top_p={TOP_P})",
        'print(reply[0]["generated_text"][-1]["content"])',
        "```",
        "",
        "Behind OpenAI's protocol: `vllm serve FOLDER`, or `transformers serve FOLDER`. In r1pipe: "
        "`r1pipe serve FOLDER`.",
    ]
    if gguf:
        file = next(iter(gguf.values()))
        lines += ["", f"In llama.cpp: `llama-server -m {file} --jinja --reasoning-format none`."]
    return [*lines, "", f"In Ollama: `ollama create {name} -f Modelfile`, then `ollama run {name}`."]


def _score_table(lineage: Lineage) -> list[str]:
    own = dict(_measured(lineage.own_scores))
    if not own:
        return []
    names = list(lineage.scores)
    lines = [
        "pass@1 ± standard error; what each suite is: r1pipe's docs/evaluation.md. `over-refusal` is better lower.",
        "",
        f"| suite | {' | '.join(names)} | problems | tokens of a response |",
        "| --- |" + " ---: |" * (len(names) + 2),
    ]
    for suite, score in own.items():
        cells = [_cell(lineage.scores[name].get(suite)) for name in names]
        tokens = score.get("tokens")
        cells.append(str(score.get("n", "-")))
        cells.append(f"{tokens:.0f}" if _is_number(tokens) else "-")
        lines.append(f"| {suite} | {' | '.join(cells)} |")
    return lines


def _cell(score: Any) -> str:
    if not isinstance(score, dict) or not _is_number(score.get("pass@1")):
        return "-"
    error = score.get("stderr")
    return f"{score['pass@1']:.3f}" + (f" ± {error:.3f}" if _is_number(error) else "")


def _stage_table(lineage: Lineage) -> list[str]:
    if not lineage.stages:
        return []
    lines = ["| stage | kind | reads | makes | seconds |", "| --- | --- | --- | --- | ---: |"]
    for stage, block in lineage.stages.items():
        manifest = lineage.manifests[stage]
        reads = [f"{role} {_listed(value)}" for role, value in (block.get("inputs") or {}).items()]
        makes = [_listed(value) for value in (block.get("outputs") or {}).values()]
        cells = [
            stage,
            str(block.get("kind", stage)),
            "; ".join(reads) or "-",
            ", ".join(makes),
            f"{manifest.get('wall_s', 0):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    versions = list(lineage.manifests.values())[-1].get("versions", {})
    shown = [
        f"{library} {version}" for library, version in versions.items() if not library.startswith("stage")
    ]
    return [*lines, "", f"Made with {', '.join(shown)}."] if shown else lines


def _listed(value: Any) -> str:
    return ", ".join(value.values()) if isinstance(value, dict) else str(value)


def _data(lineage: Lineage) -> list[str]:
    lines: list[str] = []
    for name, card in lineage.cards.items():
        lines += [f"### {name}", "", card.strip(), ""]
    return lines[:-1]


def _licence_notes(lineage: Lineage, licence: str | None) -> str:
    bases = ", ".join(f"`{base}`" for base in lineage.bases)
    if licence is None:
        return (
            f"The licence of {bases or 'the base'} applies to these weights, and it is not stated where r1pipe looked "
            "(README.md of the base): look it up, and write it on top of this card, before you share them."
        )
    notes = f"{licence}, as {bases} states it."
    if lineage.sources:
        notes += f" The terms of the datasets apply as well: {', '.join(lineage.sources)}."
    return notes
