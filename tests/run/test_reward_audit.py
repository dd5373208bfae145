"""`r1pipe audit rewards`, and the gate in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine import config, r1pipe

RL = """
stages:
  problems: {kind: prompts, source: {path: more.jsonl}, outputs: {prompts: more}}
  zero:
    kind: r1-zero
    inputs: {model: "embedded:base", prompts: ./train.jsonl}
    outputs: {checkpoint: zero}
    grpo: {phases: [{steps: 1, rewards: [{name: accuracy}, {name: format, params: {form: zero}}]}]}
  later:
    kind: r1-zero
    inputs: {model: zero, prompts: more}
    outputs: {checkpoint: later}
    grpo: {phases: [{steps: 1, rewards: [{name: accuracy}]}]}
"""
ROWS: list[dict[str, Any]] = [
    {
        "id": f"m{i}",
        "domain": "math",
        "language": "en",
        "prompt": f"What is {i} plus 7?",
        "answer": str(i + 7),
    }
    for i in range(9)
]


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    for name in ("train", "more"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_is_well_and_what_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    config(tmp_path, RL)
    done = r1pipe(tmp_path, "audit", "rewards", "t.yaml", "--json", "found/audit.json")
    assert done.returncode == 0, done.stderr
    assert (
        "9 of 9 gold answers parse" in done.stdout
        and "answer-in-thinking" in done.stdout
        and "ms a response" in done.stdout
    )
    assert (
        "not audited: later: `more` is not made yet" in done.stdout
        and "r1pipe run-stage problems -c t.yaml --upstream" in done.stdout
    )
    told = json.loads((tmp_path / "found/audit.json").read_text())
    assert told["ok"] is True and len(told["not_audited"]) == 1
    assert (
        told["stages"][0]["cells"]["accuracy"]["gold"]["mean"] == 1.0
        and told["stages"][0]["cells"]["accuracy"]["gold"]["ms"] >= 0
    )
    alone = r1pipe(tmp_path, "audit", "rewards", "t.yaml", "--stage", "later")
    assert alone.returncode == 2 and "run-stage problems" in alone.stderr


def test_thresholds_and_the_worst_rows(tmp_path: Path) -> None:
    write(tmp_path, [*ROWS, {**ROWS[0], "id": "torn", "prompt": "and a torn one?", "answer": "\\frac{1}{"}])
    config(tmp_path, RL)
    done = r1pipe(tmp_path, "audit", "rewards", "t.yaml", "--stage", "zero")
    assert done.returncode == 1 and "1 limit was not met" in done.stderr and "torn" in done.stderr
    assert "1 gold answers do not parse: torn" in done.stdout
    kinder = ("--max-unparseable", "0.2", "--set", "stages.zero.audit.max_unparseable=0")
    done = r1pipe(tmp_path, "audit", "rewards", "t.yaml", "--stage", "zero", *kinder)
    assert done.returncode == 0, "an option goes over the config"


def test_mistakes_are_the_users(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    config(tmp_path, RL)
    for arguments, said in (
        (["--stage", "problems"], "has no rewards"),
        (["--stage", "zeros"], "no stage is called"),
        (["--min-gold", "7"], "min-gold"),
    ):
        done = r1pipe(tmp_path, "audit", "rewards", "t.yaml", *arguments)
        assert done.returncode == 2 and said in done.stderr, (arguments, done.stderr)


GATE = "stages:\n  gate: {kind: r1pipe_fakes.gate, outputs: {rows: rows}, stops: STOPS}\n"


def test_a_gate_ends_a_run_with_1_and_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    config(tmp_path, GATE.replace("STOPS", "before"))
    done = r1pipe(tmp_path, "run-all", "t.yaml")
    assert done.returncode == 1 and "GateError" in done.stderr and "r1pipe audit rewards" in done.stderr
    assert "note: gate: looked at the rewards" in done.stdout
    config(tmp_path, GATE.replace("STOPS", "never"))
    assert r1pipe(tmp_path, "run-all", "t.yaml").returncode == 0, (
        "mended, it runs; nothing was made that could be stale"
    )
    config(tmp_path, GATE.replace("STOPS", "never, audit: {sample: 3}"))
    again = r1pipe(tmp_path, "run-all", "t.yaml")
    assert again.returncode == 0 and "nothing to run" in again.stdout, (
        "an audit's settings make nothing stale"
    )


def test_what_a_guard_stopped_stays(tmp_path: Path) -> None:
    config(tmp_path, GATE.replace("STOPS", "after"))
    done = r1pipe(tmp_path, "run-all", "t.yaml")
    assert done.returncode == 1 and "GuardError" in done.stderr
    assert (tmp_path / "runs/t/gate/logs/attempt_1.log").is_file()
