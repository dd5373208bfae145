"""How fast the rewards are, beside TRL's accuracy_reward on the same pairs in the same run.

    python tests/bench/bench_rewards.py

Prints a table of rates, then the time of a batch of 4,096 completions with and without 1 % hanging expressions. Everything is warm: the
processes run and have seen other answers of the same kinds, not these. Reads the public data beside the repository.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from r1pipe.rewards.accuracy import accuracy
from r1pipe.rewards.answers import compare, parse
from r1pipe.rewards.code import code
from r1pipe.rewards.language import language, thinking_words

DATA = Path(__file__).parents[3] / "shared" / "data"
Pair = tuple[str, str]  # gold, found


def rows(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf8") as stream:
        yield from map(json.loads, stream)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def plain_pairs(count: int) -> list[Pair]:
    draw = random.Random(0)
    golds = [draw.randrange(1_000_000) for _ in range(count)]
    return [(str(gold), str(gold if draw.random() < 0.5 else draw.randrange(1_000_000))) for gold in golds]


def symbolic_pairs(shift: int) -> list[Pair]:
    """The pairs of verifier_pairs that need algebra, every number in them raised by `shift`: the same kinds, other answers."""
    pairs = [
        tuple(re.sub(r"\d+", lambda number: str(int(number[0]) + shift), row[side]) for side in ("gold", "candidate"))
        for row in rows("verifier_pairs")
    ]
    return sorted({pair for pair in pairs if parse(pair[0]).kind != "broken" and compare(*pair) is None})


def ours(pairs: list[Pair]) -> object:
    return accuracy(
        [f"<think>So.</think>The answer is \\boxed{{{found}}}." for _, found in pairs], [gold for gold, _ in pairs]
    )


def trls(pairs: list[Pair]) -> object:
    from trl.rewards import accuracy_reward

    return accuracy_reward(
        [[{"content": f"The answer is $\\boxed{{{found}}}$."}] for _, found in pairs],
        [f"${gold}$" for gold, _ in pairs],
    )


def accuracy_rates() -> None:
    for name, warm, pairs, few in (
        ("plain-number pairs", plain_pairs(1000), plain_pairs(200_000)[1000:], 400),
        (
            "symbolic pairs",
            [pair for shift in (2, 3, 4, 5) for pair in symbolic_pairs(shift)],
            [pair for shift in range(6, 12) for pair in symbolic_pairs(shift)],
            60,
        ),
    ):
        ours(warm), trls(warm[:few])
        sample = random.Random(1).sample(pairs, few)
        theirs = few / seconds(lambda sample=sample: trls(sample))
        mine = len(pairs) / seconds(lambda pairs=pairs: ours(pairs))
        print(f"| {name} | {len(pairs)} | {mine:,.0f} | {theirs:,.0f} ({few} of them) | {mine / theirs:,.0f} |")
    batch = [(gold, found) for gold, _ in symbolic_pairs(12)[:32] for _, found in symbolic_pairs(12)[40:56]]
    batch = [pair for pair in batch if compare(*pair) is None]
    print(
        f"| symbolic pairs, 16 answers a question | {len(batch)} | {len(batch) / seconds(lambda: ours(batch)):,.0f} | | |"
    )


def code_rate() -> None:
    small = [row for row in rows("mbpp") if row["id"] != "mbpp-123"]  # that one computes for seconds
    chats = [f"<think>So.</think>\n```python\n{row['solution']}\n```" for row in small]

    def judge(some: slice) -> None:
        assert set(code(chats[some], tests=[row["tests"] for row in small[some]])) == {1.0}

    judge(slice(0, 40))
    taken = seconds(lambda: judge(slice(40, 440)))
    asserts = sum(len(row["tests"]["asserts"]) for row in small[40:440])
    print(f"| MBPP programs with their tests | 400 | {400 / taken:,.0f} | | |")
    print(f"| single MBPP tests | {asserts} | {asserts / taken:,.0f} | | |")


def texts(code: str) -> list[str]:
    """Texts of about 500 words out of MGSM's problems."""
    made, part = [], []
    for row in rows("mgsm"):
        if row["lang"] == code:
            part.append(row["problem"])
            if sum(thinking_words([f"<think>{' '.join(part)}</think>"])) >= 500:
                made.append(f"<think>{' '.join(part)}</think>5")
                part = []
    return made


def language_rates() -> None:
    """In as many processes as there are cores, since each has a share of a batch in training."""
    for target, own in (("en", "en"), ("es", "es"), ("en", "sw"), ("zh", "zh"), ("ru", "ru")):
        chosen = texts(own)
        copies = 2000 // len(chosen)
        language(chosen, target=target)

        def work(chosen: list[str] = chosen, target: str = target, copies: int = copies) -> None:
            for _ in range(copies):
                language(chosen, target=target)

        def all_cores(work: Callable[[], None] = work) -> None:
            processes = [multiprocessing.get_context("fork").Process(target=work) for _ in range(os.cpu_count() or 1)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()

        one, every = (
            copies * len(chosen) / seconds(work),
            copies * len(chosen) * (os.cpu_count() or 1) / seconds(all_cores),
        )
        print(
            f"| texts of 500 words, {own}, target {target} | {copies * len(chosen)} | {one:,.0f} in one process, {every:,.0f} in {os.cpu_count()} | | |"
        )


def hanging_batch(limit: float = 1.0) -> None:
    """41 of 4,096 answers hang, each another expression, in three ways; the first is one C call, which no signal handler interrupts."""
    draw = random.Random(0)
    pool = list(rows("verifier_pairs"))
    golds = [draw.choice(pool)["gold"] for _ in range(4096)]
    found = [f"\\boxed{{{draw.choice(pool)['candidate']}}}" for _ in range(4096)]
    places = draw.sample(range(4096), 41)
    hung, hung_golds = list(found), list(golds)
    for n, place in enumerate(places):
        hung[place] = (
            f"\\boxed{{{10**7 + n}!}}",
            f"\\boxed{{9^{{9^{{9^{{{9 + n}}}}}}}}}",
            f"\\boxed{{\\int_0^1 e^{{x^{{x^x}}+{n}}} dx}}",
        )[n % 3]
        hung_golds[place] = "\\sqrt{3}"
    verdicts: dict[str, list[float | None]] = {}
    accuracy(found[:512], golds[:512])
    # Each in processes that have seen the other one's answers; so with, without, with again.
    accuracy(hung, hung_golds, timeout=limit)
    without = seconds(lambda: verdicts.update(without=accuracy(found, golds, timeout=limit)))
    taken = seconds(lambda: verdicts.update(hung=accuracy(hung, hung_golds, timeout=limit)))
    workers = min(8, len(os.sched_getaffinity(0)))
    changed = sum(
        a != b
        for i, (a, b) in enumerate(zip(verdicts["without"], verdicts["hung"], strict=True))
        if i not in set(places)
    )
    bound = 1.2 * without + 41 * limit / workers
    print(
        f"\n4,096 completions: {without:.1f} s; with 41 hanging, limit {limit} s of CPU time, {workers} workers: {taken:.1f} s (bound {bound:.1f} s)"
    )
    print(
        f"other verdicts changed: {changed}; of the hanging ones {sum(verdicts['hung'][place] is None for place in places)} are None"
    )


def main() -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    print("| what | count | r1pipe, a second | TRL's accuracy_reward | ratio |\n| --- | --- | --- | --- | --- |")
    accuracy_rates()
    code_rate()
    language_rates()
    hanging_batch()


if __name__ == "__main__":
    main()
