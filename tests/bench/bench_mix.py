"""The mix at the scale of the paper: 804,745 rows in the proportions of v2 Table 5, 1 KB each on average, through the stage's own code.

Planted: 3 % near-duplicates (Jaccard index of word 5-grams 0.85-0.95), 2 % relatives (0.40-0.58, which must stay), 1 % rows that share 10 words
(16 characters, in Chinese) with a benchmark, 1 % that share one less (must stay). One row in five is Chinese. Making them is not counted.

    python tests/bench/bench_mix.py                  # the whole: time, peak memory (sum of PSS over the process tree), what was found
    python tests/bench/bench_mix.py --rows 50000     # smaller
    python tests/bench/bench_mix.py --scales         # seconds a row at 100k, 400k, 800k and 1.6M rows of half the size, and a plot
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

DOMAINS = {"math": 395_285, "code": 211_129, "stem": 10_124, "logic": 10_395, "general": 177_812}  # v2 Table 5
ROWS = sum(DOMAINS.values())
KINDS = {"copy": 0.03, "relative": 0.02, "contaminated": 0.01, "near-miss": 0.01}
BENCHMARKS = 5000  # questions at most, a fifth of them Chinese, with a solution each
_rng = np.random.default_rng(7)
WORDS = np.array(["".join(word) for word in _rng.choice(list("abcdefghijklmnopqrstuvwxyz"), (30_000, 5))], dtype=object)
CHARACTERS = np.array([chr(code) for code in range(0x4E00, 0x4E00 + 5000)], dtype=object)


def draw_text(rng: np.random.Generator, size: int, chinese: bool) -> list[str]:
    """Words or characters, the frequent ones more often."""
    words = CHARACTERS if chinese else WORDS
    return words[(len(words) * rng.random(size) ** 2).astype(int)].tolist()


def make(folder: Path, rows: int, size: float = 1.0, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Write rows.jsonl and benchmark.jsonl; returns what was planted: kind -> {id: of which row}. `size` scales the length of 1 KB."""
    rng = np.random.default_rng(seed)
    questions = min(BENCHMARKS, rows // 10)
    benchmark = [
        [draw_text(rng, int(rng.integers(30, 80)), number % 5 == 0) for _ in range(2)] for number in range(questions)
    ]
    with (folder / "benchmark.jsonl").open("w") as stream:
        for number, (question, solution) in enumerate(benchmark):
            mark = "" if number % 5 == 0 else " "
            stream.write(
                json.dumps({"id": f"b{number}", "problem": mark.join(question), "solution": mark.join(solution)}) + "\n"
            )
    domains = rng.choice(list(DOMAINS), rows, p=np.array(list(DOMAINS.values())) / ROWS)
    kinds = rng.choice(["", *KINDS], rows, p=[1 - sum(KINDS.values()), *KINDS.values()])
    planted: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    plain: dict[bool, list[tuple[str, list[str]]]] = {
        True: [],
        False: [],
    }  # of either language the latest rows that can be copied
    with (folder / "rows.jsonl").open("w", encoding="utf8") as stream:
        for number, (domain, kind) in enumerate(zip(domains.tolist(), kinds.tolist(), strict=True)):
            name, chinese = f"{domain}-{number}", number % 5 == 0
            words = draw_text(rng, int(size * (300 if chinese else 155) * rng.uniform(0.6, 1.4)), chinese)
            if kind in ("copy", "relative") and plain[chinese]:
                of, words = plain[chinese][int(rng.integers(len(plain[chinese])))]
                # Exchanging m words in the middle changes m + 4 of G 5-grams, m at the end m of them: J = (G - changed) / (G + changed).
                wanted = rng.uniform(0.86, 0.94) if kind == "copy" else rng.uniform(0.42, 0.56)
                changed = round((len(words) - 4) * (1 - wanted) / (1 + wanted))
                start, end = (
                    (len(words) - changed, len(words))
                    if changed < 5
                    else (at := int(rng.integers(4, len(words) - changed)), at + changed - 4)
                )
                words = words[:start] + draw_text(rng, end - start, chinese) + words[end:]
                planted[kind][name] = of
            elif kind in ("contaminated", "near-miss"):
                of_ = int(rng.integers(questions // 5)) * 5 + (0 if chinese else int(rng.integers(1, 5)))
                source = benchmark[of_][int(rng.integers(2))]
                length = (16 if chinese else 10) - (kind == "near-miss")
                at, to = (
                    int(rng.integers(len(source) - length)),
                    int(rng.integers(len(words) // 2, len(words))),
                )  # not across the two messages
                words[to:to] = ["zz", *source[at : at + length], "zz"]  # no longer by chance
                planted[kind][name] = f"b{of_}"
            else:
                plain[chinese] = [*plain[chinese][-4999:], (name, words)] if number % 50 < 10 else plain[chinese]
            mark = "" if chinese else " "
            third = len(words) // 3
            messages = [
                {"role": "user", "content": mark.join(words[:third])},
                {"role": "assistant", "content": f"<think></think>{mark.join(words[third:])}"},
            ]
            stream.write(
                json.dumps(
                    {"id": name, "messages": messages, "domain": domain, "language": "zh" if chinese else "en"},
                    ensure_ascii=False,
                )
                + "\n"
            )
    return planted


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


def found(folder: Path, planted: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Shares of what was planted that the stage found, and of false removals among all rows that were not planted to be found."""
    dropped = {row["id"]: row for row in map(json.loads, (folder / "out/dropped.jsonl").open())}
    pairs = {name: row["of"] for name, row in dropped.items() if row["reason"] == "near-duplicate"}
    wanted = {*pairs, *pairs.values()}
    texts = {}
    with (folder / "rows.jsonl").open(encoding="utf8") as stream:
        for line in stream:
            if line[8 : line.index('"', 8)] in wanted:
                row = json.loads(line)
                texts[row["id"]] = "\n".join(message["content"] for message in row["messages"])
    overlaps = {name: exact_jaccard(texts[name], texts[of]) for name, of in pairs.items()}
    assert not {*pairs.values()} & {*dropped}, "a row is said to duplicate one that was removed itself"
    contaminated = {name for name, row in dropped.items() if row["reason"] == "contaminated"}
    return {
        "copies removed": len(pairs.keys() & planted["copy"].keys()) / len(planted["copy"]),
        "overlaps found": len(contaminated & planted["contaminated"].keys()) / len(planted["contaminated"]),
        "removed below 0.6": sum(overlap < 0.6 for overlap in overlaps.values()) / max(len(pairs), 1),
        "relatives removed": len(pairs.keys() & planted["relative"].keys()) / len(planted["relative"]),
        "clean rows called contaminated": len(contaminated - planted["contaminated"].keys())
        / max(len(contaminated), 1),
    }


def exact_jaccard(one: str, other: str) -> float:
    """Of sets of word 5-grams (characters where the text is Chinese), by Python's own sets."""
    sets = []
    for text in (one, other):
        words = (
            list(text)
            if any("\u4e00" <= character <= "\u9fff" for character in text[:40])
            else text.replace("<think></think>", " ").split()
        )
        sets.append({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def timed(folder: Path) -> tuple[float, float, float]:
    """Wall and CPU seconds of the stage in a process of its own, and its peak memory in GiB: the sum of PSS over the process tree, every 0.3 s."""
    import psutil

    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    child = subprocess.Popen([sys.executable, __file__, "--stage", str(folder)])
    peak, started, before = 0, time.perf_counter(), cpu()

    def watch() -> None:
        nonlocal peak
        while child.poll() is None:
            pss = 0
            try:
                tree = psutil.Process(child.pid)
                for process in [tree, *tree.children(recursive=True)]:
                    pss += process.memory_full_info().pss
            except psutil.Error:
                pass
            peak = max(peak, pss)
            time.sleep(0.3)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if child.wait():
        raise SystemExit("the stage failed")
    wall = time.perf_counter() - started
    watcher.join()
    return wall, cpu() - before, peak / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--scales", type=int, nargs="*", help="rows of each; none = 100k, 400k, 800k, 1.6M")
    parser.add_argument("--plot", type=Path, default=Path("bench_mix.png"))
    parser.add_argument("--folder", type=Path, help="where to work; none = a temporary folder")
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        print(run(given.stage), flush=True)
        return
    scales = None if given.scales is None else given.scales or [100_000, 400_000, 800_000, 1_600_000]
    costs = {}
    print(f"{'rows':>9} {'bytes':>5} {'made s':>7} {'wall s':>7} {'CPU s':>7} {'ms/row':>7} {'GiB':>5}")
    for rows in scales or [given.rows]:
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            folder = Path(name)
            size = 0.5 if scales else 1.0
            started = time.perf_counter()
            planted = make(folder, rows, size)
            made = time.perf_counter() - started
            size_of_row = (folder / "rows.jsonl").stat().st_size / rows
            wall, cpu, peak = timed(folder)
            costs[rows] = wall / rows
            print(
                f"{rows:9,} {size_of_row:5.0f} {made:7.1f} {wall:7.1f} {cpu:7.1f} {1000 * wall / rows:7.3f} {peak:5.2f}",
                flush=True,
            )
            print(
                "".join(f"    {what:32s} {share:.5f}\n" for what, share in found(folder, planted).items()),
                end="",
                flush=True,
            )
    if scales and len(costs) > 1:
        print(
            f"seconds a row at {max(costs):,} rows: {costs[max(costs)] / costs[min(costs)]:.2f} x those at {min(costs):,}"
        )
        try:
            from matplotlib import pyplot
        except ImportError:
            return
        pyplot.plot(list(costs), [1e3 * cost for cost in costs.values()], "o-")
        pyplot.xscale("log")
        pyplot.ylim(bottom=0)
        pyplot.xlabel("rows of half a KB")
        pyplot.ylabel("milliseconds a row, two cores")
        pyplot.savefig(given.plot, dpi=120)
        print(f"plot: {given.plot}")


if __name__ == "__main__":
    main()
