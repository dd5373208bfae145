"""The environment of a worker: the user's settings win, except where results would depend on them."""

import pytest

from r1pipe.launch.environment import base_environment


def test_a_users_setting_wins_where_results_do_not_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_CUDNN_SDPA_DEPRIORITIZED", raising=False)
    assert (
        base_environment()["TORCH_CUDNN_SDPA_DEPRIORITIZED"] == "1"
    )  # a plan for each new shape, so for each token that is sampled
    monkeypatch.setenv("TORCH_CUDNN_SDPA_DEPRIORITIZED", "0")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    environment = base_environment()
    assert environment["TORCH_CUDNN_SDPA_DEPRIORITIZED"] == "0" and environment["PYTHONHASHSEED"] == "0"


def test_what_another_launcher_left_over_does_not_reach_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.setenv(name, "3")
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} & set(base_environment())
