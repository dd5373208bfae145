"""Checkpoints in and out: what every stage loads a model or a tokenizer with, and how a trained one is saved."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from r1pipe.errors import GuardError, InputError
from r1pipe.here import Here
from r1pipe.models.folders import check_chat_template, check_folder, readable
from r1pipe.text.checkpoint_files import CheckpointFiles, read_checkpoint
from r1pipe.text.rendering import closing_id

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# Names of weights in an error.
SHOWN_WEIGHTS = 5


def own_device() -> torch.device:
    """This rank's GPU, or the CPU where there is none.

    A process that sees only one of several GPUs calls that one 0, whatever its rank.
    """
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    # torch.distributed's own variable; accelerate chooses the device by it as well.
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def routed(config: Any) -> bool:
    """Whether tokens are routed to experts, which breaks a compiled layer's graph."""
    return getattr(config.get_text_config(), "num_experts_per_tok", None) is not None


def without_adapter(model: Any) -> Any:
    """The model itself, also where an adapter (LoRA) is wrapped around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def load_tokenizer(checkpoint: Path) -> Any:
    """The checkpoint's tokenizer, with a chat template, an end token and a padding token; it pads on the left.

    The tags of a response are ordinary tokens of it, and it appends no end token to a text: where the checkpoint's
    files say otherwise, it is made from mended ones, and a trained checkpoint is saved with those.

    Returns:
        a PreTrainedTokenizerBase, whose own annotations are too wide to be of use.

    Raises:
        InputError: there is no tokenizer, no chat template or no end token, or one of them is broken.
    """
    if not any((checkpoint / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            "the checkpoint has no tokenizer",
            str(checkpoint),
            f"put one of {', '.join(TOKENIZER_FILES)} beside config.json (tokenizer.save_pretrained(FOLDER))",
        )
    check_folder(checkpoint)
    with readable(
        checkpoint, "the tokenizer cannot be loaded", "check tokenizer.json and tokenizer_config.json"
    ):
        tokenizer = _mended_tokenizer(checkpoint)
    if not tokenizer.chat_template:
        raise InputError(
            "the tokenizer has no chat template",
            str(checkpoint),
            "add chat_template.jinja to the checkpoint's folder",
        )
    check_chat_template(tokenizer, checkpoint)
    if tokenizer.eos_token_id is None:
        raise InputError(
            "the tokenizer has no end token", str(checkpoint), 'set "eos_token" in tokenizer_config.json'
        )

    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    # A partial and not a closure, so that the tokenizer can still be copied and pickled.
    if (
        getattr(tokenizer, "backend_tokenizer", None) is not None
        and not tokenizer.clean_up_tokenization_spaces
    ):
        tokenizer.batch_decode = partial(_batch_decode, tokenizer)
    return tokenizer


def _mended_tokenizer(checkpoint: Path) -> Any:
    """The tokenizer as transformers loads it, from files in which tags are ordinary tokens and no end is appended."""
    files = read_checkpoint(checkpoint)
    mended = files.mended()
    if not mended:
        return _as_the_files_say(checkpoint, files)
    with tempfile.TemporaryDirectory() as folder:
        # config.json tells transformers the class of the tokenizer.
        for file in checkpoint.iterdir():
            if file.suffix in (".json", ".jinja", ".txt", ".model") and not file.name.endswith(".index.json"):
                shutil.copy(file, folder)
        for name, content in mended.items():
            (Path(folder) / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf8")
        tokenizer = _as_the_files_say(Path(folder), files)
    tokenizer.name_or_path = str(checkpoint)
    return tokenizer


def _as_the_files_say(folder: Path, files: CheckpointFiles) -> Any:
    """The tokenizer without what its class alone adds.

    transformers chooses the class by the model, and a class has special tokens of its own: Qwen2's adds <|endoftext|>
    behind the last id of a tokenizer that lacks it. The model has no embedding there.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    highest = files.highest_id
    if highest is None:
        return tokenizer
    added = {
        attribute: None
        for attribute, token in tokenizer.special_tokens_map.items()
        if attribute not in {**files.tokenizer_config, **files.special_tokens}
        and isinstance(token, str)
        and tokenizer.convert_tokens_to_ids(token) > highest
    }
    return AutoTokenizer.from_pretrained(folder, **added) if added else tokenizer


def _batch_decode(
    tokenizer: Any, sequences: Any, skip_special_tokens: bool = False, **options: Any
) -> list[str]:
    """`batch_decode` with the tokenizer's own function for many sequences.

    transformers decodes one sequence after the other, which takes one and a half times as long.
    """
    lists_of_ids = isinstance(sequences, list) and all(isinstance(ids, list) for ids in sequences)
    if options or not lists_of_ids:
        return type(tokenizer).batch_decode(tokenizer, sequences, skip_special_tokens, **options)
    return tokenizer.backend_tokenizer.decode_batch(sequences, skip_special_tokens=skip_special_tokens)


def with_positions(checkpoint: Path, positions: int | None, theta: float | None = None) -> Any:
    """The checkpoint's config with more positions and another base of RoPE; None where it stays as it is."""
    from transformers import AutoConfig

    if positions is None:
        return None
    config = AutoConfig.from_pretrained(checkpoint)
    text = config.get_text_config()
    text.max_position_embeddings = positions
    if theta is not None:
        text.rope_parameters = {**(text.rope_parameters or {"rope_type": "default"}), "rope_theta": theta}
    return config


def load_model(
    checkpoint: Path,
    *,
    training: bool,
    frozen: bool = False,
    config: Any = None,
    device: str | torch.device | None = None,
) -> PreTrainedModel:
    """Load the causal language model.

    Weights that are trained are float32; on a GPU, bf16 autocast does the rest. Weights that only sample or score are
    bfloat16 on a GPU and float32 on a CPU.

    Args:
        training: whether a trainer gets the model; else it is moved to `device` and put into evaluation mode.
        frozen: the trainer trains an adapter around the model and not its weights, so on a GPU they are bfloat16.
        config: in place of the checkpoint's (`with_positions`).
        device: of weights that are not trained; none = this rank's.

    Raises:
        InputError: the folder is not a checkpoint, or not one of a causal language model, or weights are missing.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from r1pipe.models.sharding import gather_by_layer

    in_half = torch.cuda.is_available() and (frozen or not training)
    dtype = torch.bfloat16 if in_half else torch.float32
    changed = {} if config is None else {"config": config}
    model = load_weights(AutoModelForCausalLM, checkpoint, dtype=dtype, **changed)
    plain_generation_config(model)
    if training:
        gather_by_layer(model)
    else:
        torch.nn.Module.to(model, device or own_device()).eval()
    return model


def load_weights(auto_class: Any, checkpoint: Path, *, new_head: bool = False, **options: Any) -> Any:
    """`from_pretrained` of one of transformers' Auto classes, where every weight comes from the checkpoint.

    transformers draws weights that it does not find at random, and leaves out those that it does not know.

    Args:
        new_head: the model gets another head than the checkpoint has; only its body must fit.

    Raises:
        InputError: the folder is not a checkpoint, its files are damaged, or its weights are not the model's.
    """
    if not (checkpoint / "config.json").is_file():
        raise InputError(
            "this is not a checkpoint: it has no config.json", str(checkpoint), "name a Hugging Face folder"
        )
    check_folder(checkpoint)
    with readable(checkpoint, "the checkpoint cannot be loaded", "check config.json and the weights"):
        # Other sizes are reported with the rest, not raised without a name.
        model, found = auto_class.from_pretrained(
            checkpoint, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )

    body = f"{model.base_model_prefix}."
    problems = []
    for kind, text in (
        ("missing_keys", "missing"),
        ("unexpected_keys", "not in the model"),
        ("mismatched_keys", "of another size"),
    ):
        # A weight of another size comes with both sizes.
        names = sorted(key if isinstance(key, str) else key[0] for key in found[kind])
        names = [name for name in names if not new_head or name.startswith(body)]
        if names:
            shown = ", ".join(names[:SHOWN_WEIGHTS])
            more = f" and {len(names) - SHOWN_WEIGHTS} more" if len(names) > SHOWN_WEIGHTS else ""
            problems.append(f"{text}: {shown}{more}")
    if problems:
        raise InputError(
            f"the checkpoint's weights are not those of its config.json; {'; '.join(problems)}",
            str(checkpoint),
            "bring the whole checkpoint, with the config.json that belongs to it",
        )
    return model


def compile_layers(model: torch.nn.Module, **options: Any) -> int:
    """Apply torch.compile to every decoder layer, in place, so that names in checkpoints stay as they are.

    All layers share one compilation, for any number of tokens.

    Args:
        options: arguments of torch.compile.

    Returns:
        the number of layers.
    """
    from torch._dynamo import config as tracing
    from torch.fx.experimental import _config as symbolic_shapes
    from transformers.modeling_layers import GradientCheckpointingLayer

    # By default sizes that are equal by chance count as one: another batch compiles again, and so does another stage,
    # where the compiler's cache has the layer for unequal sizes.
    symbolic_shapes.use_duck_shape = False
    # A layer's scale and epsilon do not change. By default they are traced as if they could, and then all of it anew:
    # half of the time that a layer takes whose code is in the compiler's cache.
    tracing.specialize_float = True
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    # `compile` of a module changes its forward in place; torch.compile(layer) would wrap it under another name.
    for layer in layers:
        layer.compile(dynamic=True, **options)
    return len(layers)


def end_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a response.

    The tokenizer's, those that generation_config.json names, and the one with which the chat template closes a reply:
    of many a base model (Qwen2.5, Qwen3) that is neither of the others.
    """
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    ends = [*ids, tokenizer.eos_token_id, closing_id(tokenizer)]
    return sorted({int(token_id) for token_id in ends if token_id is not None})


def checkpoint_ends(checkpoint: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`end_ids` of a checkpoint whose model another program loads."""
    from transformers import GenerationConfig, PreTrainedConfig

    folder = str(checkpoint)
    if (checkpoint / "generation_config.json").is_file():
        config = GenerationConfig.from_pretrained(folder)
    else:
        config = GenerationConfig.from_model_config(PreTrainedConfig.from_pretrained(folder))
    return end_ids(SimpleNamespace(generation_config=config), tokenizer)


def settle_ends(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write every end token into the model's generation config, which trainers read and which is saved with it."""
    # A reward model generates nothing, and has no such config.
    if getattr(model, "generation_config", None) is None:
        return
    ends = end_ids(model, tokenizer)
    model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]


def warn_of_positions(checkpoint: Path, prompts: list[list[int]], max_tokens: int) -> None:
    """Warn of prompts that leave the model fewer positions than a response may take."""
    positions = read_checkpoint(checkpoint).positions
    if positions is None:
        return
    too_long = sum(len(prompt) + max_tokens > positions for prompt in prompts)
    if too_long:
        longest = max(map(len, prompts))
        warnings.warn(
            f"{too_long} of {len(prompts)} prompts (the longest has {longest} tokens) leave fewer than max_tokens "
            f"{max_tokens} of the {positions} positions that {checkpoint.name} was made for: what lies beyond them is "
            f"noise; lower max_tokens to {max(1, positions - longest)}, or leave long prompts out",
            stacklevel=3,
        )


def plain_generation_config(model: Any) -> None:
    """Leave the token ids in a model's generation config, and nothing that changes what is drawn.

    A checkpoint may bring repetition_penalty or top_k, which its makers chose for another model than the one that is
    trained here; transformers would apply them wherever a call does not say otherwise, and save them with the result.
    """
    from transformers import GenerationConfig

    brought = getattr(model, "generation_config", None)
    if brought is None:
        return
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    model.generation_config = GenerationConfig(
        **{name: getattr(brought, name) for name in names if getattr(brought, name, None) is not None}
    )


def save_trained(trainer: Any, tokenizer: PreTrainedTokenizerBase, out: Path, here: Here) -> None:
    """Save a plain Hugging Face checkpoint, whatever the sharding. An adapter is merged into its base.

    Every rank must call it, since saving gathers the shards under ZeRO-3 and FSDP2.

    Raises:
        GuardError: a weight is not finite.
    """
    from accelerate.utils import is_peft_model

    model = trainer.accelerator.unwrap_model(trainer.model)
    config = model.config.get_text_config()
    if getattr(config, "output_router_logits", False):
        # TRL switches on the loss that balances experts. A model that answers does not need it.
        config.output_router_logits = False
    settle_ends(without_adapter(model), tokenizer)

    if is_peft_model(model):
        adapter = here.workdir / "adapter"
        base = Path(model.peft_config["default"].base_model_name_or_path)
        trainer.save_model(str(adapter))
        if here.main:
            merge_adapter(adapter, base, out, like=without_adapter(model))
    else:
        trainer.save_model(str(out))

    if here.main:
        check_finite(out)
        tokenizer.save_pretrained(out)
        # A pickle that nothing here reads.
        (out / "training_args.bin").unlink(missing_ok=True)


def check_finite(folder: Path) -> None:
    """Refuse a checkpoint with a weight that is not finite.

    The files are read, so that it is said of what is published, whatever sharded or merged it.

    Raises:
        GuardError: there is one.
    """
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - safe_open is no mapping
                weight = weights.get_tensor(name)
                if not weight.is_floating_point() or not weight.numel():
                    continue
                # Both are NaN where one weight is. One pass: isfinite() makes several, 7 s for 2 GB.
                lowest, highest = weight.aminmax()
                if not (lowest.isfinite() and highest.isfinite()):
                    raise GuardError(
                        f"the trained weights are not finite, among them {name}, so they are not published",
                        fix="a lower lr, more warmup_ratio, a smaller max_grad_norm or bf16: false",
                    )


def merge_adapter(adapter: Path, base: Path, out: Path, like: Any = None) -> None:
    """Add an adapter to the weights of its base, and save them in float32 as a plain checkpoint.

    One process does it, on the CPU.

    Args:
        like: the model that was trained, whose configs are saved in place of the base's.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from r1pipe.models.sharding import unsharded

    with unsharded():
        base_model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(base_model, str(adapter), torch_device="cpu")
        merged: Any = model.merge_and_unload()  # pyright: ignore[reportCallIssue]
        if like is not None:
            merged.config.update(like.config.to_dict())
            merged.generation_config = like.generation_config
        merged.save_pretrained(out)
