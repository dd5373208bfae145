"""run-all as a process: failures, resume, warnings, isolation, summary."""

import json
import os
import stat
import time
from pathlib import Path

import pytest
from engine import CHAIN, alive, config, r1pipe, rows, start, states, wait_for

ONE = "stages:\n  a: {kind: r1pipe_fakes.rows, outputs: {rows: first}}\n"


def then(what: str) -> str:
    return ONE.replace("rows: first}", "rows: first}, then: " + what)


def test_a_stage_of_the_user_s_own_that_crashes_is_their_mistake_with_file_and_line(tmp_path: Path):
    config(tmp_path, then("crash"))
    failed = r1pipe(tmp_path, "run-all", "t.yaml")
    assert failed.returncode == 2
    assert "r1pipe_fakes.rows raised ZeroDivisionError: a mistake of the stage's" in failed.stderr
    assert "r1pipe_fakes/rows.py:" in failed.stderr and "Traceback" not in failed.stderr
    assert "ZeroDivisionError" in (tmp_path / "runs/t/a/logs/attempt_1.log").read_text()
    assert not (tmp_path / "runs/t/a/out").exists()


def test_a_stage_of_ours_that_crashes_is_exit_code_3_with_the_log_s_last_lines(tmp_path: Path):
    """A number that no config should hold, so that our own code fails."""
    config(tmp_path, then("our-crash"))
    failed = r1pipe(tmp_path, "run-all", "t.yaml")
    assert failed.returncode == 3
    assert "AssertionError" in failed.stderr and "runs/t/a/logs/attempt_1.log" in failed.stderr


@pytest.mark.parametrize(
    ("then_", "says"),
    [
        ("no-metrics", "run returned a NoneType None, not dict"),
        ("leave", "ended without a result"),
        ("denied", "refuses"),
    ],
)
def test_what_a_stage_of_the_user_s_own_does_not_keep_is_exit_code_2_with_its_file(
    tmp_path: Path, then_: str, says: str
):
    config(tmp_path, then(then_))
    failed = r1pipe(tmp_path, "run-all", "t.yaml")
    assert failed.returncode == 2 and says in failed.stderr
    assert ("/nowhere/x" if then_ == "denied" else "r1pipe_fakes/rows.py") in failed.stderr


def test_a_stage_that_refuses_its_input_is_exit_code_2_in_its_own_words_and_leaves_nothing(tmp_path: Path):
    config(tmp_path, then("input-error"))
    failed = r1pipe(tmp_path, "run-all", "t.yaml")
    assert failed.returncode == 2
    assert (
        "InputError: column 'prompt' is missing" in failed.stderr
        and "rows.jsonl:1" in failed.stderr
        and "fix: rename it" in failed.stderr
    )
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "runs/t/a").exists()


def test_a_full_disk_is_said_as_such(tmp_path: Path):
    config(tmp_path, then("full-disk"))
    failed = r1pipe(tmp_path, "run-all", "t.yaml")
    assert failed.returncode == 2 and "no disk space is left" in failed.stderr


def test_a_killed_stage_hints_at_memory(tmp_path: Path):
    config(tmp_path, then("kill"))
    failed = r1pipe(tmp_path, "run-all", "t.yaml")
    assert failed.returncode == 3 and "SIGKILL" in failed.stderr and "memory" in failed.stderr


def test_a_partial_stage_goes_on_from_its_workdir(tmp_path: Path):
    config(tmp_path, then("resume"))
    assert r1pipe(tmp_path, "run-all", "t.yaml").returncode == 2
    assert states(tmp_path) == {"a": "partial"}
    resumed = r1pipe(tmp_path, "run-all", "t.yaml")
    assert resumed.returncode == 0, resumed.stderr
    assert "attempt 2, goes on from what it saved" in resumed.stdout
    summary = json.loads((tmp_path / "runs/t/summary.json").read_text())
    logs = sorted(p.name for p in (tmp_path / "runs/t/a/logs").iterdir())
    assert logs == ["attempt_1.log", "attempt_2.log"] and summary["stages"][0]["state"] == "done"
    assert not (tmp_path / "runs/t/a/workdir").exists()


def test_a_stage_that_asks_for_it_is_started_again_with_the_reason_said(tmp_path: Path):
    config(tmp_path, then("start-again"))
    done = r1pipe(tmp_path, "run-all", "t.yaml")
    assert done.returncode == 0, done.stderr
    assert "note: a: the first half does not fit" in done.stdout
    assert "a: started (attempt 2, goes on from what it saved)" in done.stdout
    assert (tmp_path / "runs/t/a/logs/attempt_2.log").exists()


def test_warnings_of_a_stage_reach_the_console(tmp_path: Path):
    config(tmp_path, then("warn"))
    done = r1pipe(tmp_path, "run-all", "t.yaml")
    assert done.returncode == 0 and "note: a: 2 of 3 answers cannot be parsed" in done.stdout


def test_an_empty_output_is_not_published(tmp_path: Path):
    config(tmp_path, ONE.replace("rows: first}", "rows: first}, count: 0"))
    failed = r1pipe(tmp_path, "run-all", "t.yaml")
    assert failed.returncode == 2 and "is empty" in failed.stderr and "r1pipe_fakes/rows.py" in failed.stderr
    assert states(tmp_path) == {"a": "partial"}


def test_two_drivers_of_one_run(tmp_path: Path):
    config(tmp_path, then("sleep"))
    first = start(tmp_path, "run-all", "t.yaml")
    try:
        wait_for(lambda: (tmp_path / "runs/t/a/workdir/pid.0").exists())
        second = r1pipe(tmp_path, "run-all", "t.yaml")
        assert second.returncode == 2 and f"pid {first.pid}" in second.stderr and "BusyError" in second.stderr
        status = json.loads(r1pipe(tmp_path, "status", "--json").stdout)
        assert status["driver"]["pid"] == first.pid and status["stages"][0]["state"] == "running"
        assert status["stages"][0]["progress"]["done"] == 1
    finally:
        first.terminate()
        first.communicate(timeout=30)


@pytest.mark.parametrize(("number", "code"), [(15, 143), (2, 130)])
def test_an_interrupted_driver_ends_its_workers_and_says_so_by_its_exit_code(
    tmp_path: Path, number: int, code: int
):
    config(tmp_path, then("grandchild"))
    driver = start(tmp_path, "run-all", "t.yaml")
    worker = int(wait_for(lambda: _text(tmp_path / "runs/t/a/workdir/pid.0")))
    grandchild = int(wait_for(lambda: _text(tmp_path / "runs/t/a/workdir/pid.grandchild")))
    driver.send_signal(number)
    out, _ = driver.communicate(timeout=30)
    assert driver.returncode == code and "run the same command again" in out
    assert not alive(worker)
    wait_for(lambda: not alive(grandchild))
    assert states(tmp_path) == {"a": "partial"}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(15, 143), (2, 130), (10, 138)])
def test_a_stage_that_saves_when_it_is_stopped_is_waited_for(tmp_path: Path, number: int, code: int):
    """It was killed after five seconds, with its checkpoint half written."""
    config(tmp_path, then("save"))
    driver = start(tmp_path, "run-all", "t.yaml")
    wait_for(lambda: (tmp_path / "runs/t/a/workdir/pid.0").exists())
    driver.send_signal(number)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == code and "waits for the stage's checkpoint" in out
    assert (tmp_path / "runs/t/a/workdir/saved").exists()
    assert r1pipe(tmp_path, "run-all", "t.yaml").returncode == 0


def test_a_second_signal_waits_for_nothing(tmp_path: Path):
    config(tmp_path, then("save"))
    driver = start(tmp_path, "run-all", "t.yaml")
    worker = int(wait_for(lambda: _text(tmp_path / "runs/t/a/workdir/pid.0")))
    driver.send_signal(15)
    time.sleep(1)
    driver.send_signal(15)
    driver.communicate(timeout=60)
    assert driver.returncode == 143 and not alive(worker)
    assert not (tmp_path / "runs/t/a/workdir/saved").exists()


@pytest.mark.slow
def test_minutes_stop_a_stage_with_what_it_saves_and_the_next_call_goes_on(tmp_path: Path):
    config(tmp_path, then("save"))
    stopped = r1pipe(tmp_path, "run-all", "t.yaml", "--minutes", "0.1")
    assert stopped.returncode == 4, stopped.stderr
    assert "stopped after 0.1 minutes (--minutes); run the same command again to go on" in stopped.stdout
    assert states(tmp_path) == {"a": "partial"} and (tmp_path / "runs/t/a/workdir/saved").exists()
    assert r1pipe(tmp_path, "run-stage", "a", "-c", "t.yaml", "--minutes", "9").returncode == 0


def test_when_the_time_is_up_no_further_stage_begins(tmp_path: Path):
    config(tmp_path)
    stopped = r1pipe(tmp_path, "run-all", "t.yaml", "--minutes", "0")
    assert stopped.returncode == 4 and states(tmp_path) == dict.fromkeys(("rows", "more", "score"), "missing")


def test_kill_9_of_the_driver_leaves_no_worker_and_the_run_goes_on(tmp_path: Path):
    config(tmp_path, CHAIN.replace("count: 5", "count: 5, then: sleep, launch: {num_processes: 2}"))
    driver = start(tmp_path, "run-all", "t.yaml")
    workers = [int(wait_for(lambda r=r: _text(tmp_path / f"runs/t/more/workdir/pid.{r}"))) for r in (0, 1)]
    driver.kill()
    driver.wait()
    for pid in workers:
        wait_for(lambda pid=pid: not alive(pid))
    assert states(tmp_path) == {"rows": "done", "more": "partial", "score": "missing"}
    second = start(tmp_path, "run-all", "t.yaml")  # the dead driver's lock does not hold it up
    wait_for(lambda: "attempt_2.log" in [p.name for p in (tmp_path / "runs/t/more/logs").glob("*")])
    second.terminate()
    second.communicate(timeout=30)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_the_summary_is_written_after_each_stage(tmp_path: Path):
    config(
        tmp_path,
        CHAIN
        + "  bad: {kind: r1pipe_fakes.rows, inputs: {source: second}, outputs: {rows: z}, then: crash}\n",
    )
    assert r1pipe(tmp_path, "run-all", "t.yaml").returncode == 2
    summary = json.loads((tmp_path / "runs/t/summary.json").read_text())
    assert [(s["name"], s["state"]) for s in summary["stages"]] == [
        ("rows", "done"),
        ("more", "done"),
        ("score", "done"),
        ("bad", "missing"),
    ]
    assert summary["scores"] == {"base": {"math": {"pass@1": 0.5, "stderr": 0.01, "n": 5}}}
    assert summary["run"] == "t" and summary["cores"] >= 1 and summary["device"] and summary["wall_s"] > 0
    assert all(s["wall_s"] > 0 and s["metrics"] for s in summary["stages"][:3])


def test_reports_are_merged_by_checkpoint_and_suite(tmp_path: Path):
    config(
        tmp_path,
        CHAIN + "  more-score: {kind: r1pipe_fakes.score, inputs: {prompts: second}, outputs: {report: r2}, "
        "checkpoint: zero, value: 0.75}\n",
    )
    done = r1pipe(tmp_path, "run-all", "t.yaml")
    assert done.returncode == 0
    assert set(json.loads((tmp_path / "runs/t/summary.json").read_text())["scores"]) == {"base", "zero"}
    assert "zero        0.750±0.010" in done.stdout


# --- isolation --------------------------------------------------------------------------------------------------------


def _bwrap_that_fails(folder: Path) -> str:
    tools = folder / "tools"
    tools.mkdir()
    script = tools / "bwrap"
    script.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return f"{tools}{os.pathsep}{os.environ['PATH']}"


def test_without_isolation_the_run_says_so_once_and_goes_on(tmp_path: Path):
    config(tmp_path)
    done = r1pipe(tmp_path, "run-all", "t.yaml", PATH=_bwrap_that_fails(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("code cannot be isolated here") == 1
    assert rows(tmp_path, "rows")[0]["isolation"] is False


def test_isolation_required_is_refused_with_the_package_to_install(tmp_path: Path):
    config(tmp_path, "isolation: required\n" + CHAIN)
    refused = r1pipe(tmp_path, "run-all", "t.yaml", PATH=_bwrap_that_fails(tmp_path))
    assert refused.returncode == 2 and "MissingToolError" in refused.stderr and "bubblewrap" in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_that_cannot_be_written(tmp_path: Path):
    config(tmp_path)
    (tmp_path / "runs").write_text("in the way")
    refused = r1pipe(tmp_path, "run-all", "t.yaml")
    assert refused.returncode == 2 and "cannot be written" in refused.stderr
