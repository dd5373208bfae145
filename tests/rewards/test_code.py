"""The code reward: which program a response holds, and what it scores."""

from __future__ import annotations

from r1pipe.rewards.code import code, complete_program, extract_code
from tests.rewards.test_sandbox import ADD, GOOD, needs_isolation


def test_extract_code() -> None:
    def block(body: str, language: str = "python") -> str:
        return f"```{language}\n{body}\n```"

    assert extract_code(f"<think>{block('x = 1')}</think>Sure:\n{block(GOOD)}\nDone.") == GOOD
    assert extract_code(f"<think>{block(GOOD)}</think>no code here") is None
    assert (
        extract_code(f"<think></think>{block(GOOD)}\nUse it so:\n{block('print(add(1, 2))')}", "add") == GOOD
    )
    assert extract_code(f"<think></think>{block(GOOD)}\n{block('pip install x', 'bash')}") == GOOD
    assert extract_code(f"<think></think>{block(GOOD, '')}") == GOOD
    assert extract_code(f"<think></think>{GOOD}") == GOOD
    assert extract_code(f"<think></think>Here: \n{GOOD}\n") == GOOD
    assert extract_code(f"<think>a</think><answer>{GOOD}</answer>") == GOOD
    assert extract_code(f"<think></think>```python\n{GOOD}") == GOOD  # the fence is not closed
    assert extract_code("<think></think>I define nothing.") is None


def test_a_question_that_is_the_head_of_a_program() -> None:
    prompt = 'import math\n\ndef f(x):\n    """Double."""\n'
    assert complete_program("    return 2 * x", prompt, "f") == prompt + "    return 2 * x"
    assert complete_program("def f(x): return x", prompt, "f") == "import math\n\ndef f(x): return x"
    assert complete_program("def f(x): return x", "Write f.", "f") == "def f(x): return x"


@needs_isolation
def test_code_reward() -> None:
    text = f"<think>plus</think>```python\n{GOOD}\n```"
    values = code(
        [text, "<think></think>no code", text, text],
        tests=[ADD, ADD, None, {**ADD, "asserts": ["assert add(1, 1) == 3"]}],
    )
    assert values == [1.0, 0.0, None, 0.0]
