"""The command line: what each command prints, and its exit codes."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine import CHAIN, ROOT, config, environment, r1pipe, start, wait_for

COMMANDS = [
    "run-all",
    "run-stage",
    "plan",
    "status",
    "report",
    "logs",
    "init",
    "reproduce",
    "clean",
    "export",
    "serve",
    "chat",
    "doctor",
    "eval",
    "config",
    "config show",
]


@pytest.fixture
def done(tmp_path: Path) -> Path:
    config(tmp_path)
    assert r1pipe(tmp_path, "run-all", "t.yaml").returncode == 0
    return tmp_path


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_of_every_command(tmp_path: Path, command: str):
    shown = r1pipe(tmp_path, *command.split(), "--help")
    assert shown.returncode == 0 and "Usage" in shown.stdout


def test_help_is_quick(tmp_path: Path):
    """The bar is 0.5 s; the best of three, since other tests run beside this one."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        r1pipe(tmp_path, "--help", own_process=True)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.5


def test_no_command_is_hidden_or_stubbed():
    from r1pipe.cli.main import app, config_app

    names = [c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands]  # type: ignore[union-attr]
    assert sorted(
        [*names, "config", *(f"config {c.name}" for c in config_app.registered_commands)]
    ) == sorted(COMMANDS)


def test_a_run_that_is_done_takes_at_most_two_seconds(done: Path):
    times = []
    for _ in range(3):
        began = time.perf_counter()
        assert r1pipe(done, "run-all", "t.yaml", own_process=True).returncode == 0
        times.append(time.perf_counter() - began)
    assert min(times) < 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run-all", "none.yaml"], "no such config"),
        (["run-all", "t.yaml", "--only", "mroe"], "did you mean 'more'?"),
        (["run-all", "t.yaml", "--until", "mroe"], "did you mean 'more'?"),
        (["run-all", "t.yaml", "--rebuild", "mroe"], "did you mean 'more'?"),
        (["run-all", "t.yaml", "--only", "rows", "--rebuild", "more"], "not among the stages to run"),
        (["run-all", "t.yaml", "--set", "stages.more.cuont=1"], "did you mean 'count'?"),
        (["run-all", "t.yaml", "--run", "../up"], "not a name for a run"),
        (["run-stage", "mroe", "-c", "t.yaml"], "did you mean 'more'?"),
        (["status", "none"], "there is no run"),
        (["clean", ".."], "there is no run"),
        (["logs", "more"], "there is no run"),
    ],
)
def test_a_mistake_is_exit_code_2_with_what_where_and_fix(tmp_path: Path, arguments: list[str], said: str):
    config(tmp_path)
    wrong = r1pipe(tmp_path, *arguments)
    assert (
        wrong.returncode == 2
        and said in wrong.stderr
        and "fix: " in wrong.stderr
        and "Traceback" not in wrong.stderr
    )
    assert not (tmp_path / "runs").exists()


def test_a_wrong_option_is_exit_code_2(tmp_path: Path):
    assert r1pipe(tmp_path, "run-all").returncode == 2
    assert r1pipe(tmp_path, "run-all", "t.yaml", "--no-such").returncode == 2


def test_run_stage_says_what_is_missing_and_upstream_makes_it(tmp_path: Path):
    config(tmp_path)
    refused = r1pipe(tmp_path, "run-stage", "score", "-c", "t.yaml")
    assert refused.returncode == 2
    assert "second (made by more: missing)" in refused.stderr and "--upstream" in refused.stderr
    assert "r1pipe run-stage score -c t.yaml --upstream" in " ".join(refused.stderr.replace("│", " ").split())
    assert not (tmp_path / "runs").exists()
    made = r1pipe(tmp_path, "run-stage", "score", "-c", "t.yaml", "--upstream")
    assert made.returncode == 0 and made.stdout.count(": done in") == 3


def test_a_stage_runs_where_others_lack_their_files(tmp_path: Path):
    config(
        tmp_path,
        CHAIN + "  other: {kind: r1pipe_fakes.rows, inputs: {source: ./gone.jsonl}, outputs: {rows: z}}\n",
    )
    made = r1pipe(tmp_path, "run-stage", "rows", "-c", "t.yaml")
    assert made.returncode == 0, made.stderr
    assert "left out (1): other" in made.stdout
    refused = r1pipe(tmp_path, "run-all", "t.yaml")
    assert refused.returncode == 2 and "gone.jsonl" in refused.stderr


def test_only_and_until(tmp_path: Path):
    config(tmp_path)
    assert r1pipe(tmp_path, "run-all", "t.yaml", "--until", "more").stdout.count(": done in") == 2
    only = r1pipe(tmp_path, "run-all", "t.yaml", "--only", "score")
    assert only.returncode == 0 and only.stdout.count(": done in") == 1


def test_dry_run_touches_nothing(tmp_path: Path):
    config(tmp_path, CHAIN.replace("count: 5", "count: 5, launch: {num_processes: 2}"))
    shown = r1pipe(tmp_path, "run-all", "t.yaml", "--dry-run")
    assert shown.returncode == 0 and "more: 2 process(es)" in shown.stdout
    assert not (tmp_path / "runs").exists()


def test_dry_run_prints_the_sbatch_of_a_slurm_stage(tmp_path: Path):
    config(
        tmp_path,
        CHAIN.replace(
            "count: 5",
            "count: 5, launch: {profile: zero3, nodes: 2, num_processes: 8, slurm: {partition: big}}",
        ),
    )
    shown = r1pipe(tmp_path, "run-all", "t.yaml", "--dry-run", "--set", "stages.more.text=a b")
    assert "#SBATCH --partition=big" in shown.stdout
    assert "r1pipe run-all t.yaml --set 'stages.more.text=a b' --only more" in shown.stdout
    script = shown.stdout[shown.stdout.index("#!/bin/bash") :].split("\nscore:")[0]
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_json_is_alone_on_stdout(tmp_path: Path):
    config(tmp_path)
    assert json.loads(r1pipe(tmp_path, "plan", "t.yaml", "--json").stdout)["stages"][1]["reads"] == {
        "source": "first"
    }
    assert json.loads(r1pipe(tmp_path, "run-all", "t.yaml", "--json").stdout)["run"] == "t"
    assert [s["state"] for s in json.loads(r1pipe(tmp_path, "status", "--json").stdout)["stages"]] == [
        "done"
    ] * 3
    assert (
        json.loads(r1pipe(tmp_path, "config", "show", "t.yaml", "--json").stdout)["stages"]["more"]["count"]
        == 5
    )


def test_config_show_names_every_origin(tmp_path: Path):
    config(tmp_path, "extends: base.yaml\nstages: {more: {count: 6}}\n")
    config(tmp_path, "seed: 3\n" + CHAIN, "base.yaml")
    lines = r1pipe(
        tmp_path, "config", "show", "t.yaml", "--set", "stages.more.inner.rate=0.5"
    ).stdout.splitlines()

    def line(start: str, after: str = "  more:") -> str:
        return next(one for one in lines[lines.index(after) :] if one.strip().startswith(start))

    assert line("count: 6").endswith("# t.yaml:2")
    assert line("rate: 0.5").endswith("# --set stages.more.inner.rate=0.5")
    assert line("depth: 2").endswith("# default")
    assert line("kind:").endswith("# base.yaml:5")
    assert line("seed: 3").endswith("# base.yaml:1 (seed)")
    brief = r1pipe(tmp_path, "config", "show", "t.yaml", "--no-defaults").stdout
    assert "depth" not in brief and "count: 6" in brief


def test_logs_and_status(done: Path):
    assert r1pipe(done, "logs", "more").stdout == "the stage says hello\n"
    wrong = r1pipe(done, "logs", "mroe")
    assert wrong.returncode == 2 and "did you mean 'more'?" in wrong.stderr
    status = r1pipe(done, "status").stdout
    assert "3 of 3 stages done" in status and "0.500±0.010" in status


def test_logs_follow_until_the_stage_ends(tmp_path: Path):
    config(tmp_path, "stages:\n  a: {kind: r1pipe_fakes.rows, outputs: {rows: z}, then: sleep}\n")
    driver = start(tmp_path, "run-all", "t.yaml")
    wait_for(lambda: (tmp_path / "runs/t/a/workdir/pid.0").exists())
    follower = start(tmp_path, "logs", "a", "-f")
    time.sleep(1)
    assert follower.poll() is None
    driver.terminate()
    driver.communicate(timeout=30)
    out, _ = follower.communicate(timeout=60)
    assert "the stage says hello" in out and follower.returncode == 0


def test_init_copies_the_shipped_configs_once(tmp_path: Path):
    assert r1pipe(tmp_path, "init").returncode == 0
    ours = {p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.yaml")}
    assert {p.relative_to(tmp_path / "configs") for p in (tmp_path / "configs").rglob("*.yaml")} == ours
    again = r1pipe(tmp_path, "init")
    assert again.returncode == 2 and "already there" in again.stderr
    assert r1pipe(tmp_path, "init", "elsewhere").returncode == 0


def test_a_terminal_gets_boxes_and_a_panel(tmp_path: Path):
    """Under a pseudo-terminal, as a user has it."""
    config(tmp_path)
    code = f"import pty, sys; sys.exit(pty.spawn([{sys.executable!r}, '-m', 'r1pipe.cli.main', *sys.argv[1:]]) >> 8)"

    def terminal(*arguments: str) -> subprocess.CompletedProcess[str]:
        variables = {key: value for key, value in environment(TERM="xterm-256color").items() if key != "CI"}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    done = terminal("run-all", "t.yaml")
    assert done.returncode == 0, done.stdout
    assert "╭" in done.stdout and "score" in done.stdout and "0.500±0.010" in done.stdout
    wrong = terminal("run-all", "t.yaml", "--set", "stages.more.count=9")
    assert wrong.returncode == 2 and "StaleError" in wrong.stdout and "╭" in wrong.stdout
