"""The process of one tracker: `python -m r1pipe.run.tracking.follower TRACKER LOG`.

It is told by its standard input which stage runs, a JSON object a line, and reads what that stage writes. What the user
should know goes to standard output, a sentence a line; what the tracker prints goes to LOG, without keys.

    {"begin": {"run": ..., "stage": ..., "folder": ..., "config": {...}, "scores": ...}}
    {"end": {metrics of the stage}}      null = it is not done
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from r1pipe.here import RESPONSES
from r1pipe.run.records import read_object
from r1pipe.run.store import StageFolder, write_json
from r1pipe.run.tracking.trackers import CLASSES, TrackedStage, Tracker
from r1pipe.text.key_shapes import without_keys

EVERY_S = 1.0
# The metrics of a stage that is done, apart from those of its updates.
RESULT = "result/"
# Seconds from the end of the run, or of the driver, to the end of this process.
GONE_S = 60.0
# An order: there was none, so the files are read.
NOTHING = "{}"


class Lines:
    """The lines of a file that a stage appends to, each once, also where the file is written anew without some.

    Args:
        sent: the `time` of the last line that was read before; None = none was.

    Attributes:
        files: how many it has read from; another one begins where updates are made again.
    """

    def __init__(self, path: Path, sent: float | None) -> None:
        self.path = path
        self.sent = sent
        self.files = 0
        self._place = 0
        self._file: tuple[int, int] | None = None

    def new(self) -> Iterator[dict[str, Any]]:
        """What came since the last call."""
        try:
            stream = self.path.open("rb")
        except FileNotFoundError:
            return
        with stream:
            status = os.fstat(stream.fileno())
            file = (status.st_dev, status.st_ino)
            is_same = file == self._file and status.st_size >= self._place
            if not is_same:
                self.files += 1
                self._place = 0
            # In another file those of before are known by their time.
            known_until = self.sent if not is_same else None
            self._file = file
            stream.seek(self._place)
            for line in stream:
                # The stage is still writing it.
                if not line.endswith(b"\n"):
                    return
                self._place += len(line)
                record = _object(line)
                made = record.get("time")
                if not isinstance(made, int | float):
                    continue
                if known_until is not None and made <= known_until:
                    continue
                self.sent = made
                yield record


def _object(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


class Following:
    """One stage, from its files to its tracker, which is told of it when there is something to tell.

    Args:
        name: of the tracker.
        begin: what the driver says of the stage.
        say: takes where the tracker shows it.
    """

    def __init__(self, name: str, begin: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self._name = name
        self._begin = begin
        self._say = say
        folder = StageFolder(Path(begin["folder"]))
        self._folder = folder.path
        self._state_file = folder.path / f"{name}.json"
        # A stage that is redone has another folder, and so another identity.
        state = read_object(self._state_file)
        self._identity = str(state.get("identity") or uuid.uuid4().hex)
        self._last_step: int | None = state.get("last_step")
        sent = state.get("sent", {})
        self._metrics = Lines(folder.metrics, sent.get("metrics"))
        self._responses = Lines(folder.metrics.with_name(RESPONSES), sent.get("responses"))
        self._opened: Tracker | None = None
        # The file of metrics that the tracker was told of last.
        self._told_file = 0

    def _tracker(self) -> Tracker:
        if self._opened is None:
            self._opened = CLASSES[self._name](
                TrackedStage(
                    run=self._begin["run"],
                    stage=self._begin["stage"],
                    folder=self._folder,
                    config=self._begin["config"],
                    identity=self._identity,
                    last_step=self._last_step,
                )
            )
            self._say(self._opened.place)
        return self._opened

    def read(self) -> None:
        """Pass on what is new."""
        before = (self._metrics.sent, self._responses.sent)
        for line in self._metrics.new():
            step = line.get("step")
            numbers = numbers_of(line)
            if isinstance(step, int) and numbers:
                tracker = self._tracker()
                if self._told_file != self._metrics.files:
                    self._told_file = self._metrics.files
                    tracker.go_back_to(step)
                tracker.log(step, numbers)
                self._last_step = step
        # Behind the numbers, so that a tracker with a counter of its own has the step already.
        for line in self._responses.new():
            self._tracker().show(line["step"], line["responses"])
        if before != (self._metrics.sent, self._responses.sent):
            self._write_state()

    def end(self, results: Mapping[str, Any] | None) -> None:
        """Pass on the rest, and the metrics of a stage that is done."""
        self.read()
        numbers = numbers_of(results or {})
        # What a data stage counts is no score.
        if numbers and self._begin["scores"]:
            self._tracker()
        if self._opened is None:
            return
        named = {f"{RESULT}{name}": value for name, value in numbers.items()}
        self._opened.close(named if results is not None else None)
        self._write_state()

    def _write_state(self) -> None:
        sent = {"metrics": self._metrics.sent, "responses": self._responses.sent}
        last_step = self._last_step if self._last_step is not None else 0
        write_json(self._state_file, {"identity": self._identity, "last_step": last_step, "sent": sent})


def numbers_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl; what a guard has found is a 1 under the guard's name.

    >>> numbers_of({"time": 1.5, "step": 3, "loss": 0.25, "bad": None, "guard": "entropy", "action": "warn"})
    {'loss': 0.25, 'guard/entropy': 1.0}
    """
    numbers = {}
    for name, value in line.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and name not in ("time", "step"):
            numbers[name] = float(value)
    # A guard's finding is a sentence, which no curve can show.
    if isinstance(line.get("guard"), str):
        numbers[f"guard/{line['guard']}"] = 1.0
    return numbers


def main(name: str, log: Path) -> None:
    """Follow stages until standard input ends."""
    # Before standard output becomes the log's: this is what the driver reads.
    told = os.fdopen(os.dup(1), "w", encoding="utf8")
    _print_into(log)
    orders: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read_orders, args=(sys.stdin, orders), daemon=True).start()
    said: set[str] = set()

    def say(text: str) -> None:
        if text and text not in said:
            said.add(text)
            print(without_keys(text), file=told, flush=True)

    following: Following | None = None
    while True:
        order = _next(orders)
        message = json.loads(order or "{}")
        try:
            if following is not None and order == NOTHING:
                following.read()
            elif following is not None:
                following.end(message.get("end"))
                following = None
            if "begin" in message:
                following = Following(name, message["begin"], say)
        # Whatever a tracker raises, the next stage may try again.
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            say(f"{reason}; the stage goes on without it")
            following = None
        # The driver is gone, or the run is over.
        if order is None:
            return


def _next(orders: queue.Queue[str | None]) -> str | None:
    try:
        return orders.get(timeout=EVERY_S)
    except queue.Empty:
        return NOTHING


def _read_orders(stream: TextIO, orders: queue.Queue[str | None]) -> None:
    for line in stream:
        orders.put(line)
    orders.put(None)
    # Nobody waits any more for what a network does not take.
    time.sleep(GONE_S)
    os._exit(1)


def _print_into(log: Path) -> None:
    """Let everything that this process and its children print go through `without_keys` into a file."""
    reading, writing = os.pipe()
    for descriptor in (1, 2):
        os.dup2(writing, descriptor)
    os.close(writing)

    def copy() -> None:
        with (
            os.fdopen(reading, encoding="utf8", errors="replace") as stream,
            log.open("a", encoding="utf8") as out,
        ):
            for line in stream:
                out.write(without_keys(line))
                out.flush()

    threading.Thread(target=copy, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    # A library's thread that waits for the network must not keep this process.
    sys.stdout.flush()
    os._exit(0)
