"""r1-zero on a real model: r1pipe beside stock TRL, with vLLM in the same process and with transformers' generate.

    python tests/bench/bench_r1_zero.py FOLDER --out r1_zero.json      seconds an update, three sides, one card
    python tests/bench/bench_r1_zero.py FOLDER --curve --out curve.json        until the held-out accuracy is reached
    python tests/bench/bench_r1_zero.py --tiny                         tries the code on a CPU, measures nothing

FOLDER, all of it local (nothing is downloaded):

    model/            the base: a Hugging Face checkpoint with its tokenizer
    prompts.jsonl     rows with `prompt` and `answer`; heldout.jsonl: the same, for --curve
    template.txt      what prompts are rendered with, as in `template:` of r1-zero

Every side gets the same model, prompts in the same order, rewards (accuracy and format, r1pipe's functions), 64 prompts
x 8 responses a rollout, 4 updates of 128, and R1's numbers (rate 3e-6 after a warm-up, beta 0.001, epsilon 10, loss
grpo, temperature 1, the reference replaced every 100 updates). Everything else is a side's own default: TRL recomputes
activations and has 16 rows a forward pass, as open-r1's recipes (--trl-rows changes it). Sides run one after the other,
each in a process of its own.

Seconds an update: a rollout is drawn once in four updates, so a single update's seconds say little. Four updates in a
row hold one rollout, wherever they begin; the number is the median of such fours over updates 3 to 10, divided by four.
Looks at held-out prompts are not counted. r1pipe plans as many updates as a run has (--planned), so that it compiles
what it would compile there, and is stopped after update 10.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from bench_grpo import RESULT, child_result, machine  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

SIDES = ("r1pipe", "r1pipe+vllm", "trl+vllm", "trl+generate")
DEFAULT_SIDES = ("r1pipe", "trl+vllm", "trl+generate")
CURVE_SIDES = ("r1pipe", "trl+vllm")
# Updates that are counted: the first two warm up.
FIRST, LAST = 3, 10
# Minimum of held-out prompts for a curve: the standard error of .25 is then .019.
LEAST_HELDOUT = 512

Job = dict[str, Any]


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf8").split("\n") if line.strip()]
    return [{"id": str(i), "domain": "math", "language": "en", **row} for i, row in enumerate(rows)]


# --- what is watched --------------------------------------------------------------------------------------------------


class Watch(TrainerCallback):
    """Seconds of each update, and the held-out curve, from outside and the same for every side.

    Attributes:
        seconds: of each update, its rollout included where it draws one.
        parts: of each of r1pipe's rollouts with its updates: seconds by part, as its stopwatch has them.
        curve: at each look: updates, training seconds until then, accuracy, tokens.
    """

    def __init__(
        self, trainer: Any, job: Job, heldout: list[dict[str, Any]], prompt_ids: list[list[int]]
    ) -> None:
        self.trainer = trainer
        self.job = job
        self.heldout = heldout
        self.prompt_ids = prompt_ids
        self.seconds: list[float] = []
        self.logs: list[dict[str, float]] = []
        self.parts: list[dict[str, float]] = []
        self.curve: list[dict[str, float]] = []
        self.began = 0.0
        self.reached = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._look(state.global_step)
        self.began = now()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if logs and "loss" in logs:
            shown = ("completions/mean_length", "reward", "kl", "grad_norm", "entropy")
            self.logs.append({name: round(float(logs[name]), 5) for name in shown if name in logs})
            # r1pipe's own, once a rollout
            parts = {name: round(value, 3) for name, value in logs.items() if name.startswith("seconds/")}
            if parts:
                self.parts.append(parts)
                print(f"rollout {len(self.parts)}: {json.dumps(parts)}", flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(now() - self.began)
        step = state.global_step
        print(f"update {step}: {self.seconds[-1]:.3f} s", flush=True)
        if step % self.job["eval_every"] == 0 or step == state.max_steps:
            self._look(step)
        out_of_time = sum(self.seconds) > self.job["budget"]
        if step >= self.job["updates"] or self.reached or out_of_time:
            control.should_training_stop = True
        self.began = now()

    def _look(self, step: int) -> None:
        if not self.heldout:
            return
        from r1pipe.training.grpo import heldout
        from r1pipe.training.stopwatch import Stopwatch

        scores = heldout.score(self.trainer, Stopwatch(), self.heldout, self.prompt_ids)
        # vLLM has the weights of now, which the next rollout would pay for without this look
        self.trainer._last_loaded_step = -1
        point = {"updates": step, "seconds": sum(self.seconds)}
        point |= {name.removeprefix("heldout/"): value for name, value in scores.items()}
        self.curve.append(point)
        last_two = [entry["accuracy"] for entry in self.curve[-2:]]
        self.reached = len(last_two) == 2 and min(last_two) >= self.job["target"]
        print(f"held out: {json.dumps(point)}", flush=True)


def now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


# --- the sides --------------------------------------------------------------------------------------------------------


def reward_specs() -> list[Any]:
    from r1pipe.schema import RewardSpec

    return [RewardSpec(name="accuracy"), RewardSpec(name="format", params={"form": "zero"})]


def params_of(job: Job, rollout: str) -> Any:
    """R1's numbers as r1-zero has them."""
    from r1pipe.schema import GRPOParams, Phase

    fields: dict[str, Any] = {
        "lr": 3e-6,
        "warmup_ratio": job["warmup_ratio"],
        "num_generations": job["group"],
        "batch_size": job["prompts"] * job["group"] // job["minibatches"],
        "minibatches_per_rollout": job["minibatches"],
        "ref_replace_every": 100,
        "rollout": rollout,
        "eval_prompts": 0,
        "phases": [Phase(steps=job["planned"], max_tokens=job["max_tokens"], rewards=reward_specs())],
    }
    if rollout == "vllm":
        fields["vllm"] = {"memory": job["vllm_memory"], "max_model_length": job["max_model_length"]}
    if job["stop"]:
        fields["stop"] = job["stop"]
    return GRPOParams(**(fields | job["grpo"]))


def ours(job: Job, rows: list[dict[str, Any]], template: str, rollout: str) -> Any:
    """The trainer that the stage r1-zero makes."""
    from r1pipe.here import Here
    from r1pipe.models.loading import load_tokenizer
    from r1pipe.training.callbacks import Heldout
    from r1pipe.training.grpo.grpo_training import make_trainer

    work = Path(job["work"])
    here = Here("bench", work, work / "metrics.jsonl", work / "progress.jsonl")
    params = params_of(job, rollout)
    trainer, _ = make_trainer(
        checkpoint=Path(job["model"]),
        rows=rows,
        prompts={"prompts": rows},
        params=params,
        template=template,
        tokenizer=load_tokenizer(Path(job["model"])),
        watch=Heldout([], [], here, params),
        widest_prompt=job["max_model_length"] - job["max_tokens"],
        here=here,
        seed=0,
    )
    return trainer


def stock(job: Job, rows: list[dict[str, Any]], template: str, *, vllm: bool) -> Any:
    """TRL's GRPOTrainer with R1's numbers and otherwise TRL's defaults."""
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from r1pipe.models.loading import load_tokenizer
    from r1pipe.rewards.scoring import score
    from r1pipe.text.rendering import render_prompt

    specs = reward_specs()

    def reward(completions: list[Any], row: list[int], **columns: Any) -> list[float | None]:
        return score(specs, completions, [rows[i] for i in row]).totals

    gpu = torch.cuda.is_available()
    share = job["prompts"] * job["group"] // job["minibatches"]
    microbatch = min(job["trl_rows"], share)
    accumulate = share // microbatch
    more: dict[str, Any] = {}
    if vllm:
        more = {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_gpu_memory_utilization": job["vllm_memory"],
            "vllm_max_model_length": job["max_model_length"],
        }
    if vllm and job["stop"]:
        # what vLLM stops at is left out of the response unless asked for
        more["generation_kwargs"] = {"stop": job["stop"], "include_stop_str_in_output": True}
    elif job["stop"]:
        print("TRL's generate knows no stop strings: its responses go on behind them")
    arguments = {
        "output_dir": str(Path(job["work"]) / "trl"),
        "per_device_train_batch_size": microbatch,
        "gradient_accumulation_steps": accumulate,
        "steps_per_generation": accumulate * job["minibatches"],
        "num_generations": job["group"],
        "max_completion_length": job["max_tokens"],
        "max_steps": job["planned"],
        "learning_rate": 3e-6,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": round(job["warmup_ratio"] * job["planned"]),
        "beta": 0.001,
        "epsilon": 10.0,
        "loss_type": "grpo",
        "use_bias_correction_kl": False,
        "sync_ref_model": True,
        "ref_model_mixup_alpha": 1.0,
        "ref_model_sync_steps": 100,
        "temperature": 1.0,
        "bf16": gpu,
        "use_cpu": not gpu,
        "shuffle_dataset": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **more,
    }
    texts = [render_prompt(row, template) for row in rows]
    return GRPOTrainer(
        model=job["model"],
        reward_funcs=reward,
        args=GRPOConfig(**(arguments | job["trl"])),
        train_dataset=Dataset.from_dict({"prompt": texts, "row": list(range(len(rows)))}),
        processing_class=load_tokenizer(Path(job["model"])),
    )


def run_side(job: Job) -> dict[str, Any]:
    """Train one side in this process; what was measured."""
    import torch

    from r1pipe.models.loading import load_tokenizer
    from r1pipe.text.rendering import prompt_ids, read_template
    from r1pipe.training.grpo.prompt_order import order_prompts

    started = time.monotonic()
    template = read_template(job["template"])
    assert template is not None, "the sides render prompts as plain text"
    rows = order_prompts(params_of(job, "hf"), {"prompts": rows_of(Path(job["train"]))}, 0)
    heldout = rows_of(Path(job["heldout"])) if job["heldout"] else []
    tokenizer = load_tokenizer(Path(job["model"]))
    prompt_tokens = [len(ids) for ids in prompt_ids(rows, template, tokenizer)]
    widest = max([*prompt_tokens, *map(len, prompt_ids(heldout, template, tokenizer) if heldout else [])])
    job["max_model_length"] = widest + job["max_tokens"]

    side, _, how = job["side"].partition("+")
    if side == "r1pipe":
        trainer = ours(job, rows, template, how or "hf")
    else:
        trainer = stock(job, rows, template, vllm=how == "vllm")
    watch = Watch(trainer, job, heldout, prompt_ids(heldout, template, tokenizer) if heldout else [])
    trainer.callback_handler.callbacks.insert(0, watch)
    loaded = time.monotonic() - started
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    more: dict[str, Any] = {}
    if side == "r1pipe":
        budget = trainer.pack_budget
        more = {
            "microbatch_tokens": budget.tokens,
            "shared_prompts": budget.shared,
            "compiled": budget.compiled,
            "whole_groups": trainer.whole_groups,
        }
    return {
        "side": job["side"],
        "seconds": watch.seconds,
        "curve": watch.curve,
        "reached": watch.reached,
        "logs": watch.logs,
        "parts": watch.parts,
        "loading_s": loaded,
        "prompt_tokens_mean": statistics.mean(prompt_tokens),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0,
        "arguments": {name: value for name, value in job.items() if name not in ("side", "work")},
        **more,
    }


# --- the process that starts them -------------------------------------------------------------------------------------


def seconds_an_update(seconds: list[float], minibatches: int) -> dict[str, Any]:
    """Of updates FIRST to LAST: the median of the means of as many updates in a row as a rollout has.

    >>> seconds_an_update([9, 9, 1, 1, 5, 1, 1, 1, 5, 1], 4)["median"]
    2
    """
    counted = seconds[FIRST - 1 : LAST]
    starts = range(len(counted) - minibatches + 1)
    runs = [statistics.mean(counted[start : start + minibatches]) for start in starts]
    return {
        "median": statistics.median(runs) if runs else None,
        "mean": statistics.mean(counted) if counted else None,
        "counted_updates": len(counted),
        "runs": runs,
    }


def measure(job: Job) -> dict[str, Any] | None:
    """A side's result, from a process of its own; None where it failed (its last lines are printed)."""
    print(f"--- {job['side']}", flush=True)
    log = Path(job["work"]) / f"{job['side']}.log"
    return child_result(__file__, job, log, ("update ", "rollout ", "held out: "))


def conditions() -> dict[str, Any]:
    """The machine, and who else is on it."""
    about = machine()
    about["load"] = os.getloadavg()
    asked = "--query-gpu=name,memory.used,memory.total,utilization.gpu,driver_version"
    try:
        smi = subprocess.run(["nvidia-smi", asked, "--format=csv,noheader"], capture_output=True, text=True)
        about["gpus"] = smi.stdout.strip().splitlines()
    except FileNotFoundError:
        about["gpus"] = []
    return about


def report(results: dict[str, dict[str, Any]], minibatches: int) -> dict[str, float]:
    """The table, and how many times faster r1pipe is."""
    heads = f"{'side':14s}{'s/update':>10s}{'mean':>8s}{'updates':>9s}{'tokens':>8s}{'reward':>8s}"
    print(f"\n{heads}{'GiB':>7s}{'load s':>8s}")
    for side, result in results.items():
        of = result["an_update"] = seconds_an_update(result["seconds"], minibatches)
        logs = result["logs"][FIRST - 1 : LAST]
        shown = [
            statistics.mean(entry[name] for entry in logs if name in entry)
            if any(name in entry for entry in logs)
            else 0
            for name in ("completions/mean_length", "reward")
        ]
        median, mean = (of[name] if of[name] is not None else float("nan") for name in ("median", "mean"))
        print(
            f"{side:14s}{median:10.3f}{mean:8.3f}{of['counted_updates']:9d}{shown[0]:8.0f}{shown[1]:8.3f}"
            f"{result['peak_gib']:7.1f}{result['loading_s']:8.1f}"
        )
        if result["curve"]:
            last = result["curve"][-1]
            reached = "reached" if result["reached"] else "not reached"
            print(
                f"{'':14s}{reached} after {last['updates']} updates, {last['seconds']:.0f} s: "
                + ", ".join(f"{point['accuracy']:.3f}" for point in result["curve"])
            )
    ratios: dict[str, float] = {}
    for other in ("trl+vllm", "trl+generate"):
        for us in ("r1pipe", "r1pipe+vllm"):
            if not {us, other} <= set(results):
                continue
            theirs, own = (results[side]["an_update"]["median"] for side in (other, us))
            if theirs and own:
                ratios[f"{us} against {other}"] = theirs / own
                print(f"{us} against {other}: {theirs / own:.2f} x")
    return ratios


def tiny_folder(folder: Path) -> None:
    """The base that ships with a few of its world's problems."""
    from r1pipe.embedded.world import problems
    from r1pipe.text.rendering import TEMPLATES

    base = Path(__file__).parents[2] / "r1pipe" / "embedded" / "data" / "base"
    (folder / "model").symlink_to(base)
    for name, split in (("prompts", "train"), ("heldout", "dev")):
        rows = problems(split, ("math",), 24, 0)
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf8"
        )
    (folder / "template.txt").write_text(
        (TEMPLATES / "embedded-zero.txt").read_text(encoding="utf8"), encoding="utf8"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--sides", nargs="+", choices=SIDES)
    parser.add_argument(
        "--updates", type=int, help=f"after which a side stops ({LAST}; with --curve as many as planned)"
    )
    parser.add_argument("--planned", type=int, default=144, help="updates of the run that is begun")
    parser.add_argument("--curve", action="store_true", help="look at heldout.jsonl, and stop at the target")
    parser.add_argument(
        "--target", type=float, default=0.25, help="held-out accuracy, to be reached twice in a row"
    )
    parser.add_argument(
        "--eval-every", type=int, default=8, help="updates between looks, a multiple of a rollout's"
    )
    parser.add_argument(
        "--budget", type=float, default=3600, help="seconds of updates after which a side stops"
    )
    parser.add_argument("--prompts", type=int, default=64, help="a rollout")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--minibatches", type=int, default=4, help="updates a rollout")
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--warmup-ratio", type=float, default=0.1)
    parser.add_argument("--trl-rows", type=int, default=16, help="rows of stock TRL's forward passes")
    parser.add_argument("--vllm-memory", type=float, default=0.3)
    parser.add_argument(
        "--stop", nargs="+", default=[], help="strings that end a response; TRL's generate knows none"
    )
    parser.add_argument(
        "--grpo", type=json.loads, default={}, help="JSON: further fields of r1pipe's `grpo:`"
    )
    parser.add_argument("--trl", type=json.loads, default={}, help="JSON: further fields of TRL's GRPOConfig")
    parser.add_argument("--out", type=Path, help="JSON, with the sides that an earlier call wrote there")
    parser.add_argument(
        "--tiny", action="store_true", help="the base that ships, two updates a rollout, on a CPU"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    if arguments.child:
        print(RESULT + json.dumps(run_side(json.loads(arguments.child))), flush=True)
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        sides = arguments.sides or (CURVE_SIDES if arguments.curve else DEFAULT_SIDES)
        if arguments.tiny:
            folder = work / "tiny"
            folder.mkdir()
            tiny_folder(folder)
            sides = arguments.sides or ("r1pipe", "trl+generate")
            arguments.prompts, arguments.group, arguments.minibatches = 4, 4, 2
            arguments.max_tokens, arguments.planned, arguments.eval_every = 24, 6, 2
            arguments.trl_rows = 8
        elif arguments.folder is None:
            sys.exit("name the folder with model/, prompts.jsonl and template.txt")
        else:
            folder = arguments.folder.resolve()
        heldout = folder / "heldout.jsonl" if arguments.curve else None
        if heldout is not None and not arguments.tiny and len(rows_of(heldout)) < LEAST_HELDOUT:
            sys.exit(f"{heldout} has fewer than {LEAST_HELDOUT} rows, too few for a curve")

        job: Job = {
            name: getattr(arguments, name)
            for name in (
                *(
                    "planned",
                    "target",
                    "eval_every",
                    "budget",
                    "prompts",
                    "group",
                    "minibatches",
                    "max_tokens",
                ),
                *("warmup_ratio", "trl_rows", "vllm_memory", "stop", "grpo", "trl"),
            )
        }
        job |= {
            "updates": arguments.updates or (arguments.planned if arguments.curve else LAST),
            "model": str(folder / "model"),
            "train": str(folder / "prompts.jsonl"),
            "template": str(folder / "template.txt"),
            "heldout": str(heldout) if heldout else None,
        }
        about = conditions()
        print(json.dumps(about))
        results: dict[str, dict[str, Any]] = {}
        if arguments.out and arguments.out.is_file():
            earlier = json.loads(arguments.out.read_text(encoding="utf8"))["results"]
            results = {side: result for side, result in earlier.items() if side not in sides}
        for side in sides:
            own = work / side
            own.mkdir()
            result = measure({**job, "side": side, "work": str(own)})
            if result is not None:
                results[side] = {**result, "conditions": conditions()}
        ratios = report(results, arguments.minibatches)
        if arguments.out:
            whole = {"machine": about, "ratios": ratios, "results": results}
            arguments.out.write_text(json.dumps(whole, indent=1), encoding="utf8")
        if missing := [side for side in sides if side not in results]:
            sys.exit(f"no result of {', '.join(missing)}")


if __name__ == "__main__":
    main()
