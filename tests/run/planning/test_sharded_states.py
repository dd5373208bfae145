"""What two CPU ranks of DeepSpeed hold of weights, masters and moments, beside what is planned for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine import free_port

from r1pipe.config.profiles import deepspeed_config
from r1pipe.run.planning.activations import Training
from r1pipe.run.planning.footprint import footprint
from r1pipe.run.planning.model_shape import shape_of
from r1pipe.schema import Launch

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow

SIZES = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
RANK = """
import json, sys
import deepspeed, torch
from transformers import Qwen2Config, Qwen2ForCausalLM

settings, sizes = json.loads(sys.argv[1])
torch.manual_seed(0)
deepspeed.init_distributed("gloo")
with deepspeed.zero.Init(config_dict_or_path=settings, enabled=settings["zero_optimization"]["stage"] == 3):
    model = Qwen2ForCausalLM(Qwen2Config(**sizes))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
engine, optimizer, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
ids = torch.arange(32)[None]
for _ in range(2):
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    engine.step()

def size(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

stage = settings["zero_optimization"]["stage"]
masters = optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
moments = [value for state in optimizer.optimizer.state.values() for value in state.values() if value.numel() > 1]
shards = [getattr(p, "ds_tensor", p) for p in engine.module.parameters()]
print("HELD " + json.dumps({"weights": size(shards), "master weights": size(masters), "moments": size(moments)}))
"""


def held_by_rank_0(profile: str, folder: Path) -> dict[str, int]:
    """Bytes that rank 0 holds after two updates."""
    settings = deepspeed_config(Launch(profile=profile))  # type: ignore[arg-type]
    settings |= {"bf16": {"enabled": True}, "train_micro_batch_size_per_gpu": 1, "train_batch_size": 2}
    settings |= {"gradient_accumulation_steps": 1, "gradient_clipping": 1.0}
    settings["zero_allow_untested_optimizer"] = True
    # Buckets of the size of this model, and no small weight that stays whole.
    zero = settings["zero_optimization"]
    zero |= {key: 100_000 for key in zero if key.endswith("bucket_size")}
    if profile == "zero3":
        zero["stage3_param_persistence_threshold"] = 0
    port = free_port()
    ranks = []
    for rank in (0, 1):
        environment = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
        environment |= {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}
        command = [sys.executable, "-c", RANK, json.dumps([settings, SIZES])]
        with (folder / f"{rank}.log").open("w") as log:
            ranks.append(
                subprocess.Popen(
                    command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder
                )
            )
    try:
        outputs = [rank.communicate(timeout=400)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    lines = [line for line in outputs[0].splitlines() if line.startswith("HELD ")]
    assert lines, (folder / "0.log").read_text()[-2000:]
    return json.loads(lines[0].removeprefix("HELD "))


@pytest.mark.parametrize("profile", ["zero2", "zero3"])
def test_each_of_two_ranks_holds_its_share(profile: str, tmp_path: Path):
    held = held_by_rank_0(profile, tmp_path)
    shape = shape_of({"model_type": "qwen2", **SIZES})
    planned: dict[str, Any] = footprint(Training(shape=shape, tokens=32, profile=profile, ranks=2)).terms
    if profile == "zero3":
        # Whole layers, while they work: nothing is gathered after an update.
        planned["weights"] = shape.parameters * 2 / 2
    for name, size in held.items():
        # Shards are filled up to equal sizes.
        assert size == pytest.approx(planned[name], rel=0.02), name
