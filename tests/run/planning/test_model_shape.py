"""Sizes that are read from config.json, beside transformers' own models and published numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from r1pipe.errors import InputError
from r1pipe.run.planning.known_models import DEEPSEEK_V3
from r1pipe.run.planning.model_shape import read_shape, shape_of

SMALL: dict[str, dict[str, Any]] = {
    "Qwen2": {"num_key_value_heads": 2},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 24},
    "Llama": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "Mixtral": {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3Moe": {
        "num_key_value_heads": 2,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "head_dim": 16,
    },
    "DeepseekV3": {
        "num_key_value_heads": 4,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 48,
        "first_k_dense_replace": 1,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
    },
}
COMMON = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 112,
}


@pytest.mark.parametrize("family", SMALL)
def test_parameters_are_those_of_transformers(family: str, tmp_path: Path):
    import torch
    import transformers

    config = getattr(transformers, f"{family}Config")(**COMMON, **SMALL[family])
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForCausalLM")(config)
    config.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_deepseek_v3_has_the_published_sizes():
    shape = shape_of(DEEPSEEK_V3)
    # 671B in all, 37B for a token (arXiv 2412.19437, abstract); its own count has a multi-token module beside them.
    assert shape.parameters == pytest.approx(671e9, rel=0.005)
    assert shape.active == pytest.approx(37e9, rel=0.03)
    # 70 KB of cache a token with the latent alone, as its makers say (512 + 64 numbers in 61 layers).
    assert 2 * shape.latent_cache_numbers == 2 * 61 * 576


def test_a_config_without_sizes_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 64}))
    with pytest.raises(InputError, match="does not say hidden_size"):
        read_shape(tmp_path)
