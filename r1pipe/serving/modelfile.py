"""Ollama's Modelfile: where the weights are, the chat template in Go's language, how to draw."""

from __future__ import annotations

from r1pipe.serving.turns import Turns

# How the published R1 is asked (v1 3: temperature 0.6, top-p 0.95).
TEMPERATURE, TOP_P = 0.6, 0.95

# Tokens of a conversation that Ollama gives memory to, where the model has more (our choice).
MOST_POSITIONS = 32768


def modelfile(
    weights: str,
    turns: Turns | None,
    *,
    ends: list[str],
    positions: int | None,
    licence: str,
) -> str:
    """The text of a Modelfile.

    Args:
        weights: a GGUF file beside it, or `.` for the folder.
        ends: tokens that end a reply.
        turns: of the chat template; without them Ollama goes by the file's own.
        positions: tokens of the longest conversation.
    """
    quotes = '"""'
    lines = [f"FROM {weights}"]
    if turns is not None:
        lines.append(f"TEMPLATE {quotes}{turns.ollama()}{quotes}")
    lines += [
        f"PARAMETER temperature {TEMPERATURE}",
        f"PARAMETER top_p {TOP_P}",
        # Ollama has penalties by default, which the model was not trained with.
        "PARAMETER repeat_penalty 1.0",
    ]
    if positions:
        lines.append(f"PARAMETER num_ctx {min(positions, MOST_POSITIONS)}")
    lines += [f'PARAMETER stop "{end}"' for end in ends]
    lines.append(f"LICENSE {quotes}{licence}{quotes}")
    return "\n".join(lines) + "\n"
