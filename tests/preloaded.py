"""Processes of a test's own that may be killed, forked from one that has imported the libraries already."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

# Python has one fork server for each process, and it imports what the first list names: so there is one list.
MODULES = [
    "torch",
    "transformers.models.qwen2.modeling_qwen2",
    "r1pipe.config.loader",
    "r1pipe.data.candidates",
    "r1pipe.generation.hf",
    "r1pipe.generation.sampling_loop",
    "r1pipe.models.loading",
    "r1pipe.rewards",
    "r1pipe.run.stage_runner",
    "r1pipe.training.grpo.grpo_training",
    "r1pipe.training.reward_trainers",
    "r1pipe.training.sft.sft_training",
]


def processes() -> Any:
    """The context that makes them: processes().Process(target=..., args=...)."""
    # A library that asks for GPUs while it is imported must not take one into use: then none could be used in a fork.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    return context


def exit_code(target: Any, *arguments: Any) -> int:
    """Call a function in such a process, and wait; negative for a signal."""
    process = processes().Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.exitcode
