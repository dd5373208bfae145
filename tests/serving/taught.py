"""A tiny checkpoint that says what it was taught, so that a test knows what a real model will write."""

from __future__ import annotations

from pathlib import Path

from tiny_checkpoint import make_tiny_checkpoint


def taught(folder: Path, reply: str, question: str = "Hello", *, ends: bool = True) -> Path:
    """A checkpoint that answers with this reply, and ends, or goes on without end."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_tiny_checkpoint(folder, [question, reply])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    if not ends:
        text = text.removesuffix(tokenizer.eos_token)
    ids_BT = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(300):
        loss = model(ids_BT, labels=ids_BT).loss
        if loss < 0.02:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder
