"""llama.cpp in this process, by the wheel xllamacpp: what it makes of a GGUF file."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest


class LlamaCpp:
    """A GGUF file, loaded on one thread of the CPU.

    Args:
        positions: tokens of the longest sequence.
    """

    def __init__(self, file: Path, positions: int = 512) -> None:
        pytest.importorskip("gguf", reason="GGUF files are written with gguf (PyPI), which is missing")
        xllamacpp = pytest.importorskip(
            "xllamacpp", reason="llama.cpp comes with xllamacpp (PyPI), which is missing"
        )
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx = positions
        params.n_parallel = 1
        params.n_gpu_layers = 0
        params.cpuparams.n_threads = 1
        # Keys and values are kept in f16 by default.
        params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
        params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        # Flash attention rounds queries to f16.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.warmup = False
        params.verbosity = 0
        self._server = xllamacpp.Server(params)

    def greedy(self, ids: list[int], max_tokens: int) -> str:
        """The most probable text behind a prompt."""
        reply = self._server.handle_completions(
            {"prompt": ids, "temperature": 0, "max_tokens": max_tokens, "cache_prompt": False}
        )
        return reply["choices"][0]["text"]

    def log_probs(self, ids: list[int], words: int) -> list[float]:
        """The log-probability of each word behind a prompt, (V,)."""
        reply = self._server.handle_completions(
            {"prompt": ids, "temperature": 0, "max_tokens": 1, "logprobs": words, "cache_prompt": False}
        )
        found = {
            word["id"]: word["logprob"]
            for word in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        }
        return [found[number] for number in range(words)]

    def chat(self, messages: list[dict[str, str]], max_tokens: int) -> str:
        """The reply under the file's own chat template."""
        reply = self._server.handle_chat_completions(
            {
                "messages": messages,
                "temperature": 0,
                "max_tokens": max_tokens,
                "reasoning_format": "none",
                "cache_prompt": False,
            }
        )
        return reply["choices"][0]["message"]["content"]

    def tokens(self, text: str) -> list[int]:
        """The ids of a text, in which special tokens are read."""
        return self._post("tokenize", content=text, parse_special=True)["tokens"]

    def prompt(self, messages: list[dict[str, str]]) -> str:
        """A conversation under the file's own chat template."""
        return self._post("apply-template", messages=messages)["prompt"]

    def _post(self, path: str, **body: Any) -> Any:
        address = f"{self._server.listening_address}/{path}"
        request = urllib.request.Request(address, json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read())
