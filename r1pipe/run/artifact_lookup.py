"""From what a user types to an artifact on disk: a path, or a name of the figure."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from r1pipe.config.yamltree import nearest
from r1pipe.errors import InputError
from r1pipe.run.status import newest_run, run_folder, run_names, stage_names
from r1pipe.text.regular_files import in_home


class Made(NamedTuple):
    """An artifact that a stage of a run has made: `kind` is its type's, `name` its name in the figure."""

    stage: str
    port: str
    kind: str
    name: str
    path: Path


def find_artifact(text: str, kind: str = "") -> Path:
    """The path of an artifact.

    Args:
        text: a path; or a name of the figure or a stage (of the newest run); or RUN/NAME, RUN/STAGE, RUN/STAGE/PORT.
        kind: of the artifacts that an error names; empty = all.

    Raises:
        InputError: there is none, or the stage has several outputs.
    """
    path = in_home(Path(text))
    if path.exists():
        return path

    run, rest = _run_and_rest(text)
    made = made_in(run)
    # An artifact's name comes first: a stage may have the name of another stage's artifact.
    for artifact in made:
        if artifact.name == rest:
            return artifact.path

    stage, _, port = rest.partition("/")
    outputs = {artifact.port: artifact.path for artifact in made if artifact.stage == stage}
    if not outputs:
        raise _nothing_there(text, run, rest, made, kind)
    if not port and len(outputs) == 1:
        return next(iter(outputs.values()))
    if port not in outputs:
        what = f"stage '{stage}' of run '{run}' has the outputs {', '.join(outputs)}"
        raise InputError(
            what,
            text,
            f"name one of them: {run}/{stage}/{next(iter(outputs))}",
        )
    return outputs[port]


def _run_and_rest(text: str) -> tuple[str, str]:
    """RUN and what follows it. A first part that is no run's name belongs to the newest run."""
    first, _, rest = text.partition("/")
    if rest and first in run_names():
        return first, rest
    if not run_names():
        fix = "give a file or a dataset's folder, or start a run: r1pipe run-all CONFIG"
        raise InputError(
            f"there is no file '{text}', and no run in this folder that could have made it", fix=fix
        )
    return newest_run(), text


def made_in(run: str) -> list[Made]:
    """What the finished stages of a run have made, in the order of the figure."""
    folder = run_folder(run)
    made = []
    for stage in stage_names(folder):
        files = folder.stage(stage)
        manifest = files.manifest() or {"outputs": {}}
        for port, output in manifest["outputs"].items():
            # The path of an adopted output is absolute, so joining leaves it as it is.
            made.append(
                Made(
                    stage,
                    port,
                    output["type"],
                    output["name"],
                    files.path / output["path"],
                )
            )
    return made


def _nothing_there(
    text: str,
    run: str,
    rest: str,
    made: list[Made],
    kind: str,
) -> InputError:
    nothing = f"no {kind}" if kind else "nothing"
    names = [artifact.name for artifact in made if kind in ("", artifact.kind)]
    if not names:
        what = f"there is no file '{text}', and run '{run}' has made {nothing} yet"
        return InputError(what, fix=f"`r1pipe status {run}` shows how far it is")
    what = f"there is no file '{text}', and run '{run}' has made {nothing} called '{rest}'"
    return InputError(
        what,
        str(run_folder(run).path),
        nearest(rest, names),
    )
