"""Mistakes in a config, collected so that all of them are reported at once, each with its file and line."""

from __future__ import annotations

from dataclasses import dataclass, replace

from r1pipe.config.yamltree import Origin
from r1pipe.errors import ConfigError


@dataclass(frozen=True)
class Mistake:
    """One mistake: what is wrong, where, what to do.

    Attributes:
        stage: where something is not on this machine, the stage that needs it.
    """

    what: str
    where: str = ""
    fix: str = ""
    stage: str = ""


class Mistakes(list[Mistake]):
    """The mistakes found so far.

    Args:
        on_paper: what the user will bring need not be here yet: a config is planned, not run.

    Attributes:
        stage: the stage that is being read.
    """

    def __init__(self, on_paper: bool = False) -> None:
        super().__init__()
        self.on_paper = on_paper
        self.stage = ""

    def absent(self, what: str, where: Origin | str, fix: str = "") -> None:
        """Add a mistake that is none on paper, or where the stage will not run: something is not on this machine."""
        if not self.on_paper:
            self.append(Mistake(what, str(where), fix, self.stage))

    def add(self, what: str, where: Origin | str, fix: str = "") -> None:
        self.append(Mistake(what, str(where), fix))

    def raise_all(self, config: str) -> None:
        """Raise one ConfigError for all problems; do nothing if there are none.

        Args:
            config: the file, as it is shown.
        """
        # a value that YAML anchors share is wrong in several places, and reported once
        problems = list(dict.fromkeys(replace(problem, stage="") for problem in self))
        if not problems:
            return
        if len(problems) == 1:
            raise ConfigError(problems[0].what, problems[0].where, problems[0].fix)
        lines = [f"{p.where}: {p.what}" + (f"; {p.fix}" if p.fix else "") for p in problems]
        raise ConfigError(
            f"{len(problems)} mistakes:\n" + "\n".join(lines),
            config,
            "each line says where and what; nothing was started",
        )
