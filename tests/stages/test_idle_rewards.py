"""A reward that no row lets fire is refused by the RL stage itself, from all rows, before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from r1pipe.artifacts import Checkpoint, Prompts
from r1pipe.errors import InputError
from tests.run.test_first_rows import REWARDS, RL, here, load_config, load_kind, yaml_of


@pytest.mark.parametrize("rewards", REWARDS)
def test_a_reward_that_cannot_fire_is_refused_by_the_stage(tmp_path: Path, rewards: str) -> None:
    rows, says = REWARDS[rewards]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.yaml").write_text(yaml_of(Prompts, "x.jsonl", RL % rewards))
    stage = load_config(tmp_path / "t.yaml").stages["it"]
    module = load_kind("r1-zero")
    ports = {"model": Checkpoint(tmp_path / "none"), "prompts": Prompts(path)}
    outputs = {"checkpoint": Checkpoint(tmp_path / "out")}
    with pytest.raises(InputError, match=says):
        module.run(stage.config, module.Inputs(**ports), module.Outputs(**outputs), here(tmp_path))
