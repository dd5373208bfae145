"""`r1pipe eval`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from r1pipe.cli.options import Json, Minutes, print_json


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="a checkpoint's folder, RUN/CHECKPOINT, embedded:base, hub:OWNER/NAME, the address of a service "
            "(http://HOST/v1), or FILE.gguf",
            show_default=False,
        ),
    ],
    suite: Annotated[
        list[str],
        typer.Option(
            "--suite",
            metavar="SUITE",
            help="gsm8k, mgsm, humaneval, mbpp, xstest, a YAML file, or RUN/STAGE: an evaluation of a run (repeatable)",
            show_default=False,
        ),
    ],
    limit: Annotated[
        int | None, typer.Option(min=1, help="problems of each source; they must be there")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="responses to a problem")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 = greedy")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="of a response")] = None,
    template: Annotated[
        str | None, typer.Option(help="chat, r1-zero, r1-zero-example, or a file with {prompt}")
    ] = None,
    backend: Annotated[
        Literal["hf", "vllm"] | None, typer.Option(help="of a checkpoint: who samples")
    ] = None,
    served_name: Annotated[
        str | None,
        typer.Option("--served-name", help="of a service: the model's name [default: its only one]"),
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", metavar="VARIABLE", help="of a service: holds the key")
    ] = None,
    beside: Annotated[
        Literal["lm-eval"] | None,
        typer.Option(
            "--with",
            help="also let lm-eval judge the same prompts, greedily, and list the verdicts that differ",
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="name of the run that keeps it [default: eval-MODEL-SUITES]")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="redo what is done")] = False,
    minutes: Minutes = None,
    json: Json = False,
) -> None:
    """Score any model on any suite: a table, eval.json, every sample in samples.parquet; the same call goes on."""
    from r1pipe.cli.interruptions import ends_tidily
    from r1pipe.run.console import make_console
    from r1pipe.run.evals.eval_models import asked_model
    from r1pipe.run.evals.eval_run import SCORES, Changes, run_name, table_lines
    from r1pipe.run.evals.eval_run import evaluate as run_suites
    from r1pipe.run.evals.lm_eval_bridge import check_lm_eval, compare_with_lm_eval, comparison_lines
    from r1pipe.run.evals.suite_files import find_suite
    from r1pipe.run.store import RunFolder

    suites = [find_suite(text) for text in dict.fromkeys(suite)]
    changes = Changes(limit, samples, temperature, max_tokens, template, backend)
    console = make_console(json)
    with ends_tidily(console), asked_model(model, served_name, api_key_env) as asked:
        if beside is not None:
            changes = check_lm_eval(asked, changes)
            run = run or run_name(asked, suites) + f"-{beside}"
        result = run_suites(asked, suites, changes, console, run=run, again=rebuild, minutes=minutes)
        if beside is not None:
            result[beside] = compare_with_lm_eval(result["run"], suites)
    if json:
        print_json(result)
        return
    console.line()
    for line in table_lines(result["scores"]):
        console.line(line)
    if beside is not None:
        for line in comparison_lines(result[beside]):
            console.line(line)
    console.line(f"{RunFolder(result['run']).path / SCORES}; every sample: {result['samples']}")
