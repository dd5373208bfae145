"""Model folders of other people's: each is refused when the run is planned, with the folder, and without a wait."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r1pipe.config.artifact_checks import EMBEDDED
from r1pipe.config.loader import load
from r1pipe.errors import InputError, R1PipeError
from r1pipe.run.findings import Teller, findings_of
from r1pipe.run.plan import make_plan

CONFIG = """
stages:
  exam: {kind: prompts, source: [{world: math, count: 8}], outputs: {prompts: exam}}
  r1-zero:
    inputs: {model: ./model, prompts: exam}
    outputs: {checkpoint: zero}
    template: chat
    grpo: {phases: [{steps: 1, max_tokens: 8, rewards: [{name: format}]}]}
"""


class Command:
    """What a pickle does when it is read."""

    def __reduce__(self) -> Any:
        return os.system, ("touch was-executed",)


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | changes))

    return change


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def replace(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Command()))


def header(length: int, content: bytes = b"{}") -> bytes:
    return length.to_bytes(8, "little") + content


def tensor(**fields: Any) -> bytes:
    content = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **fields}}).encode()
    return header(len(content), content)


ATTACKS: dict[str, Callable[[Path], None]] = {
    "a pipe beside the weights": replace("merges.txt", os.mkfifo),
    "a pipe for the config": replace("config.json", os.mkfifo),
    "a device for the template": replace("chat_template.jinja", lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": replace("vocab.json", lambda path: path.symlink_to(path.name)),
    "links back to the folder": lambda folder: [  # type: ignore[dict-item]
        (folder / name).symlink_to(".") for name in ("a", "b")
    ],
    "a config of brackets": write("config.json", "[" * 100_000),
    "a config that is a list": write("config.json", "[]"),
    "a tokenizer of brackets": write("tokenizer.json", "[" * 100_000),
    "a tokenizer with numbers for tokens": edit("tokenizer.json", added_tokens=[1, 2]),
    "settings of a tokenizer of brackets": write("tokenizer_config.json", '{"a":' * 50_000),
    "a template without end": write("chat_template.jinja", "{% for i in range(10 ** 9) %}{% endfor %}"),
    "a template that calls itself": write(
        "chat_template.jinja", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"
    ),
    "a template that looks for the system": write(
        "chat_template.jinja",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}"
        "{{ cycler.__init__.__globals__.os.system('touch was-executed') }}",
    ),
    "a template that writes without end": write(
        "chat_template.jinja",
        "{% for i in range(99999) %}{% for j in range(99) %}{{ messages }}{% endfor %}{% endfor %}",
    ),
    "weights of a header without end": write("model.safetensors", header(2**62)),
    "weights of a header of brackets": write("model.safetensors", header(100_000, b"[" * 100_000)),
    "weights of a negative shape": write("model.safetensors", tensor(shape=[-1])),
    "weights that lie outside of the file": write("model.safetensors", tensor(data_offsets=[0, 2**60])),
    "weights that are words": write("model.safetensors", tensor(shape="many", data_offsets="all")),
    "an index that leaves the folder": write(
        "model.safetensors.index.json", json.dumps({"weight_map": {"w": "../../../etc/passwd"}})
    ),
    "an index of numbers": write("model.safetensors.index.json", json.dumps({"weight_map": [1, 2]})),
    "weights in a pickle": pickled,
}  # fmt: skip


# Refused when the model is loaded: what a plan need not know, since the library does.
LOADED: dict[str, Callable[[Path], None]] = {
    "positions of another type": edit("config.json", max_position_embeddings="many"),
    "a width that nobody has": edit("config.json", hidden_size=10**15),
    "code of its own": edit(
        "config.json",
        model_type="mine",
        auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"},
    ),
}


@pytest.mark.parametrize("name", LOADED)
def test_a_model_that_is_not_what_it_says_is_refused_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from r1pipe.models.loading import load_model

    folder = shutil.copytree(EMBEDDED / "student", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    (folder / "mine.py").write_text("import os\nos.system('touch was-executed')\n")
    LOADED[name](folder)
    with pytest.raises(InputError):
        load_model(folder, training=True)
    assert not (tmp_path / "was-executed").exists()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_folder_that_is_not_what_it_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = shutil.copytree(EMBEDDED / "student", tmp_path / "model")
    (tmp_path / "c.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    (folder / "mine.py").write_text("import os\nos.system('touch was-executed')\n")
    ATTACKS[name](folder)
    # five for users
    monkeypatch.setattr("r1pipe.run.checkpoint_checks.RENDER_SECONDS", 1.0)
    started = time.monotonic()
    with pytest.raises(R1PipeError) as refused:
        plan = make_plan(load(Path("c.yaml")))
        Teller(lambda _: None).tell(plan, findings_of(plan))
        plan.fingerprints.of("r1-zero")
    assert time.monotonic() - started < 20
    assert "model" in f"{refused.value.where}{refused.value.what}" and refused.value.exit_code == 2
    assert not (tmp_path / "was-executed").exists()
