"""`engine: ray`: what the engine `local` gives, from several machines, also when one of them dies."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from service import output, run_stage, sampling, stats, writer

from r1pipe.errors import BudgetError, ConfigError, MissingToolError
from r1pipe.schema import Sampling, SamplingConfig

HERE = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HERE, reason="needs Ray: pip install 'r1pipe[ray]'")
SMALL = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with writer() as base_url:
        yield base_url


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one CPU on this machine, each with its own raylet and workers, beside a head that runs nothing."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={**SMALL, "num_cpus": 0})
    made.workers = [made.add_node(**SMALL) for _ in range(2)]  # type: ignore[attr-defined]
    made.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    ray.shutdown()
    made.shutdown()


def at_work(node: Any) -> list[str]:
    """What the processes of a node are called: `ray::MapWorker(MapBatches(Drawing))...`."""
    import psutil

    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [" ".join(child.cmdline()) for child in raylet.children(recursive=True)]


def journal(folder: Path) -> list[tuple[Any, ...]]:
    path = folder / "work" / "samples-0-of-1.jsonl"
    return [tuple(json.loads(line)["key"]) for line in path.read_text().splitlines()] if path.exists() else []


@needs_ray
@pytest.mark.slow
def test_two_nodes_give_what_one_process_gives_and_one_may_die(
    cluster: Any, service: str, tmp_path: Path
) -> None:
    slow = sampling(service, "slow", n=6, max_in_flight=2)
    for stop_after in None, 2:
        run_stage(
            tmp_path / f"local-{stop_after}",
            service,
            40,
            sampling=slow,
            stop_after=stop_after,
            prefer="diverse",
        )
        run_stage(
            tmp_path / f"ray-{stop_after}",
            service,
            40,
            sampling=slow,
            stop_after=stop_after,
            prefer="diverse",
            engine="ray",
        )
        assert output(tmp_path / f"ray-{stop_after}") == output(tmp_path / f"local-{stop_after}")
        assert sorted(journal(tmp_path / f"ray-{stop_after}")) == sorted(
            journal(tmp_path / f"local-{stop_after}")
        )
    failed: list[BaseException] = []

    def disturbed() -> None:
        try:
            run_stage(tmp_path / "killed", service, 40, sampling=slow, prefer="diverse", engine="ray")
        except BaseException as error:
            failed.append(error)

    stage = threading.Thread(target=disturbed)
    stage.start()
    while len(journal(tmp_path / "killed")) < 60:
        assert stage.is_alive(), failed
        time.sleep(0.1)
    (drawing,) = [node for node in cluster.workers if any("Drawing" in name for name in at_work(node))]
    cluster.remove_node(drawing, allow_graceful=False)
    left = len(journal(tmp_path / "killed"))
    assert left < 240, "it was over before the node died"
    stage.join()
    assert not failed, failed
    assert output(tmp_path / "killed") == output(tmp_path / "local-None")
    assert len(journal(tmp_path / "killed")) == len(set(journal(tmp_path / "killed"))) == 240


@needs_ray
@pytest.mark.slow
def test_a_budget_a_refusal_and_a_checkpoint(
    cluster: Any, service: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    run_stage(tmp_path / "whole", service, filters={"max_repetition": None})
    with pytest.raises(BudgetError, match="budget_tokens is used up"):
        run_stage(
            tmp_path / "poor",
            service,
            sampling=sampling(service, max_in_flight=2, budget_tokens=600),
            engine="ray",
            filters={"max_repetition": None},
        )
    paid = journal(tmp_path / "poor")
    assert 0 < len(paid) < 96
    run_stage(tmp_path / "poor", service, filters={"max_repetition": None})
    assert output(tmp_path / "poor") == output(tmp_path / "whole"), "the other engine goes on"
    assert journal(tmp_path / "poor")[: len(paid)] == paid
    before = stats(service)["requests"]
    run_stage(tmp_path / "poor", service, filters={"max_repetition": None}, engine="ray")
    assert stats(service)["requests"] == before
    with pytest.raises(ConfigError, match="answers 404"):
        run_stage(tmp_path / "lost", service, sampling=sampling(f"{service}/nowhere"), engine="ray")

    from r1pipe.generation.sampling import sample_and_verify
    from r1pipe.here import Here

    how = Sampling(temperature=1.0, top_p=1.0, n=4, max_tokens=6, batch_size=4)
    rows = [
        {"id": f"r{i}", "prompt": "1 2 3 4"[: 1 + i % 7], "domain": "math", "language": "en"}
        for i in range(24)
    ]
    found = {}
    for engine in "local", "ray":
        (tmp_path / engine).mkdir()
        here = Here("test", tmp_path / engine, tmp_path / "metrics.jsonl", tmp_path / "progress.jsonl")
        drawn = sample_and_verify(
            tiny_checkpoint,
            rows,
            how,
            "chat",
            here=here,
            seed=0,
            source="sampled",
            verify=lambda candidates: [
                one if len(one.response) % 2 else one.drop("even") for one in candidates
            ],
            stop_after=2,
            engine=engine,
        )  # type: ignore[arg-type]
        found[engine] = [(one.response, one.reason) for of_row in drawn for one in of_row]
    assert found["ray"] == found["local"]


@needs_ray
def test_an_address_without_a_cluster_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from r1pipe.generation.ray_cluster import join_cluster

    for address in "127.0.0.1:1", "localhost:1", "127.0.0.1:99999", "[::1]:1":
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match="cannot join a Ray cluster") as caught:
            join_cluster()
        assert f"RAY_ADDRESS={address}" in caught.value.where


@pytest.mark.skipif(HERE, reason="Ray is here")
def test_without_ray_it_says_what_to_install(service: str, tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="engine: ray"):
        run_stage(tmp_path, service, engine="ray")


def test_the_engine_is_not_in_the_fingerprint_and_spreads_the_work_itself() -> None:
    from r1pipe.run.fingerprints import NOT_FINGERPRINTED

    dumped = [
        SamplingConfig(engine=engine).model_dump(mode="json", exclude=NOT_FINGERPRINTED)
        for engine in ("local", "ray")
    ]  # type: ignore[arg-type]
    assert dumped[0] == dumped[1]
    with pytest.raises(ValueError, match="spreads the work itself"):
        SamplingConfig(engine="ray", launch={"num_processes": 2})  # type: ignore[arg-type]
