"""The command line, which is thin: commands read their options and call the library.

Exit codes: 0 done, 1 a gate, a guard or a budget was not met, 2 the user's mistake, 3 a stage failed, 4 the time of
--minutes is up, 130 interrupted (SIGINT), 143 terminated (SIGTERM), 138 stopped by SIGUSR1.

Everything but typer is imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import sys

import typer

from r1pipe.cli import (
    audit_commands,
    data_commands,
    doctor_command,
    eval_command,
    run_commands,
    show_commands,
    upkeep_commands,
    use_commands,
)
from r1pipe.cli.options import EPILOG

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="DeepSeek-R1's training recipe, end to end.",
    epilog=EPILOG,
)
config_app = typer.Typer(no_args_is_help=True, help="Look at configs.")

app.command("run-all", epilog=EPILOG)(run_commands.run_all)
app.command("run-stage", epilog=EPILOG)(run_commands.run_stage)
app.command("plan")(run_commands.plan)
app.command("status")(show_commands.status)
app.command("report")(show_commands.report)
app.command("logs")(show_commands.logs)
app.command("init")(show_commands.init)
app.command("reproduce", epilog=EPILOG)(upkeep_commands.reproduce)
app.command("clean")(upkeep_commands.clean)
app.command("eval", epilog=EPILOG)(eval_command.evaluate)
app.command("chat")(use_commands.chat)
app.command("export")(use_commands.export)
app.command("serve")(use_commands.serve)
app.command("doctor")(doctor_command.doctor)
config_app.command("show")(show_commands.config_show)
app.add_typer(config_app, name="config")
app.add_typer(audit_commands.app, name="audit")
app.add_typer(data_commands.app, name="data")


def main() -> None:
    try:
        app()
    except BrokenPipeError:
        # `| head` has seen enough, and nothing is left to flush into.
        sys.stdout = None
        raise SystemExit(141) from None
    except Exception as raised:
        from r1pipe.errors import R1PipeError

        error = _explain(raised)
        if not isinstance(error, R1PipeError):
            raise
        _show(error)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _explain(error: Exception) -> Exception:
    """An operating system's refusal as one of our errors; everything else as it is."""
    import errno

    from r1pipe.errors import InputError

    # A full or read-only disk, or missing permissions, which the user can change.
    refusals = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
    if isinstance(error, OSError) and error.errno in refusals:
        what = f"the system refuses to read or write this: {error.strerror}"
        fix = "free disk space or change the permissions; then the same command goes on"
        return InputError(what, str(error.filename or ""), fix)
    return error


def _show(error: Exception) -> None:
    """One panel where stderr is a terminal, else plain lines."""
    if sys.stderr.isatty():
        from r1pipe.run.rich_console import RichConsole

        RichConsole().error(error)  # type: ignore[arg-type]
    else:
        from r1pipe.run.console import make_console

        make_console().error(error)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
