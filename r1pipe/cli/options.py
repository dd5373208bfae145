"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

EPILOG = (
    "Exit codes: 0 done; 1 a gate, a guard or a budget was not met; 2 a mistake in a config, a file or a command; "
    "3 a stage failed; 130 or 143 interrupted."
)
SHIPPED_CONFIGS = Path(__file__).parents[1] / "configs"

Config = Annotated[Path, typer.Argument(help="the YAML, for example configs/r1.yaml", show_default=False)]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        help="the YAML [default: ./configs/r1.yaml, else the one that ships]",
        show_default=False,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="override one value, e.g. stages.reasoning-rl.grpo.beta=0.01 (repeatable)",
    ),
]
Run = Annotated[
    str | None,
    typer.Option("--run", help="the run's name [default: the config's `run:`, else its file name]"),
]
Rebuild = Annotated[
    list[str] | None,
    typer.Option(
        "--rebuild",
        metavar="STAGE",
        help="redo this stage and the stages that read from it; the old results move to runs/RUN/.old/ (repeatable)",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="refuse stages made by other versions of r1pipe or its libraries, and hub inputs without a commit",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes",
        min=0,
        help="stop after this time, a training with a checkpoint, and leave with exit code 4; the same call goes on",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="show what would run, with its processes (and the sbatch script of Slurm stages); change nothing",
    ),
]


def default_config() -> Path:
    """./configs/r1.yaml where there is one (a checkout, or after `r1pipe init`), else the one that ships."""
    own = Path("configs/r1.yaml")
    return own if own.is_file() else SHIPPED_CONFIGS / "r1.yaml"


def print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=1, ensure_ascii=False))
