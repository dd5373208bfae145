"""A few thousand rows of the benchmark's, with its bars: what was planted is found, and nothing else."""

import runpy
from pathlib import Path

import pytest


@pytest.mark.parametrize("size", [1.0, 0.5])
def test_planted_rows_are_found(tmp_path, size):
    bench = runpy.run_path(str(Path(__file__).parents[1] / "bench/bench_mix.py"))
    planted = bench["make"](tmp_path, 3000, size)
    bench["run"](tmp_path)
    found = bench["found"](tmp_path, planted)
    assert min(map(len, planted.values())) > 10
    assert found["copies removed"] >= 0.98 and found["overlaps found"] == 1.0, found
    assert (
        found["removed below 0.6"] <= 0.001
        and found["relatives removed"] == 0.0
        and found["clean rows called contaminated"] == 0.0
    ), found
