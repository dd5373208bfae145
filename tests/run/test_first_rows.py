"""Faults planted in rows: the plan names each with its edge, line and remedy; so does the stage, from all rows.

Rewards that no row lets fire are refused by the stage in tests/stages/test_idle_rewards.py, which imports torch.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from r1pipe.artifacts import Chats, Labels, Pairs, Prompts
from r1pipe.config.loader import Stage
from r1pipe.config.loader import load as load_config
from r1pipe.config.registry import load_kind
from r1pipe.data.io import read_rows
from r1pipe.data.sources import Source, load
from r1pipe.errors import InputError
from r1pipe.here import Here
from r1pipe.run.findings import findings_of, refuse_errors
from r1pipe.run.first_rows import row_findings
from r1pipe.run.plan import make_plan

REPLY = "<think>3+4=7</think>7"


def chat(number: int, reply: Any = REPLY, **more: Any) -> dict[str, Any]:
    message = reply if isinstance(reply, dict) else {"role": "assistant", "content": reply}
    return {"messages": [{"role": "user", "content": f"{number}+4?"}, message], **more}


def problem(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "id": f"p{number}",
        "prompt": f"{number}+1?",
        "answer": str(number + 1),
        "domain": "math",
        **changed,
    }


def pair(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "id": f"c{number}",
        "prompt": f"{number}?",
        "chosen": "<think></think>a",
        "rejected": "b",
        **changed,
    }


def label(number: int, **changed: Any) -> dict[str, Any]:
    return {"id": f"l{number}", "prompt": f"{number}?", "response": "a", "safe": number % 2, **changed}


GOOD = {Chats: chat, Prompts: problem, Pairs: pair, Labels: label}
TESTS = {"kind": "asserts", "setup": "", "asserts": ["assert f()"]}

# name -> (kind, the fault as a function of a row's number or as a raw line, which rows have it, what is said)
FAULTS: dict[str, tuple[type, Any, str, str]] = {
    "broken JSON": (Chats, b'{"messages": [', "one", "broken JSON"),
    "another encoding": (Chats, '{"messages": "一加一是多少"}'.encode("gbk"), "one", "not UTF-8"),
    "pretraining texts": (Chats, lambda n: {"text": "Once."}, "all", "no column 'messages'"),
    "the user last": (Chats, lambda n: {"messages": chat(n)["messages"][:1]}, "one", "must end with"),
    "an unknown role": (Chats, lambda n: chat(n, {"role": "robot", "content": REPLY}), "one", "the role 'robot'"),
    "a tool call": (Chats, lambda n: chat(n, {"role": "assistant", "tool_calls": [{}]}), "one", "holds None"),
    "an image": (Chats, lambda n: chat(n, {"role": "assistant", "content": [{"type": "image"}]}), "one", "holds"),
    "thinking twice": (
        Chats,
        lambda n: chat(n, {"role": "assistant", "content": REPLY, "reasoning_content": "other"}),
        "one",
        "thinking of its own",
    ),
    "thinking under a new name": (
        Chats,
        lambda n: chat(n, {"role": "assistant", "content": REPLY, "thoughts": "3+4=7"}),
        "many",
        "keys in messages that nothing reads .thoughts.",
    ),
    "empty replies": (Chats, lambda n: chat(n, ""), "many", "have an empty reply"),
    "thinking without an end": (Chats, lambda n: chat(n, "<think>3+4"), "many", "thinking without an end"),
    "no thinking": (Chats, lambda n: chat(n, "7"), "all", "replies have no thinking"),
    "an id twice": (Chats, lambda n: chat(n, id="same"), "many", "'same' appears twice"),
    "no prompt": (Prompts, lambda n: {"id": f"{n}", "text": "q"}, "all", "no column 'prompt'"),
    "an empty prompt": (Prompts, lambda n: problem(n, prompt=" "), "one", "the prompt is empty"),
    "an answer that is an object": (Prompts, lambda n: problem(n, answer={"is": 1}), "one", "column 'answer'"),
    "a level in words": (Prompts, lambda n: problem(n, level="hard"), "one", "column 'level'"),
    "sides that begin differently": (
        Pairs,
        lambda n: {"chosen": chat(n)["messages"], "rejected": chat(n + 1)["messages"]},
        "one",
        "begin differently",
    ),
    "no rejected": (Pairs, lambda n: {"prompt": "q", "chosen": "a"}, "one", "no column 'rejected'"),
    "rendered prompts": (
        Prompts,
        lambda n: problem(n, prompt=f"<|im_start|>user\n{n}?<|im_end|>"),
        "many",
        "control tokens of a chat template",
    ),
    "an image that is asked about": (Prompts, lambda n: problem(n, images=["a.png"]), "one", "the row has images"),
    "no turn of the user": (Chats, lambda n: {"messages": chat(n)["messages"][1:]}, "one", "no turn of the user"),
    "an answer beside the choices": (
        Prompts,
        lambda n: problem(n, choices=["x", "y"], answer="z"),
        "one",
        "none of the 2 choices",
    ),
    "a label of 2": (Labels, lambda n: label(n, safe=2), "one", "safe is 2"),
}  # fmt: skip

RL = "    grpo: {phases: [{steps: 1, max_tokens: 64, rewards: [%s]}]}\n"


def written(path: Path, kind: type, fault: Any, which: str) -> Path:
    """120 rows; the first is good, since it is checked already when the config is read."""
    rows: list[Any] = [GOOD[kind](number) for number in range(120)]
    for number in {"one": [60], "many": range(60, 64), "all": range(0 if callable(fault) else 1, 120)}[which]:
        rows[number] = fault(number) if callable(fault) else fault
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def look(tmp_path: Path, yaml: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `r1pipe plan` does."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.yaml").write_text(yaml)
    plan = make_plan(load_config(tmp_path / "t.yaml"))
    refuse_errors(plan, findings_of(plan))


STAGES = {
    Chats: ("cold-start", "chats", "checkpoint"),
    Prompts: ("r1-zero", "prompts", "checkpoint"),
    Pairs: ("helpful-rm", "pairs", "reward_model"),
    Labels: ("safety-rm", "labels", "reward_model"),
}
# What fits the positions of the base that ships.
SHORT = {
    Chats: "    sft: {max_length: 128}\n",
    Prompts: RL % "{name: accuracy}",
    Pairs: "    rm: {max_length: 128}\n",
    Labels: "    rm: {max_length: 128}\n",
}


def yaml_of(kind: type, name: str, more: str = "") -> str:
    """A config with one stage that reads the file."""
    stage_kind, port, output = STAGES[kind]
    return (
        f"stages:\n  it:\n    kind: {stage_kind}\n    inputs: {{model: embedded:base, {port}: ./{name}}}\n"
        f"    outputs: {{{output}: out}}\n{more or SHORT[kind]}"
    )


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_by_the_plan_and_by_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind, fault, which, says = FAULTS[name]
    path = written(tmp_path / "x.jsonl", kind, fault, which)
    with pytest.raises(InputError, match=says) as caught:
        look(tmp_path, yaml_of(kind, "x.jsonl"), monkeypatch)
    message = str(caught.value)
    assert "x.jsonl:" in message and ("fix:" in message or "renames one" in message)
    assert "input " in message, "the edge"

    # Beyond the first rows only the stage sees it; its model is never loaded.
    long = tmp_path / "long.jsonl"
    good = [json.dumps(GOOD[kind](number)).encode() for number in range(1000, 2000)]
    repeated = [line for line in path.read_bytes().split(b"\n")[1:] if line]
    long.write_bytes(b"\n".join([*good, *repeated]) + b"\n")
    look(tmp_path, yaml_of(kind, "long.jsonl"), monkeypatch)
    if which == "one" or name == "an id twice":
        with pytest.raises(InputError, match=says):
            run_stage(tmp_path, kind, long)
    with pytest.raises(InputError, match=says) as caught_by_stage:
        run_stage(tmp_path, kind, path)
    assert "x.jsonl:" in caught_by_stage.value.where and caught_by_stage.value.fix


def run_stage(tmp_path: Path, kind: type, path: Path) -> None:
    """The stage up to its rows: it reads them before it imports torch, and there is no model that it could load."""
    name, port, output = STAGES[kind]
    module = load_kind(name)
    ports = {"model": module.inputs["model"].type(tmp_path / "none"), port: kind(path)}
    outputs: dict[str, Any] = {output: module.outputs[output].type(tmp_path / "out")}
    module.run(module.Config(), module.Inputs(**ports), module.Outputs(**outputs), here(tmp_path))


def here(tmp_path: Path) -> Here:
    return Here("it", tmp_path, tmp_path / "metrics.jsonl", tmp_path / "progress.jsonl")


SOURCES: dict[str, tuple[str, list[Any], str]] = {
    "a column that `columns` names": ("columns: {prompt: question}", [problem(1)], "no column 'question'"),
    "gold that cannot be read": (
        "",
        [problem(n, answer="\\frac{1}{") for n in range(9)],
        "answer that cannot be read",
    ),
    "tests of no kind": ("", [problem(1, tests={"kind": "pytest"})], "tests has kind 'pytest'"),
    "another shape": ("shape: sharegpt", [problem(1)], "which the shape sharegpt has"),
    "a domain that is not mapped": ("values: {domain: {a: math}}", [problem(1)], "`values` does not map"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_fault_of_a_source_is_named_with_its_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fields, rows, says = SOURCES[name]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    yaml = f"stages:\n  it: {{kind: prompts, source: {{path: x.jsonl, {fields}}}, outputs: {{prompts: a}}}}\n"
    with pytest.raises(InputError, match=says) as caught:
        look(tmp_path, yaml.replace(", }", "}"), monkeypatch)
    assert "stages.it.source" in caught.value.where and "x.jsonl" in str(caught.value)

    stage = load_config(tmp_path / "t.yaml").stages["it"]
    with pytest.raises(InputError, match=says):
        make_prompts(stage, tmp_path)
    # One wrong row behind more good ones than the plan looks at; of answers and shapes a share must be wrong.
    if len(rows) == 1 and "shape" not in fields:
        good = [problem(number, question=f"{number}?", domain="a") for number in range(1000, 2000)]
        path.write_text("".join(json.dumps(row) + "\n" for row in [*good, *rows]))
        look(tmp_path, yaml.replace(", }", "}"), monkeypatch)
        with pytest.raises(InputError, match=says) as caught:
            make_prompts(stage, tmp_path)
        assert "x.jsonl:1001" in str(caught.value)


def make_prompts(stage: Stage, tmp_path: Path) -> None:
    """The stage `prompts`, whole."""
    module = load_kind("prompts")
    module.run(
        stage.config, module.Inputs(), module.Outputs(prompts=Prompts(tmp_path / "out")), here(tmp_path)
    )


def test_a_packed_file_that_is_cut_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(json.dumps(problem(number)) + "\n" for number in range(900)).encode()
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(lines)[:-30])
    yaml = "stages:\n  it: {kind: prompts, source: {path: x.jsonl.gz}, outputs: {prompts: a}}\n"
    with pytest.raises(InputError, match="not a complete gzip file"):
        look(tmp_path, yaml, monkeypatch)
    with pytest.raises(InputError, match="not a complete gzip file"):
        make_prompts(load_config(tmp_path / "t.yaml").stages["it"], tmp_path)


REWARDS = {
    "{name: accuracy}, {name: format}": (
        [problem(n, answer=None) for n in range(9)],
        "`accuracy` applies to none",
    ),
    "{name: accuracy}, {name: code}": (
        [problem(n) for n in range(9)],
        "`code` applies to none of 9",
    ),
    "{name: accuracy, domains: [physics]}": ([problem(n) for n in range(9)], "for rows of physics"),
    "{name: reasoning_gym}": ([problem(n) for n in range(9)], "`gym`"),
    "{name: judge}": ([problem(n, answer=None) for n in range(9)], "`reference` or `answer`"),
}


@pytest.mark.parametrize("rewards", REWARDS)
@pytest.mark.parametrize("made", [False, True])
def test_a_reward_that_cannot_fire_is_refused_by_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rewards: str, made: bool
) -> None:
    rows, says = REWARDS[rewards]
    monkeypatch.setattr("r1pipe.run.first_rows._FirstRows.isolation", True)
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yaml = yaml_of(Prompts, "x.jsonl", RL % rewards)
    if made:
        maker = "stages:\n  make: {kind: prompts, source: {path: x.jsonl}, outputs: {prompts: made}}\n"
        yaml = yaml.replace("stages:\n", maker).replace("./x.jsonl", "made")
    with pytest.raises(InputError, match=says) as caught:
        look(tmp_path, yaml, monkeypatch)
    assert "t.yaml:" in caught.value.where and "grpo.phases.0.rewards" in caught.value.where
    look(tmp_path, yaml.replace(rewards, "{name: format}"), monkeypatch)


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("where", ["behind the first", "behind all that are looked at"])
def test_a_reward_for_rows_at_the_end_of_a_file_is_none_that_cannot_fire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool, where: str
) -> None:
    monkeypatch.setattr("r1pipe.run.first_rows._FirstRows.isolation", True)
    if where == "behind all that are looked at":
        monkeypatch.setattr("r1pipe.run.first_rows.MANY", 1500)
    rows = [problem(n) for n in range(2000)]
    rows[-1] = {"id": "c", "prompt": "Add.", "domain": "code", "tests": "assert f(1) == 2"}
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yaml = yaml_of(Prompts, "x.jsonl", RL % "{name: accuracy}, {name: code}")
    if made:
        maker = "stages:\n  make: {kind: prompts, source: {path: x.jsonl}, outputs: {prompts: made}}\n"
        yaml = yaml.replace("stages:\n", maker).replace("./x.jsonl", "made")
    look(tmp_path, yaml, monkeypatch)

    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    if where == "behind the first":
        with pytest.raises(InputError, match="`code` applies to none of 1999 prompts"):
            look(tmp_path, yaml, monkeypatch)


def test_all_findings_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.jsonl", Chats, *FAULTS["no thinking"][1:3])
    written(tmp_path / "b.jsonl", Prompts, *FAULTS["a level in words"][1:3])
    # One list with what is wrong with checkpoints: `sft` asks for more positions than the model has.
    sft = yaml_of(Chats, "a.jsonl", "    sft: {max_length: 600}\n")
    rl = yaml_of(Prompts, "b.jsonl").replace("stages:\n  it", "  rl").replace("out}", "z}")
    with pytest.raises(InputError, match="3 mistakes") as caught:
        look(tmp_path, sft + rl, monkeypatch)
    message = str(caught.value)
    for says in ("max_length is 600", "replies have no thinking", "column 'level'"):
        assert says in message


def test_plan_says_so_with_exit_code_2_and_without_torch(tmp_path: Path) -> None:
    written(tmp_path / "x.jsonl", Chats, *FAULTS["empty replies"][1:3])
    (tmp_path / "t.yaml").write_text(yaml_of(Chats, "x.jsonl", "    sft: {max_length: 128}\n"))
    code = (
        "import sys; sys.argv = ['r1pipe', 'plan', 't.yaml']\n"
        "from r1pipe.cli.main import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "4 of 120 rows have an empty reply" in done.stderr
    assert "it" in done.stdout, "the figure is shown"
    assert done.stderr.strip().endswith("False")


def test_what_other_tools_write_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = {"role": "assistant", "content": "7", "reasoning_content": "3+4=7"}
    written(tmp_path / "x.jsonl", Chats, lambda number: chat(number, reply), "all")
    look(tmp_path, yaml_of(Chats, "x.jsonl"), monkeypatch)
    rows = read_rows(tmp_path / "x.jsonl", Chats)
    assert all(row["messages"][-1]["content"] == REPLY for row in rows)
    assert len(load(Source(path=tmp_path / "x.jsonl"), Chats, seed=0).rows) == 120


def test_none_of_the_shipped_configs_has_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path
) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.setenv("R1_DATA", str(shared_data))
    monkeypatch.setenv("R1_BASE", str(root / "r1pipe/embedded/data/base"))
    monkeypatch.chdir(tmp_path)
    for file in ("r1.yaml", "smoke.yaml", "gsm8k.yaml"):
        plan = make_plan(load_config(root / "configs" / file))
        assert row_findings(plan) == []
