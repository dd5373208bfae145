"""Fuzz one of the targets of targets.py and say what came out otherwise than it should.

    pip install atheris hypothesis      in an environment of its own, which sees r1pipe's
    python tests/fuzz/fuzz.py config --seconds 1200
    python tests/fuzz/fuzz.py rows --shapes 20000

The first lets libFuzzer change bytes where that reaches new code; the second lets hypothesis draw values of JSON of
every shape. Each kind of finding is kept once, below findings/TARGET, with the traceback at its top; findings become
cases of test_findings.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent
REPORT_S = 5.0
sys.path[:0] = [str(HERE), str(HERE.parents[1])]


class Recorder:
    """Calls a target and keeps what it finds."""

    def __init__(self, name: str) -> None:
        from targets import SECONDS, TARGETS

        self.name = name
        self.target = TARGETS[name]
        self.limit = SECONDS
        self.inputs = 0
        self.slowest = 0.0
        self.found: dict[str, int] = {}
        self.next_report = time.monotonic() + REPORT_S

    def __call__(self, data: bytes) -> None:
        self.inputs += 1
        # Of this process alone: fuzzing runs beside other work. What waits for ever ends by libFuzzer's own limit.
        started = time.process_time()
        try:
            self.target(data)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if "r1pipe" in frame.filename and "fuzz" not in frame.filename]
            place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "outside"
            self._keep(f"{type(error).__name__} at {place}", data, traceback.format_exc())
        took = time.process_time() - started
        now = time.monotonic()
        # libFuzzer leaves the process where it ends, so the last of these is the result.
        if now > self.next_report:
            self.next_report = now + REPORT_S
            print(self.report(), flush=True)
        self.slowest = max(self.slowest, took)
        if took > self.limit:
            self._keep("it takes too long", data, f"{took:.1f} s")

    def _keep(self, kind: str, data: bytes, why: str) -> None:
        self.found[kind] = self.found.get(kind, 0) + 1
        if self.found[kind] == 1:
            folder = HERE / "findings" / self.name
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / hashlib.sha256(kind.encode()).hexdigest()[:12]
            path.with_suffix(".input").write_bytes(data)
            path.with_suffix(".txt").write_text(f"{kind}\n{why}")
            print(f"finding: {kind}", flush=True)

    def report(self) -> str:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in self.found.items())
        return f"{self.name}: {self.inputs} inputs, slowest {self.slowest:.2f} s, found: {kinds or 'nothing'}"


def by_bytes(recorder: Recorder, seconds: int) -> None:
    import atheris
    from targets import seeds

    corpus = HERE / "findings" / "corpus" / recorder.name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(recorder.name)):
        recorder(seed)
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        "-max_len=4096",
        "-timeout=60",
        "-rss_limit_mb=4096",
        "-verbosity=0",
        f"-artifact_prefix={corpus.parent}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], recorder)
    atheris.Fuzz()


def by_shapes(recorder: Recorder, count: int) -> None:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    words = st.sampled_from(WORDS)
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | words
    values = st.recursive(
        plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=5), inner)
    )

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 5), values)
    def tried(first: int, value: object) -> None:
        text = json.dumps(value).encode()
        recorder(text if recorder.name in ("config", "answers", "template") else bytes([first]) + text)

    tried()
    print(recorder.report())


WORDS = (
    "stages", "kind", "inputs", "outputs", "prompts", "source", "world", "math", "count", "grpo", "sft", "phases",
    "extends", "use", "run", "seed", "launch", "messages", "role", "user", "assistant", "content", "id", "prompt",
    "answer", "tests", "asserts", "chosen", "rejected", "response", "safe", "domain", "language", "outputs", "files",
    "digest", "checksum", "material", "fingerprint", "versions",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=["config", "rows", "answers", "manifest", "template"])
    parser.add_argument("--seconds", type=int, default=1200)
    parser.add_argument("--shapes", type=int, default=0, metavar="COUNT")
    given = parser.parse_args()
    if given.shapes:
        by_shapes(Recorder(given.target), given.shapes)
        return
    import atheris

    # Before the targets are imported: only what is imported within is watched.
    with atheris.instrument_imports(include=["r1pipe", "yaml"]):
        recorder = Recorder(given.target)
    by_bytes(recorder, given.seconds)


if __name__ == "__main__":
    main()
