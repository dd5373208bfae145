"""`r1pipe eval`: suites by name, file and run; models of every kind; what is there is not drawn again."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine import r1pipe, start, wait_for
from tiny_checkpoint import make_tiny_checkpoint

from r1pipe.artifacts import Prompts
from r1pipe.config.artifact_checks import EMBEDDED
from r1pipe.data.sources import Source, load
from r1pipe.errors import ConfigError, InputError
from r1pipe.run.evals.eval_models import AskedModel, asked_model
from r1pipe.run.evals.eval_run import Changes, config_of, table_lines
from r1pipe.run.evals.suite_files import Suite, find_suite

sys.path.append(str(Path(__file__).parents[1] / "generation"))
from service import rows, stats, writer  # noqa: E402

ENDPOINT = {"base_url": "http://127.0.0.1:1/v1", "model": "good"}
# name of a suite that ships -> its suites and rows in the shared data
LANGUAGES = ("en", "zh", "de", "es", "fr", "ja", "ru", "sw", "th", "bn", "te")
SHIPPED = {
    "gsm8k": ({"gsm8k"}, 633),
    "humaneval": ({"humaneval"}, 77),
    "mbpp": ({"mbpp"}, 367),
    "mgsm": ({f"mgsm-{language}" for language in LANGUAGES}, 1232),
    "xstest": ({"harmful", "lookalike"}, 234),
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """mine.yaml: twelve sums, each asked four times."""
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    sampling = {"n": 4, "max_tokens": 40, "temperature": 1.0, "backend": "vllm", "vllm": {"seed": 1}}
    text = yaml.safe_dump({"source": {"path": "p.jsonl"}, "passes": [{"sampling": sampling}]})
    (tmp_path / "mine.yaml").write_text(text)
    return tmp_path / "mine.yaml"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_suite_that_ships_reads_its_public_file(
    name: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R1_DATA", str(shared_data))
    loaded = load(Source.model_validate(find_suite(name).source), Prompts, seed=0)
    domains, count = SHIPPED[name]
    assert {row["domain"] for row in loaded.rows} == domains
    assert len(loaded.rows) + len(loaded.dropped) == count
    first = loaded.rows[0]
    if name == "mbpp":
        assert first["tests"]["asserts"][0] in first["prompt"]
    if name == "humaneval":
        # untouched, since imports before the function belong to the program
        assert (
            first["prompt"].lstrip().startswith(("def ", "from ", "import "))
            and "function" in first["system"]
        )


def test_a_suite_s_mistakes_have_their_lines(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.write_text("source: {path: none.jsonl}\npasses: [{smpling: {}}]\ncheckpoint: a\n")
    with pytest.raises(ConfigError) as refused:
        find_suite(str(suite))
    said = str(refused.value)
    assert "mine.yaml:1: source.path: nothing is at 'none.jsonl'" in said
    assert "mine.yaml:2: unknown key 'smpling'" in said and "checkpoint is not of a suite" in said
    with pytest.raises(InputError, match="there is no suite 'gsm8'") as unknown:
        find_suite("gsm8")
    assert "did you mean 'gsm8k'?" in unknown.value.fix
    monkeypatch.delenv("R1_DATA", raising=False)
    with pytest.raises(ConfigError, match="R1_DATA is not set"):
        find_suite("gsm8k")


def test_the_config_of_a_service_asks_the_service(suite: Path) -> None:
    """What a suite says of how another model was reached does not count."""
    made = config_of(
        AskedModel("good", endpoint=ENDPOINT), [find_suite(str(suite))], Changes(limit=5, samples=2)
    )
    problems, evaluation = made["stages"].values()
    assert problems["source"] == [{"path": str(suite.with_name("p.jsonl")), "count": 5}]
    assert (
        evaluation["inputs"] == {"prompts": {"mine": "mine-problems"}} and evaluation["checkpoint"] == "good"
    )
    (way,) = evaluation["passes"]
    expected = {"n": 2, "max_tokens": 40, "temperature": 1.0, "backend": "openai", "endpoint": ENDPOINT}
    assert way["sampling"] == expected


def test_suites_of_a_run_keep_their_prompts_and_their_names_apart() -> None:
    served = {"sampling": {"backend": "openai", "endpoint": ENDPOINT, "n": 3}}
    suites = [
        Suite("a", {"passes": [served]}, prompts={"exam": "/exam"}),
        Suite("b", {}, source={"path": "/p", "count": 3}),
    ]
    made = config_of(AskedModel("r1", edge="/r1"), suites, Changes())["stages"]
    assert list(made) == ["evaluate-a", "problems-b", "evaluate-b"]
    assert made["evaluate-a"]["inputs"] == {"prompts": {"exam": "/exam"}, "model": "/r1"}
    assert made["evaluate-a"]["passes"] == [{"sampling": {"n": 3}}]
    # else the scores of `format` of one would replace those of the other
    assert [made[f"evaluate-{name}"]["checkpoint"] for name in "ab"] == ["r1 a", "r1 b"]
    limited = config_of(AskedModel("r1", edge="/r1"), suites, Changes(limit=2))["stages"]
    assert limited["problems-a"]["source"] == [{"path": "/exam", "count": 2}]


def test_the_table_has_what_was_measured() -> None:
    scores: dict[str, Any] = {
        "mine": {
            "harmless": {"pass@1": 1.0, "stderr": 0.0, "n": 9, "k": 4, "truncated": 0.0, "tokens": 3.0},
            "math": {"pass@1": 0.5, "stderr": 0.1, "n": 9, "k": 4, "strict": 0.25, "strict_stderr": 0.05}
            | {"pass@2": 0.6, "pass@2_stderr": 0.1, "pass@4": 0.75, "pass@4_stderr": 0.1, "cons@4": 0.5}
            | {"truncated": 0.125, "tokens": 31.4},
            "code": {"pass@1": None, "n": 0, "note": "not run: no isolation"},
        }
    }
    head, _, math, code = table_lines(scores)
    columns = ["suite", "problems", "samples", "pass@1", "strict", "pass@k", "cons@k", "cut off", "tokens"]
    assert head.split() == " ".join(columns).split()
    assert "0.500±0.100" in math and "0.750±0.100" in math and "0.600" not in math and "12.5%" in math
    assert code.split(maxsplit=3)[3] == "not run: no isolation"
    assert code.index("not run") == math.index("0.500")


def test_models_that_are_none(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(suite.parent)
    for text, says in [
        ("nowhere", "there is no file 'nowhere'"),
        (".", "is not a checkpoint: it lacks config.json"),
        ("none.gguf", "nothing is at none.gguf"),
    ]:
        with pytest.raises(InputError, match=says), asked_model(text, None, None):
            pass
    with pytest.raises(ConfigError, match="are for services"), asked_model("embedded:base", "x", None):
        pass
    with asked_model(str(EMBEDDED / "base"), None, None) as model:
        assert model == AskedModel("base", edge=str(EMBEDDED / "base"))
    with asked_model("hub:Qwen/Qwen2.5-0.5B@main", None, None) as model:
        assert model == AskedModel("Qwen2.5-0.5B", edge="hub:Qwen/Qwen2.5-0.5B@main")


@pytest.mark.slow
def test_a_service_is_asked_once(suite: Path) -> None:
    """A table, JSON, every sample in Parquet; the same call draws nothing, another model under the name is refused."""
    from pyarrow.parquet import read_table

    folder = suite.parent
    with writer() as base_url:
        words = ["eval", base_url, "--served-name", "good", "--suite", "mine.yaml"]
        done = r1pipe(folder, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "mine: math" in done.stdout and "pass@k" in done.stdout
        asked = stats(base_url)
        again = r1pipe(folder, *words, "--json")
        assert again.returncode == 0 and stats(base_url) == asked
        other = r1pipe(
            folder, "eval", base_url, "--served-name", "slow", *words[4:], "--run", "eval-good-mine"
        )
        assert other.returncode == 2 and "StaleError" in other.stderr and "--rebuild" in other.stderr
    run = folder / "runs/eval-good-mine"
    result = json.loads(again.stdout)
    assert result == json.loads((run / "eval.json").read_text())
    score = result["scores"]["mine"]["math"]
    assert (score["n"], score["k"]) == (12, 4) and score["pass@4"] >= score["pass@1"]
    samples = read_table(run / "samples.parquet").to_pylist()
    assert len(samples) == 48
    assert sum(sample["right"] for sample in samples) / 48 == pytest.approx(score["pass@1"])


def test_a_call_that_is_refused_leaves_nothing(suite: Path) -> None:
    failed = r1pipe(suite.parent, "eval", "embedded:nobody", "--suite", "mine.yaml")
    assert failed.returncode == 2 and "embedded:nobody" in failed.stderr
    assert not (suite.parent / "runs/eval-nobody-mine").exists()


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(suite: Path) -> None:
    folder = suite.parent
    with writer() as base_url:
        words = ["eval", base_url, "--served-name", "slow", "--suite", "mine.yaml", "--samples", "16"]
        first = start(folder, *words)
        wait_for(lambda: list(folder.glob("runs/*/evaluate-mine/workdir/*.jsonl")))
        os.kill(first.pid, signal.SIGKILL)
        first.communicate(timeout=30)
        before = stats(base_url)
        done = r1pipe(folder, *words)
        assert done.returncode == 0 and "goes on from what it saved" in done.stdout, done.stderr
        asked = stats(base_url)
    assert before["requests"] < asked["requests"] < before["requests"] + 12 * 16


@pytest.mark.slow
def test_a_checkpoint_of_a_run_on_the_suite_of_another(tmp_path: Path) -> None:
    words = ["--suite", "world.yaml", "--max-tokens", "8"]
    text = (
        "source: {world: [math], count: 4, split: heldout}\npasses: [{sampling: {n: 2, temperature: 1.0}}]\n"
    )
    (tmp_path / "world.yaml").write_text(text)
    done = r1pipe(tmp_path, "eval", "embedded:base", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    again = r1pipe(
        tmp_path, "eval", "embedded:student", "--suite", "eval-base-world/evaluate-world", "--json"
    )
    assert again.returncode == 0, again.stderr
    (scores,) = json.loads(again.stdout)["scores"].values()
    assert (scores["math"]["n"], scores["math"]["k"]) == (4, 2)


@pytest.mark.slow
def test_llama_cpp_runs_a_gguf_file(suite: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (r1pipe[gguf])")
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    from r1pipe.serving.gguf_file import write_gguf

    folder = suite.parent
    checkpoint = make_tiny_checkpoint(folder / "tiny")
    write_gguf(
        checkpoint,
        folder / "tiny.gguf",
        precision="f32",
        name="tiny",
        template=(checkpoint / "chat_template.jinja").read_text(),
        closing=None,
    )
    # A random model goes on with the last letter of its prompt.
    asked = [
        row | {"prompt": row["prompt"] + " abcdefghijklm"[: number + 2]} for number, row in enumerate(rows())
    ]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (folder / "plain.txt").write_text("{prompt}")
    words = ["--suite", "mine.yaml", "--template", "plain.txt", "--backend", "hf"]
    words += ["--max-tokens", "6", "--temperature", "0", "--samples", "1"]
    answers = []
    for model in ("tiny.gguf", "./tiny"):
        done = r1pipe(folder, "eval", model, *words, "--run", "tried", "--rebuild")
        assert done.returncode == 0, done.stdout + done.stderr
        report = folder / "runs/tried/evaluate-mine/out/report/rows.jsonl"
        answers.append([json.loads(line)["response"] for line in report.read_text().splitlines()])
    assert answers[0] == answers[1] and len(set(answers[0])) > 4
    (folder / "junk.gguf").write_text("junk")
    failed = r1pipe(folder, "eval", "junk.gguf", *words)
    assert failed.returncode == 2 and "llama.cpp cannot serve the file" in failed.stderr
