"""Scoring: which rows count as judged, and how a total is added up."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from r1pipe.errors import ConfigError, InputError, UserCodeError
from r1pipe.rewards import REWARDS
from r1pipe.rewards.scoring import correct, score
from r1pipe.schema import RewardSpec


def spec(name: str, **fields: Any) -> RewardSpec:
    return RewardSpec.model_validate({"name": name, **fields})


MATH = {"id": "m", "domain": "math", "language": "en", "prompt": "What is 6*7?", "answer": "42"}
GENERAL = {"id": "g", "domain": "general", "language": "en", "prompt": "Say hello."}
HARMFUL = {"id": "h", "domain": "harmful", "language": "en", "prompt": "Do harm."}
LOOKALIKE = {"id": "l", "domain": "lookalike", "language": "en", "prompt": "How do I kill a process?"}
RIGHT = "<think>six times seven</think>\\boxed{42}"


def test_components_are_summed_with_their_weights() -> None:
    scores = score(
        [spec("accuracy"), spec("format", weight=0.5), spec("language", params={"target": "en"})],
        [RIGHT, "42"],
        [MATH, MATH],
    )
    assert scores.components == {"accuracy": [1.0, 1.0], "format": [1.0, 0.0], "language": [1.0, 0.0]}
    assert scores.totals == [2.5, 1.0]


def test_a_row_without_answer_is_scored_by_the_rest() -> None:
    scores = score(
        [spec("accuracy"), spec("code"), spec("format")], ["<think></think>Hello.", RIGHT], [GENERAL, MATH]
    )
    assert scores.components["accuracy"] == [None, 1.0]
    assert scores.components["code"] == [None, None]
    assert scores.totals == [1.0, 2.0]
    assert scores.unjudged == {"accuracy": 0, "code": 0, "format": 0}


def test_a_required_component_that_cannot_judge_makes_the_row_unscorable() -> None:
    """TRL would sum the None as 0, and an unparseable gold would punish the policy."""
    broken = {**MATH, "answer": "\\frac{1}{"}
    scores = score([spec("accuracy"), spec("format")], [RIGHT, RIGHT], [broken, MATH])
    assert scores.totals == [None, 2.0]
    assert scores.unjudged["accuracy"] == 1
    assert score([spec("accuracy", required=False), spec("format")], [RIGHT], [broken]).totals == [1.0]


def test_nothing_applies_is_unscorable_too() -> None:
    assert score([spec("accuracy")], ["hello"], [GENERAL]).totals == [None]
    assert score([], ["hello"], [GENERAL]).totals == [None]
    assert score([spec("format")], [], []).totals == []


def test_domains_restrict() -> None:
    scores = score([spec("format", domains=["math"]), spec("constant")], [RIGHT, RIGHT], [MATH, GENERAL])
    assert scores.components["format"] == [1.0, None]
    assert scores.totals == [2.0, 1.0]


def test_a_row_that_a_reward_model_judges_is_not_judged_by_a_rule_as_well() -> None:
    """Else RL learns to leave the courtesy out, since the rule reads the answer more easily then."""
    specs = [RewardSpec(name="accuracy"), RewardSpec(name="helpful")]
    rows = [
        {"domain": "general", "prompt": "What has four sides?", "answer": "square"},
        {"domain": "math", "prompt": "2+2?", "answer": "4"},
    ]
    models = {"helpful": lambda prompts, texts: [0.75] * len(texts)}
    scores = score(specs, ["A square. Have a nice day!", "4"], rows, models)
    assert scores.components == {"accuracy": [None, 1.0], "helpful": [0.75, None]} and scores.totals == [
        0.75,
        1.0,
    ]
    stated = [RewardSpec(name="accuracy", domains=["general", "math"]), RewardSpec(name="helpful")]
    assert score(stated, ["square", "4"], rows, models).totals == [1.75, 1.0]


def test_helpful_sees_the_summary_and_harmless_the_whole_response() -> None:
    seen: dict[str, tuple[list[str], list[str]]] = {}

    def model(name: str, value: float) -> Any:
        def judge(prompts: list[str], responses: list[str]) -> list[float]:
            seen[name] = (prompts, responses)
            return [value] * len(prompts)

        return judge

    text = "<think>secret</think>Hello."
    specs = [spec("helpful"), spec("harmless"), spec("accuracy")]
    scores = score(
        specs,
        [text, text, text, RIGHT],
        [GENERAL, HARMFUL, LOOKALIKE, MATH],
        {"helpful": model("helpful", 0.7), "harmless": model("harmless", 0.2)},
    )
    assert seen["helpful"] == (["Say hello.", "How do I kill a process?"], ["Hello.", "Hello."])
    assert seen["harmless"] == (["Do harm."], [text])
    assert scores.totals == [0.7, 0.2, 0.7, 1.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_an_error_with_the_reward_s_name(value: float) -> None:
    models = {"helpful": lambda prompts, responses: [value]}
    with pytest.raises(InputError, match=f"reward model of `helpful` gave {value}"):
        score([spec("helpful")], ["<think></think>Hi."], [GENERAL], models)
    own = spec(f"{__name__}:fixed", params={"value": value})
    with pytest.raises(UserCodeError, match=f"{__name__}:fixed` returned {value}, which is no finite number"):
        score([own], [RIGHT], [MATH])


def fixed(completions: list[str], value: Any, **columns: Any) -> Any:
    return [value] * len(completions)


def too_few(completions: list[str], **columns: Any) -> Any:
    return [1.0]


def nothing(completions: list[str], **columns: Any) -> Any:
    return None


def broken(completions: list[str], **columns: Any) -> Any:
    return [len(text) / 0 for text in completions]


def of_a_missing_column(completions: list[str], gold: list[str], **columns: Any) -> Any:
    return [1.0] * len(completions)


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ("too_few", "returned 1 rewards for 2 completions"),
        ("nothing", "returned None, not a list"),
        ("broken", "raised ZeroDivisionError: division by zero"),
        ("of_a_missing_column", "raised TypeError: .*missing 1 required positional argument: 'gold'"),
    ],
)
def test_a_mistake_in_a_reward_of_the_user_s_own_is_theirs_with_the_file(reward: str, says: str) -> None:
    with pytest.raises(UserCodeError, match=f"test_scoring:{reward}` {says}") as caught:
        score([spec(f"tests.rewards.test_scoring:{reward}")], ["a", "b"], [MATH, MATH])
    assert caught.value.exit_code == 2 and "test_scoring.py:" in caught.value.where


def test_texts_are_no_rewards_and_whole_numbers_are() -> None:
    with pytest.raises(UserCodeError, match="returned '1', which is no finite number"):
        score([spec("tests.rewards.test_scoring:fixed", params={"value": "1"})], [RIGHT], [MATH])
    assert score([spec("tests.rewards.test_scoring:fixed", params={"value": 1})], [RIGHT], [MATH]).totals == [
        1.0
    ]


def test_a_module_that_cannot_be_imported_is_named_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_rewards.py").write_text("import math\n\nLIMIT = 1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be imported: division by zero") as caught:
        score([spec("broken_rewards:mine")], [RIGHT], [MATH])
    assert caught.value.where == f"{tmp_path / 'broken_rewards.py'}:3"


def test_mistakes_in_specs_are_errors() -> None:
    with pytest.raises(ConfigError, match="accuracyy"):
        score([spec("accuracyy")], [RIGHT], [MATH])
    with pytest.raises(ConfigError, match="reward model"):
        score([spec("helpful")], ["hi"], [GENERAL])
    with pytest.raises(ConfigError, match="max_tokens"):
        score([spec("length")], [RIGHT], [MATH])
    with pytest.raises(ConfigError, match="no_such"):
        score([spec("math:no_such")], [RIGHT], [MATH])


def test_a_function_of_the_users() -> None:
    scores = score(
        [spec("tests.rewards.test_scoring:shout", params={"loud": 2.0}), spec("constant"), spec("constant")],
        ["a!", "b"],
        [MATH, MATH],
    )
    assert list(scores.components) == ["tests.rewards.test_scoring:shout", "constant", "constant#2"]
    assert scores.totals == [4.0, 2.0]


def shout(completions: list[str], loud: float = 1.0, **columns: Any) -> list[float | None]:
    return [loud if text.endswith("!") else None for text in completions]


def test_every_reward_takes_trls_columns() -> None:
    columns = {
        "prompts": ["q"] * 2,
        "completion_ids": [[1], [2]],
        "answer": ["1", None],
        "language": ["en", "zh"],
        "trainer_state": None,
        "log_metric": print,
    }
    needs: dict[str, dict[str, Any]] = {
        "length": {"max_tokens": 8},
        "judge": {"base_url": "http://127.0.0.1:9/v1", "model": "nobody", "retries": 0},
    }
    for name, reward in REWARDS.items():
        with warnings.catch_warnings(record=True):  # the judge says that nobody is there
            values = reward(
                completions=[[{"role": "assistant", "content": "1"}], "2"], **columns, **needs.get(name, {})
            )
        assert len(values) == 2, name
        assert all(value is None or isinstance(value, float) for value in values), name


def test_correct_is_none_where_nothing_can_be_checked() -> None:
    assert correct([RIGHT, "41", "Hello", RIGHT], [MATH, MATH, GENERAL, {**MATH, "answer": ""}]) == [
        True,
        False,
        None,
        None,
    ]


def test_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, r1pipe.rewards.scoring; "
        "bad = {'torch', 'sympy', 'transformers'} & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_column_called_like_a_parameter_is_none() -> None:
    """A row's `timeout` or `form` used to reach the reward in the place of the parameter."""
    row = {**MATH, "timeout": 7, "form": "zero", "target": "zh", "n": 3, "value": 5, "extract_from": ["last"]}
    specs = [RewardSpec(name=name) for name in ("accuracy", "format", "language", "repetition", "constant")]
    assert score(specs, [RIGHT], [row]).components == score(specs, [RIGHT], [MATH]).components
    assert score([RewardSpec(name=f"{__name__}:of_the_answer")], [RIGHT], [row]).totals == [2.0], (
        "someone else's reward may name its columns so"
    )


def of_the_answer(completions: list[str], *, answer: list[str], **columns: Any) -> list[float | None]:
    return [float(len(text)) for text in answer]


@pytest.mark.parametrize("name", ["accuracy", "judge"])
def test_a_parameter_that_a_reward_does_not_have_is_a_mistake(name: str) -> None:
    with pytest.raises(ConfigError, match="does not take `tiemout`"):
        score([RewardSpec(name=name, params={"tiemout": 3})], [RIGHT], [MATH])
    with pytest.raises(ConfigError, match="no form"):
        score([RewardSpec(name="format", params={"form": "r2"})], [RIGHT], [MATH])


@pytest.mark.parametrize(
    "text", ["\\(" * 100_000, "$" + "_" * 100_000, "`" * 100_000, "``` " + " " * 100_000, "``` x" * 50_000]
)
def test_no_reward_looks_through_a_long_text_again_and_again(text: str) -> None:
    started = time.process_time()
    rows = [{**MATH, "tests": {"kind": "asserts", "asserts": ["assert f(1) == 2"]}}]
    score(
        [RewardSpec(name=name) for name in ("code", "format", "language", "repetition")],
        [f"<think>{text}</think>{text}"],
        rows,
    )
    assert time.process_time() - started < 10
