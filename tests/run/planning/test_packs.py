"""Numbers that the planner shares with the trainers: where one side changes, the other must follow."""

from __future__ import annotations

import random

from r1pipe.run.planning import estimate, footprint, packs, training_setup
from r1pipe.run.planning.activations import Training
from r1pipe.run.planning.known_models import named_shape


def test_constants_are_those_of_the_trainers():
    import trl.trainer.utils as trl_utils

    from r1pipe.generation import hf
    from r1pipe.models import linear_ce, memory
    from r1pipe.training import reward_model
    from r1pipe.training.grpo import completion_packs, pack_budget
    from r1pipe.training.grpo.arguments import COMPILED_FROM, COMPILED_FROM_UPDATES
    from r1pipe.training.sft import packed_setup, sft_trainer

    for name in (
        "KEPT_PER_HIDDEN",
        "KEPT_PER_INNER",
        "KEPT_BY_CHECKPOINT",
        "COMPILED",
        "RESERVE",
        "LOGIT_TOKENS",
    ):
        assert getattr(packs, name) == getattr(memory, name), name
    for name in ("PASSES", "DEFAULT_PASS", "LORA_TRAINS"):
        assert getattr(packs, name) == getattr(packed_setup, name), name
    for name in ("MEMORY_SHARE", "LEAST_TOKENS", "MOST_TOKENS"):
        assert getattr(packs, name) == getattr(completion_packs, name), name
    assert packs.SPARE_BYTES == pack_budget.SPARE_BYTES
    assert footprint.LOGIT_TOKENS == linear_ce.CHUNK
    assert footprint.FUSED_WORDS == trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE
    assert sft_trainer.ROUND == {"cuda": footprint.ROUND_TOKENS}
    assert (training_setup.COMPILED_UPDATES, training_setup.COMPILED_PARAMETERS) == (
        COMPILED_FROM_UPDATES,
        COMPILED_FROM,
    )
    sft = (packed_setup.COMPILE_PAYS_AFTER, packed_setup.LAUNCHES_OF_A_LAYER)
    assert sft == (training_setup.COMPILED_SECONDS, training_setup.LAUNCHES_OF_A_LAYER)
    assert (estimate.COMPILED_TOKENS, estimate.LIKELY_TOKENS) == (hf.COMPILED_FROM_TOKENS, hf.LIKELY_TOKENS)
    assert training_setup.RM_MICROBATCH == reward_model.MICROBATCH


def test_the_rough_need_is_that_of_the_trainers():
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from r1pipe.models.memory import StateShares, training_need
    from r1pipe.run.planning.model_shape import shape_of

    config = Qwen2Config(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    training = Training(shape=shape_of(config.to_dict()), tokens=1, profile="zero2", ranks=4)
    need = training_need(model, 5000, on=StateShares(0.25, 0.25, 0.25))
    without, recomputed = packs.rough_need(training, 5000)
    assert without == need.states + need.loss + need.activations
    assert recomputed == need.states + need.loss + need.checkpointed


def test_packs_are_as_many_as_those_that_are_dealt():
    from r1pipe.models.shared_prompts import Rows
    from r1pipe.training.grpo.completion_packs import deal, dealt_pack_count

    draw = random.Random(0)
    lengths = [draw.randint(180, 220) for _ in range(64)]
    rows = Rows([100] * 64, lengths, [i // 8 for i in range(64)])
    for budget in (2048, 4096, 20_000):
        count, largest = packs.largest_pack(64, budget, group=8, prompt=100, answer=200)
        assert abs(count - dealt_pack_count(rows, budget)) <= 1
        dealt = max(rows.tokens(pack) for pack in deal(rows, count))
        assert abs(largest / dealt - 1) < 0.2


def test_adapters_are_read_from_peft_arguments():
    assert packs.adapter_of(None) is None
    plain = packs.adapter_of({"r": 4})
    assert plain is not None
    assert (plain.rank, plain.attention_in, plain.mlp_in) == (4, 2, 0)
    every = packs.adapter_of({"target_modules": "all-linear"})
    assert every is not None
    assert (every.attention_in, every.attention_out, every.mlp_in, every.mlp_out) == (3, 1, 2, 1)
    # PEFT's count for rank 16 on all linear layers of the 1.5B: 18.5 million.
    shape = named_shape("Qwen2.5-1.5B")
    wide = packs.adapter_of({"r": 16, "target_modules": "all-linear"})
    assert wide is not None
    assert abs(wide.parameters(shape) / 18_464_768 - 1) < 0.02
