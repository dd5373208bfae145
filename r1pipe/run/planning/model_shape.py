"""The sizes of a model, from its config.json alone: parameters, what a token computes, what a token caches.

Known are decoders with gated layers: dense ones (Qwen2, Qwen3, Llama, Mistral), mixtures of experts (Mixtral,
Qwen2-MoE, Qwen3-MoE) and DeepSeek-V2 and -V3 with their latent attention. tests/run/planning/test_model_shape.py
compares the counts with the parameters of transformers' own models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1pipe.errors import InputError

# Families whose attention adds a bias to queries, keys and values, whatever their config says.
BIASED = ("qwen2", "qwen2_moe")
# Families that normalise the queries and the keys of each head.
HEAD_NORMS = ("qwen3", "qwen3_moe")


@dataclass(frozen=True)
class ModelShape:
    """A decoder's sizes.

    Attributes:
        hidden: width of the residual stream.
        heads, key_heads: of queries, and of keys and values.
        key_width, value_width: numbers of a head's queries and keys, and of its values.
        inner: width of a dense layer's MLP.
        tied: the output layer is the embedding.
        experts: of a sparse layer; 0 = all layers are dense.
        visited: experts that a token visits, without the shared one.
        expert_inner: width of an expert.
        shared_inner: width of what every token visits beside them.
        dense_layers: how many of the layers have no experts.
        query_rank, latent, rotary: of DeepSeek's latent attention: the ranks of queries and of keys with values, and
            the rotary numbers that all heads share; 0 = plain attention.
        small: parameters of a layer's norms and biases.
        positions: that it was made for.
    """

    family: str
    layers: int
    hidden: int
    vocabulary: int
    heads: int
    key_heads: int
    key_width: int
    value_width: int
    inner: int
    tied: bool
    experts: int = 0
    visited: int = 0
    expert_inner: int = 0
    shared_inner: int = 0
    dense_layers: int = 0
    query_rank: int = 0
    latent: int = 0
    rotary: int = 0
    small: int = 0
    positions: int = 0

    # --- parameters ---------------------------------------------------------------------------------------------------

    @property
    def head(self) -> int:
        """Parameters of the output layer."""
        return self.vocabulary * self.hidden

    @property
    def embeddings(self) -> int:
        """Parameters of embedding and output layer."""
        return self.head if self.tied else 2 * self.head

    @property
    def attention(self) -> int:
        """Parameters of a layer's attention, its matrices alone."""
        out = self.heads * self.value_width * self.hidden
        if not self.latent:
            queries = self.hidden * self.heads * self.key_width
            keys = self.hidden * self.key_heads * self.key_width
            values = self.hidden * self.key_heads * self.value_width
            return queries + keys + values + out
        # DeepSeek-V2, arXiv 2405.04434, 2.1: down to a latent, and up again for all heads.
        query_width = self.heads * self.key_width
        if self.query_rank:
            queries = self.hidden * self.query_rank + self.query_rank * query_width
        else:
            queries = self.hidden * query_width
        down = self.hidden * (self.latent + self.rotary)
        up = self.latent * self.heads * (self.key_width - self.rotary + self.value_width)
        return queries + down + up + out

    @property
    def dense_mlp(self) -> int:
        """Parameters of a dense layer's MLP: gate, up and down."""
        return 3 * self.hidden * self.inner

    @property
    def router(self) -> int:
        """Parameters of a sparse layer's router."""
        return self.hidden * self.experts

    @property
    def sparse_mlp(self) -> int:
        """Parameters of a sparse layer's experts and router."""
        experts = self.experts * 3 * self.hidden * self.expert_inner
        return experts + 3 * self.hidden * self.shared_inner + self.router

    @property
    def sparse_layers(self) -> int:
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def matrices(self) -> int:
        """Parameters of all layers' matrices."""
        dense = (self.layers - self.sparse_layers) * self.dense_mlp
        return self.layers * self.attention + dense + self.sparse_layers * self.sparse_mlp

    @property
    def parameters(self) -> int:
        """All of them."""
        norms = self.layers * self.small + self.hidden
        return self.embeddings + self.matrices + norms

    @property
    def active_matrices(self) -> int:
        """Parameters of the layers' matrices that a token is multiplied with."""
        visited = 3 * self.hidden * (self.visited * self.expert_inner + self.shared_inner) + self.router
        dense = (self.layers - self.sparse_layers) * self.dense_mlp
        return self.layers * self.attention + dense + self.sparse_layers * visited

    @property
    def active(self) -> int:
        """Parameters that a token is multiplied with, the output layer included."""
        return self.active_matrices + self.head

    @property
    def layer_matrices(self) -> float:
        """Parameters of the matrices of one layer, on average."""
        return self.matrices / self.layers

    # --- what a token takes -------------------------------------------------------------------------------------------

    @property
    def queries(self) -> int:
        """Numbers of a token's queries in a layer."""
        return self.heads * self.key_width

    @property
    def outputs(self) -> int:
        """Numbers of a token's attention output in a layer."""
        return self.heads * self.value_width

    @property
    def cache_numbers(self) -> int:
        """Numbers that a token leaves in the cache of all layers, as transformers and our graphs keep them."""
        return self.layers * self.key_heads * (self.key_width + self.value_width)

    @property
    def latent_cache_numbers(self) -> int:
        """The same in vLLM, which keeps the latent of latent attention."""
        if not self.latent:
            return self.cache_numbers
        return self.layers * (self.latent + self.rotary)

    def attention_flops(self, length: float) -> float:
        """Floating-point operations of a token's scores and weighted sums, forward, behind `length` others."""
        # A multiplication and an addition for each number of queries with keys, and of weights with values.
        return 2.0 * self.layers * length * (self.queries + self.outputs)

    @property
    def mlp_width(self) -> float:
        """Inner numbers of a token in a layer, on average over the layers."""
        sparse = self.visited * self.expert_inner + self.shared_inner
        dense = self.layers - self.sparse_layers
        return (dense * self.inner + self.sparse_layers * sparse) / self.layers


# --- reading ----------------------------------------------------------------------------------------------------------


def read_shape(folder: Path) -> ModelShape:
    """The shape of a checkpoint.

    Raises:
        InputError: config.json is missing, unreadable or of a model that is not known here.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"config.json cannot be read: {error}", str(folder)) from None
    if not isinstance(config, dict):
        raise InputError("config.json is not a mapping", str(folder))
    return shape_of(config, str(folder))


def shape_of(config: dict[str, Any], where: str = "config.json") -> ModelShape:
    """The shape that a config.json describes.

    Raises:
        InputError: it lacks the sizes of a decoder.
    """
    # Models for pictures and text keep the decoder's sizes apart.
    nested = config.get("text_config")
    if isinstance(nested, dict):
        config = {**config, **nested}
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    missing = [name for name in needed if not isinstance(config.get(name), int)]
    if missing:
        raise InputError(
            f"config.json does not say {', '.join(missing)}, so nothing can be planned for this model",
            where,
            "plan knows decoders as transformers writes them: Qwen, Llama, Mistral, Mixtral, DeepSeek",
        )
    family = str(config.get("model_type", ""))
    hidden = config["hidden_size"]
    heads = config["num_attention_heads"]
    # DeepSeek-V2 and -V3 alone have it.
    latent = config.get("kv_lora_rank") or 0
    plain_width = config.get("head_dim") or hidden // heads
    key_width = plain_width
    value_width = plain_width
    key_heads = config.get("num_key_value_heads") or heads
    rotary = 0
    if latent:
        rotary = config.get("qk_rope_head_dim") or 0
        key_width = (config.get("qk_nope_head_dim") or 0) + rotary
        value_width = config.get("v_head_dim") or plain_width
        # transformers keeps the keys and values of all heads, not the latent.
        key_heads = heads
    return ModelShape(
        family=family,
        layers=config["num_hidden_layers"],
        hidden=hidden,
        vocabulary=config["vocab_size"],
        heads=heads,
        key_heads=key_heads,
        key_width=key_width,
        value_width=value_width,
        inner=config.get("intermediate_size") or 4 * hidden,
        tied=bool(config.get("tie_word_embeddings", False)),
        query_rank=(config.get("q_lora_rank") or 0) if latent else 0,
        latent=latent,
        rotary=rotary,
        small=_small(
            config,
            family,
            heads * key_width,
            key_heads * (key_width + value_width),
            key_width,
        ),
        positions=config.get("max_position_embeddings") or 0,
        **_experts(config),
    )


def _small(config: dict[str, Any], family: str, queries: int, keys_values: int, width: int) -> int:
    """Parameters of a layer's norms and biases."""
    # Before the attention and before the MLP.
    small = 2 * config["hidden_size"]
    if family in BIASED or config.get("attention_bias"):
        small += queries + keys_values
    if family in HEAD_NORMS:
        small += 2 * width
    if config.get("kv_lora_rank"):
        small += config["kv_lora_rank"] + (config.get("q_lora_rank") or 0)
    return small


def _experts(config: dict[str, Any]) -> dict[str, int]:
    """The fields of ModelShape that describe experts."""
    names = ("n_routed_experts", "num_experts", "num_local_experts")
    experts = next((config[name] for name in names if config.get(name)), 0)
    visited = config.get("num_experts_per_tok") or 0
    if not experts or not visited:
        return {}
    # Mixtral's experts have the width that config.json calls that of the MLP.
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    shared = config.get("shared_expert_intermediate_size") or (config.get("n_shared_experts") or 0) * width
    return {
        "experts": experts,
        "visited": visited,
        "expert_inner": width,
        "shared_inner": shared,
        "dense_layers": config.get("first_k_dense_replace") or 0,
    }
