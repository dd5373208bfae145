"""The trackers: one class each, with the same four methods."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

# A run of a tracker that is called NAME/STAGE stands in this project, unless the user names another one.
PROJECT = "r1pipe"
RESPONSE_COLUMNS = ("step", "prompt", "response", "reward", "rewards")

# With them trackio would log into a space on the hub, which is public unless somebody says otherwise, or to a server.
TRACKIO_ELSEWHERE = (
    "TRACKIO_SPACE_ID",
    "TRACKIO_SERVER_URL",
    "TRACKIO_WRITE_TOKEN",
    "TRACKIO_BUCKET_ID",
    "TRACKIO_DATASET_ID",
    "TRACKIO_WEBHOOK_URL",
)


@dataclass(frozen=True)
class TrackedStage:
    """A stage as a tracker sees it.

    Attributes:
        run: of r1pipe.
        folder: of the stage.
        config: the stage's config and kind.
        identity: what no other stage has, nor this one when it is redone.
        last_step: that this tracker has been told of before; None where it knows nothing of the stage.
    """

    run: str
    stage: str
    folder: Path
    config: Mapping[str, Any]
    identity: str
    last_step: int | None = None

    @property
    def name(self) -> str:
        return f"{self.run}/{self.stage}"


class Tracker(Protocol):
    """One stage's run in a tracker. Whatever a method raises ends the tracking of that stage, and nothing else."""

    def __init__(self, stage: TrackedStage) -> None: ...

    @property
    def place(self) -> str:
        """Where the user finds it: an address or a command."""
        ...

    def go_back_to(self, step: int) -> None:
        """What comes next is of this step on, and replaces what was told of these steps, if anything was."""
        ...

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take numbers of an update."""
        ...

    def show(self, step: int, responses: Sequence[Mapping[str, Any]]) -> None:
        """Take responses of an update: `prompt`, `response`, `reward`, `rewards` {name: value}."""
        ...

    def close(self, results: Mapping[str, float] | None) -> None:
        """End this attempt.

        Args:
            results: the metrics of the stage; None where it is not done.
        """
        ...


class TensorBoard:
    """Event files in the folder `tensorboard` of the stage, without TensorFlow or torch."""

    def __init__(self, stage: TrackedStage) -> None:
        # By names: these are extras, and the types of compiled messages are known to no checker.
        writers: Any = import_module("tensorboard.summary.writer.event_file_writer")
        self._events: Any = import_module("tensorboard.compat.proto.event_pb2")
        self._summaries: Any = import_module("tensorboard.compat.proto.summary_pb2")
        self._tensors: Any = import_module("tensorboard.compat.proto.tensor_pb2")
        self._types: Any = import_module("tensorboard.compat.proto.types_pb2")
        self._runs = stage.folder.parent.parent
        self._writer = writers.EventFileWriter(str(stage.folder / "tensorboard"), flush_secs=5)
        self._last_step = stage.last_step or 0

    @property
    def place(self) -> str:
        return f"tensorboard --logdir {self._runs}"

    def go_back_to(self, step: int) -> None:
        session = self._events.SessionLog
        self._add(step, session_log=session(status=session.START))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._last_step = step
        value_of = self._summaries.Summary.Value
        values = [value_of(tag=name, simple_value=value) for name, value in numbers.items()]
        self._add(step, summary=self._summaries.Summary(value=values))

    def show(self, step: int, responses: Sequence[Mapping[str, Any]]) -> None:
        text = "\n\n".join(_as_markdown(response) for response in responses)
        metadata = self._summaries.SummaryMetadata
        # a tokenizer may leave halves of a character
        words = text.encode(errors="replace")
        value = self._summaries.Summary.Value(
            tag="responses",
            metadata=metadata(plugin_data=metadata.PluginData(plugin_name="text")),
            tensor=self._tensors.TensorProto(dtype=self._types.DT_STRING, string_val=[words]),
        )
        self._add(step, summary=self._summaries.Summary(value=[value]))

    def close(self, results: Mapping[str, float] | None) -> None:
        if results:
            self.log(self._last_step, results)
        self._writer.close()

    def _add(self, step: int, **what: Any) -> None:
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=step, **what))


class Trackio:
    """trackio on this machine: a database in the folder that trackio uses anyway, and nothing on the hub."""

    def __init__(self, stage: TrackedStage) -> None:
        # It would ask the hub who the user is.
        os.environ["HF_HUB_OFFLINE"] = "1"
        for variable in TRACKIO_ELSEWHERE:
            if os.environ.pop(variable, None) is not None:
                print(f"{variable} is not used: r1pipe logs to trackio on this machine only")
        trackio: Any = import_module("trackio")
        self._trackio = trackio
        self._last_step = stage.last_step or 0
        self._run: Any = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=stage.name,
            group=stage.run,
            config=dict(stage.config),
            resume="never" if stage.last_step is None else "allow",
            embed=False,
            # of this process, which is not the training
            auto_log_cpu=False,
        )

    @property
    def place(self) -> str:
        return f"trackio show --project {self._run.project}"

    def go_back_to(self, step: int) -> None:
        """It keeps both."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._last_step = step
        self._run.log(dict(numbers), step=step)

    def show(self, step: int, responses: Sequence[Mapping[str, Any]]) -> None:
        table = self._trackio.Table(columns=list(RESPONSE_COLUMNS), data=_as_rows(step, responses))
        self._run.log({"responses": table}, step=step)

    def close(self, results: Mapping[str, float] | None) -> None:
        if results:
            self._run.log(dict(results), step=self._last_step)
        self._trackio.finish()


class WandB:
    """Weights & Biases; WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and the like are the user's."""

    def __init__(self, stage: TrackedStage) -> None:
        wandb: Any = import_module("wandb")
        folder = Path(os.environ.get("WANDB_DIR") or stage.folder.parent / ".wandb")
        # wandb makes ./wandb in a folder that it cannot write
        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=stage.name,
            group=stage.run,
            job_type=str(stage.config.get("kind", "")),
            config=dict(stage.config),
            id=stage.identity,
            resume="allow",
            dir=str(folder),
            # What the tracker prints is no log of the training, and this program is not the user's code.
            settings=wandb.Settings(console="off", save_code=False),
        )
        # Of its own counter wandb takes no step twice, and updates are made again after a kill.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    @property
    def place(self) -> str:
        if self._run.offline:
            return f"wandb sync {Path(self._run.dir).parents[1]}/offline-run-*"
        return self._run.project_url or ""

    def go_back_to(self, step: int) -> None:
        """It keeps both."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({"step": step, **numbers})

    def show(self, step: int, responses: Sequence[Mapping[str, Any]]) -> None:
        table = self._wandb.Table(columns=list(RESPONSE_COLUMNS), data=_as_rows(step, responses))
        self._run.log({"step": step, "responses": table})

    def close(self, results: Mapping[str, float] | None) -> None:
        if results is not None:
            self._run.summary.update(dict(results))
        self._run.finish(exit_code=0 if results is not None else 1)


CLASSES: dict[str, Callable[[TrackedStage], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
}


def _as_rows(step: int, responses: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    rows = []
    for response in responses:
        rewards = json.dumps(response["rewards"], ensure_ascii=False)
        rows.append([step, response["prompt"], response["response"], response["reward"], rewards])
    return rows


def _as_markdown(response: Mapping[str, Any]) -> str:
    """Prompt and response as blocks of code, in which nothing is markup."""
    # Tags of a response would be taken for HTML and disappear.
    parts = []
    for title, text in (("prompt", response["prompt"]), ("response", response["response"])):
        block = "\n".join(f"    {line}" for line in text.splitlines())
        parts.append(f"**{title}**\n\n{block}")
    rewards = json.dumps(response["rewards"], ensure_ascii=False)
    parts.append(f"**reward** {response['reward']}\n\n    {rewards}")
    return "\n\n".join(parts)
