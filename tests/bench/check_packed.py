"""On a GPU, without pytest: packed rows against rows one by one, eager, compiled and recomputed.

Weights are float32, under autocast to bf16.

    python tests/bench/check_packed.py

Prints the difference of the loss (the limit is 1e-3) and of the gradients' direction, for a Qwen2 with grouped heads
and for a DeepSeek-V3 whose value heads are narrower, and whether this torch accepts grouped heads. DeepSeek-V3's
gradients are compared with each token's experts as in rows alone, too: a router's logit that differs in its last bit
may choose another expert.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
QWEN = {
    "hidden_size": 896,
    "num_hidden_layers": 4,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 2432,
    "vocab_size": 8192,
}
DEEPSEEK = {
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 512,
    "vocab_size": 8192,
}
DEEPSEEK |= {
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "first_k_dense_replace": 1,
}
DEEPSEEK |= {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 128,
    "n_shared_experts": 1,
}


def make(kind: str, sizes: dict[str, Any], device: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, max_position_embeddings=4096, tie_word_embeddings=True, **sizes)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()


class Routes:
    """Records which experts the tokens of a DeepSeek-V3 go to.

    Attributes:
        compared: count how many tokens of a packed row go to other experts than in rows alone.
        given: send each token of a packed row to the experts that it had in rows alone.
    """

    def __init__(self, model: Any) -> None:
        self.noted: dict[Any, list[Any]] = {}
        self.compared = self.given = False
        self.others = self.tokens = 0
        for gate in (module for module in model.modules() if hasattr(module, "e_score_correction_bias")):
            gate.register_forward_hook(self._hook)

    def _hook(self, gate: Any, args: Any, out: tuple[Any, Any, Any]) -> tuple[Any, Any, Any] | None:
        import torch

        logits_TX, weights_TK, chosen_TK = out
        if not self.compared:
            self.noted.setdefault(gate, []).append(chosen_TK)
            return None
        same_TK = torch.cat(self.noted[gate])
        self.others += int((same_TK.sort(-1).values != chosen_TK.sort(-1).values).any(-1).sum())
        self.tokens += len(chosen_TK)
        if not self.given:
            return None
        weights_TK = logits_TX.sigmoid().gather(1, same_TK)
        return (
            logits_TX,
            weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20) * gate.routed_scaling_factor,
            same_TK,
        )


def measure(model: Any, passes: list[dict[str, Any]], total: int, fused: bool) -> tuple[float, Any]:
    """The loss over all passes, and the gradients in one vector."""
    import torch
    from torch.nn.functional import cross_entropy

    model.zero_grad()
    loss = 0.0
    device = next(model.parameters()).device.type
    for inputs in passes:
        with torch.autocast(device, dtype=torch.bfloat16):
            if fused:
                part = model(**inputs, linear_ce=True).nll / total
            else:
                logits_TV = model(input_ids=inputs["input_ids"], use_cache=False).logits[0, :-1].float()
                part = cross_entropy(logits_TV, inputs["labels"][0, 1:], reduction="sum") / total
        part.backward()
        loss += part.item()
    return loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def main() -> None:
    import torch

    from r1pipe.models import attention_kernels as kernels
    from r1pipe.models.linear_ce import add_linear_ce
    from r1pipe.models.loading import compile_layers
    from r1pipe.models.packed_attention import pack, use_packed_attention

    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = torch.Generator().manual_seed(0)
    rows = [
        torch.randint(2, 8192, (n,), generator=draw).tolist()
        for n in ((700, 3, 1500, 64, 333, 1) if device == "cuda" else (70, 3, 33, 1))
    ]
    total = sum(len(row) - 1 for row in rows)
    singles = [{"input_ids": (ids := torch.tensor([row], device=device)), "labels": ids} for row in rows]
    packed = pack(rows, device)
    labels = packed["input_ids"].clone()
    labels[packed["position_ids"] == 0] = -100
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name() if device == 'cuda' else 'a CPU'}")
    for kind, sizes in (("qwen2", QWEN), ("deepseek_v3", DEEPSEEK)):
        model = make(kind, sizes, device)
        routes = Routes(model)
        wanted, direction = measure(model, singles, total, fused=False)
        routes.compared = True
        assert use_packed_attention(model)
        add_linear_ce(model)
        steps: list[tuple[str, Any]] = [("packed", lambda: None)]
        if kind == "deepseek_v3":
            steps.append(
                ("packed, experts of rows alone", lambda routes=routes: setattr(routes, "given", True))
            )
        elif device == "cuda":
            steps.append(("packed, compiled", lambda model=model: compile_layers(model)))
        steps.append(
            (
                "packed, recomputed",
                lambda model=model: model.gradient_checkpointing_enable({"use_reentrant": False}),
            )
        )
        for name, change in steps:
            change()
            routes.others = routes.tokens = 0
            loss, gradient = measure(model, [{**packed, "labels": labels}], total, fused=True)
            alike = torch.nn.functional.cosine_similarity(gradient.double(), direction.double(), dim=0).item()
            difference = f"one by one {wanted:.6f}, difference {abs(loss - wanted):.1e}"
            print(f"{kind}, {name}: loss {loss:.6f}, {difference}; gradients: cosine {alike:.6f}")
            if routes.tokens:
                replaced = ", and were replaced" if routes.given else ""
                print(f"    {routes.others} of {routes.tokens} choices of experts differ{replaced}")
            assert abs(loss - wanted) < 1e-3, "the loss differs"
            assert alike > 0.999 or (routes.others and not routes.given), "the gradients differ"
    if device == "cuda":
        for width, kernel in kernels._KERNELS.items():
            print(
                f"heads of {width}: {kernel.name}, grouped key heads {'as they are' if kernel.grouped else 'repeated'}"
            )


if __name__ == "__main__":
    main()
