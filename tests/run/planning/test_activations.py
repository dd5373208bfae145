"""The activations of activations.py, counted a second time: by hooks on a real step, and by torch's MemTracker.

The hooks see each tensor that autograd keeps. MemTracker sees every allocation of a whole step under FakeTensorMode,
where nothing is computed, so the step may be that of a large model. Both are our own step, which never holds logits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from r1pipe.run.planning.activations import Training, kept_per_token
from r1pipe.run.planning.footprint import footprint
from r1pipe.run.planning.model_shape import shape_of

SIZES = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
TOKENS = 64


def model_of(layers: int, dtype: Any, sizes: dict[str, Any] = SIZES) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM._from_config(Qwen2Config(num_hidden_layers=layers, **sizes), dtype=dtype)


def kept_bytes(layers: int, dtype: Any, *, autocast: bool) -> int:
    """Bytes that the backward pass of packed rows will read, parameters and their copies left out."""
    import torch

    from r1pipe.models.packed_attention import pack, use_packed_attention

    torch.manual_seed(0)
    model = model_of(layers, dtype)
    assert use_packed_attention(model)
    seen = {parameter.untyped_storage().data_ptr(): 0 for parameter in model.parameters()}
    kept = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # What is kept stays alive, so no address is used twice.
        kept.append(tensor)
        shape = tuple(tensor.shape)
        of_tokens = TOKENS in shape
        seen.setdefault(storage.data_ptr(), storage.nbytes() if of_tokens else 0)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        model.model(**pack([list(range(2, 2 + TOKENS))]))
    return sum(seen.values())


@pytest.mark.parametrize("precision", ["autocast", "half"])
def test_a_layer_keeps_what_is_counted(precision: str):
    import torch

    dtype = torch.float32 if precision == "autocast" else torch.bfloat16
    two, three = (kept_bytes(layers, dtype, autocast=precision == "autocast") for layers in (2, 3))
    shape = shape_of({"model_type": "qwen2", "num_hidden_layers": 2, **SIZES})
    training = Training(shape=shape, tokens=TOKENS, profile="process" if precision == "autocast" else "zero2")
    # A CPU's kernel has its output in another order of memory, so it is copied for the next matrix.
    copied = 2 * shape.outputs
    # Of each norm, a number a token.
    norms = 2 * 4
    assert (three - two) / TOKENS == kept_per_token(training) + copied + norms


# --- a whole step, computed by nobody --------------------------------------------------------------------------------


def peak_of_a_step(layers: int, sizes: dict[str, Any], tokens: int) -> int:
    """Bytes at the fullest moment of forward, loss, backward and update, by MemTracker."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    from r1pipe.models.linear_ce import LinearCrossEntropy

    with FakeTensorMode():
        model = model_of(layers, torch.float32, sizes)
        model.set_attn_implementation("sdpa")
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        ids_1T = torch.zeros(1, tokens, dtype=torch.long)
        with tracker:
            # The second update has moments from the beginning.
            for _ in range(2):
                tracker.reset_mod_stats()
                with torch.autocast("cpu", torch.bfloat16):
                    hidden_1TD = model.model(input_ids=ids_1T).last_hidden_state
                    nll, _, _ = LinearCrossEntropy.apply(hidden_1TD[0], model.lm_head.weight, ids_1T[0])
                nll.backward()
                optimizer.step()
                optimizer.zero_grad()
        peak = tracker.get_tracker_snapshot("peak")
    return sum(sizes_of["Total"] for sizes_of in peak.values())


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [2048, 8192])
def test_a_whole_step_takes_what_is_planned(tokens: int):
    """Layers of the 1.5B model: the difference between three of them and two is one, and what is left is the rest.

    The vocabulary is small, since without Triton the loss makes several copies of a chunk of logits.
    """
    sizes = {
        "vocab_size": 1024,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "tie_word_embeddings": True,
    }
    two, three = (peak_of_a_step(layers, sizes, tokens) for layers in (2, 3))
    shape = shape_of({"model_type": "qwen2", "num_hidden_layers": 2, **sizes})
    planned = [
        footprint(Training(shape=replace(shape, layers=layers), tokens=tokens, passes=1)).moments
        for layers in (2, 3)
    ]
    assert three - two == pytest.approx(max(planned[1].values()) - max(planned[0].values()), rel=0.05)
    assert two == pytest.approx(max(planned[0].values()), rel=0.05)
