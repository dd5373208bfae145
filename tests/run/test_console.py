"""Tables and lines for the user's eyes."""

import json
from pathlib import Path

import pytest

from r1pipe.run.console import Console, seconds, shown
from r1pipe.run.score_tables import score_lines, score_tables

SCORES = {
    "base": {
        "math": {"pass@1": 0.25, "stderr": 0.0125, "n": 512, "tokens": 12.4},
        "reasoning": {"pass@1": 0.3, "stderr": 0.01, "tokens": 20.2},
    },
    "zero": {
        "math": {"pass@1": 0.5},
        "reasoning": {"pass@1": 0.61, "stderr": 0.01, "tokens": 41.0},
        "code": {"pass@1": None, "note": "not run: no isolation"},
    },
}


def test_a_table_of_scores_with_standard_errors_and_tokens():
    (table,) = score_tables(SCORES, 200)
    assert table[0] == ["checkpoint", "math", "reasoning", "tokens", "code"]
    assert table[1] == ["base", "0.250±0.013", "0.300±0.010", "20", "-"]
    assert table[2] == ["zero", "0.500", "0.610±0.010", "41", "not run: no isolation"]


def test_a_wide_table_is_cut_into_several_that_each_name_the_checkpoints():
    wide = {"base": {f"suite{i}": {"pass@1": 0.5, "stderr": 0.01} for i in range(20)}}
    tables = score_tables(wide, 80)
    assert len(tables) > 1 and all(table[0][0] == "checkpoint" for table in tables)
    assert sum(len(table[0]) - 1 for table in tables) == 20
    assert all(len(line) <= 80 for line in score_lines(wide, 80))


def test_no_scores_no_table():
    assert score_lines({}) == [] and score_lines({"base": {}}) == []


def test_progress_of_a_long_stage_shows_step_reward_length_and_time_left(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    console = Console()
    progress = {"time": 100.0, "done": 10, "total": 100, "reward": 0.5, "length": 21.25}
    console.tick(progress, tmp_path / "none")
    assert "10/100  reward 0.5  length 21.2" in capsys.readouterr().out
    console._last_line_at = float("-inf")
    console.tick(progress | {"time": 120.0, "done": 30}, tmp_path / "none")
    assert "1 min 10 s left" in capsys.readouterr().out  # 20 updates in 20 s, 70 to go


def test_each_note_is_shown_once(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    notes = tmp_path / "notes.jsonl"
    notes.write_text(json.dumps({"note": "one"}) + "\n")
    console = Console()
    console.tick(None, notes)
    console.tick(None, notes)
    notes.write_text(notes.read_text() + json.dumps({"note": "two"}) + "\n" + '{"no')
    console.tick(None, notes)
    assert [line.split(": ")[-1] for line in capsys.readouterr().out.splitlines()] == ["one", "two"]


def test_words():
    assert seconds(7.4) == "7.4 s" and seconds(754) == "12 min 34 s" and seconds(7265) == "2 h 01 min"
    assert shown({"prompts": 4096.0, "rate": 1234.5}) == "prompts 4096  rate 1.23e+03"
    assert shown({"reward": 0.123456, "done": 3, "time": 1, "n": 4, "lost": None}) == "reward 0.123  n 4"
