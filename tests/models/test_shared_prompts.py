"""A group's responses beside one copy of their prompt: the log-probs and gradients of rows alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from noted_graphs import attend_by_operator, noting
from test_packed_attention import deepseek, tiny

from r1pipe.models import packed_attention as varlen
from r1pipe.models.loading import compile_layers
from r1pipe.models.packed_attention import prompts_can_be_shared, use_packed_attention
from r1pipe.models.shared_prompts import Rows, same_prompts, take_tokens
from r1pipe.training.grpo.completion_packs import pack_completions

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

PROMPT, COMPLETION = 12, 9
# Tokens of the prompt, and of each of its responses; a prompt of one token has nothing to share.
GROUPS = [(12, [9, 3, 1, 5]), (1, [4, 6]), (7, [8]), (2, [2, 9]), (5, [0, 7, 0]), (5, [0, 3, 4])]


def rows(seed: int = 0, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of all groups, (B, P + C), the rows of different groups mixed."""
    draw = torch.Generator().manual_seed(seed)
    ids, mask = [], []
    for prompt, responses in GROUPS:
        shared = torch.randint(1, 63, (prompt,), generator=draw)
        for response in responses:
            row = torch.zeros(PROMPT + COMPLETION, dtype=torch.long)
            row[PROMPT - prompt : PROMPT] = shared
            row[PROMPT : PROMPT + response] = torch.randint(1, 63, (response,), generator=draw)
            real = torch.zeros_like(row)
            real[PROMPT - prompt : PROMPT + response] = 1
            ids.append(row)
            mask.append(real)
    order = torch.randperm(len(ids), generator=draw)
    return torch.stack(ids)[order].to(device), torch.stack(mask)[order].to(device)


def padded(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies of the completion tokens, (B, C), one row at a time."""
    logps = torch.zeros(len(ids), COMPLETION, dtype=torch.float64)
    entropies = torch.zeros_like(logps)
    for b, real in enumerate(mask.bool()):
        if not real[PROMPT:].any():
            continue
        row = ids[b, real]
        every_TV = model(input_ids=row[None], use_cache=False).logits[0].double().log_softmax(-1)
        prompt = int(real[:PROMPT].sum())
        scored_TV = every_TV[prompt - 1 : -1]
        count = len(row) - prompt
        logps[b, :count] = scored_TV.gather(1, row[prompt:, None])[:, 0]
        entropies[b, :count] = -(scored_TV.exp() * scored_TV).sum(-1)
    return logps, entropies


def packed(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, *, shared: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from one pack."""
    pack = pack_completions(ids, mask, COMPLETION, shared=shared)
    labels_T = pack.inputs.pop("shift_labels")[0]
    every_TV = model(**pack.inputs, use_cache=False).logits[0].double().log_softmax(-1)
    scored_TV = every_TV[labels_T != -100]
    logps = torch.zeros(len(ids), COMPLETION, dtype=torch.float64, device=ids.device)
    places = (pack.rows, pack.columns)
    entropies = logps.index_put(places, -(scored_TV.exp() * scored_TV).sum(-1))
    return logps.index_put(places, scored_TV.gather(1, labels_T[labels_T != -100, None])[:, 0]), entropies


def gradients(model: Any, logps: torch.Tensor, entropies: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a loss in which every token weighs differently."""
    weights = torch.linspace(-1, 2, logps.numel(), dtype=logps.dtype, device=logps.device).view_as(logps)
    model.zero_grad()
    (weights * logps + 0.3 * weights.square() * entropies).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def with_lora(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    adapted: Any = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"]))
    for name, parameter in adapted.named_parameters():
        # B begins at zero, and would hide A's gradient
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


def checkpointed(model: Any) -> Any:
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


MODELS = {
    "qwen2": tiny,
    "qwen3": lambda: tiny("qwen3", head_dim=8),
    "llama": lambda: tiny("llama"),
    "one key head": lambda: tiny("llama", num_key_value_heads=1),
    "as many key heads": lambda: tiny("qwen2", num_key_value_heads=4),
    "mistral": lambda: tiny("mistral", sliding_window=None),
    "olmo2": lambda: tiny("olmo2"),
    "phi3": lambda: tiny("phi3", pad_token_id=0, sliding_window=None),
    "gemma": lambda: tiny("gemma", head_dim=8),
    "recomputed": lambda: checkpointed(tiny()),
}


@pytest.mark.parametrize("exact", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_log_probs_entropies_and_gradients_are_those_of_rows_alone(make: Any, exact: bool) -> None:
    model = make().to(torch.float64 if exact else torch.float32)
    ids, mask = rows()
    wanted = padded(model, ids, mask)
    wanted_gradients = gradients(model, *wanted)
    assert use_packed_attention(model) and prompts_can_be_shared(model)
    found = packed(model, ids, mask)
    # In float64, too, norms and rotary embeddings are computed in float32.
    close = {"atol": 2e-6, "rtol": 1e-4} if exact else {"atol": 2e-5, "rtol": 1e-4}
    torch.testing.assert_close(found, wanted, **close)
    found_gradients = gradients(model, *found)
    assert found_gradients.keys() == wanted_gradients.keys()
    for name, gradient in wanted_gradients.items():
        torch.testing.assert_close(
            found_gradients[name], gradient, **close, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_with_lora_and_recomputed_layers() -> None:
    model = tiny()
    use_packed_attention(model)
    adapted = with_lora(model.double())
    ids, mask = rows()
    wanted = packed(adapted, ids, mask, shared=False)
    wanted_gradients = gradients(adapted, *wanted)
    adapted.enable_input_require_grads()
    checkpointed(adapted)
    found = packed(adapted, ids, mask)
    torch.testing.assert_close(found, wanted)
    found_gradients = gradients(adapted, *found)
    assert len(wanted_gradients) == 12
    for name, gradient in wanted_gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient)


def test_a_prompt_is_read_once_and_a_response_sees_its_own_alone() -> None:
    model = tiny()
    use_packed_attention(model)
    ids, mask = rows()
    before, _ = packed(model, ids, mask)
    shared, alone = (
        pack_completions(ids, mask, COMPLETION, shared=shared).inputs["input_ids"].numel()
        for shared in (True, False)
    )
    # of four responses three copies of 11 tokens are saved, of the two pairs 1 and 4; the others have nothing to share
    assert alone - shared == 3 * 11 + 1 + 4
    # one token of one response, or of one prompt: no other response or group changes
    for group in range(len(GROUPS)):
        numbers = same_prompts(ids[:, :PROMPT], mask[:, :PROMPT])
        for whole_group in (False, True):
            members = [row for row, number in enumerate(numbers) if number == group]
            touched = members if whole_group else members[:1]
            changed = ids.clone()
            changed[touched, PROMPT - 1 if whole_group else PROMPT] ^= 1
            after, _ = packed(model, changed, mask)
            others = [row for row in range(len(ids)) if row not in touched]
            torch.testing.assert_close(after[others], before[others], atol=1e-6, rtol=1e-6)
            if mask[touched, PROMPT:].any():
                assert (after[touched] - before[touched]).abs().max() > 1e-4


def test_the_size_of_a_pack_is_what_is_read() -> None:
    ids, mask = rows()
    numbers = same_prompts(ids[:, :PROMPT], mask[:, :PROMPT])
    sizes = Rows(mask[:, :PROMPT].sum(1).tolist(), mask[:, PROMPT:].sum(1).tolist(), numbers)
    for chosen in ([0, 3, 5, 6], list(range(len(ids))), [2]):
        with_responses = [row for row in chosen if sizes.responses[row]]
        parts = sizes.parts(with_responses)
        assert sizes.tokens(with_responses) == sum(part.length for part in parts)


def test_experts_see_every_row() -> None:
    """Their balance would be another if a prompt were seen once."""
    model = deepseek()
    use_packed_attention(model)
    assert not prompts_can_be_shared(model)


def test_a_kernel_that_is_aligned_at_the_beginning_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(varlen, "extra_keys_work", lambda width: asked.append(width))
    assert not prompts_can_be_shared(model)
    assert asked == [8]


def test_copies_add_up_in_float32() -> None:
    """256 ones are 256 in bf16, and the next one is lost if it is added to them."""
    heads = torch.zeros(3, 1, 8, dtype=torch.bfloat16, requires_grad=True)
    tokens = torch.tensor([1] * 512 + [2])
    take_tokens(heads, tokens).sum().backward()
    assert heads.grad is not None and heads.grad[:, 0, 0].tolist() == [0, 512, 1]
    torch.library.opcheck(
        torch.ops.r1pipe.take_tokens.default,
        (torch.randn(3, 2, 8, requires_grad=True), torch.tensor([1, 1, 0])),
        test_utils=(
            "test_schema",
            "test_autograd_registration",
            "test_faketensor",
            "test_aot_dispatch_dynamic",
        ),
    )


@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
def test_layers_compile_to_one_graph_for_all_packs(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs with shared prompts and without, whatever their lengths."""

    graphs: list[Any] = []
    attend_by_operator(monkeypatch)
    model = tiny(num_hidden_layers=3)
    use_packed_attention(model)
    ids, mask = rows()
    chosen = [list(range(len(ids))), [0, 1], [3], list(range(2, 9)), [5, 6, 7, 8, 9, 10]]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        wanted = [packed(model, ids[part], mask[part]) for part in chosen]
        compile_layers(model, fullgraph=True, backend=noting(graphs))
        found = [packed(model, ids[part], mask[part]) for part in chosen]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert len(graphs) == 1


@cuda
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_on_the_gpu_in_bf16(compiled: bool) -> None:
    """Against the same rows without sharing: rounding apart, the same log-probs and gradients."""
    model = tiny(hidden_size=256, num_hidden_layers=2, intermediate_size=512).cuda()
    assert use_packed_attention(model) and prompts_can_be_shared(model)
    if compiled:
        compile_layers(model)
    ids, mask = rows(device="cuda")
    results = []
    for shared in (False, True):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logps, entropies = packed(model, ids, mask, shared=shared)
        results.append((logps.detach(), gradients(model, logps, entropies)))
    (wanted, wanted_gradients), (found, found_gradients) = results
    torch.testing.assert_close(found, wanted, atol=0.05, rtol=0.02)
    for name, gradient in wanted_gradients.items():
        distance = (found_gradients[name] - gradient).norm() / gradient.norm()
        assert distance < 0.03, f"{name}: {distance:.4f}"
