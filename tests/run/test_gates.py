"""Gates: a run stops behind a stage that does not meet what it requires, and goes on when the limit is another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine import FIXTURES, config, manifest, r1pipe

from r1pipe.config.loader import load
from r1pipe.errors import ConfigError

TWO = """
stages:
  rows: {kind: r1pipe_fakes.rows, outputs: {rows: first}}
  score-base: {kind: r1pipe_fakes.score, inputs: {prompts: first}, outputs: {report: scores-base}}
  score-zero:
    kind: r1pipe_fakes.score
    inputs: {prompts: first}
    outputs: {report: scores-zero}
    checkpoint: zero
    value: 0.52
    require: math >= base + 2 stderr
  more: {kind: r1pipe_fakes.rows, outputs: {rows: second}}
"""


@pytest.fixture(autouse=True)
def fake_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FIXTURES))


def gates(folder: Path, command: str) -> dict[str, Any]:
    words = ["plan", "t.yaml", "--json"] if command == "plan" else [command, "--json"]
    shown = r1pipe(folder, *words)
    assert shown.returncode == 0, shown.stderr
    return {stage["name"]: stage["gates"] for stage in json.loads(shown.stdout)["stages"]}


def test_a_gate_stops_the_run_and_another_limit_lets_it_go_on(tmp_path: Path) -> None:
    """0.52 is no two standard errors (2 x 0.0141) above 0.50."""
    config(tmp_path, TWO)
    assert gates(tmp_path, "plan")["score-zero"][0]["met"] is None
    stopped = r1pipe(tmp_path, "run-all", "t.yaml")
    assert stopped.returncode == 1, stopped.stdout + stopped.stderr
    assert "GateError: score-zero does not meet what it requires" in stopped.stderr
    said = "0.52 ± 0.01; base 0.5 ± 0.01; the limit is 0.5283"
    assert f"math >= base + 2 stderr: {said}" in stopped.stderr and "t.yaml:11" in stopped.stderr
    assert not (tmp_path / "runs/t/more").exists()

    # The same again, from what is there; and every command tells it.
    again = r1pipe(tmp_path, "run-all", "t.yaml")
    assert again.returncode == 1 and "score-zero: started" not in again.stdout
    missed = {"gate": "math >= base + 2 stderr", "met": False, "said": said}
    assert gates(tmp_path, "plan")["score-zero"] == [missed] == gates(tmp_path, "status")["score-zero"]
    assert gates(tmp_path, "plan")["more"] == []
    line = f"requires math >= base + 2 stderr: not met ({said})"
    assert line in r1pipe(tmp_path, "status").stdout and line in r1pipe(tmp_path, "plan", "t.yaml").stdout
    assert f"- score-zero {line}" in (tmp_path / "runs/t/report.md").read_text()

    finished = manifest(tmp_path, "score-zero")["finished"]
    limit = "stages.score-zero.require=math >= base + 1 stderr"
    passed = r1pipe(tmp_path, "run-all", "t.yaml", "--set", limit)
    assert passed.returncode == 0, passed.stderr
    assert manifest(tmp_path, "score-zero")["finished"] == finished
    assert (tmp_path / "runs/t/more/manifest.json").is_file()
    assert gates(tmp_path, "status")["score-zero"][0]["met"] is True

    # A run with nothing to do has its gates, too.
    assert r1pipe(tmp_path, "run-all", "t.yaml").returncode == 1
    assert gates(tmp_path, "status")["score-zero"] == [missed]
    assert r1pipe(tmp_path, "run-all", "t.yaml", "--set", "stages.score-zero.require=null").returncode == 0


@pytest.mark.slow
def test_a_gate_that_is_met_is_told(tmp_path: Path) -> None:
    config(tmp_path, TWO.replace("math >= base + 2 stderr", "[math > 0.5, math <= score-base + 0.03]"))
    passed = r1pipe(tmp_path, "run-all", "t.yaml", "--until", "score-zero")
    assert passed.returncode == 0, passed.stderr
    assert "note: score-zero requires math > 0.5: met (0.52 ± 0.01)" in passed.stdout
    assert "met (0.52 ± 0.01; score-base 0.5 ± 0.01; the limit is 0.53)" in passed.stdout


@pytest.mark.slow
def test_what_was_not_measured_is_no_gate(tmp_path: Path) -> None:
    config(tmp_path, TWO.replace("math >= base", "maths >= base"))
    stopped = r1pipe(tmp_path, "run-all", "t.yaml")
    assert stopped.returncode == 2 and "score-zero has no number 'maths'" in stopped.stderr
    assert "did you mean 'math'?" in stopped.stderr
    assert "has no number 'maths'" in gates(tmp_path, "status")["score-zero"][0]["said"]
    alone = r1pipe(tmp_path, "run-stage", "score-zero", "-c", "t.yaml", "--run", "other", "--upstream")
    assert alone.returncode == 2


def test_a_limit_that_is_not_there_yet_is_said(tmp_path: Path) -> None:
    config(tmp_path, TWO)
    alone = r1pipe(tmp_path, "run-stage", "score-zero", "-c", "t.yaml", "--upstream")
    assert alone.returncode == 2 and "compares with score-base, which is not done" in alone.stderr
    assert "run-stage score-base" in alone.stderr


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("math", "is no limit"),
        ("0.5", "is no limit"),
        ("math = 0.5", "is no limit"),
        ("math >= base + 2 stddev", "is no limit"),
        ("{math: 0.5}", "is no limit"),
        ("math >= bass", "did you mean 'base'?"),
        ("math >= zero", "no stage above is called 'zero'"),
        ("math >= more", "no stage above is called 'more'"),
    ],
)
def test_what_is_no_gate_is_refused_with_its_line(tmp_path: Path, written: str, says: str) -> None:
    path = config(tmp_path, TWO.replace("math >= base + 2 stderr", written))
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert says in str(refused.value) and "t.yaml:11" in str(refused.value)


def test_what_is_adopted_has_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    path = config(
        tmp_path, TWO.replace("rows: second}}", "rows: second}, use: ./rows.jsonl, require: rows > 0}")
    )
    with pytest.raises(ConfigError, match="has no numbers to require something of"):
        load(path)
