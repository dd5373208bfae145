"""Files of a launch block that are none: refused in our own words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from r1pipe.config.profiles import deepspeed_config, profile_environment
from r1pipe.errors import ConfigError, InputError
from r1pipe.launch.hosts import read_hostfile
from r1pipe.schema import Launch


def test_a_hostfile_that_is_a_pipe_is_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hosts")
    with pytest.raises(InputError, match="the hostfile cannot be read: it is a named pipe, not a file"):
        read_hostfile(tmp_path / "hosts", 2)


@pytest.mark.parametrize("content", ["", "[", "[]", "3", "{}", '{"zero_optimization": 3}', "[" * 100_000])
def test_settings_of_deepspeed_of_another_shape_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "zero2.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="DeepSpeed") as refused:
        deepspeed_config(Launch(profile="zero2", deepspeed_file=path))
    assert refused.value.where == str(path)


@pytest.mark.parametrize("content", ["[", "[]", "a: &a [*a]", "a: !!binary aGk="])
def test_settings_of_accelerate_of_another_shape_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ddp.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"."):
        profile_environment(Launch(profile="ddp", accelerate_file=path), tmp_path)
