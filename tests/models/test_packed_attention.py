"""Packed attention equals attention row by row, in values and gradients, for every shape of heads."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from noted_graphs import attend_by_operator, noting

from r1pipe.models import attention_kernels as kernels
from r1pipe.models import packed_attention as varlen
from r1pipe.models.attention_kernels import Kernel
from r1pipe.models.packed_attention import (
    Ends,
    pack,
    packed_kwargs,
    packing_obstacle,
    register_packed_attention,
    use_packed_attention,
    varlen_attention_forward,
)

ROWS = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15], [16, 17, 18, 19, 20]]
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def tiny(kind: str = "qwen2", **more: Any) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **{**sizes, "max_position_embeddings": 64, **more})
    )


def deepseek() -> torch.nn.Module:
    moe = {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "n_shared_experts": 1,
    }
    heads = {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "num_key_value_heads": 4,
    }
    return tiny("deepseek_v3", first_k_dense_replace=1, **moe, **heads)


def logits_and_grads(model: Any, **inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    logits_TV = model(use_cache=False, **inputs).logits[0].float()
    logits_TV.log_softmax(-1).square().mean().backward()
    return logits_TV.detach(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize(
    "make",
    [tiny, deepseek, lambda: tiny("qwen3", head_dim=8), lambda: tiny("llama")],
    ids=["qwen2", "deepseek_v3", "qwen3", "llama"],
)
def test_packed_rows_equal_rows_alone(make: Any) -> None:
    """fp32 on a CPU: 1e-5. The reference is transformers' SDPA, one row at a time."""
    model = make()
    alone = [model(input_ids=torch.tensor([row]), use_cache=False).logits[0] for row in ROWS]
    joined_TV = torch.cat(alone)
    joined_TV.log_softmax(-1).square().mean().backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert use_packed_attention(model)
    logits_TV, grads = logits_and_grads(model, **pack(ROWS))
    torch.testing.assert_close(logits_TV, joined_TV.detach(), atol=1e-5, rtol=1e-5)
    for name, grad in wanted.items():
        torch.testing.assert_close(
            grads[name], grad, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_last_row_does_not_see_the_first() -> None:
    """A test of the test above: without cu_seq_lens rows see each other, and the comparison notices it."""
    model = tiny()
    use_packed_attention(model)
    inputs = pack(ROWS)
    apart = model(use_cache=False, **inputs).logits
    together = model(
        use_cache=False, **{k: v for k, v in inputs.items() if not k.startswith(("cu_", "max_"))}
    ).logits
    assert (apart - together).abs().max() > 1e-3


def test_padded_batches_and_generation_are_as_before() -> None:
    model = tiny().eval()
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    ask = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": 63}
    with torch.no_grad():
        before, said = (
            model(input_ids=ids, attention_mask=mask).logits,
            model.generate(ids, attention_mask=mask, **ask),
        )
        assert use_packed_attention(model)
        after, says = (
            model(input_ids=ids, attention_mask=mask).logits,
            model.generate(ids, attention_mask=mask, **ask),
        )
    assert torch.equal(before, after)
    assert torch.equal(said, says)


@pytest.mark.parametrize(
    ("kind", "more", "reason"),
    [
        ("mistral", {"sliding_window": 8}, "window of 8"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            "sliding_attention",
        ),
        ("gpt_oss", {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}, "sliding_attention"),
        ("gemma2", {"head_dim": 8}, "sliding_attention"),
        ("qwen2", {"attention_dropout": 0.1}, "attention_dropout"),
    ],
)
def test_models_that_cannot_be_packed_are_left_alone_with_one_warning(
    kind: str, more: dict[str, Any], reason: str
) -> None:
    model = tiny(kind, **more)
    before = model.config._attn_implementation
    with pytest.warns(UserWarning, match=reason):
        assert not use_packed_attention(model)
    assert model.config._attn_implementation == before


def test_sinks_are_seen_in_the_weights() -> None:
    model = tiny(
        "gpt_oss", head_dim=8, num_local_experts=2, num_experts_per_tok=1, layer_types=["full_attention"] * 2
    )
    assert "sinks" in packing_obstacle(model.config, model)
    plain = tiny()
    assert packing_obstacle(plain.config, plain) == ""


def test_dropout_is_refused() -> None:
    x = torch.randn(1, 2, 4, 8)
    with pytest.raises(AssertionError, match="dropout"):
        varlen_attention_forward(torch.nn.Identity(), x, x, x, None, dropout=0.1, **packed_kwargs([4]))


def test_a_boundary_list_that_leaves_tokens_out_is_refused() -> None:
    x = torch.randn(1, 2, 4, 8)
    with pytest.raises(AssertionError, match="covers 3 of 4"):
        varlen_attention_forward(torch.nn.Identity(), x, x, x, None, **packed_kwargs([3]))


def fake_kernel(attends: list[tuple[int, ...]], grouped: bool) -> Any:
    """The kernel's contract: heads of one width, equal in number unless it takes groups."""

    def attend(
        q_THF: torch.Tensor,
        k_TKF: torch.Tensor,
        v_TKF: torch.Tensor,
        ends: torch.Tensor,
        key_ends: torch.Tensor,
        longest: int,
        scale: float,
    ) -> torch.Tensor:
        assert q_THF.shape[-1] == k_TKF.shape[-1] == v_TKF.shape[-1] and q_THF.shape[-1] % 8 == 0
        assert ends.dtype == key_ends.dtype == torch.int32 and int(key_ends.diff().max()) <= longest
        assert q_THF.shape[1] == k_TKF.shape[1] or grouped
        attends.append(tuple(k_TKF.shape))
        q, k, v = (x.transpose(0, 1)[None] for x in (q_THF, k_TKF, v_TKF))
        return varlen._attend_each(q, k, v, Ends(ends, key_ends), scale)[0]

    return attend


@pytest.mark.parametrize("grouped", [False, True])
def test_the_kernels_path_pads_crops_and_groups(grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code around the kernel, with a fake that holds its contract: narrow values, odd widths, fewer key heads."""
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(kernels, "_KERNELS", {24: Kernel("fake", fake_kernel(seen, grouped), grouped)})
    q, k, v = torch.randn(1, 4, 9, 20), torch.randn(1, 2, 9, 20), torch.randn(1, 2, 9, 12)
    ends_N1 = packed_kwargs([4, 5])["cu_seq_lens_q"]
    ends = Ends(ends_N1, ends_N1)
    out = varlen._attend_packed(q, k, v, ends, 8, 0.25)
    torch.testing.assert_close(out, varlen._attend_each(q, k, v, ends, 0.25)[0], atol=1e-6, rtol=1e-5)
    assert seen == [(9, 2 if grouped else 4, 24)]


@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
def test_layers_compile_to_one_graph_for_all_lengths(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing breaks the graph, and neither another layer nor other numbers of tokens or sequences compile again."""
    from r1pipe.models.loading import compile_layers

    graphs: list[Any] = []
    attend_by_operator(monkeypatch)
    model = tiny(num_hidden_layers=3)
    use_packed_attention(model)
    batches = [pack(ROWS), pack(ROWS[:2] * 4), pack([list(range(1, 40)), *ROWS])]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        wanted = [model(use_cache=False, **batch).logits for batch in batches]
        assert compile_layers(model, fullgraph=True, backend=noting(graphs)) == 3
        found = [model(use_cache=False, **batch).logits for batch in batches]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert len(graphs) == 1
    nodes = graphs[0].graph.nodes
    assert any("attend" in str(node.target) for node in nodes)
    numbers = [node for node in nodes if isinstance(node.meta.get("example_value"), torch.SymFloat)]
    assert not numbers, "such a number makes the compiler begin anew, even with a warm cache"


def test_autocast_brings_queries_and_keys_to_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are float32, so rotary embeddings give float32 queries; the kernel accepts half precision only."""
    kinds: list[torch.dtype] = []
    plain = varlen._attend_each
    monkeypatch.setattr(
        varlen,
        "_attend_each",
        lambda q, k, v, *rest: (kinds.extend([q.dtype, k.dtype, v.dtype]), plain(q, k, v, *rest))[1],
    )
    model = tiny()
    use_packed_attention(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(use_cache=False, **pack(ROWS))
    assert set(kinds) == {torch.bfloat16}


@cuda
@pytest.mark.parametrize("make", [tiny, deepseek], ids=["qwen2", "deepseek_v3"])
def test_the_kernel_equals_sdpa_in_bf16(make: Any) -> None:
    """bf16 on a GPU: the loss to 1e-3."""
    model = make().to("cuda", torch.bfloat16)
    with torch.no_grad():
        alone = torch.cat(
            [model(input_ids=torch.tensor([row], device="cuda"), use_cache=False).logits[0] for row in ROWS]
        ).float()
        assert use_packed_attention(model)
        packed = model(use_cache=False, **pack(ROWS, "cuda")).logits[0].float()
    labels = torch.tensor([t for row in ROWS for t in row], device="cuda")
    loss = torch.nn.functional.cross_entropy
    assert abs(loss(packed, labels) - loss(alone, labels)) < 1e-3


@cuda
def test_grouped_heads_on_the_gpu_equal_repeated_ones() -> None:
    """Also the gradients; and a bound above the longest sequence and an empty sequence change nothing."""
    register_packed_attention()
    q, k, v = (
        torch.randn(1, h, 300, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for h in (8, 2, 2)
    )
    ends_N1 = torch.tensor([0, 100, 100, 300], dtype=torch.int32, device="cuda")
    ends = Ends(ends_N1, ends_N1)
    found = varlen._attend_packed(q, k, v, ends, 1024, 0.125)
    wanted = varlen._attend_each(q.float(), k.float(), v.float(), ends, 0.125)[0]
    torch.testing.assert_close(found.float(), wanted, atol=2e-2, rtol=2e-2)
    for a, b in zip(
        torch.autograd.grad(found.float().sum(), (q, k, v)),
        torch.autograd.grad(wanted.sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a.float(), b.float(), atol=5e-2, rtol=5e-2)


def test_no_warning_where_it_works() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert use_packed_attention(tiny())
