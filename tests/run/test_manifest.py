"""Fingerprints, states and the differences that are shown."""

import os
from pathlib import Path
from typing import Any

import pytest
from engine import CHAIN, ROOT, config, edit_manifest, manifest, r1pipe, rows, states

from r1pipe.config.loader import Pipeline, load
from r1pipe.run.digests import Digests, combined
from r1pipe.run.fingerprints import FINGERPRINT_VERSION, Fingerprints
from r1pipe.run.store import RunFolder
from r1pipe.schema import SamplingEndpoint


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
    assert (
        "inner.rate: 0.001 -> 0.5" in refused.stderr
        and "--rebuild more" in refused.stderr
        and "--run" in refused.stderr
    )
    assert {p: p.read_bytes() for p in (done / "runs").rglob("*") if p.is_file()} == before

    rebuilt = r1pipe(done, "run-all", "t.yaml", *change, "--rebuild", "more")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert states(done, *change) == {"rows": "done", "more": "done", "score": "done"}
    assert (done / "runs/t/.old/more.1/manifest.json").exists() and (done / "runs/t/.old/score.1").exists()


def test_rebuilding_what_has_not_changed_redoes_it_and_its_descendants(done: Path):
    first = rows(done, "more")[0]["pid"]
    finished = r1pipe(done, "run-all", "t.yaml", "--rebuild", "more")
    assert (
        finished.returncode == 0
        and "rows: started" not in finished.stdout
        and "score: started" in finished.stdout
    )
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
    config(
        tmp_path,
        "stages:\n  a: {kind: r1pipe_fakes.rows, inputs: {source: ./mine.jsonl}, outputs: {rows: z}, "
        "template: template.txt}\n",
    )
    assert r1pipe(tmp_path, "run-all", "t.yaml").returncode == 0
    (tmp_path / "elsewhere").mkdir()
    for name in ("mine.jsonl", "template.txt"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    moved = (
        "--set",
        "stages.a.inputs.source=./elsewhere/mine.jsonl",
        "--set",
        "stages.a.template=elsewhere/template.txt",
    )
    assert states(tmp_path, *moved) == {"a": "done"}
    (tmp_path / "elsewhere/template.txt").write_text("{prompt}!")
    assert states(tmp_path, *moved) == {"a": "stale"}


def prints(pipeline: Pipeline, folder: Path) -> Fingerprints:
    return Fingerprints(pipeline, Digests(RunFolder("t", folder)))


def fingerprint(folder: Path, text: str) -> str:
    pipeline = load(config(folder, text))
    return prints(pipeline, folder).of(next(iter(pipeline.stages)))


@pytest.mark.parametrize(
    "pattern", ["data/*/train.jsonl", "data/**/*.jsonl", "data/[ab]/train.jsonl", "d*/b/*.jsonl"]
)
def test_what_a_pattern_matches_counts_by_content(tmp_path: Path, pattern: str):
    """As reading does: a pattern may stand in a folder's name too."""
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "train.jsonl").write_text("one")
    text = f"stages: {{prompts: {{source: {{path: '{pattern}'}}, outputs: {{prompts: p}}}}}}"
    before = fingerprint(tmp_path, text)
    assert fingerprint(tmp_path, text) == before
    (tmp_path / "data/b/train.jsonl").write_text("another")
    changed = fingerprint(tmp_path, text)
    assert changed != before
    (tmp_path / "data/b/train.jsonl").rename(tmp_path / "data/b/other.jsonl")
    (tmp_path / "data/b/train.jsonl").write_text("one")
    assert (fingerprint(tmp_path, text) == before) == (pattern.endswith("train.jsonl"))


def test_a_pattern_in_a_file_s_name_counts_by_names_and_contents(tmp_path: Path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(name)
    pipeline = load(config(tmp_path, "stages: {prompts: {source: {path: '*.jsonl'}, outputs: {prompts: p}}}"))
    digests = Digests(RunFolder("t", tmp_path))
    wanted = combined({f"{name}.jsonl": digests.file(tmp_path / f"{name}.jsonl") for name in "ab"})
    assert prints(pipeline, tmp_path).material("prompts")["config"]["source"]["path"] == f"sha256:{wanted}"


JUDGED = (
    "stages: {general-data: {inputs: {prompts: ./p.jsonl}, outputs: {chats: c}, writer: world, judge: {%s}}}"
)
REWARDED = """stages: {r1-zero: {inputs: {model: embedded:base, prompts: ./p.jsonl}, outputs: {checkpoint: c},
  grpo: {phases: [
  {steps: 1, rewards: [{name: judge, params: {%s}}, {name: code, params: {timeout: 3}}]}]}}}"""


@pytest.mark.parametrize("text", [JUDGED, REWARDED])
def test_of_a_judge_only_what_decides_its_verdicts_counts(tmp_path: Path, text: str):
    (tmp_path / "p.jsonl").write_text('{"id": "1", "prompt": "p", "domain": "general"}\n')

    def judged(host: str = "x", more: str = "") -> str:
        return fingerprint(tmp_path, text % f"base_url: 'http://{host}/v1', model: m{more}")

    assert (
        judged() == judged("y") == judged("x", ", timeout: 9, retries: 1, max_in_flight: 2, api_key_env: KEY")
    )
    decides = (", max_tokens: 9", ", guidelines: Be strict.", ", extra: {top_k: 1}")
    assert len({judged(), *(judged("x", more) for more in decides)}) == 4
    assert fingerprint(tmp_path, text % "base_url: 'http://x/v1', model: other") != judged()
    if text is REWARDED:  # other rewards' time limits decide
        assert (
            fingerprint(
                tmp_path, (text % "base_url: 'http://x/v1', model: m").replace("timeout: 3", "timeout: 4")
            )
            != judged()
        )


def test_what_is_fingerprinted_of_the_shipped_run():
    """All of the config but how a stage is run, watched and paid for."""
    service = {"endpoint": set(SamplingEndpoint.model_fields) - {"model", "extra"}}
    left_out: dict[str, Any] = dict.fromkeys(("launch", "audit", "engine", "row_limits"), True)
    saving = {"save_every", "save_minutes", "keep_checkpoints"}
    left_out |= {"grpo": {"guards", "responses_every"} | saving, "sft": saving, "rm": saving}
    left_out |= {"sampling": service, "passes": {"__all__": {"sampling": service}}}
    left_out |= {
        "sources": {"__all__": {"sampling": service}},
        "writer": {"sampling": service},
        "rewriter": {"sampling": service},
    }
    pipeline = load(ROOT / "configs/r1.yaml")
    fingerprints = prints(pipeline, ROOT)
    for name, stage in pipeline.stages.items():
        wanted = stage.config.model_dump(mode="json", exclude=left_out)
        assert set(stage.files) <= {("template",)}
        wanted |= {
            str(key): f"sha256:{Digests(RunFolder('t', ROOT)).file(path)}"
            for (key,), path in stage.files.items()
        }
        material = fingerprints.material(name)
        assert material.pop("order") is not None
        assert material == {
            "version": FINGERPRINT_VERSION,
            "kind": stage.kind.name,
            "config": wanted,
            "inputs": {port: fingerprints.identity(edge) for port, edge in stage.edges()},
        }


def test_a_stage_with_a_fingerprint_of_another_version_is_stale_and_says_so(done: Path):
    def edit(record: dict[str, Any]) -> None:
        record["material"]["version"] = FINGERPRINT_VERSION - 1
        record["fingerprint"] = "an older one"

    edit_manifest(done, "more", edit)
    refused = r1pipe(done, "run-all", "t.yaml")
    assert refused.returncode == 2 and "made by another version of r1pipe" in refused.stderr


def test_a_partial_stage_with_another_config_is_stale(tmp_path: Path):
    config(tmp_path, CHAIN.replace("count: 5", "count: 5, then: crash"))
    assert r1pipe(tmp_path, "run-all", "t.yaml").returncode == 2
    assert states(tmp_path) == {"rows": "done", "more": "partial", "score": "missing"}
    assert states(tmp_path, "--set", "stages.more.then=''")["more"] == "stale"


def test_a_removed_upstream_makes_its_readers_stale_before_anything_starts(done: Path):
    (done / "runs/t/rows").rename(done / "gone")
    assert states(done) == {"rows": "missing", "more": "stale", "score": "stale"}


def test_other_versions_warn_and_strict_refuses(done: Path):
    edit_manifest(done, "more", lambda record: record["versions"].update(python="2.7"))
    warned = r1pipe(done, "run-all", "t.yaml")
    assert warned.returncode == 0 and "made by other versions: python: 2" in warned.stdout
    refused = r1pipe(done, "run-all", "t.yaml", "--strict")
    assert refused.returncode == 2 and "made by other versions" in refused.stderr


def test_use_adopts_and_says_so(done: Path):
    text = CHAIN.replace(
        "{kind: r1pipe_fakes.rows, outputs: {rows: first}}",
        "{kind: r1pipe_fakes.rows, use: runs/t/rows/out/rows, outputs: {rows: first}}",
    )
    config(done, "run: u\n" + text)
    assert r1pipe(done, "run-all", "t.yaml").returncode == 0
    lineage = manifest(done, "rows", "u")
    assert lineage["adopted"] and lineage["outputs"]["rows"]["path"] == str(done / "runs/t/rows/out/rows")
    assert manifest(done, "more", "u")["read"]["source"]["from"] == "rows"
    assert "nothing to run" in r1pipe(done, "run-all", "t.yaml").stdout


def test_the_manifest_says_what_was_read_and_made(done: Path):
    made = manifest(done, "score")
    assert made["read"]["prompts"]["digest"] == manifest(done, "more")["outputs"]["rows"]["digest"]
    assert (
        made["metrics"]["math"] == 0.5
        and made["wall_s"] > 0
        and "r1pipe_fakes.score" in "".join(made["versions"])
    )
