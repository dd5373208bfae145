"""Packed SFT trains as if every row had its own pass: against a loop that does just that."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from noted_graphs import attend_by_operator, noting

from r1pipe.here import Here
from r1pipe.models import packed_attention as varlen
from r1pipe.models.loading import compile_layers, load_model, load_tokenizer
from r1pipe.schema import SFTParams
from r1pipe.text.rendering import chat_ids
from r1pipe.training.sft import packed_setup
from r1pipe.training.sft.pack_sampler import PackSampler
from r1pipe.training.sft.sft_trainer import ROUND, PackedSFTTrainer
from r1pipe.training.sft.sft_training import train_sft


def chats(n: int = 20) -> list[dict[str, Any]]:
    def row(i: int) -> list[dict[str, str]]:
        thinking = " ".join(f"{i} + {k} = {i + k}" for k in range(1 + i * i % 7))
        return [
            {"role": "user", "content": f"what is {i} + 1 ?"},
            {"role": "assistant", "content": f"<think>{thinking}</think>{i + 1}"},
        ]

    return [{"id": str(i), "domain": "math", "messages": row(i)} for i in range(n)]


def one_by_one(checkpoint: Path, params: SFTParams, updates: int, seed: int) -> dict[str, torch.Tensor]:
    """The weights after plain SGD with each row in a pass of its own, and the loss divided by the update's tokens."""
    tokenizer, model = load_tokenizer(checkpoint), load_model(checkpoint, training=True)
    rows = list(chat_ids([row["messages"] for row in chats()], tokenizer))
    sampler = PackSampler(
        [len(ids) for ids, _ in rows],
        batch_size=params.batch_size,
        updates=updates,
        ranks=1,
        rank=0,
        pack_tokens=params.pack_tokens or 0,
        seed=seed,
    )
    for batch in sampler.batches():
        total = sum(sum(rows[i][1]) for i in batch)
        model.zero_grad()
        for i in batch:
            ids, mask = (torch.tensor([x]) for x in rows[i])
            logits_TV = model(input_ids=ids, use_cache=False).logits[0, :-1]
            nll_T = torch.nn.functional.cross_entropy(logits_TV, ids[0, 1:], reduction="none")
            ((nll_T * mask[0, 1:]).sum() / total).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= params.lr * p.grad  # type: ignore[operator]
    return {name: p.detach() for name, p in model.named_parameters()}


SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "lr_scheduler_kwargs": {}}


@pytest.mark.parametrize("pack_tokens", [80, 100_000], ids=["several passes", "one pass"])
@pytest.mark.parametrize("ours", [True, False], ids=["linear_ce", "TRL's head"])
def test_weights_are_those_of_rows_one_by_one(
    pack_tokens: int, ours: bool, tiny_checkpoint: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp32: 1e-5. Our own loss with passes filled up, as on a GPU."""
    monkeypatch.setitem(ROUND, "cpu", 32)
    if not ours:
        monkeypatch.setattr(
            "r1pipe.training.sft.sft_trainer.linear_ce_obstacle", lambda model: "the test wants TRL's"
        )
    params = SFTParams(
        lr=0.5,
        batch_size=8,
        max_steps=3,
        max_length=512,
        pack_tokens=pack_tokens,
        max_grad_norm=1e9,
        bf16=False,
        trl=SGD,
    )
    out = here.workdir / "out"
    metrics = train_sft(tiny_checkpoint, chats(), params, out=out, here=here, seed=5)
    trained = {name: p.detach() for name, p in load_model(out, training=True).named_parameters()}
    before = dict(load_model(tiny_checkpoint, training=True).named_parameters())
    assert metrics["steps"] == 3 and metrics["rows"] == 20
    for name, wanted in one_by_one(tiny_checkpoint, params, 3, 5).items():
        torch.testing.assert_close(trained[name], wanted, atol=1e-5, rtol=1e-5)
        assert not torch.equal(trained[name], before[name]), f"{name} was not trained"


@pytest.mark.parametrize("microbatch", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_padded_training_is_packed_training(
    microbatch: int | None, tiny_checkpoint: Path, here: Here
) -> None:
    """Update by update the same rows and the same loss, packed or padded."""
    losses = []
    for packing in (True, False):
        params = SFTParams(
            lr=1e-2,
            batch_size=8,
            max_steps=5,
            max_length=512,
            packing=packing,
            microbatch=None if packing else microbatch,
            bf16=False,
        )
        train_sft(tiny_checkpoint, chats(), params, out=here.workdir / f"packed {packing}", here=here, seed=5)
        lines = map(json.loads, here.metrics_path.read_text().splitlines())
        losses.append([line["loss"] for line in lines if "loss" in line])
        here.metrics_path.unlink()
    assert len(losses[0]) == 5 and losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_sampling_strategy_is_followed_or_a_warning_says_it_is_ignored(
    tiny_checkpoint: Path, here: Here
) -> None:
    params = SFTParams(
        lr=1e-2, batch_size=20, max_steps=1, max_length=512, trl={"train_sampling_strategy": "sequential"}
    )
    with pytest.warns(UserWarning, match="train_sampling_strategy is ignored"):
        train_sft(tiny_checkpoint, chats(), params, out=here.workdir / "packed", here=here, seed=5)

    def padded_loss(**options: Any) -> float:
        padded = SFTParams(
            lr=1e-2, batch_size=4, max_steps=1, max_length=512, packing=False, bf16=False, **options
        )
        out = here.workdir / f"padded {len(options)}"
        return train_sft(tiny_checkpoint, chats(), padded, out=out, here=here, seed=5)["loss"]

    assert padded_loss(trl=params.trl) != pytest.approx(padded_loss(), rel=1e-3), (
        "the first four rows, and four at random"
    )


def test_metrics_hold_the_speed_and_how_rows_were_packed(tiny_checkpoint: Path, here: Here) -> None:
    params = SFTParams(lr=1e-3, batch_size=4, max_steps=2, max_length=512, pack_tokens=80)
    train_sft(tiny_checkpoint, chats(), params, out=here.workdir / "out", here=here, seed=0)
    lines = [json.loads(line) for line in here.metrics_path.read_text().splitlines()]
    assert lines[0]["packing"]["passes"] > 1 and lines[0]["packing"]["gradient_checkpointing"] is False
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 2
    tokens = [line["num_tokens"] for line in steps]
    assert 0 < tokens[0] < tokens[1] and all(line["tokens_per_second"] > 0 for line in steps)
    assert all(0 <= line["mean_token_accuracy"] <= 1 and line["entropy"] > 0 for line in steps)
    if not torch.cuda.is_available():
        assert "mfu" not in steps[0] and "peak_memory_gib" not in steps[0]


@pytest.mark.slow
def test_layers_are_compiled_before_training_and_nothing_else_changes(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attend_by_operator(monkeypatch)
    params = SFTParams(batch_size=4, max_steps=3, compile=True, bf16=False, lr=1e-3)
    graphs: list[Any] = []
    compiled: list[int] = []
    monkeypatch.setattr(
        packed_setup, "compile_layers", lambda model: compile_layers(model, backend=noting(graphs))
    )

    def trained(name: str) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
        folder = tmp_path / name
        (folder / "workdir").mkdir(parents=True)
        here = Here(name, folder / "workdir", folder / "metrics.jsonl", folder / "progress.jsonl")
        monkeypatch.setattr(here, "wait_for_turn", lambda: compiled.append(len(graphs)))
        torch._dynamo.reset()
        graphs.clear()
        train_sft(tiny_checkpoint, chats(), params, out=folder / "out", here=here, seed=0)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        kept = ("step", "loss", "grad_norm", "num_tokens", "entropy")
        return [{key: line.get(key) for key in kept} for line in lines], load_model(
            folder / "out", training=True
        ).state_dict()

    lines, weights = trained("first")
    assert compiled == [len(graphs)] and graphs
    monkeypatch.setattr(PackedSFTTrainer, "compile_first", lambda self: None)
    other_lines, other_weights = trained("in-training")
    assert compiled[1] == 0 and graphs
    assert lines == other_lines
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def test_stopped_and_resumed_equals_one_go(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The rows after a resume are those that would have come."""

    def run(name: str, halt: bool) -> dict[str, torch.Tensor]:
        workdir = tmp_path / name
        workdir.mkdir(exist_ok=True)
        here = Here("test", workdir, workdir / "metrics.jsonl", workdir / "progress.jsonl")
        params = SFTParams(lr=1e-3, batch_size=4, max_steps=4, max_length=512, pack_tokens=80, save_every=2)
        if halt:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr("r1pipe.training.callbacks.MetricsCallback.on_log", _stop_after_two)
                train_sft(tiny_checkpoint, chats(), params, out=workdir / "out", here=here, seed=0)
        train_sft(tiny_checkpoint, chats(), params, out=workdir / "out", here=here, seed=0)
        return {name: p.detach() for name, p in load_model(workdir / "out", training=True).named_parameters()}

    whole, halved = run("whole", halt=False), run("halved", halt=True)
    for name, wanted in whole.items():
        torch.testing.assert_close(halved[name], wanted, atol=1e-6, rtol=1e-5)


def _stop_after_two(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
    if state.global_step == 3:
        raise KeyboardInterrupt


def test_half_precision_goes_through_the_whole_trainer(
    tiny_checkpoint: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 autocast, as on a GPU: attention in half precision, weights and loss in float32."""
    kinds: set[torch.dtype] = set()
    plain = varlen._has_kernel
    monkeypatch.setattr(varlen, "_has_kernel", lambda query: (kinds.add(query.dtype), plain(query))[1])
    params = {"lr": 1e-3, "batch_size": 4, "max_steps": 1, "max_length": 512, "pack_tokens": 80}
    losses = [
        train_sft(
            tiny_checkpoint,
            chats(),
            SFTParams(**params, bf16=half),
            out=here.workdir / str(half),
            here=here,
            seed=0,
        )["loss"]
        for half in (False, True)
    ]
    assert kinds == {torch.float32, torch.bfloat16}
    assert abs(losses[0] - losses[1]) < 1e-3
    assert load_model(here.workdir / "True", training=True).dtype == torch.float32


# The code of one rank. It imports this file for its rows.
RANK = """
import os
import sys
from pathlib import Path
from r1pipe.here import Here
from r1pipe.schema import SFTParams
from r1pipe.training.sft.sft_training import train_sft
from r1pipe.training.sft.sft_trainer import ROUND
sys.path.insert(0, {tests!r})
from test_sft_packed import chats, SGD
rank = int(os.environ["RANK"])
ranks = int(os.environ["WORLD_SIZE"])
folder = Path({folder!r})
here = Here("test", folder / "workdir", folder / "metrics.jsonl", folder / "progress.jsonl", rank, ranks)
params = SFTParams(lr=0.5, batch_size=8, max_steps=3, max_length=512, pack_tokens=80, max_grad_norm=1e9, trl=SGD)
train_sft(Path({checkpoint!r}), chats(), params, out=folder / "out", here=here, seed=5)
"""


@pytest.mark.slow
def test_two_ranks_train_what_one_does(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Two processes (gloo), each with its own packs: the weights of one process with each row in a pass of its own."""
    (tmp_path / "workdir").mkdir()
    code = RANK.format(
        tests=str(Path(__file__).parent), folder=str(tmp_path), checkpoint=str(tiny_checkpoint)
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = os.environ | {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=shared | {"RANK": str(number), "LOCAL_RANK": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (0, 1)
    ]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    trained = {name: p.detach() for name, p in load_model(tmp_path / "out", training=True).named_parameters()}
    params = SFTParams(lr=0.5, batch_size=8, pack_tokens=80)
    for name, wanted in one_by_one(tiny_checkpoint, params, 3, 5).items():
        torch.testing.assert_close(trained[name], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stated", [{}, {"packing": False}], ids=str)
def test_rows_are_packed_unless_the_config_says_otherwise(
    stated: dict[str, Any], tiny_checkpoint: Path, here: Here
) -> None:
    """With and without a GPU."""
    train_sft(
        tiny_checkpoint,
        chats(),
        SFTParams(batch_size=4, max_steps=1, max_length=512, **stated),
        out=here.workdir / "out",
        here=here,
        seed=0,
    )
    assert ("packing" in here.metrics_path.read_text()) is not bool(stated)


def test_a_model_with_a_window_is_padded_with_a_warning(
    tiny_checkpoint: Path, here: Here, tmp_path: Path
) -> None:
    import shutil

    from transformers import AutoConfig, AutoModelForCausalLM

    folder = shutil.copytree(tiny_checkpoint, tmp_path / "window")
    (folder / "model.safetensors").unlink()
    sizes = {
        "vocab_size": AutoConfig.from_pretrained(tiny_checkpoint).vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "intermediate_size": 64,
    }
    config = AutoConfig.for_model(
        "mistral", sliding_window=16, num_attention_heads=2, num_key_value_heads=1, head_dim=16, **sizes
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    params = SFTParams(batch_size=4, max_steps=1, max_length=512)
    with pytest.warns(UserWarning, match="window of 16"):
        assert train_sft(folder, chats(), params, out=here.workdir / "out", here=here, seed=0)["steps"] == 1


def test_a_warning_says_that_a_microbatch_is_ignored_where_rows_are_packed(
    tiny_checkpoint: Path, here: Here
) -> None:
    params = SFTParams(batch_size=4, max_steps=1, max_length=512, microbatch=2)
    with pytest.warns(UserWarning, match="microbatch 2 is ignored"):
        train_sft(tiny_checkpoint, chats(), params, out=here.workdir / "out", here=here, seed=0)


def test_the_sources_of_trl_are_those_that_were_read() -> None:
    """TRL's methods that are overridden, and its internals that are called.

    Where a hash differs: read the new source, adapt ours, and put the new hash here.
    """
    import hashlib
    import inspect

    import trl
    from trl.kernels import chunked_logprob

    read = {
        "SFTTrainer.compute_loss": "ca448211ff653fe6",
        "SFTTrainer.log": "0d4c8e5d64f894ac",
        "chunked_logprob": "839b28adba1daf35",
    }
    for name, source in zip(
        read, (trl.SFTTrainer.compute_loss, trl.SFTTrainer.log, chunked_logprob), strict=True
    ):
        assert hashlib.sha256(inspect.getsource(source).encode()).hexdigest()[:16] == read[name], (
            f"TRL changed {name}"
        )


@pytest.mark.parametrize(
    "asked",
    [{"loss_type": "dft"}, pytest.param({"label_smoothing_factor": 0.2}, marks=pytest.mark.slow)],
    ids=str,
)
def test_another_loss_is_the_one_that_rows_alone_have(
    asked: dict[str, Any], tiny_checkpoint: Path, here: Here
) -> None:
    """The loss without logits is the plain negative log-likelihood, and it once replaced every other loss too."""
    trained = {}
    for packing, loss in ((True, asked), (False, asked), (True, {})):
        params = SFTParams(
            lr=0.5,
            batch_size=20,
            max_steps=1,
            max_length=512,
            packing=packing,
            max_grad_norm=1e9,
            bf16=False,
            trl=SGD | loss,
        )
        out = here.workdir / f"{packing}{bool(loss)}"
        train_sft(tiny_checkpoint, chats(), params, out=out, here=here, seed=5)
        trained[packing, bool(loss)] = dict(load_model(out, training=True).named_parameters())
    for name, alone in trained[False, True].items():
        torch.testing.assert_close(trained[True, True][name], alone, atol=1e-5, rtol=1e-4)
    assert any(
        (trained[True, False][name] - alone).abs().max() > 1e-3
        for name, alone in trained[False, True].items()
    ), "a loss of its own"
