"""hub:OWNER/NAME without a network: the cache as huggingface_hub lays it out."""

from pathlib import Path

import pytest
from engine import FIXTURES, config

from r1pipe.artifacts import Checkpoint, Prompts
from r1pipe.config.edges import Edge
from r1pipe.config.loader import load
from r1pipe.errors import InputError
from r1pipe.run import hub_models as hub
from r1pipe.run.plan import fetch_hub, make_plan, refuse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants as constants

    for prefix in ("models", "datasets"):
        root = tmp_path / f"{prefix}--me--mine"
        (root / "refs").mkdir(parents=True)
        (root / "refs/main").write_text(COMMIT)
        (root / "snapshots" / COMMIT).mkdir(parents=True)
        (root / "snapshots" / COMMIT / "rows.jsonl").write_text(
            '{"id": "1", "prompt": "p", "domain": "math"}\n'
        )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(("kind", "prefix"), [(Checkpoint, "models"), (Prompts, "datasets")])
def test_what_is_cached_is_identified_by_its_commit(tmp_path: Path, kind: type, prefix: str):
    source = Edge("hub:me/mine", "mine", kind, "hub")
    assert hub.hub_commit(source) == f"me/mine@{COMMIT}"
    assert hub.fetch(source) == tmp_path / f"{prefix}--me--mine/snapshots/{COMMIT}"


def test_what_cannot_be_had_is_the_user_s_error():
    source = Edge("hub:me/other", "other", Checkpoint, "hub")
    assert hub.hub_commit(source) == "me/other"
    with pytest.raises(InputError, match="hub:me/other"):
        hub.fetch(source)


def test_a_hub_input_in_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FIXTURES))
    path = config(
        tmp_path,
        "stages:\n  a: {kind: r1pipe_fakes.score, inputs: {prompts: 'hub:me/mine@main'}, outputs: {report: z}}\n",
    )
    source = load(path).stages["a"].inputs["prompts"]
    assert isinstance(source, Edge) and (source.origin, source.name) == ("hub", "mine")


PINNED = f"hub:me/mine@{COMMIT}"
SCORE = "stages:\n  a: {kind: r1pipe_fakes.score, inputs: {prompts: 'hub:me/mine%s'}, outputs: {report: z}}\n"


@pytest.mark.parametrize(("revision", "pinned"), [("", False), ("@main", False), (f"@{COMMIT}", True)])
def test_only_a_commit_pins(revision: str, pinned: bool):
    assert hub.is_pinned(Edge(f"hub:me/mine{revision}", "mine", Prompts, "hub")) == pinned


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_an_input_that_is_not_pinned_is_noted_with_its_commit_and_strict_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str
):
    monkeypatch.syspath_prepend(str(FIXTURES))
    monkeypatch.chdir(tmp_path)
    pipeline = load(config(tmp_path, SCORE % revision))
    notes: list[str] = []
    fetch_hub(make_plan(pipeline), notes.append)
    strict = make_plan(pipeline, strict=True)
    if revision == f"@{COMMIT}":
        assert not notes
        refuse(strict)
    else:
        (note,) = notes
        assert f"hub:me/mine{revision} is not pinned" in note and PINNED in note
        with pytest.raises(InputError, match="is not pinned to a commit") as refused:
            refuse(strict)
        assert "r1pipe data pin me/mine" in refused.value.fix and refused.value.where == "input prompts of a"


def test_what_is_fetched_replaces_the_name_in_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(FIXTURES))
    monkeypatch.chdir(tmp_path)
    pipeline = load(config(tmp_path, SCORE % ""))
    ref = tmp_path / "datasets--me--mine/refs/main"
    ref.unlink()
    before = make_plan(pipeline).fingerprints.material("a")["inputs"]["prompts"]
    ref.write_text(COMMIT)
    after = make_plan(pipeline).fingerprints.material("a")["inputs"]["prompts"]
    assert (before, after) == ("hub:me/mine", PINNED)


@pytest.mark.parametrize("revision", ["", f", revision: '{COMMIT}'"])
def test_strict_refuses_a_dataset_that_is_not_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    monkeypatch.chdir(tmp_path)
    source = f"source: [{{hub: us/sums{revision}}}]"
    path = config(tmp_path, f"stages:\n  a: {{kind: prompts, {source}, outputs: {{prompts: z}}}}\n")
    strict = make_plan(load(path), strict=True)
    if revision:
        refuse(strict)
        return
    with pytest.raises(InputError, match="us/sums is not pinned to a commit") as refused:
        refuse(strict)
    assert refused.value.where == "stages.a.source.0" and "r1pipe data pin us/sums" in refused.value.fix
