"""How fast the rewards are, beside TRL's accuracy_reward on the same pairs in the same run.

    python tests/bench/bench_rewards.py

Prints a table of rates, then the time of a batch of 4,096 completions with and without 1 % hanging expressions.
Everything is warm: the processes run and have seen other answers of the same kinds, not these. Reads the public data
beside the repository.
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
# (gold, answer)
Pair = tuple[str, str]


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
    """The pairs of verifier_pairs that need algebra, every number raised by `shift`: the same kinds, other answers."""

    def shifted(text: str) -> str:
        return re.sub(r"\d+", lambda number: str(int(number[0]) + shift), text)

    pairs = [(shifted(row["gold"]), shifted(row["candidate"])) for row in rows("verifier_pairs")]
    return sorted({pair for pair in pairs if parse(pair[0]).kind != "broken" and compare(*pair) is None})


def ours(pairs: list[Pair]) -> object:
    texts = [f"<think>So.</think>The answer is \\boxed{{{answer}}}." for _, answer in pairs]
    return accuracy(texts, [gold for gold, _ in pairs])


def trls(pairs: list[Pair]) -> object:
    from trl.rewards import accuracy_reward

    messages = [[{"content": f"The answer is $\\boxed{{{answer}}}$."}] for _, answer in pairs]
    return accuracy_reward(messages, [f"${gold}$" for gold, _ in pairs])


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
        ours(warm)
        trls(warm[:few])
        sample = random.Random(1).sample(pairs, few)
        theirs = few / seconds(lambda sample=sample: trls(sample))
        mine = len(pairs) / seconds(lambda pairs=pairs: ours(pairs))
        print(
            f"| {name} | {len(pairs)} | {mine:,.0f} | {theirs:,.0f} ({few} of them) | {mine / theirs:,.0f} |"
        )
    golds = [gold for gold, _ in symbolic_pairs(12)[:32]]
    answers = [answer for _, answer in symbolic_pairs(12)[40:56]]
    batch = [(gold, answer) for gold in golds for answer in answers if compare(gold, answer) is None]
    rate = len(batch) / seconds(lambda: ours(batch))
    print(f"| symbolic pairs, 16 answers a question | {len(batch)} | {rate:,.0f} | | |")


def code_rate() -> None:
    # mbpp-123 computes for seconds.
    small = [row for row in rows("mbpp") if row["id"] != "mbpp-123"]
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
    responses: list[str] = []
    problems: list[str] = []
    for row in rows("mgsm"):
        if row["lang"] != code:
            continue
        problems.append(row["problem"])
        thinking = f"<think>{' '.join(problems)}</think>"
        if sum(thinking_words([thinking])) >= 500:
            responses.append(f"{thinking}5")
            problems = []
    return responses


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
            processes = [
                multiprocessing.get_context("fork").Process(target=work) for _ in range(os.cpu_count() or 1)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join()

        count = copies * len(chosen)
        cores = os.cpu_count() or 1
        single = count / seconds(work)
        together = count * cores / seconds(all_cores)
        rates = f"{single:,.0f} in one process, {together:,.0f} in {cores}"
        print(f"| texts of 500 words, {own}, target {target} | {count} | {rates} | | |")


def hanging_batch(limit: float = 1.0) -> None:
    """41 of 4,096 answers hang, each another expression, in three ways.

    The first is one C call, which no signal handler interrupts.
    """
    draw = random.Random(0)
    pool = list(rows("verifier_pairs"))
    golds = [draw.choice(pool)["gold"] for _ in range(4096)]
    texts = [f"\\boxed{{{draw.choice(pool)['candidate']}}}" for _ in range(4096)]
    places = draw.sample(range(4096), 41)
    hung = list(texts)
    hung_golds = list(golds)
    for n, place in enumerate(places):
        hung[place] = (
            f"\\boxed{{{10**7 + n}!}}",
            f"\\boxed{{9^{{9^{{9^{{{9 + n}}}}}}}}}",
            f"\\boxed{{\\int_0^1 e^{{x^{{x^x}}+{n}}} dx}}",
        )[n % 3]
        hung_golds[place] = "\\sqrt{3}"
    verdicts: dict[str, list[float | None]] = {}
    accuracy(texts[:512], golds[:512])
    # Each in processes that have seen the other one's answers; so with, without, with again.
    accuracy(hung, hung_golds, timeout=limit)
    without = seconds(lambda: verdicts.update(without=accuracy(texts, golds, timeout=limit)))
    taken = seconds(lambda: verdicts.update(hung=accuracy(hung, hung_golds, timeout=limit)))
    workers = min(8, len(os.sched_getaffinity(0)))
    others = [i for i in range(4096) if i not in set(places)]
    changed = sum(verdicts["without"][i] != verdicts["hung"][i] for i in others)
    unjudged = sum(verdicts["hung"][place] is None for place in places)
    bound = 1.2 * without + 41 * limit / workers
    print(f"\n4,096 completions: {without:.1f} s; with 41 hanging: {taken:.1f} s (bound {bound:.1f} s)")
    print(f"limit {limit} s of CPU time, {workers} workers")
    print(f"other verdicts changed: {changed}; of the hanging ones {unjudged} are None")


def main() -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    print(
        "| what | count | r1pipe, a second | TRL's accuracy_reward | ratio |\n| --- | --- | --- | --- | --- |"
    )
    accuracy_rates()
    code_rate()
    language_rates()
    hanging_batch()


if __name__ == "__main__":
    main()
