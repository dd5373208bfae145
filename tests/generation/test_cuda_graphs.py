"""A step of decoding over a cache that stays in place computes what the model computes.

The graphs themselves need a GPU.
"""

from __future__ import annotations

import copy
import gc
import sys
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from noted_graphs import noting
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from r1pipe.generation import cuda_graphs as graphs
from r1pipe.generation.cuda_graphs import GraphedModel, graph_obstacle, size_up
from r1pipe.generation.decoding import decode
from r1pipe.generation.token_sampling import SamplingSettings
from r1pipe.models.loading import compile_layers

sys.path.append(str(Path(__file__).parents[1] / "bench"))
from forced_lengths import Ends  # noqa: E402

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
SHORTER = [[7, 8, 9], [5, 6, 7, 11], [10]]
ENDS = list(range(0, 300, 20))
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
}
SIZES |= {"num_attention_heads": 6, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 1}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10_000.0}
MAKES = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=False)),
    "llama, yarn": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, rope_parameters=YARN, tie_word_embeddings=False)
    ),
}


def make(name: str = "qwen2", device: str = "cpu") -> Any:
    torch.manual_seed(0)
    return torch.nn.Module.to(MAKES[name](), device).eval()


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    monkeypatch.setattr(graphs, "ROW_STEP", 4)
    monkeypatch.setattr(graphs, "LEAST_ROWS", 4)
    monkeypatch.setattr(graphs, "COLUMN_STEP", 8)


def with_room(model: Any, rows: int, columns: int, **more: Any) -> GraphedModel:
    graphed = GraphedModel(copy.deepcopy(model), **more)
    assert graphed.make_room(rows, columns)
    return graphed


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "temperature", "top_p"), [*((name, 1.0, 1.0) for name in MAKES), ("qwen2", 0.6, 0.95)]
)
def test_each_token_is_drawn_from_the_models_distribution(
    name: str, temperature: float, top_p: float, device: str, monkeypatch
) -> None:
    """Over several sizes of batch and cache, with unequal prompts; later rollouts use the first one's cache."""
    model = make(name, device)
    graphed = with_room(model, 48, 7 + 40)
    plain, sizes = graphed._advance, set()
    monkeypatch.setattr(graphed, "_advance", lambda size: (sizes.add(size), plain(size)))
    for round_, prompts in enumerate((PROMPTS, SHORTER, PROMPTS)):
        torch.manual_seed(round_)
        logps: list[list[float]] = []
        with torch.inference_mode():
            how = {"temperature": temperature, "top_p": top_p, "eos_ids": ENDS, "pad_id": 0}
            out, logps = decode(
                model, prompts, n=16, max_new_tokens=40, **how, graphed=graphed, keep_logps=True
            )
            assert min(map(len, out)) < 8 and max(map(len, out)) > 24, "the batch shrank, the cache grew"
            for i, (ids, found) in enumerate(zip(out, logps, strict=True)):
                prompt = prompts[i // 16]
                assert all(token not in ENDS for token in ids[:-1]) and (ids[-1] in ENDS or len(ids) == 40)
                logits = (
                    model(torch.tensor([prompt + ids], device=model.device))
                    .logits[0, len(prompt) - 1 : -1]
                    .cpu()
                )
                logps_TV = torch.log_softmax(logits / temperature, -1)
                wanted_T1 = logps_TV.gather(1, torch.tensor(ids)[:, None])
                assert torch.allclose(torch.tensor(found), wanted_T1.squeeze(1), atol=1e-4)
                likelier_T = (logps_TV.exp() * (logps_TV > wanted_T1 + 1e-4)).sum(-1)
                assert (likelier_T < top_p).all(), "in the nucleus"
    assert 3 < len(sizes) < 13, "steps are recorded for few sizes, not for each"


class Touched(TorchDispatchMode):
    """Operations that read or make something on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(
            each.device.type == "cpu"
            for each in tree_leaves((args, kwargs, out))
            if isinstance(each, torch.Tensor)
        ):
            self.names.append(str(func))
        return out


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a torch that is built for CUDA, not a GPU")
@pytest.mark.parametrize(("temperature", "top_p"), [(0, 1.0), (1.0, 1.0), (0.6, 0.95)])
@pytest.mark.parametrize("name", MAKES)
def test_a_step_on_a_gpu_needs_nothing_of_the_cpu(
    name: str, temperature: float, top_p: float, monkeypatch
) -> None:
    """Otherwise it cannot be recorded.

    The tensors have a device and no numbers; lengths are forced as in benchmarks.
    """
    for where, value in ((torch.cuda, "Stream"), (torch.cuda, "graph_pool_handle"), (graphs, "free_memory")):
        monkeypatch.setattr(where, value, lambda *of: 2**40 if of else None)
    for kind, name_ in (
        (torch.nn.Linear, "reset_parameters"),
        (torch.nn.Embedding, "reset_parameters"),
        (PreTrainedModel, "init_weights"),
    ):
        monkeypatch.setattr(kind, name_, lambda self: None)  # which would need a GPU's random numbers
    with FakeTensorMode(), torch.no_grad():
        with torch.device("cuda"):
            graphed = GraphedModel(MAKES[name]())
        assert graphed.make_room(16, 64)
        forced = Ends([3] * 16, [1, 2], torch.device("cuda"))
        how = SamplingSettings(temperature, top_p, (1, 2), adjust=forced.apply, logps=True)
        graphed._use_settings(how)
        with Touched() as touched:
            graphed._advance(8)
    assert touched.names == []


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("device", DEVICES)
def test_compiled_layers_draw_the_same(device: str) -> None:
    model = make(device=device)
    asked = {"n": 3, "max_new_tokens": 20, "temperature": 0, "eos_ids": [7, 33, 90], "pad_id": 0}
    graphed = with_room(model, 9, 7 + 20, compiled=True)
    assert decode(model, PROMPTS, **asked, graphed=graphed) == decode(model, PROMPTS, **asked)
    # where compiled layers are all there is, the plain loop does not compile them for each length
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert decode(graphed.model, PROMPTS, **asked) == decode(model, PROMPTS, **asked)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


def test_layers_compile_to_one_graph_for_all_batches_and_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a batch has as many rows as the cache has columns: then other batches, and another cache."""
    compiled: list[Any] = []
    # One for both models: what another back end has compiled would not count.
    backend = noting(compiled)
    torch._dynamo.reset()
    ended = SamplingSettings(1.0, 1.0, tuple(range(0, 300, 9)), None, None, False)
    for rows, columns in ((128, 128), (16, 384)):
        graphed = with_room(make(), rows, columns)
        compile_layers(graphed.model, fullgraph=True, backend=backend)
        sizes: set[int] = set()
        advance = graphed._advance
        monkeypatch.setattr(
            graphed, "_advance", lambda size, go=advance, seen=sizes: (seen.add(size), go(size))
        )
        ids = torch.randint(5, 250, (rows // 8, 7))
        graphed.run(ids, torch.ones_like(ids), 8, 24, settings=ended)
        assert rows in sizes and len(sizes) > 1, "sequences end, and batches get smaller"
        assert len(compiled) == 1


def test_weights_are_taken_anew() -> None:
    model = make()
    other, graphed = copy.deepcopy(model), with_room(model, 3, 27)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    asked = {"max_new_tokens": 20, "temperature": 0, "eos_ids": [], "pad_id": 0}
    before = decode(model, PROMPTS, **asked, graphed=graphed)
    graphed.copy_weights(other)
    after = decode(model, PROMPTS, **asked, graphed=graphed)
    assert after == decode(other, PROMPTS, **asked) != before


def test_the_twin_of_a_trained_model_leaves_it_alone() -> None:
    model = make()
    attention, weight = model.config._attn_implementation, model.lm_head.weight.clone()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    twin = GraphedModel.twin(model, torch.bfloat16)
    assert torch.rand(1) == expected, "its own first weights are drawn from other numbers"
    twin.copy_weights(model)
    assert twin.model.dtype == torch.bfloat16 and not twin.model.training
    assert model.config._attn_implementation == attention and model.dtype == torch.float32
    assert torch.equal(twin.model.lm_head.weight, weight.bfloat16())


def test_a_twin_that_was_given_up_takes_no_memory() -> None:
    twin = GraphedModel.twin(make(), torch.bfloat16)
    assert twin.make_room(3, 27)
    model = weakref.ref(twin.model)
    twin.give_up()
    gc.collect()
    assert model() is None and not twin.make_room(3, 27)


def test_a_head_that_is_not_tied_whatever_the_config_says() -> None:
    model = make()
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    twin = GraphedModel.twin(model, torch.float32)
    twin.copy_weights(model)
    assert torch.equal(twin.model.lm_head.weight, model.lm_head.weight)


def test_room_is_made_or_nothing_changes(monkeypatch) -> None:
    graphed = with_room(make(), 8, 16)

    def keys() -> torch.Tensor:
        return graphed.model.base_model.layers[0].self_attn.cached[0]

    first = keys()
    assert graphed.make_room(4, 9) and keys() is first
    monkeypatch.setattr(graphs, "free_memory", lambda device: 0)
    assert not graphed.make_room(8, 200) and keys() is first
    monkeypatch.setattr(graphs, "free_memory", lambda device: 2**30)
    assert not graphed.make_room(4, 40, reserve=2**30) and keys() is first, "others need it"
    assert graphed.make_room(4, 40) and keys().shape[:2] == (8 + 1, 40), (
        "never smaller than before, where there is room"
    )
    joint, alone = (
        graphs.cache_bytes(graphed.model.config, rows, columns, 4) for rows, columns in ((8, 400), (4, 400))
    )
    own = graphs.cache_bytes(graphed.model.config, 8, 40, 4)
    monkeypatch.setattr(graphs, "free_memory", lambda device: joint + alone - own)
    assert graphed.make_room(4, 400) and keys().shape[:2] == (4 + 1, 400), "this alone, where both do not fit"
    graphed.give_up()
    assert not graphed.make_room(4, 8)


def test_a_run_without_room_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="make_room"):
        decode(make(), PROMPTS, max_new_tokens=9, eos_ids=[1], pad_id=0, graphed=with_room(make(), 4, 8))


@pytest.mark.parametrize("device", DEVICES)
def test_ended_sequences_are_reported_once_while_others_are_drawn(device: str) -> None:
    model = make(device=device)
    told: list[tuple[int, list[int]]] = []
    looks: list[int] = []
    asked = {
        "n": 16,
        "max_new_tokens": 40,
        "eos_ids": ENDS,
        "pad_id": 0,
        "graphed": with_room(model, 48, 7 + 40),
    }
    for seed in range(2):
        told.clear(), looks.clear()
        torch.manual_seed(seed)
        out = decode(
            model,
            PROMPTS,
            **asked,
            on_ended=lambda places, ids: (
                told.extend(zip(places, ids, strict=True)),
                looks.append(len(told)),
            ),
        ).token_ids
        assert len(dict(told)) == len(told) > 10 and len(looks) > 1
        assert all(out[place] == ids for place, ids in told)
        assert {i for i, ids in enumerate(out) if len(ids) < max(map(len, out)) - 16} <= dict(told).keys()
        torch.manual_seed(seed)
        assert decode(model, PROMPTS, **asked).token_ids == out, "a callback changes no draw"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_only_the_end_of_a_run_waits_for_the_gpu() -> None:
    model = make(device="cuda")
    graphed = with_room(model, 48, 7 + 40)

    def waits(max_new_tokens: int) -> int:
        for _ in range(2):  # a first run records its steps
            torch.manual_seed(0)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                out = decode(
                    model,
                    PROMPTS,
                    n=16,
                    max_new_tokens=max_new_tokens,
                    eos_ids=ENDS,
                    pad_id=0,
                    graphed=graphed,
                    on_ended=lambda *of: None,
                ).token_ids
                torch.cuda.set_sync_debug_mode("default")
        assert min(map(len, out)) < max_new_tokens, "the batch shrank"
        return len(caught)

    assert waits(12) == waits(40) > 0


@pytest.mark.parametrize("device", DEVICES)
def test_the_temperature_changes(device: str) -> None:
    """As from one phase of training to the next.

    On a GPU the second settings once found no memory pool, and graphs were given up.
    """
    model = make(device=device)
    graphed = with_room(model, 3, 27)
    asked = {"max_new_tokens": 20, "eos_ids": [], "pad_id": 0, "graphed": graphed}
    greedy = decode(model, PROMPTS, temperature=0, **asked)
    assert decode(model, PROMPTS, temperature=1.0, **asked) != greedy
    assert decode(model, PROMPTS, temperature=0, **asked) == greedy
    assert graphed.has_room(3, 27) and graphed.make_room(3, 28), "it was not given up"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_where_a_step_cannot_be_recorded_the_plain_loop_draws(temperature: float, monkeypatch) -> None:
    model = make(device="cuda")
    graphed = with_room(model, 3, 27)
    asked = {"max_new_tokens": 20, "temperature": temperature, "eos_ids": [], "pad_id": 0}
    plain = graphed._advance
    monkeypatch.setattr(
        graphed, "_advance", lambda *of: (plain(*of), graphed._t_1.item())
    )  # waits for the GPU, which a recording must not
    with pytest.warns(UserWarning, match="could not be recorded as CUDA graphs, so a plain loop draws"):
        out = decode(model, PROMPTS, **asked, graphed=graphed)
    assert [len(ids) for ids in out.token_ids] == [20] * 3 and not graphed.make_room(3, 27)
    if temperature == 0:
        assert out == decode(model, PROMPTS, **asked)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_where_there_is_no_memory_the_next_rollout_tries_again(monkeypatch) -> None:
    model = make(device="cuda")
    graphed = with_room(model, 3, 27)
    asked = {"max_new_tokens": 20, "temperature": 0, "eos_ids": [], "pad_id": 0}

    def full(*of: Any) -> None:
        raise torch.OutOfMemoryError("full")

    with (
        monkeypatch.context() as patched,
        pytest.warns(UserWarning, match="no memory for CUDA graphs this time"),
    ):
        patched.setattr(graphed, "_read", full)
        assert decode(model, PROMPTS, **asked, graphed=graphed) == decode(model, PROMPTS, **asked)
    assert graphed.make_room(3, 27) and decode(model, PROMPTS, **asked, graphed=graphed) == decode(
        model, PROMPTS, **asked
    )


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (make("llama, yarn"), ""),
        (SimpleNamespace(), "is not one of"),
        (
            Qwen2ForCausalLM(
                Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=0)
            ),
            "in a window",
        ),
        (
            LlamaForCausalLM(
                LlamaConfig(
                    **SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
                )
            ),
            "change with the length",
        ),
        (LlamaForCausalLM(LlamaConfig(**SIZES, **{"quantization_config": {"bits": 4}})), "quantized"),
    ],
)
def test_which_models(model: Any, why: str, monkeypatch) -> None:
    kind, config = type(model).__name__, getattr(model, "config", Qwen2Config(**SIZES))
    on = {
        device: type(kind, (), {"device": torch.device(device), "config": config})()
        for device in ("cpu", "cuda")
    }
    assert graph_obstacle(on["cpu"]) == "it is not on a GPU"
    monkeypatch.setattr(graphs, "find_spec", lambda name: name)
    assert why in graph_obstacle(on["cuda"]) and bool(why) == bool(graph_obstacle(on["cuda"]))
    monkeypatch.setattr(graphs, "find_spec", lambda name: None)
    assert graph_obstacle(on["cuda"])


def test_there_are_few_sizes() -> None:
    sizes = [size_up(n, 64) for n in range(1, 2049)]
    assert all(size >= n for n, size in enumerate(sizes, 1)) and max(sizes) == 2048
    assert len(set(sizes)) == 16
    assert max(size / n for n, size in enumerate(sizes, 1) if n > 256) < 1.26
