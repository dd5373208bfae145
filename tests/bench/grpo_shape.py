"""The shape that the benchmarks of RL measure, its prompts, and lengths and rewards drawn by seed and rollout."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Shape:
    """What is measured. `vocabulary` and the five sizes are of a model built in code; base = a checkpoint instead."""

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
        return [
            min(self.cap, max(2, round(draw.lognormvariate(math.log(self.median), self.sigma))))
            for _ in range(self.rows)
        ]

    def rewards(self, rollout: int) -> list[float]:
        """0 or 1 for each response; every group has both."""
        draw = random.Random(f"{self.seed}/rewards/{rollout}")
        rewards: list[float] = []
        while len(rewards) < self.rows:
            group = [float(draw.random() < 0.5) for _ in range(self.group)]
            rewards += group if 0 < sum(group) < self.group else []
        return rewards

    def texts(self, rollouts: int) -> list[str]:
        """Prompts of `prompt_tokens` tokens each, one a letter; for a base that ships, its world's problems."""
        if self.base:
            from r1pipe.embedded.world import problems
            from r1pipe.text.rendering import TEMPLATES, read_template, render_prompt
            from r1pipe.text.rows import REASONING_DOMAINS

            template = read_template(str(TEMPLATES / "embedded-zero.txt"))
            return [
                str(render_prompt(row, template))
                for row in problems("dev", REASONING_DOMAINS, self.prompts * rollouts, self.seed)
            ]
        draw = random.Random(f"{self.seed}/prompts")
        return [
            "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=self.prompt_tokens))
            for _ in range(self.prompts * rollouts)
        ]


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
    """A Qwen2 of random weights with a byte-level tokenizer: its other tokens are words, which encoding never makes."""
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
    torch.nn.Module.to(model, torch.bfloat16 if torch.cuda.is_available() else torch.float32).save_pretrained(
        folder
    )
    return folder
