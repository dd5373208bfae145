"""What torch.compile traces, on a CPU.

A back end that compiles nothing: what was traced is counted, and run as it is. And packed attention as one operator,
as a GPU's kernel is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from r1pipe.models import packed_attention as varlen
from r1pipe.models.attention_kernels import Kernel
from r1pipe.models.packed_attention import Ends


def noting(graphs: list[Any]) -> Callable[[Any, Any], Any]:
    """Return the back end; it appends each graph that it is given."""

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    return backend


def by_sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ends: torch.Tensor,
    key_ends: torch.Tensor,
    longest: int,
    scale: float,
) -> torch.Tensor:
    """Packed attention as a kernel of attention_kernels.py, by SDPA, one sequence after the other."""
    rows = (x.transpose(0, 1)[None] for x in (q, k, v))
    return varlen._attend_each(*rows, Ends(ends, key_ends), scale)[0].contiguous()


_operator = torch.library.custom_op("r1pipe_test::attend", by_sdpa, mutates_args=())
_operator.register_fake(lambda q, *_: torch.empty_like(q))
_operator.register_autograd(lambda context, grad: (grad, *[None] * 6))


def attend_by_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let packed attention be one operator. Its gradient is not that of attention."""
    kernel = torch.ops.r1pipe_test.attend
    monkeypatch.setattr(varlen, "attention_kernel", lambda width: Kernel("fake", kernel, True))
    monkeypatch.setattr(varlen, "_has_kernel", lambda query: True)
