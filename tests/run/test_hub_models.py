"""hub:OWNER/NAME without a network: the cache as huggingface_hub lays it out."""

from pathlib import Path

import pytest
from engine import FIXTURES, config

from r1pipe.artifacts import Checkpoint, Prompts
from r1pipe.config.edges import Edge
from r1pipe.config.loader import load
from r1pipe.errors import InputError
from r1pipe.run import hub_models as hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants as constants

    for prefix in ("models", "datasets"):
        root = tmp_path / f"{prefix}--me--mine"
        (root / "refs").mkdir(parents=True)
        (root / "refs/main").write_text(COMMIT)
        (root / "snapshots" / COMMIT).mkdir(parents=True)
        (root / "snapshots" / COMMIT / "rows.jsonl").write_text('{"id": "1", "prompt": "p", "domain": "math"}\n')
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
