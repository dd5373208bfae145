"""What bench_grpo.py and bench_rl_cpu.py run in a process of their own: one trainer, stock TRL's or r1pipe's, on drawn lengths and rewards.

Both sides get the same prompts, the same number of tokens for each response and the same 0/1 rewards, all from the seed and the rollout's
number. Both are timed by the same wrappers, from outside; r1pipe's own seconds/... come beside them.
"""

from __future__ import annotations

import functools
import json
import math
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessor, TrainerCallback

GENERATION, SYNC, LOGPS, REWARD = "generation", "sync", "logps", "reward"


@dataclass(frozen=True)
class Shape:
    """What is measured. `vocabulary` and the five sizes are of the model that is built in code; base = a checkpoint instead."""

    prompts: int = 32
    group: int = 16
    prompt_tokens: int = 128
    median: int = 400
    sigma: float = 0.5  # of the logarithm of lengths (our choice); their mean is then about 450
    cap: int = 1024
    seed: int = 0
    hidden: int = 896
    layers: int = 24
    heads: int = 14
    kv_heads: int = 2
    inner: int = 4864
    vocabulary: int = 151_936
    base: str = ""
    minibatches: int = 1  # updates a rollout
    trl_microbatch: int = 16  # rows; as in open-r1's recipes for one GPU, with TRL's gradient checkpointing
    trl_checkpointing: bool = True
    vllm_memory: float = 0.3
    microbatch_tokens: int | str = "auto"
    compiled: bool = True

    @property
    def rows(self) -> int:
        return self.prompts * self.group

    def lengths(self, rollout: int) -> list[int]:
        """Tokens of each response of a rollout, its end included."""
        draw = random.Random(f"{self.seed}/lengths/{rollout}")
        return [min(self.cap, max(2, round(draw.lognormvariate(math.log(self.median), self.sigma)))) for _ in range(self.rows)]

    def rewards(self, rollout: int) -> list[float]:
        """0 or 1 for each response; every group has both."""
        draw = random.Random(f"{self.seed}/rewards/{rollout}")
        found: list[float] = []
        while len(found) < self.rows:
            group = [float(draw.random() < 0.5) for _ in range(self.group)]
            found += group if 0 < sum(group) < self.group else []
        return found

    def texts(self, rollouts: int) -> list[str]:
        """Prompts of `prompt_tokens` tokens each: the tokenizer built here makes one of each letter. Of a base that ships: its world's problems."""
        if self.base:
            from r1pipe.data.render import TEMPLATES, read_template, render_prompt
            from r1pipe.data.rows import REASONING_DOMAINS
            from r1pipe.embedded.world import problems

            template = read_template(str(TEMPLATES / "embedded-zero.txt"))
            return [str(render_prompt(row, template)) for row in problems("dev", REASONING_DOMAINS, self.prompts * rollouts, self.seed)]
        draw = random.Random(f"{self.seed}/prompts")
        return ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=self.prompt_tokens)) for _ in range(self.prompts * rollouts)]


@dataclass
class Run:
    """Where the run is; rewards and lengths follow from it."""

    shape: Shape
    rollout: int = -1


RUN = Run(Shape())


def seeded_reward(completions: list[Any], **columns: Any) -> list[float]:
    """The rollout's rewards, for both sides."""
    assert len(completions) == RUN.shape.rows, "one call a rollout"
    return RUN.shape.rewards(RUN.rollout)


def build_checkpoint(folder: Path, shape: Shape) -> Path:
    """A Qwen2 of random weights and a byte-level tokenizer whose other tokens are words: any id decodes, encoding makes letters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    if shape.base:
        return Path(shape.base)
    if (folder / "config.json").is_file():
        return folder
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"Ġw{i}" for i in range(shape.vocabulary - len(alphabet) - 2)]
    vocabulary = {token: i for i, token in enumerate(["<|pad|>", "<|end|>", *alphabet, *words])}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(shape.seed)
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.inner,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    torch.nn.Module.to(model, torch.bfloat16 if torch.cuda.is_available() else torch.float32).save_pretrained(folder)
    return folder


# --- forced lengths ---------------------------------------------------------------------------------------------------


class Ends:
    """Which rows end at token t (from 0), and the scores that make them end there and nowhere else."""

    def __init__(self, lengths: list[int], eos_ids: list[int], device: torch.device) -> None:
        self.length_B = torch.tensor(lengths, device=device)
        self.some = {length - 1 for length in lengths}
        self.eos = eos_ids

    def apply(self, t: int, rows_B: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        scores_BV[:, self.eos] = -torch.inf
        if t in self.some:
            ends = (self.length_B[rows_B] == t + 1).nonzero().squeeze(-1)
            scores_BV[ends] = -torch.inf
            scores_BV[ends, self.eos[0]] = 0.0
        return scores_BV


class EndsProcessor(LogitsProcessor):
    def __init__(self, ends: Ends) -> None:
        self.ends, self.t = ends, -1

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        self.t += 1
        return self.ends.apply(self.t, torch.arange(len(scores), device=scores.device), scores)


def force_lengths(trainer: Any, lengths: Any) -> None:
    """Make whatever generates for this trainer end each response of a rollout where `lengths()` says."""
    if trainer.use_vllm:
        generate = trainer.vllm_generation.llm.generate

        def forced(prompts: Any, sampling_params: Any, **more: Any) -> Any:
            each = []
            for length in lengths():
                one = sampling_params.clone()
                one.max_tokens, one.ignore_eos = length, True
                each.append(one)
            assert len(each) == len(prompts)
            return generate(prompts, sampling_params=each, **more)

        trainer.vllm_generation.llm.generate = forced
        return
    if type(trainer).__name__ == "R1GRPOTrainer":
        from r1pipe.training import grpo_trainer

        plain = grpo_trainer.decode

        def decode(model: Any, prompt_ids: Any, **more: Any) -> Any:
            return plain(model, prompt_ids, **more, adjust=Ends(lengths(), more["eos_ids"], model.device).apply)

        grpo_trainer.decode = decode
        return
    model = trainer.model
    plain_generate = model.generate

    @functools.wraps(plain_generate)
    def generate_forced(*args: Any, **more: Any) -> Any:
        return plain_generate(*args, **more, logits_processor=[EndsProcessor(Ends(lengths(), trainer.eos_token_ids, model.device))])

    model.generate = generate_forced


# --- timing -----------------------------------------------------------------------------------------------------------


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Timing(TrainerCallback):
    """Seconds of each update and of its parts, from outside; warm-up steps are not kept."""

    def __init__(self, trainer: Any, warm: int, budget: float) -> None:
        self.trainer, self.warm, self.until = trainer, warm, time.monotonic() + budget
        self.steps: list[dict[str, float]] = []
        self.parts: dict[str, float] = {}
        self.last = 0.0
        self._wrap(trainer, "_generate_single_turn", GENERATION)
        self._wrap(trainer, "_calculate_rewards", REWARD)
        self._wrap(trainer, "_get_per_token_logps_and_entropies", LOGPS, lambda: not torch.is_grad_enabled())
        if trainer.use_vllm:
            self._wrap(trainer.vllm_generation, "sync_weights", SYNC)
        score = trainer._generate_and_score_completions

        def counted(inputs: Any) -> Any:
            output = score(inputs)
            groups = output["advantages"].view(-1, RUN.shape.group)
            assert (groups.abs().amax(1) > 0).all(), "every group has signal"
            self.parts["tokens"] = float(output["completion_mask"].sum())
            ratio = output.get("importance_sampling_ratio")
            if ratio is not None:
                self.parts["masked"] = (ratio == 0).float().mean().item()
            return output

        trainer._generate_and_score_completions = counted

    def _wrap(self, holder: Any, name: str, part: str, when: Any = lambda: True) -> None:
        function = getattr(holder, name)

        def timed(*args: Any, **more: Any) -> Any:
            if not when():
                return function(*args, **more)
            started = now()
            try:
                return function(*args, **more)
            finally:
                self.parts[part] = self.parts.get(part, 0.0) + now() - started

        setattr(holder, name, timed)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        RUN.rollout = state.global_step // RUN.shape.minibatches
        if not self.last:
            self.last = now()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.steps and logs and "loss" in logs:
            chosen = ("sampling/", "seconds/", "tokens_per_second", "loss", "grad_norm", "kl", "entropy")
            self.steps[-1]["log"] = {k: v for k, v in logs.items() if k.startswith(chosen)}  # type: ignore[assignment]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % RUN.shape.minibatches:
            return
        ended = now()
        step = {"seconds": ended - self.last, **self.parts}
        step[GENERATION] = step.get(GENERATION, 0.0) - step.get(SYNC, 0.0)
        step["everything but generation"] = step["seconds"] - step[GENERATION]
        expected = sum(RUN.shape.lengths(RUN.rollout))
        step["expected tokens"] = float(expected)
        self.parts, self.last = {}, ended
        self.steps.append(step)
        print(json.dumps({k: round(v, 3) for k, v in step.items()}), flush=True)
        timed = len(self.steps) - self.warm
        if timed >= 1 and time.monotonic() + step["seconds"] > self.until:
            control.should_training_stop = True


# --- the sides --------------------------------------------------------------------------------------------------------


def stock(shape: Shape, checkpoint: Path, work: Path, steps: int, vllm: bool) -> Any:
    """TRL's GRPOTrainer with R1's numbers and otherwise TRL's defaults."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    gpu = torch.cuda.is_available()
    share = shape.rows // shape.minibatches
    microbatch = min(shape.trl_microbatch, share)
    accumulate = share // microbatch
    more: dict[str, Any] = {}
    if vllm:
        more = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": shape.vllm_memory}
        more["vllm_max_model_length"] = shape.prompt_tokens + shape.cap
    args = GRPOConfig(
        output_dir=str(work / "trl"),
        per_device_train_batch_size=microbatch,
        gradient_accumulation_steps=accumulate,
        steps_per_generation=accumulate * shape.minibatches,
        gradient_checkpointing=shape.trl_checkpointing,
        num_generations=shape.group,
        max_completion_length=shape.cap,
        max_steps=steps * shape.minibatches,
        learning_rate=3e-6,
        lr_scheduler_type="constant",
        beta=0.001,
        epsilon=10.0,
        loss_type="grpo",
        use_bias_correction_kl=False,
        temperature=1.0,
        bf16=gpu,
        use_cpu=not gpu,
        shuffle_dataset=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )
    return GRPOTrainer(
        model=str(checkpoint),
        reward_funcs=seeded_reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": shape.texts(steps)}),
        processing_class=AutoTokenizer.from_pretrained(checkpoint, padding_side="left"),
    )


def ours(shape: Shape, checkpoint: Path, work: Path, steps: int, rollout: str) -> Any:
    """The trainer that train_grpo makes, R1's numbers."""
    from r1pipe.here import Here
    from r1pipe.schema import GRPOParams, Phase, RewardSpec
    from r1pipe.training.callbacks import Heldout
    from r1pipe.training.grpo import _make_trainer
    from r1pipe.training.models import load_tokenizer

    (work / "r1pipe").mkdir(parents=True, exist_ok=True)
    here = Here("bench", work / "r1pipe", work / "metrics.jsonl", work / "progress.jsonl")
    more: dict[str, Any] = {}
    if rollout == "vllm":
        more["compile"] = shape.compiled  # as the default does in a run of 50 updates
        more["vllm"] = {"memory": shape.vllm_memory, "max_model_length": shape.prompt_tokens + shape.cap}
    params = GRPOParams(
        lr=3e-6,
        num_generations=shape.group,
        batch_size=shape.rows // shape.minibatches,
        minibatches_per_rollout=shape.minibatches,
        rollout=rollout,  # type: ignore[arg-type]
        microbatch_tokens=shape.microbatch_tokens,  # type: ignore[arg-type]
        eval_prompts=0,
        phases=[Phase(steps=steps * shape.minibatches, max_tokens=shape.cap, rewards=[RewardSpec(name="grpo_sides:seeded_reward")])],
        **more,
    )
    rows = [{"id": str(i), "prompt": text, "domain": "math", "language": "en"} for i, text in enumerate(shape.texts(steps))]
    tokenizer = load_tokenizer(checkpoint)
    trainer, _ = _make_trainer(checkpoint, rows, params, "{prompt}", tokenizer, Heldout([], [], here, params), here, 0, None, {"prompts": rows})
    return trainer


def run_side(side: str, shape: Shape, work: Path, steps: int, warm: int, budget: float, short_warm_up: bool) -> dict[str, Any]:
    """Train for warm + steps updates; what was measured.

    Args:
        short_warm_up: responses of the warm-up have at most 64 tokens.
    """
    began = time.monotonic()
    RUN.shape = shape
    checkpoint = build_checkpoint(work / "checkpoint", shape)
    name, _, how = side.partition("+")
    make = {"trl": lambda: stock(shape, checkpoint, work, warm + steps, how == "vllm"), "r1pipe": lambda: ours(shape, checkpoint, work, warm + steps, how)}
    trainer = make[name]()
    timing = Timing(trainer, warm, budget - (time.monotonic() - began))

    def lengths() -> list[int]:
        found = shape.lengths(RUN.rollout)
        return [min(64, n) for n in found] if short_warm_up and RUN.rollout < warm else found

    force_lengths(trainer, lengths)
    trainer.callback_handler.callbacks.insert(0, timing)
    loaded = time.monotonic() - began
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    more = {"microbatch_tokens": trainer.microbatch_tokens, "packed": trainer.packed} if name == "r1pipe" else {}
    return {"side": side, "warm_up": timing.steps[:warm], "steps": timing.steps[warm:], "loading_s": loaded, "peak_gib": peak, "shape": asdict(shape), **more}
