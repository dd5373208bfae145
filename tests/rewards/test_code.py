"""The code reward: which program a response holds, and what it scores."""

from __future__ import annotations

import pytest

from r1pipe.rewards.code import code, complete_program
from r1pipe.rewards.code_blocks import extract_code
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


SAMPLE = "```\n3 4\n```\n```\n7\n```"
USAGES = [
    SAMPLE,
    "```\n7\n```",
    "```\n[1, 2]\n```",
    "```\nYES\n```",
    "```python\nprint(add(1, 2))\n```",
    "```python\nfrom solution import add\n\nassert add(1, 2) == 3\n```",
    "```python\nif __name__ == '__main__':\n    print(add(*map(int, input().split())))\n```",
    "```python\n>>> add(1, 2)\n3\n```",
    "```bash\npython solution.py\n```",
    "```\npython solution.py < input.txt\n```",
    f"Output:\n{SAMPLE}\nUse it so:\n```python\nx = add(1, 2)\n```",
]


@pytest.mark.parametrize("usage", USAGES)
def test_of_several_blocks_the_last_program_counts(usage: str) -> None:
    """A block with sample output or an example of use behind the program scored 0."""
    response = f"<think></think>Here:\n```python\n{GOOD}\n```\n{usage}\nDone."
    assert extract_code(response) == GOOD
    assert extract_code(response, "add") == GOOD
    script = "print(sum(map(int, input().split())))"
    if "add" not in usage:
        assert extract_code(f"```python\n{script}\n```\n{usage}") == script
    assert extract_code(f"```python\n{GOOD}\n```\n```python\n{script}\n```") == script, "a second try counts"


TWO_SUM = """
from typing import List

class Solution:
    def _key(self, x): return x

    def twoSum(self, nums: List[int], target: int) -> List[int]:
        seen = {}
        for i, n in enumerate(nums):
            if target - n in seen:
                return [seen[target - n], i]
            seen[self._key(n)] = i
"""
READS_BY_ITSELF = """
class Solution:
    def solve(self):
        a, b = map(int, input().split())
        print(a + b)
"""
WORDS = "class Solution:\n    def add(self, a, b): return a + b"
IS_EVEN = "class Solution:\n    def isEven(self, n: int) -> bool: return n % 2 == 0"
SUM_ALL = "class Solution:\n    def total(self, nums): return sum(nums)"


@needs_isolation
@pytest.mark.parametrize(
    ("program", "entry_point", "given", "expected"),
    [
        (TWO_SUM, "twoSum", "[2,7,11,15]\n9", "[0,1]"),
        (TWO_SUM, None, "[2,7,11,15]\n9", "[0, 1]"),
        (READS_BY_ITSELF, None, "3 4\n", "7"),
        (WORDS, "add", "3 4\n", "7"),
        (WORDS, "add", '"ab"\n"c"', "abc"),
        (IS_EVEN, "isEven", "4", "true"),
        (SUM_ALL, None, "1 2 3", "6"),
        (f"{WORDS}\n\nprint(Solution().add(*map(int, input().split())))", None, "3 4", "7"),
    ],
)
def test_a_class_solution_with_cases_of_standard_input(
    program: str, entry_point: str | None, given: str, expected: str
) -> None:
    """It printed nothing, and scored 0."""
    tests = {"kind": "stdio", "inputs": [given], "outputs": [expected]}
    wrong = {**tests, "outputs": ["[1, 0]" if expected.startswith("[") else "8"]}
    response = f"<think></think>```python\n{program}\n```"
    assert code([response] * 2, tests=[tests, wrong], entry_point=[entry_point] * 2) == [1.0, 0.0]
