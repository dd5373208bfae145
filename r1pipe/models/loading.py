"""Checkpoints in and out."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.errors import InputError
from r1pipe.here import Here

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def own_device() -> torch.device:
    """This rank's GPU, the CPU where there is none. A process that sees one GPU of several calls that one 0, whatever its rank."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def routed(config: Any) -> bool:
    """Whether tokens are routed to experts, which breaks a compiled layer's graph."""
    return getattr(config.get_text_config(), "num_experts_per_tok", None) is not None


def without_adapter(model: Any) -> Any:
    """The model itself, also where LoRA is laid around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def load_tokenizer(checkpoint: Path) -> Any:
    """The checkpoint's tokenizer (a PreTrainedTokenizerBase, whose own annotations are too wide to use), which must know how to chat, to end and to pad.

    Raises:
        InputError: no tokenizer, no chat template or no end token.
    """
    from transformers import AutoTokenizer

    if not any((checkpoint / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            "the checkpoint has no tokenizer",
            str(checkpoint),
            f"put one of {', '.join(TOKENIZER_FILES)} beside config.json (tokenizer.save_pretrained(FOLDER))",
        )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if not tokenizer.chat_template:
        raise InputError(
            "the tokenizer has no chat template", str(checkpoint), "add chat_template.jinja to the checkpoint's folder"
        )
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end token", str(checkpoint), 'set "eos_token" in tokenizer_config.json')
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    if getattr(tokenizer, "backend_tokenizer", None) is not None and not tokenizer.clean_up_tokenization_spaces:
        tokenizer.batch_decode = partial(_batch_decode, tokenizer)
    return tokenizer


def _batch_decode(tokenizer: Any, sequences: Any, skip_special_tokens: bool = False, **more: Any) -> list[str]:
    """Of many lists of ids by the tokenizer's own call for many; transformers' decodes one after the other, which takes half as long again."""
    if more or not isinstance(sequences, list) or not all(isinstance(ids, list) for ids in sequences):
        return type(tokenizer).batch_decode(tokenizer, sequences, skip_special_tokens, **more)
    return tokenizer.backend_tokenizer.decode_batch(sequences, skip_special_tokens=skip_special_tokens)


def load_model(checkpoint: Path, *, training: bool, frozen: bool = False) -> PreTrainedModel:
    """The causal language model.

    Weights that are trained are float32 (bf16 autocast does the rest on a GPU); weights that only sample or score are
    bfloat16 on a GPU, float32 on a CPU, and so are those that an adapter is laid around where the caller says `frozen`.

    Raises:
        InputError: not a checkpoint, or of an architecture that is not a causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from r1pipe.models.sharding import gather_by_layer

    if not (checkpoint / "config.json").is_file():
        raise InputError(
            "this is not a checkpoint: it has no config.json", str(checkpoint), "name a Hugging Face folder"
        )
    gpu = torch.cuda.is_available()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=torch.bfloat16 if gpu and (frozen or not training) else torch.float32
        )
    except (ValueError, OSError) as error:
        raise InputError(
            f"the checkpoint cannot be loaded: {str(error).splitlines()[0]}",
            str(checkpoint),
            "check config.json and the weights",
        ) from error
    if training:
        gather_by_layer(model)
    else:
        torch.nn.Module.to(model, own_device()).eval()
    return model


def compile_layers(model: torch.nn.Module, **options: Any) -> int:
    """torch.compile of every decoder layer, in place, so that names in checkpoints stay; all layers share one compilation, for any number of tokens.

    Args:
        options: of torch.compile.

    Returns:
        how many layers.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer.compile(dynamic=True, **options)
    return len(layers)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a response: the tokenizer's and those that generation_config.json names."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return sorted({int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None})


def save_trained(trainer: Any, tokenizer: PreTrainedTokenizerBase, out: Path, here: Here) -> None:
    """A plain Hugging Face folder out of any sharding; an adapter is merged into its base. Every rank calls it."""
    from accelerate.utils import is_peft_model

    model = trainer.accelerator.unwrap_model(trainer.model)
    text = model.config.get_text_config()
    if getattr(text, "output_router_logits", False):
        text.output_router_logits = (
            False  # TRL's switch for the loss that balances experts; a model that answers has no use for them
        )
    if is_peft_model(model):
        adapter = here.workdir / "adapter"
        trainer.save_model(str(adapter))  # collective, as below
        if here.main:
            merge_adapter(adapter, Path(model.peft_config["default"].base_model_name_or_path), out)
    else:
        trainer.save_model(str(out))  # collective: gathers the shards under ZeRO-3 and FSDP2
    if here.main:
        tokenizer.save_pretrained(out)
        (out / "training_args.bin").unlink(missing_ok=True)  # a pickle; nothing here reads it


def merge_adapter(adapter: Path, base: Path, out: Path) -> None:
    """The base with an adapter added to its weights, float32, as a plain checkpoint. One process, on the CPU."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from r1pipe.models.sharding import unsharded

    with unsharded():
        whole = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(adapter), torch_device="cpu"
        )
        whole.merge_and_unload().save_pretrained(out)  # pyright: ignore[reportCallIssue]
