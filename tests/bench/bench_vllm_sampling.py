"""Rejection sampling's back end `vllm` beside a bare vLLM loop, in tokens a second.

    python tests/bench/bench_vllm_sampling.py --out sampling.json

It needs one CUDA machine with vLLM, no network, and about five minutes.

Qwen2.5-0.5B's shape with random weights, 64 prompts of 128 tokens x 16 responses of at most 256. A bare `LLM.generate`
over all prompts, with n = 16 and no seeds, is compared with r1pipe's sampling loop (seeds, units, journal on disk).
Both use one engine, whose prefix cache is emptied before each turn; each goes first in every second turn. The result is
the median of --turns after one that warms up.

Last, whether draws follow the model: by transformers' logits, log p of what was drawn is minus the entropy on average,
also where top_p cuts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from bench_grpo import OFFLINE, machine  # noqa: E402
from grpo_shape import Shape, build_checkpoint  # noqa: E402

PROMPTS = 64
EACH = 16
MAX_TOKENS = 256
BAR = 0.95


def surprise(
    engine: Any, params: Any, prompts: list[Any], checkpoint: Path, temperature: float, top_p: float
) -> dict[str, float]:
    """Return mean and standard error of log p(drawn) + entropy, and the share of draws outside the nucleus.

    The logits are transformers', in float32 from bfloat16 weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    asked = [
        params(temperature=temperature, top_p=top_p, max_tokens=64, ignore_eos=True, seed=i, detokenize=False)
        for i in range(len(prompts))
    ]
    outputs = engine.generate(prompts, asked, use_tqdm=False)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).cuda().eval()
    found, outside = [], []
    for output in outputs:
        drawn_C = torch.tensor(output.outputs[0].token_ids, device="cuda")
        ids_1T = torch.cat([torch.tensor(output.prompt_token_ids, device="cuda"), drawn_C])[None]
        with torch.inference_mode():
            logits_CV = model(ids_1T).logits[0, -len(drawn_C) - 1 : -1].float() / temperature
        probs_CV, order_CV = logits_CV.softmax(-1).sort(-1, descending=True)
        kept_CV = probs_CV.cumsum(-1) - probs_CV < top_p  # the smallest set that reaches top_p
        probs_CV = probs_CV * kept_CV / (probs_CV * kept_CV).sum(-1, keepdim=True)
        logps_CV = probs_CV.clamp(min=1e-30).log()
        entropy_C = -(probs_CV * logps_CV).sum(-1)
        inside_C = (kept_CV & (order_CV == drawn_C[:, None])).any(-1)
        chosen_C = (logps_CV * (order_CV == drawn_C[:, None])).sum(-1)
        found.append((chosen_C + entropy_C)[inside_C])
        outside.append(~inside_C)
    every = torch.cat(found)
    return {
        "mean": every.mean().item(),
        "error": every.std().item() / len(every) ** 0.5,
        "outside": torch.cat(outside).float().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--turns", type=int, default=7, help="machines have moods: single turns of either differed by a third"
    )
    parser.add_argument("--memory", type=float, default=0.6, help="share of the GPU's memory for vLLM")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ.update(OFFLINE | os.environ)
    from vllm import SamplingParams  # type: ignore[import-not-found]

    from r1pipe.generation.sampling_loop import SamplingLoop
    from r1pipe.generation.vllm import SECOND_RUNNER, VLLM, second_runner_suits
    from r1pipe.here import Here
    from r1pipe.schema import Sampling

    shape = Shape(prompts=PROMPTS)
    rows = [{"id": str(i), "prompt": text} for i, text in enumerate(shape.texts(1))]
    sampling = Sampling(
        temperature=1.0,
        top_p=1.0,
        max_tokens=MAX_TOKENS,
        n=EACH,
        batch_size=PROMPTS * EACH,
        backend="vllm",
        vllm={
            "gpu_memory_utilization": given.memory,
            "max_model_len": shape.prompt_tokens + MAX_TOKENS,
            "max_num_seqs": 512,
        },
    )
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        checkpoint = build_checkpoint(work / "checkpoint", shape)
        template = work / "bare.txt"
        template.write_text("{prompt}")
        backend = VLLM(checkpoint, rows, sampling, str(template), seed=0)
        runner = os.environ.get(SECOND_RUNNER, "1" if second_runner_suits(checkpoint) else "vLLM's choice")
        engine: Any = backend._engine
        prompts = [{"prompt_token_ids": ids} for ids in backend._prompts]

        def bare() -> int:
            outputs = engine.generate(
                prompts,
                SamplingParams(n=EACH, temperature=1.0, top_p=1.0, max_tokens=MAX_TOKENS),
                use_tqdm=False,
            )
            return sum(len(one.token_ids) for output in outputs for one in output.outputs)

        def whole() -> int:
            folder = work / f"turn{turn}"
            folder.mkdir()
            here = Here("bench", folder, folder / "metrics.jsonl", folder / "progress.jsonl")
            drawn = SamplingLoop(backend, rows, EACH, here=here, label="samples").run()
            return sum(completion.tokens for row in drawn for completion, _ in row)

        ways = {"bare vLLM": bare, "r1pipe": whole}
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(given.turns + 1):
            for name, way in sorted(ways.items(), reverse=turn % 2 == 1):
                engine.reset_prefix_cache()
                started = time.perf_counter()
                tokens = way()
                if turn:
                    rates[name].append(tokens / (time.perf_counter() - started))
                    print(f"turn {turn}: {name} {rates[name][-1]:.0f} tokens/s", flush=True)
        draws = {}
        for temperature, top_p in ((1.0, 1.0), (0.6, 0.95)):
            draws[f"{temperature}, {top_p}"] = found = surprise(
                engine, SamplingParams, prompts * 4, checkpoint, temperature, top_p
            )
            follows = abs(found["mean"]) <= 4 * found["error"] + 0.01 and found["outside"] <= 0.002
            print(f"temperature {temperature}, top_p {top_p}: ", end="")
            print(f"log p + entropy {found['mean']:+.4f} +- {found['error']:.4f}, ", end="")
            print(f"outside {found['outside']:.5f}", end="")
            print(": drawn from the model" if follows else ": NOT drawn from the model", flush=True)
        counted = [
            engine.generate(
                prompts[:8], SamplingParams(n=4, temperature=1.0, max_tokens=32, seed=5), use_tqdm=False
            )
        ]
        counted += [
            engine.generate(
                prompts[:8], SamplingParams(temperature=1.0, max_tokens=32, seed=5 + k), use_tqdm=False
            )
            for k in range(4)
        ]
        pairs = [
            (counted[0][i].outputs[k].token_ids, counted[1 + k][i].outputs[0].token_ids)
            for i in range(8)
            for k in range(4)
        ]
        same = sum(a == b for one, other in pairs for a, b in zip(one, other, strict=False)) / sum(
            len(one) for one, _ in pairs
        )
        print(
            "samples of one request have the seeds seed, seed + 1, ...: "
            f"{same:.2f} of their tokens are those of requests with these seeds"
        )
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        print(f"{name:40s}{rate:9.0f} tokens/s  x {rate / medians['bare vLLM']:.3f}")
    ratio = medians["r1pipe"] / medians["bare vLLM"]
    print(f"asked {BAR:g} x: {'met' if ratio >= BAR else 'MISSED'}")
    if given.out:
        given.out.write_text(
            json.dumps(
                {
                    "machine": machine(),
                    "second_runner": runner,
                    "tokens_per_second": rates,
                    "medians": medians,
                    "ratio": ratio,
                    "bar": BAR,
                    "draws": draws,
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
