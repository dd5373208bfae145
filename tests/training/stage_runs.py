"""Small trainings in processes of their own, which are killed at a chosen place, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from preloaded import exit_code

SUMS = [
    {"id": str(i), "prompt": f"what is {i} + 1 ?", "answer": str(i + 1), "domain": "math", "language": "en"}
    for i in range(12)
]
# What says how long something took, or that an attempt began.
TIMES = (
    "time",
    "tokens_per_second",
    "step_time",
    "mfu",
    "peak_memory_gib",
    "eval_runtime",
    "eval_samples_per_second",
    "eval_steps_per_second",
)


SFT = {
    "lr": 1e-3,
    "batch_size": 4,
    "max_steps": 7,
    "max_length": 64,
    "pack_tokens": 40,
    "save_every": 2,
}


def run(kind: str, checkpoint: Path, folder: Path, kill_at: str = "", **changes: Any) -> int:
    """One attempt at a stage in a process of its own; the exit code, negative for a signal.

    Args:
        kill_at: a place of `_kill_at`.
        changes: fields of the stage's parameters.
    """
    return exit_code(attempt, kind, checkpoint, folder, kill_at, changes)


def attempt(kind: str, checkpoint: Path, folder: Path, kill_at: str, changes: dict[str, Any]) -> None:
    import torch

    from r1pipe.here import Here

    torch.set_num_threads(1)
    workdir = folder / "workdir"
    (folder / "out").mkdir(parents=True, exist_ok=True)
    workdir.mkdir(exist_ok=True)
    with (folder / "log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    here = Here("test", workdir, folder / "metrics.jsonl", folder / "progress.jsonl")
    if kill_at:
        _kill_at(kill_at, workdir / "trainer")
    metrics = KINDS[kind](checkpoint, folder / "out", here, changes)
    (folder / "result.json").write_text(json.dumps(metrics))


def _sft(checkpoint: Path, out: Path, here: Any, changes: dict[str, Any]) -> Any:
    from r1pipe.artifacts import Chats
    from r1pipe.data.io import read_rows
    from r1pipe.schema import SFTParams
    from r1pipe.training.sft.sft_training import train_sft

    rows = read_rows(_write_chats(out), Chats)
    return train_sft(checkpoint, rows, SFTParams(**SFT | changes), out=out, here=here, seed=0)


def _write_chats(out: Path) -> Path:
    path = out.parent / "rows.jsonl"
    with path.open("w") as stream:
        for row in SUMS:
            answer = {"role": "assistant", "content": row["answer"] * (1 + int(row["id"]) % 3)}
            messages = [{"role": "user", "content": row["prompt"]}, answer]
            chat = {"id": row["id"], "domain": "math", "source": "sampled", "messages": messages}
            stream.write(json.dumps(chat) + "\n")
    return path


def _distill(checkpoint: Path, out: Path, here: Any, changes: dict[str, Any]) -> Any:
    """The stage `distill`, with the rows and the settings of `_sft`."""
    from r1pipe.artifacts import Chats, Checkpoint
    from r1pipe.config.registry import load_kind

    stage = load_kind("distill").module
    config = stage.Config(sft=SFT | changes, row_limits={"max_empty_thinking": 1})
    inputs = stage.Inputs(model=Checkpoint(checkpoint), chats=Chats(_write_chats(out)))
    return stage.run(config, inputs, stage.Outputs(checkpoint=Checkpoint(out)), here)


def _grpo(checkpoint: Path, out: Path, here: Any, changes: dict[str, Any]) -> Any:
    from r1pipe.schema import GRPOParams, Phase, RewardSpec
    from r1pipe.training.grpo.grpo_training import train_grpo

    rewards = [RewardSpec(name="random"), RewardSpec(name="format")]
    fields = {
        "lr": 1e-3,
        "beta": 0.1,
        "num_generations": 4,
        "batch_size": 8,
        "microbatch": 4,
        "minibatches_per_rollout": 2,
        "ref_replace_every": 3,
        "eval_every": 2,
        "keep": "best",
        "save_every": 3,
        "resample": 1,
        "guards": {"window": 2},
        "phases": [
            Phase(steps=4, max_tokens=8, rewards=rewards),
            Phase(steps=4, max_tokens=6, temperature=0.7, rewards=rewards),
        ],
    }
    return train_grpo(
        checkpoint=checkpoint,
        prompts={"prompts": SUMS},
        heldout=SUMS[:3],
        params=GRPOParams(**fields | changes),
        template="chat",
        out=out,
        here=here,
        seed=0,
    )


def _grpo_server(checkpoint: Path, out: Path, here: Any, changes: dict[str, Any]) -> Any:
    """RL whose responses come from vllm_server.py at the address `url`, through TRL's own client.

    What needs vLLM's package or a GPU is left out: the group over which weights are sent.
    """
    from trl.generation import vllm_client, vllm_generation
    from urllib3.util.retry import Retry

    from r1pipe.training.grpo import grpo_training

    for module in (vllm_client, vllm_generation):
        module.is_vllm_available = lambda *given, **named: True  # type: ignore[assignment]
    grpo_training.require_vllm = lambda params: None
    vllm_client.VLLMClient.init_communicator = lambda self, device=0: None
    vllm_client.VLLMClient.update_named_params = lambda self, metadata, named_params: None
    # TRL's client asks again for a minute
    Retry.sleep = lambda self, response=None: None
    vllm = {"server_url": changes.pop("url"), "server_timeout": 0.1, "correction": "none"}
    return _grpo(checkpoint, out, here, {"rollout": "vllm-server", "vllm": vllm, **changes})


def _grpo_early(checkpoint: Path, out: Path, here: Any, changes: dict[str, Any]) -> Any:
    """RL as on a GPU: responses of many lengths, rewards that judge them as they end, packs, bf16.

    Each draw is written to draws.jsonl: the update before it, and its tokens.
    """
    from r1pipe.embedded.world import problems
    from r1pipe.schema import GRPOParams, Phase, RewardSpec
    from r1pipe.text.rendering import TEMPLATES
    from r1pipe.training.grpo.grpo_training import train_grpo
    from r1pipe.training.grpo.sampling import Sampler

    plain = Sampler.draw

    def noting(self: Sampler, *given: Any, **named: Any) -> Any:
        drawn = plain(self, *given, **named)
        step = self.trainer.state.global_step
        with (out.parent / "draws.jsonl").open("a") as stream:
            stream.write(json.dumps([step, drawn.token_ids]) + "\n")
        return drawn

    Sampler.draw = noting
    rewards = [RewardSpec(name="accuracy"), RewardSpec(name="format")]
    fields = {
        "lr": 1e-4,
        "beta": 0.1,
        "num_generations": 8,
        "batch_size": 64,
        "minibatches_per_rollout": 2,
        "ref_replace_every": 4,
        "eval_every": 4,
        "keep": "best",
        "save_every": 5,
        "resample": 1,
        "phases": [
            Phase(steps=6, max_tokens=160, rewards=rewards),
            Phase(steps=6, max_tokens=120, temperature=0.9, rewards=rewards),
        ],
    }
    return train_grpo(
        checkpoint=checkpoint,
        prompts={"prompts": problems("train", ["math"], 96, 0)},
        heldout=problems("dev", ["math"], 16, 0),
        params=GRPOParams(**fields | changes),
        template=str(TEMPLATES / "embedded-zero.txt"),
        out=out,
        here=here,
        seed=0,
    )


def _reward_model(checkpoint: Path, out: Path, here: Any, changes: dict[str, Any], *, pointwise: bool) -> Any:
    from r1pipe.schema import RewardModelParams
    from r1pipe.training.reward_model import train_pairwise, train_pointwise

    fields = {"lr": 1e-3, "batch_size": 4, "epochs": 3, "save_every": 2, "microbatch": 2}
    params = RewardModelParams(**fields | changes)
    if pointwise:
        rows = [{"prompt": r["prompt"], "response": r["answer"], "safe": int(r["id"]) % 2} for r in SUMS]
        return train_pointwise(checkpoint, rows, params, out=out, here=here, seed=0)
    rows = [{"prompt": r["prompt"], "chosen": r["answer"], "rejected": "no"} for r in SUMS]
    return train_pairwise(checkpoint, rows, params, out=out, here=here, seed=0)


def _dpo(checkpoint: Path, out: Path, here: Any, changes: dict[str, Any]) -> Any:
    from r1pipe.schema import DPOParams
    from r1pipe.training.dpo_training import train_dpo

    fields = {"lr": 1e-3, "batch_size": 4, "epochs": 3, "save_every": 2, "microbatch": 2}
    rows = [{"prompt": r["prompt"], "chosen": r["answer"], "rejected": "no"} for r in SUMS]
    return train_dpo(checkpoint, rows, DPOParams(**fields | changes), out=out, here=here, seed=0)


def _pretrain(checkpoint: Path, out: Path, here: Any, changes: dict[str, Any]) -> Any:
    import numpy as np
    from transformers import AutoTokenizer

    from r1pipe.config.registry import load_kind
    from r1pipe.training.pretraining import train_base

    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(out)
    stage = load_kind("pretrain").module
    fields = {
        "lr": 1e-3,
        "batch_tokens": 64,
        "row_tokens": 16,
        "epochs": 2,
        "save_every": 3,
        "trl": {"logging_steps": 4},
    }
    params = stage.Pretraining(**fields | changes)
    sizes = {
        "hidden_size": 32,
        "layers": 1,
        "intermediate_size": 64,
        "heads": 2,
        "kv_heads": 1,
        "max_positions": 64,
    }
    rows_NT = np.random.default_rng(0).integers(0, 250, (22, 16)).astype(np.uint16)
    return train_base(out, rows_NT, stage.Architecture(**sizes), params, here=here, seed=0)


KINDS = {
    "sft": _sft,
    "distill": _distill,
    "grpo": _grpo,
    "grpo-early": _grpo_early,
    "grpo-server": _grpo_server,
    "pairwise": lambda *given: _reward_model(*given, pointwise=False),
    "pointwise": lambda *given: _reward_model(*given, pointwise=True),
    "dpo": _dpo,
    "pretrain": _pretrain,
}


# --- kills ------------------------------------------------------------------------------------------------------------


def _die(how: signal.Signals = signal.SIGKILL) -> None:
    os.kill(os.getpid(), how)


def _kill_at(place: str, trainer_folder: Path) -> None:
    """Die at a place.

    `file:N`: at the Nth time that a file is opened for writing, renamed or removed in the trainer's folder.
    `method:NAME:N`: when a method is called for the Nth time.
    `memory:PHASE:UPDATE:TOKENS`: no death: from an update on, passes over more tokens do not fit (scarce_memory.py).
    Several places may stand in one line, with `; ` between them.
    `draw:N:SIGNAL`: when some responses of the rollout after update N have ended, and others have not.
    """
    if "; " in place:
        for one in place.split("; "):
            _kill_at(one, trainer_folder)
        return
    what, _, rest = place.partition(":")
    if what == "memory":
        _limit_memory(*rest.split(":"))
        return
    if what == "file":
        _at_file(int(rest), trainer_folder)
        return
    name, _, number = rest.rpartition(":")
    if what == "draw":
        _in_draw(int(name), signal.Signals[number])
        return
    _at_call(name, int(number))


def _limit_memory(phase: str, update: str, tokens: str) -> None:
    sys.path.append(str(Path(__file__).parents[1] / "fixtures"))
    from r1pipe_fakes.scarce_memory import limit_memory

    limit_memory(int(tokens), update=int(update), phase=phase)


def _at_file(number: int, trainer_folder: Path) -> None:
    seen = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open":
            path, mode, _ = args
            counts = isinstance(mode, str) and mode[0] in "wxa"
        elif event in ("os.rename", "os.remove", "os.link", "shutil.rmtree"):
            path, counts = args[0], True
        else:
            return
        if counts and str(path).startswith(str(trainer_folder)):
            seen += 1
            print(f"file event {seen}: {event} {path}", file=sys.stderr, flush=True)
            if seen == number:
                _die()

    sys.addaudithook(watch)


def _at_call(name: str, number: int) -> None:
    import importlib

    module, _, attribute = name.partition("/")
    owner: Any = importlib.import_module(module)
    *path, last = attribute.split(".")
    for part in path:
        owner = getattr(owner, part)
    plain = getattr(owner, last)
    calls = 0

    def dying(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            _die()
        return plain(*args, **more)

    setattr(owner, last, dying)


def _in_draw(step: int, how: signal.Signals) -> None:
    from r1pipe.training.grpo.sampling import Sampler

    plain = Sampler.draw

    def dying(self: Sampler, *given: Any, on_ended: Any, **named: Any) -> Any:
        def ended(*responses: Any) -> None:
            if on_ended is not None:
                on_ended(*responses)
            _die(how)

        here = self.trainer.state.global_step == step and self.trainer.rollout is not None
        return plain(self, *given, on_ended=ended if here else on_ended, **named)

    Sampler.draw = dying


# --- what is left -----------------------------------------------------------------------------------------------------


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "out" / "model.safetensors")


def lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without times."""
    kept = []
    for text in (folder / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        if "launched" in line or "packing" in line:
            continue
        kept.append({k: v for k, v in line.items() if k not in TIMES and not k.startswith("seconds/")})
    return kept


def file_events(folder: Path, about: str) -> list[int]:
    """The numbers of the events of an attempt with `file:0` whose path has this in it."""
    events = [line for line in (folder / "log").read_text().splitlines() if line.startswith("file event ")]
    return [int(line.split()[2].rstrip(":")) for line in events if about in line]


def differences(folder: Path, whole: Path) -> list[str]:
    """What a stage has made otherwise than another; empty where all is the same, bit for bit."""
    import torch

    found, wanted = weights(folder), weights(whole)
    if found.keys() != wanted.keys():
        return [f"weights are named otherwise: {sorted(found.keys() ^ wanted.keys())}"]
    other = [f"weight {name}" for name in wanted if not torch.equal(found[name], wanted[name])]
    if lines(folder) != lines(whole):
        pairs = zip(lines(folder), lines(whole), strict=False)
        other += [f"metrics: {a} is not {b}" for a, b in pairs if a != b][:1] or [
            "metrics: more or fewer lines"
        ]
    for name in ("result.json",):
        if (folder / name).read_text() != (whole / name).read_text():
            other.append(f"{name}: {(folder / name).read_text()} is not {(whole / name).read_text()}")
    return other
