"""What is fuzzed: five readers of other people's files and texts, each a function of bytes.

A target may raise nothing but r1pipe's own errors, which it swallows, and has to answer within SECONDS.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import chdir, suppress
from functools import cache
from pathlib import Path

from r1pipe.artifacts import Chats, Dataset, Labels, Pairs, Prompts
from r1pipe.config.loader import Pipeline, load
from r1pipe.data.io import read_rows
from r1pipe.errors import R1PipeError
from r1pipe.models.folders import readable, within
from r1pipe.rewards.answers import compare, parse
from r1pipe.rewards.format import well_formed
from r1pipe.rewards.language import detect, word_counts
from r1pipe.rewards.reading import extract
from r1pipe.run.plan import make_plan
from r1pipe.run.status import run_status, status_lines
from r1pipe.run.summary import summarise
from r1pipe.text.checkpoint_contract import Use, check_checkpoint
from r1pipe.text.checkpoint_files import read_checkpoint
from r1pipe.text.response import as_response, split_response

ROOT = Path(__file__).parents[2]
BASE = ROOT / "r1pipe" / "embedded" / "data" / "base"
# No answer comes later.
SECONDS = 5.0
GOLDS = ("42", "3/4", "B", "x^2+1", "[1, 2]", "Paris", "50 %")
KINDS = (Dataset, Prompts, Chats, Pairs, Labels)
FIGURE = """
stages:
  exam: {kind: prompts, source: [{world: math, count: 4}], outputs: {prompts: exam}}
  more: {kind: prompts, source: [{world: math, count: 4}], outputs: {prompts: more}}
"""


@cache
def folder() -> Path:
    """One folder of this process, for all of its inputs."""
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


@cache
def figure() -> Pipeline:
    """A loaded config of two stages."""
    path = folder() / "t.yaml"
    path.write_text(FIGURE)
    return load(path)


def config(data: bytes) -> None:
    """A YAML of stages."""
    path = folder() / "c.yaml"
    path.write_bytes(data)
    with suppress(R1PipeError):
        load(path)


def rows(data: bytes) -> None:
    """The first byte says which type of artifact a file of JSON lines holds."""
    path = folder() / "rows.jsonl"
    path.write_bytes(data[1:])
    kind = KINDS[data[0] % len(KINDS)] if data else Dataset
    with suppress(R1PipeError):
        read_rows(path, kind)


def answers(data: bytes) -> None:
    """A response: its tags, its form, its answer, its language."""
    text = data.decode("utf8", "replace")
    split_response(text)
    split_response(as_response(text))
    for form in ("auto", "zero", "r1"):
        well_formed(text, form)
    for gold in GOLDS:
        kind = parse(gold).kind
        answer = extract(text, kind, gold=gold)
        if answer is not None:
            compare(gold, answer, text)
            compare(gold, answer)
    parse(text)
    detect(text)
    word_counts(text)


def manifest(data: bytes) -> None:
    """The first byte says which of the files that a run keeps is another one."""
    names = (
        "exam/manifest.json",
        "exam/stage.json",
        "config.json",
        ".digests.json",
        "summary.json",
        "lock.json",
    )
    planned = figure()
    with chdir(folder()):
        stage = Path("runs/t/exam")
        stage.mkdir(parents=True, exist_ok=True)
        for name in names:
            Path("runs/t", name).unlink(missing_ok=True)
        Path("runs/t/config.json").write_text('{"stages": {"exam": {}, "more": {}}}')
        name = names[data[0] % len(names)] if data else names[0]
        Path("runs/t", name).write_bytes(data[1:])
        with suppress(R1PipeError):
            status_lines(run_status("t"))
        with suppress(R1PipeError):
            summarise(make_plan(planned))


def template(data: bytes) -> None:
    """A chat template, as a plan tries it."""
    checkpoint = folder() / "checkpoint"
    if not checkpoint.exists():
        checkpoint.mkdir()
        for path in BASE.iterdir():
            os.symlink(path, checkpoint / path.name)
    path = checkpoint / "chat_template.jinja"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    with suppress(R1PipeError), readable(checkpoint, "it cannot be read", ""), within(SECONDS / 2):
        check_checkpoint(read_checkpoint(checkpoint), Use("sft"), "input")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "config": config,
    "rows": rows,
    "answers": answers,
    "manifest": manifest,
    "template": template,
}


def seeds(name: str) -> list[bytes]:
    """What a fuzzer begins with."""
    shipped = ROOT / "configs"
    if name == "config":
        configs = [path.read_bytes() for path in shipped.glob("*.yaml") if path.stat().st_size < 4000]
        return [FIGURE.encode(), b"a: &x [*x]", b"stages: " + b"[" * 3000, b"seed: " + b"9" * 5000, *configs]
    if name == "rows":
        row = {"id": "1", "prompt": "1+1", "answer": "2", "domain": "math", "language": "en"}
        chat = {
            "id": "1",
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        }
        pair = {"id": "1", "prompt": "a", "chosen": "b", "rejected": "c"}
        label = {"id": "1", "prompt": "a", "response": "b", "safe": 1}
        tests = row | {"tests": {"kind": "asserts", "asserts": ["assert f(1) == 2"]}, "entry_point": "f"}
        texts = [json.dumps(value).encode() for value in (row, chat, pair, label, tests, [row])]
        return [bytes([i]) + text + b"\n" for text in texts for i in range(len(KINDS))]
    if name == "answers":
        shown = (
            "<think>a</think><answer>42</answer>",
            r"\boxed{\frac{3}{4}}",
            "(B) 7",
            "The answer is 1,250 $.",
        )
        hard = (
            "9^{9^{9}}",
            r"\sqrt[3]{2} \pi",
            "42.000 %",
            "1 1/2",
            "4.2 \\times 10^1",
            "答案是四十二",
            "x = 42!",
        )
        return [text.encode() for text in (*shown, *hard)]
    if name == "manifest":
        texts = (
            "{}",
            '{"stage": "exam", "outputs": {}, "checksum": "x"}',
            "[" * 2000,
            '{"stages": {"a": 1}}',
            "NaN",
        )
        return [bytes([i]) + text.encode() for text in texts for i in range(6)]
    loops = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
    large = (
        "{{ 9 ** (9 ** 9) }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 'a' | center(10 ** 10) }}",
        "{{ '%999999999d' % 1 }}",
    )
    return [text.encode() for text in (loops, *large, "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")]
