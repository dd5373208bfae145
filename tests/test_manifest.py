"""Fingerprints, states and the differences that are shown."""

import os
from pathlib import Path

import pytest
from engine import CHAIN, config, manifest, r1pipe, rows, states


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A folder with the chain run through."""
    config(tmp_path)
    finished = r1pipe(tmp_path, "run-all", "t.yaml")
    assert finished.returncode == 0, finished.stderr
    return tmp_path


def test_a_second_run_does_nothing(done: Path):
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file()}
    again = r1pipe(done, "run-all", "t.yaml")
    assert again.returncode == 0 and "nothing to run" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file()} == before


def test_a_changed_value_makes_exactly_that_stage_and_its_descendants_stale(done: Path):
    change = ("--set", "stages.more.inner.rate=0.5")
    assert states(done, *change) == {"rows": "done", "more": "stale", "score": "stale"}
    before = {p: p.read_bytes() for p in (done / "runs").rglob("*") if p.is_file()}
    refused = r1pipe(done, "run-all", "t.yaml", *change)
    assert refused.returncode == 2
    assert "inner.rate: 0.001 -> 0.5" in refused.stderr and "--rebuild more" in refused.stderr and "--run" in refused.stderr
    assert {p: p.read_bytes() for p in (done / "runs").rglob("*") if p.is_file()} == before

    rebuilt = r1pipe(done, "run-all", "t.yaml", *change, "--rebuild", "more")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert states(done, *change) == {"rows": "done", "more": "done", "score": "done"}
    assert (done / "runs/t/.old/more.1/manifest.json").exists() and (done / "runs/t/.old/score.1").exists()


def test_rebuilding_what_has_not_changed_redoes_it_and_its_descendants(done: Path):
    first = rows(done, "more")[0]["pid"]
    finished = r1pipe(done, "run-all", "t.yaml", "--rebuild", "more")
    assert finished.returncode == 0 and "rows: started" not in finished.stdout and "score: started" in finished.stdout
    assert rows(done, "more")[0]["pid"] != first


def test_launch_is_not_fingerprinted(done: Path):
    assert set(states(done, "--set", "stages.more.launch.threads=1").values()) == {"done"}


def test_a_stage_made_anew_alone_makes_its_readers_stale(done: Path):
    """The fake writes its pid, so the content differs though the config does not."""
    assert r1pipe(done, "run-stage", "rows", "-c", "t.yaml", "--rebuild").returncode == 0
    assert states(done) == {"rows": "done", "more": "stale", "score": "stale"}


def test_a_published_file_that_was_changed_is_noticed(done: Path):
    file = done / "runs/t/more/out/rows/rows.jsonl"
    file.write_text(file.read_text().replace("row 0", "row X"))
    assert states(done)["more"] == "stale"
    refused = r1pipe(done, "run-all", "t.yaml")
    assert refused.returncode == 2 and "changed after it was published" in refused.stderr


def test_a_touched_file_is_read_and_found_unchanged(done: Path):
    os.utime(done / "runs/t/more/out/rows/rows.jsonl")
    assert set(states(done).values()) == {"done"}


def test_a_consumer_verifies_what_it_reads_by_content(done: Path):
    """Same size and time, other content: only a full read finds it, and a consumer's start does one."""
    file = done / "runs/t/more/out/rows/rows.jsonl"
    stat = file.stat()
    file.write_text(file.read_text().replace("row 0", "row X"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert states(done)["more"] == "done"
    refused = r1pipe(done, "run-stage", "score", "-c", "t.yaml", "--rebuild")
    assert refused.returncode == 2 and "is not what more published" in refused.stderr


def test_a_brought_file_counts_by_content(tmp_path: Path):
    (tmp_path / "mine.jsonl").write_text('{"id": "1", "prompt": "p", "domain": "math"}\n')
    (tmp_path / "template.txt").write_text("{prompt}")
    config(tmp_path, "stages:\n  a: {kind: r1pipe_fakes.rows, inputs: {source: ./mine.jsonl}, outputs: {rows: z}, template: template.txt}\n")
    assert r1pipe(tmp_path, "run-all", "t.yaml").returncode == 0
    (tmp_path / "elsewhere").mkdir()
    for name in ("mine.jsonl", "template.txt"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    moved = ("--set", "stages.a.inputs.source=./elsewhere/mine.jsonl", "--set", "stages.a.template=elsewhere/template.txt")
    assert states(tmp_path, *moved) == {"a": "done"}
    (tmp_path / "elsewhere/template.txt").write_text("{prompt}!")
    assert states(tmp_path, *moved) == {"a": "stale"}


def test_a_partial_stage_with_another_config_is_stale(tmp_path: Path):
    config(tmp_path, CHAIN.replace("count: 5", "count: 5, then: crash"))
    assert r1pipe(tmp_path, "run-all", "t.yaml").returncode == 3
    assert states(tmp_path) == {"rows": "done", "more": "partial", "score": "missing"}
    assert states(tmp_path, "--set", "stages.more.then=''")["more"] == "stale"


def test_a_removed_upstream_makes_its_readers_stale_before_anything_starts(done: Path):
    (done / "runs/t/rows").rename(done / "gone")
    assert states(done) == {"rows": "missing", "more": "stale", "score": "stale"}


def test_other_versions_warn_and_strict_refuses(done: Path):
    path = done / "runs/t/more/manifest.json"
    path.write_text(path.read_text().replace('"python": "3', '"python": "2'))
    warned = r1pipe(done, "run-all", "t.yaml")
    assert warned.returncode == 0 and "other versions: python: 2" in warned.stdout
    refused = r1pipe(done, "run-all", "t.yaml", "--strict")
    assert refused.returncode == 2 and "made by other versions" in refused.stderr


def test_use_adopts_and_says_so(done: Path):
    text = CHAIN.replace("{kind: r1pipe_fakes.rows, outputs: {rows: first}}", "{kind: r1pipe_fakes.rows, use: runs/t/rows/out/rows, outputs: {rows: first}}")
    config(done, "run: u\n" + text)
    assert r1pipe(done, "run-all", "t.yaml").returncode == 0
    lineage = manifest(done, "rows", "u")
    assert lineage["adopted"] and lineage["outputs"]["rows"]["path"] == str(done / "runs/t/rows/out/rows")
    assert manifest(done, "more", "u")["read"]["source"]["from"] == "rows"
    assert "nothing to run" in r1pipe(done, "run-all", "t.yaml").stdout


def test_the_manifest_says_what_was_read_and_made(done: Path):
    made = manifest(done, "score")
    assert made["read"]["prompts"]["digest"] == manifest(done, "more")["outputs"]["rows"]["digest"]
    assert made["metrics"] == {"math": 0.5} and made["wall_s"] > 0 and "r1pipe_fakes.score" in "".join(made["versions"])
