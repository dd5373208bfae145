"""`r1pipe audit rewards`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1pipe.cli.options import EPILOG, Config, Run, Sets

app = typer.Typer(no_args_is_help=True, help="Check before a GPU is used.")

Share = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="instead of the one in the stage's `audit:`", show_default=False),
]


@app.command("rewards", epilog=EPILOG)
def rewards(
    config: Config,
    stage: Annotated[
        str | None,
        typer.Option(help="one RL stage [default: all whose prompts are there]", show_default=False),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="also write the findings, with all the worst rows")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="prompts that are tried, and stored responses, of each stage")
    ] = 200,
    max_adversarial: Share = None,
    max_unparseable: Share = None,
    max_unjudged: Share = None,
    max_disagreement: Share = None,
    min_gold: Share = None,
    sets: Sets = None,
    run: Run = None,
) -> None:
    """Try every reward of RL on gold solutions, on stored responses, and on responses that should not win."""
    from r1pipe.config.loader import load
    from r1pipe.errors import GateError
    from r1pipe.run.audit_report import show, write
    from r1pipe.run.reward_audit import audit_pipeline

    options = {
        "max_adversarial": max_adversarial,
        "max_unparseable": max_unparseable,
        "max_unjudged": max_unjudged,
        "max_disagreement": max_disagreement,
        "min_gold": min_gold,
    }
    limits = {name: value for name, value in options.items() if value is not None}
    audits, not_audited = audit_pipeline(load(config, sets or [], run), stage, limit, limits)
    show(audits, not_audited)
    if json is not None:
        write(json, audits, not_audited)

    failures = [f"{audit.stage}: {failure}" for audit in audits for failure in audit.failures]
    if failures:
        count = "1 limit was" if len(failures) == 1 else f"{len(failures)} limits were"
        what = f"{count} not met:\n" + "\n".join(failures)
        raise GateError(what, str(config), "correct the rows or the rewards, or change the limits")
