"""`r1pipe export`: a checkpoint as a folder that others can use without r1pipe.

out/
  README.md                       the model card
  config.json, *.safetensors,     what transformers, vLLM and others load
  tokenizer.json, ...
  NAME-f16.gguf                   for llama.cpp and Ollama, where asked for
  Modelfile                       for Ollama
  r1pipe.json                     what was exported, and the list of files
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1pipe.errors import InputError
from r1pipe.serving.adapter import base_of, is_adapter, tokenizer_folder
from r1pipe.serving.gguf_file import require_gguf, write_gguf
from r1pipe.serving.lineage import Lineage, check_language_model, lineage_of
from r1pipe.serving.model_card import licence_of, model_card
from r1pipe.serving.modelfile import modelfile
from r1pipe.serving.turns import Turns, take_apart
from r1pipe.serving.whole_folder import check_ours, whole_folder
from r1pipe.text.checkpoint_files import read_checkpoint

QUESTION = "23 + 14 - 9 = ?"
_GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")


def export(
    checkpoint: Path,
    target: Path,
    *,
    gguf: Sequence[str] = (),
    name: str = "",
) -> Path:
    """Write a checkpoint, its card and its files for other programs into a folder.

    Args:
        gguf: precisions of GGUF files (gguf_file.PRECISIONS).
        name: of the model; empty = that of the folder.

    Returns:
        the folder. It is whole or, after an error or a kill, not there.

    Raises:
        InputError: the checkpoint is no language model, or something else stands at `target`.
        MissingToolError: the package gguf is asked for and missing.
    """
    from r1pipe.models.loading import checkpoint_ends, load_tokenizer
    from r1pipe.text.rendering import closing_id, format_of, renderer_of

    # What can be refused is refused before anything is written.
    target = target.absolute()
    check_ours(target)
    if gguf:
        require_gguf()
    lineage = lineage_of(checkpoint)
    name = name or target.name
    with whole_folder(target, {"checkpoint": lineage.name, "run": lineage.run}) as folder:
        _model(checkpoint, folder)
        tokenizer = load_tokenizer(tokenizer_folder(checkpoint))
        tokenizer.save_pretrained(folder)
        ends = checkpoint_ends(folder, tokenizer)
        _settle(folder, ends)

        notes: list[str] = []
        turns = take_apart(renderer_of(tokenizer))
        template = _template(tokenizer, turns, format_of(tokenizer).keeps_thinking, notes)
        files: dict[str, str] = {}
        for precision in gguf:
            files[precision] = f"{name}-{precision}.gguf"
            words = write_gguf(
                folder,
                folder / files[precision],
                precision=precision,
                name=name,
                template=template,
                closing=closing_id(tokenizer),
            )
            notes += [note for note in _notes_on(precision, words.composes) if note not in notes]
        _cards(folder, lineage, name, files, turns, tokenizer.convert_ids_to_tokens(ends), notes)
    return target


# --- the model --------------------------------------------------------------------------------------------------------


def _model(checkpoint: Path, folder: Path) -> None:
    """Copy config and weights; an adapter is merged into its base."""
    if is_adapter(checkpoint):
        from r1pipe.models.loading import merge_adapter

        merge_adapter(checkpoint, base_of(checkpoint), folder)
        return
    check_language_model(checkpoint)
    weights = sorted(checkpoint.glob("*.safetensors"))
    if not weights:
        raise InputError("the checkpoint has no *.safetensors", str(checkpoint), "save it in that format")
    copied = ("config.json", "generation_config.json", "model.safetensors.index.json")
    for file in (*weights, *(checkpoint / name for name in copied)):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def _settle(folder: Path, ends: list[int]) -> None:
    """Say in the files what r1pipe says when it loads them."""
    # Training switches the cache off, and is saved with that.
    _change(folder / "config.json", use_cache=True)
    _change(folder / "generation_config.json", eos_token_id=ends if len(ends) > 1 else ends[0])
    # Where the tokenizer was loaded from on this machine is nobody's concern.
    _change(folder / "tokenizer_config.json", is_local=None, local_files_only=None)


def _change(path: Path, **changes: Any) -> None:
    """Set fields of a JSON file; None removes one."""
    content = json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
    content |= changes
    kept = {key: value for key, value in content.items() if key not in changes or value is not None}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf8")


# --- the chat template ------------------------------------------------------------------------------------------------


def _template(tokenizer: Any, turns: Turns | None, keeps_thinking: bool, notes: list[str]) -> str:
    """The chat template of the GGUF files, which keeps the thinking of a reply."""
    own = tokenizer.chat_template
    text = own if isinstance(own, str) else own["default"]
    if keeps_thinking:
        # transformers alone knows the marks of a reply; a condition leaves the white space as it is.
        return _GENERATION.sub(lambda mark: _condition(*mark.groups()), text)
    if turns is None:
        notes.append("The chat template of the GGUF files drops the thinking of earlier replies.")
        return text
    notes.append(
        "The chat template in tokenizer's files drops the thinking of earlier replies; that of the GGUF files and "
        "the Modelfile keeps it."
    )
    return turns.jinja()


def _condition(before: str, end: str | None, after: str) -> str:
    return f"{{%{before} {'endif' if end else 'if true'} {after}%}}"


# --- what people read -------------------------------------------------------------------------------------------------


def _notes_on(precision: str, composes: bool) -> list[str]:
    notes = []
    if precision == "q8_0":
        notes.append(
            "In q8_0 weights are rounded to 8 bits, so its replies differ in places. The scores above are those of the "
            "weights as they were trained."
        )
    if composes:
        notes.append(
            "The tokenizer puts texts into Unicode's form NFC, which llama.cpp does not do: give it composed text."
        )
    return notes


def _cards(
    folder: Path,
    lineage: Lineage,
    name: str,
    files: dict[str, str],
    turns: Turns | None,
    ends: list[str],
    notes: list[str],
) -> None:
    card = model_card(lineage, name=name, question=QUESTION, gguf=files, notes=notes)
    (folder / "README.md").write_text(card, encoding="utf8")
    weights = f"./{next(iter(files.values()))}" if files else "."
    text = modelfile(
        weights,
        turns,
        ends=ends,
        positions=read_checkpoint(folder).positions,
        licence=licence_of(lineage) or "that of the base; see README.md",
    )
    (folder / "Modelfile").write_text(text, encoding="utf8")


# --- the hub ----------------------------------------------------------------------------------------------------------


def push(folder: Path, repository: str, *, public: bool = False) -> str:
    """Upload an exported folder to the hub; a new repository is private unless asked otherwise.

    Returns:
        the address of the repository.

    Raises:
        InputError: the hub refuses, or the repository is there and public, which was not asked for.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(repository, private=not public, exist_ok=True)
        seen_by_all = not api.repo_info(repository).private
        if not seen_by_all or public:
            api.upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:
        # huggingface_hub's own exceptions differ between its versions.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        what = f"the hub does not take {repository}: {lines[0]}"
        raise InputError(what, fix="check the name, the network and HF_TOKEN") from None
    if seen_by_all and not public:
        raise InputError(
            f"the repository {repository} is public, so nothing was uploaded",
            fix="--public, or another name",
        )
    return str(address)
