"""The mix at the scale of the paper: 804,745 rows of 1 KB on average, in the proportions of v2 Table 5.

The stage's own code runs on rows of which some are planted (their making is not counted):
- 3 % near-duplicates: a Jaccard index of word 5-grams of 0.85-0.95; the stage must remove them;
- 2 % relatives: 0.40-0.58; they must stay;
- 1 % that share 10 words (16 characters, in Chinese) with a benchmark; the stage must remove them;
- 1 % that share one word less; they must stay.
One row in five is Chinese.

    python tests/bench/bench_mix.py                  # all rows: time, peak memory, and what was found
    python tests/bench/bench_mix.py --rows 50000     # fewer
    python tests/bench/bench_mix.py --scales         # seconds a row at 100k to 1.6M rows of half the size, and a plot

The memory is the sum of PSS over the process tree.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

# v2 Table 5.
DOMAINS = {"math": 395_285, "code": 211_129, "stem": 10_124, "logic": 10_395, "general": 177_812}
ROWS = sum(DOMAINS.values())

# Shares of the planted rows.
KINDS = {"copy": 0.03, "relative": 0.02, "contaminated": 0.01, "near-miss": 0.01}

# The most questions of the benchmark, each with a solution; a fifth of them is Chinese.
BENCHMARKS = 5000

# Rows of each language that can be copied: the latest ones.
_COPYABLE = 5000

_rng = np.random.default_rng(7)
WORDS = np.array(
    ["".join(word) for word in _rng.choice(list("abcdefghijklmnopqrstuvwxyz"), (30_000, 5))], dtype=object
)
CHARACTERS = np.array([chr(code) for code in range(0x4E00, 0x4E00 + 5000)], dtype=object)

Planted = dict[str, dict[str, Any]]
"""kind -> {id of a planted row: the id of the row or benchmark row that it was made of}"""


def draw_text(rng: np.random.Generator, size: int, chinese: bool) -> list[str]:
    """Words or characters, the frequent ones more often."""
    words = CHARACTERS if chinese else WORDS
    return words[(len(words) * rng.random(size) ** 2).astype(int)].tolist()


def separator(chinese: bool) -> str:
    return "" if chinese else " "


# --- making rows ------------------------------------------------------------------------------------------------------


def make(folder: Path, rows: int, size: float = 1.0, seed: int = 0) -> Planted:
    """Write rows.jsonl and benchmark.jsonl.

    Args:
        size: scales the length of 1 KB.

    Returns:
        what was planted
    """
    rng = np.random.default_rng(seed)
    benchmark = make_benchmark(folder, rng, min(BENCHMARKS, rows // 10))

    domains = rng.choice(list(DOMAINS), rows, p=np.array(list(DOMAINS.values())) / ROWS)
    kinds = rng.choice(["", *KINDS], rows, p=[1 - sum(KINDS.values()), *KINDS.values()])
    planted: Planted = {kind: {} for kind in KINDS}
    copyable: dict[bool, list[tuple[str, list[str]]]] = {True: [], False: []}
    with (folder / "rows.jsonl").open("w", encoding="utf8") as stream:
        for number, (domain, kind) in enumerate(zip(domains.tolist(), kinds.tolist(), strict=True)):
            name = f"{domain}-{number}"
            chinese = number % 5 == 0
            length = int(size * (300 if chinese else 155) * rng.uniform(0.6, 1.4))
            words = draw_text(rng, length, chinese)
            if kind in ("copy", "relative") and copyable[chinese]:
                original, words = copyable[chinese][int(rng.integers(len(copyable[chinese])))]
                words = changed_copy(rng, words, kind, chinese)
                planted[kind][name] = original
            elif kind in ("contaminated", "near-miss"):
                planted[kind][name] = plant_overlap(rng, words, benchmark, kind, chinese)
            elif number % 50 < 10:
                copyable[chinese] = [*copyable[chinese][-(_COPYABLE - 1) :], (name, words)]
            stream.write(json.dumps(chat(name, domain, words, chinese), ensure_ascii=False) + "\n")
    return planted


def make_benchmark(folder: Path, rng: np.random.Generator, questions: int) -> list[list[list[str]]]:
    """Write benchmark.jsonl; returns the words of each question and its solution."""
    benchmark = []
    with (folder / "benchmark.jsonl").open("w") as stream:
        for number in range(questions):
            chinese = number % 5 == 0
            question, solution = (draw_text(rng, int(rng.integers(30, 80)), chinese) for _ in range(2))
            benchmark.append([question, solution])
            mark = separator(chinese)
            row = {"id": f"b{number}", "problem": mark.join(question), "solution": mark.join(solution)}
            stream.write(json.dumps(row) + "\n")
    return benchmark


def changed_copy(rng: np.random.Generator, words: list[str], kind: str, chinese: bool) -> list[str]:
    """The words with a part exchanged, so that the Jaccard index is that of the kind."""
    # Exchanging m words in the middle changes m + 4 of G 5-grams, exchanging m at the end changes m of them:
    # J = (G - changed) / (G + changed).
    jaccard = rng.uniform(0.86, 0.94) if kind == "copy" else rng.uniform(0.42, 0.56)
    changed = round((len(words) - 4) * (1 - jaccard) / (1 + jaccard))
    if changed < 5:
        start = len(words) - changed
        end = len(words)
    else:
        start = int(rng.integers(4, len(words) - changed))
        end = start + changed - 4
    return words[:start] + draw_text(rng, end - start, chinese) + words[end:]


def plant_overlap(
    rng: np.random.Generator,
    words: list[str],
    benchmark: list[list[list[str]]],
    kind: str,
    chinese: bool,
) -> str:
    """Insert words of a benchmark row, in place; returns the id of the benchmark row."""
    number = int(rng.integers(len(benchmark) // 5)) * 5 + (0 if chinese else int(rng.integers(1, 5)))
    text = benchmark[number][int(rng.integers(2))]
    length = (16 if chinese else 10) - (kind == "near-miss")
    start = int(rng.integers(len(text) - length))
    # In the second half, so that the words are not split between the two messages.
    place = int(rng.integers(len(words) // 2, len(words)))
    # Between two marks, so that the overlap is not longer by chance.
    words[place:place] = ["zz", *text[start : start + length], "zz"]
    return f"b{number}"


def chat(name: str, domain: str, words: list[str], chinese: bool) -> dict[str, Any]:
    mark = separator(chinese)
    third = len(words) // 3
    messages = [
        {"role": "user", "content": mark.join(words[:third])},
        {"role": "assistant", "content": f"<think></think>{mark.join(words[third:])}"},
    ]
    return {"id": name, "messages": messages, "domain": domain, "language": "zh" if chinese else "en"}


# --- the stage, and what it found -------------------------------------------------------------------------------------


def run(folder: Path, form: str = "parquet") -> dict[str, float]:
    """The stage, as a worker runs it; out/ gets the mix."""
    from r1pipe.config.registry import load_kind
    from r1pipe.here import Here

    stage = load_kind("mix")
    (folder / "workdir").mkdir()
    (folder / "out").mkdir()
    here = Here("mix", folder / "workdir", folder / "metrics.jsonl", folder / "progress.jsonl")
    against = [{"path": str(folder / "benchmark.jsonl"), "columns": {"prompt": "problem"}}]
    config = stage.Config.model_validate({"dedup": {}, "decontaminate": {"against": against}, "format": form})
    chats = stage.inputs["chats"].type(folder / "rows.jsonl")
    return stage.run(
        config,
        stage.Inputs(**{"chats": {"all": chats}}),
        stage.Outputs(**{"chats": stage.outputs["chats"].type(folder / "out")}),
        here,
    )


def found(folder: Path, planted: Planted) -> dict[str, float]:
    """Shares of the planted rows that the stage found, and shares of false removals."""
    dropped = {row["id"]: row for row in map(json.loads, (folder / "out/dropped.jsonl").open())}
    pairs = {name: row["of"] for name, row in dropped.items() if row["reason"] == "near-duplicate"}
    assert not set(pairs.values()) & set(dropped), "a row is said to duplicate one that was removed itself"

    texts = read_texts(folder, {*pairs, *pairs.values()})
    overlaps = [exact_jaccard(texts[name], texts[original]) for name, original in pairs.items()]
    too_different = sum(overlap < 0.6 for overlap in overlaps)
    contaminated = {name for name, row in dropped.items() if row["reason"] == "contaminated"}
    clean = contaminated - planted["contaminated"].keys()
    return {
        "copies removed": share_of(pairs.keys(), planted["copy"]),
        "overlaps found": share_of(contaminated, planted["contaminated"]),
        "removed below 0.6": too_different / max(len(pairs), 1),
        "relatives removed": share_of(pairs.keys(), planted["relative"]),
        "clean rows called contaminated": len(clean) / max(len(contaminated), 1),
    }


def share_of(names: Any, planted: dict[str, Any]) -> float:
    """The share of the planted rows that are among `names`."""
    return len(planted.keys() & names) / len(planted)


def read_texts(folder: Path, wanted: set[str]) -> dict[str, str]:
    texts = {}
    with (folder / "rows.jsonl").open(encoding="utf8") as stream:
        for line in stream:
            # The id is the first value of a line. Few rows are wanted, so most lines are not parsed.
            name = line[8 : line.index('"', 8)]
            if name in wanted:
                row = json.loads(line)
                texts[name] = "\n".join(message["content"] for message in row["messages"])
    return texts


def exact_jaccard(one: str, other: str) -> float:
    """The Jaccard index of the sets of word 5-grams (characters if the text is Chinese), with Python's own sets."""
    grams = five_grams(one)
    other_grams = five_grams(other)
    return len(grams & other_grams) / len(grams | other_grams)


def five_grams(text: str) -> set[tuple[str, ...]]:
    chinese = any("\u4e00" <= character <= "\u9fff" for character in text[:40])
    words = list(text) if chinese else text.replace("<think></think>", " ").split()
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


# --- time and memory --------------------------------------------------------------------------------------------------


def timed(folder: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory (GiB) of the stage in a process of its own.

    The memory is the sum of PSS over the process tree, measured every 0.3 s.
    """
    before = cpu_seconds_of_children()
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, __file__, "--stage", str(folder)])
    peak = 0

    def watch() -> None:
        nonlocal peak
        while child.poll() is None:
            peak = max(peak, memory_of_tree(child.pid))
            time.sleep(0.3)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if child.wait():
        raise SystemExit("the stage failed")
    wall = time.perf_counter() - started
    watcher.join()
    return wall, cpu_seconds_of_children() - before, peak / 2**30


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory_of_tree(pid: int) -> int:
    """The sum of PSS in bytes; of the processes that are still there."""
    import psutil

    pss = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            pss += process.memory_full_info().pss
    except psutil.Error:
        # A process has ended meanwhile.
        pass
    return pss


def measure(folder: Path, rows: int, size: float) -> float:
    """Make rows, run the stage and print what it took and found; returns the seconds a row."""
    started = time.perf_counter()
    planted = make(folder, rows, size)
    making = time.perf_counter() - started
    row_bytes = (folder / "rows.jsonl").stat().st_size / rows

    wall, cpu, peak = timed(folder)
    times = f"{making:7.1f} {wall:7.1f} {cpu:7.1f} {1000 * wall / rows:7.3f}"
    print(f"{rows:9,} {row_bytes:5.0f} {times} {peak:5.2f}", flush=True)
    for name, share in found(folder, planted).items():
        print(f"    {name:32s} {share:.5f}", flush=True)
    return wall / rows


def plot(costs: dict[int, float], file: Path) -> None:
    """Plot rows -> seconds a row, if matplotlib is installed."""
    try:
        from matplotlib import pyplot
    except ImportError:
        return
    pyplot.plot(list(costs), [1000 * cost for cost in costs.values()], "o-")
    pyplot.xscale("log")
    pyplot.ylim(bottom=0)
    pyplot.xlabel("rows of half a KB")
    pyplot.ylabel("milliseconds a row, two cores")
    pyplot.savefig(file, dpi=120)
    print(f"plot: {file}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--scales", type=int, nargs="*", help="rows of each; none = 100k, 400k, 800k, 1.6M")
    parser.add_argument("--plot", type=Path, default=Path("bench_mix.png"))
    parser.add_argument("--folder", type=Path, help="where to work; none = a temporary folder")
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    # The child of timed().
    if arguments.stage:
        print(run(arguments.stage), flush=True)
        return

    with_scales = arguments.scales is not None
    scales = [arguments.rows]
    if with_scales:
        scales = arguments.scales or [100_000, 400_000, 800_000, 1_600_000]

    print(f"{'rows':>9} {'bytes':>5} {'made s':>7} {'wall s':>7} {'CPU s':>7} {'ms/row':>7} {'GiB':>5}")
    costs = {}
    for rows in scales:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            costs[rows] = measure(Path(name), rows, size=0.5 if with_scales else 1.0)
    if with_scales and len(costs) > 1:
        ratio = costs[max(costs)] / costs[min(costs)]
        print(f"seconds a row at {max(costs):,} rows: {ratio:.2f} x those at {min(costs):,}")
        plot(costs, arguments.plot)


if __name__ == "__main__":
    main()
