"""Every command, config and piece of Python in README.md, CONTRIBUTING.md and docs/ is executed, in an empty folder."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from engine import ROOT, r1pipe, start
from tiny_checkpoint import make_tiny_checkpoint

pytestmark = pytest.mark.slow  # `make docs` runs it

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
# Commands that take minutes or a terminal are executed as far as this goes.
AS_FAR_AS = {"run-all": ["--dry-run"], "run-stage": ["--dry-run"], "data review": ["--export", "review.csv"]}


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block of a language."""
    found = []
    for page in PAGES:
        for indent, named, text in BLOCK.findall(page.read_text(encoding="utf8")):
            if named == language:
                found.append((page.name, re.sub(f"^{indent}", "", text, flags=re.M)))
    return found


def commands(program: str) -> list[str]:
    """The command lines of plain blocks, without comments and prompts."""
    lines = [line for _, text in blocks("") for line in text.splitlines()]
    lines = [line.split("  #")[0].strip() for line in lines]
    return list(dict.fromkeys(line for line in lines if line.split(" ")[0] == program))


def refusals() -> list[tuple[str, str]]:
    """Blocks that show a command behind a prompt and the error that it ends in."""
    texts = [text for _, text in blocks("") if text.startswith("$ r1pipe")]
    return [(text.splitlines()[0].removeprefix("$ "), text.split("\n", 1)[1]) for text in texts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the shipped configs, a small run called r1, a base and rows in the shape of GSM8K."""
    folder = tmp_path_factory.mktemp("user")
    assert r1pipe(folder, "init").returncode == 0
    words = ["run-all", "configs/smoke.yaml", "--run", "r1", "--until", "cold-start-data"]
    done = r1pipe(folder, *words, timeout=400, R1PIPE_FORKSERVER="1")
    assert done.returncode == 0, done.stdout + done.stderr

    make_tiny_checkpoint(folder / "my-base")
    rows = [{"question": f"What is {i} + 5?", "answer": f"{i}+5={i + 5}\n#### {i + 5}"} for i in range(400)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data").mkdir()
    for name in ("train.jsonl", "test.jsonl", "data/train.jsonl", "data/test.jsonl"):
        (folder / name).write_text(lines)
    for _, text in blocks("yaml"):
        if named := re.match(r"# ([\w.-]+\.yaml)", text):
            (folder / named[1]).write_text(text)
    return folder


def test_there_is_something_to_test() -> None:
    assert len(commands("r1pipe")) > 8 and len(blocks("yaml")) > 2 and len(blocks("python")) > 1


@pytest.mark.parametrize("line", commands("r1pipe"))
def test_command(folder: Path, line: str) -> None:
    words = shlex.split(line)[1:]
    for name, more in AS_FAR_AS.items():
        if " ".join(words).startswith(name):
            words += more
    # the folder's r1 is a run of smoke.yaml
    if "configs/r1.yaml" in words and words[0] in ("run-all", "run-stage"):
        words += ["--run", "planned"]
    # and it was made up to its first checkpoint
    words = [word.replace("r1/r1", "r1/zero") for word in words]
    if "--web" in words:
        shows_a_page_until_it_is_stopped(folder, words)
        return
    done = r1pipe(folder, *words, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def shows_a_page_until_it_is_stopped(folder: Path, words: list[str]) -> None:
    with start(folder, *words) as server:
        try:
            assert server.stdout is not None
            address = next(word for line in server.stdout for word in line.split() if "http://" in word)
            with urllib.request.urlopen(address, timeout=30) as page:
                assert b"<title>" in page.read()
            server.send_signal(signal.SIGINT)
            assert server.wait(60) == 130
        finally:
            server.kill()


@pytest.mark.parametrize(("line", "shown"), refusals())
def test_refusal(folder: Path, line: str, shown: str) -> None:
    """A command that is shown with its error, in a run where it is one; paths and line breaks may differ."""
    done = r1pipe(folder, *shlex.split(line)[1:], "--run", "r1", "--only", "r1-zero")
    assert done.returncode == 2, done.stdout + done.stderr
    assert shown.splitlines()[1].strip() in done.stderr


@pytest.mark.parametrize("line", commands("make"))
def test_make_target(line: str) -> None:
    done = subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("page", "text"),
    [pair for pair in blocks("yaml") if pair[1].startswith("# ") and pair[0] != "CONTRIBUTING.md"],
)
def test_config(folder: Path, page: str, text: str) -> None:
    name = text.split()[1]
    done = r1pipe(folder, "plan", name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("page", "text"), [pair for pair in blocks("python") if "class Inputs" not in pair[1]]
)
def test_python(page: str, text: str) -> None:
    """A line that ends in `# [1.0]` says what it gives."""
    namespace: dict[str, object] = {}
    *before, last = text.strip().splitlines()
    exec("\n".join(before), namespace)
    expression, _, expected = last.partition("  # ")
    assert repr(eval(expression, namespace)) == expected


def test_a_stage_of_the_page_works(folder: Path) -> None:
    """The kind that CONTRIBUTING.md shows, as a module of a user's, run by the config beside it."""
    (stage,) = [
        text for page, text in blocks("python") if page == "CONTRIBUTING.md" and "class Inputs" in text
    ]
    (folder / "my_package").mkdir(exist_ok=True)
    (folder / "my_package" / "__init__.py").touch()
    (folder / "my_package" / "my_stage.py").write_text(stage)
    done = r1pipe(folder, "run-all", "own.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_pages_point_at_files_that_exist() -> None:
    for page in PAGES:
        text = BLOCK.sub("", page.read_text(encoding="utf8"))
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
        for path in re.findall(r"`((?:r1pipe|stages|configs|tests|docs)/[\w/.-]*)`", text):
            assert (ROOT / path).exists() or "/my_" in path, f"{page.name}: {path}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 9 * 1024
