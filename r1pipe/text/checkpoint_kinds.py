"""Of which kind a checkpoint's model is: whether transformers loads it as a language model, told from its files.

Which architectures it loads stands in its own table, which is read as text: importing it takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from r1pipe.text.checkpoint_files import CheckpointFiles
from r1pipe.text.checkpoint_weights import Found

# Names of what writes text from left to right, as transformers ends them.
_WRITERS = ("ForCausalLM", "LMHeadModel")
_CLASSIFIER = "ForSequenceClassification"
_OTHER_PARTS = ("vision_config", "audio_config", "vq_config")

# Models that read images as well, of which transformers loads the language model alone, and leaves the other weights
# out. Of others it would find weights that it does not know.
_TEXT_ALONE = ("qwen3_5", "qwen3_5_moe", "qwen4_exp")

# What sentence-transformers puts beside a model of embeddings.
_OF_EMBEDDINGS = ("modules.json", "config_sentence_transformers.json")

# Method of quantization -> the packages that transformers reads such weights with; fp8 needs none.
_READERS = {
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed_tensors",),
}

_TAKE_ANOTHER = "take a causal language model (architectures: [...ForCausalLM])"


def kind_of_model(files: CheckpointFiles, *, trains: bool, classifies: bool) -> Iterator[Found]:
    """What is to be said of the model of a stage that trains, draws from or makes a classifier of it.

    Args:
        classifies: the model becomes a reward model.
    """
    name = _architecture(files)
    # transformers goes by this alone; `architectures` says what the weights were saved from.
    model_type = files.config.get("model_type")
    loaded = _loaded_as("CAUSAL_LM").get(str(model_type), "")
    if files.config.get("is_encoder_decoder") or (name and not _writes(name, files)):
        yield (
            "error",
            "config.json",
            f"{name or 'an encoder-decoder'} is no language model that writes from left to right",
            _TAKE_ANOTHER,
        )
    elif any((files.folder / file).is_file() for file in _OF_EMBEDDINGS):
        yield (
            "error",
            _OF_EMBEDDINGS[0],
            "it is a model of embeddings (sentence-transformers), which was not trained to write",
            "take the language model that it was made of",
        )
    elif not model_type:
        yield (
            "error",
            "config.json",
            "it has no model_type, by which transformers knows the model",
            "bring the config.json that was published with the weights",
        )
    elif _loaded_as("CAUSAL_LM") and not loaded:
        yield _not_loaded(files, name)
    # Not each of those that transformers lists can be loaded from the weights of all.
    elif _reads_more(files):
        yield _beside_text(files, name, loaded)
    if classifies and loaded and model_type not in _loaded_as("SEQUENCE_CLASSIFICATION"):
        yield (
            "error",
            "config.json",
            f"transformers {version('transformers')} has no {_CLASSIFIER} for {model_type}",
            "train reward models from a model that has one (Llama, Qwen, Gemma, Mistral, ...)",
        )
    yield from _quantized(files, trains)


def kind_of_reward_model(files: CheckpointFiles) -> Iterator[Found]:
    """What is to be said of the model of a stage that scores with it."""
    name = _architecture(files)
    labels = files.config.get("num_labels", len(files.config.get("id2label") or [0]))
    if name and not name.endswith(_CLASSIFIER):
        what = f"a reward model gives one score, and {name} gives none"
    elif labels != 1:
        what = f"a reward model gives one score, and this classifier has {labels} labels"
    else:
        return
    yield "error", "config.json", what, "train one with helpful-rm or safety-rm"


def _architecture(files: CheckpointFiles) -> str:
    return next(iter(files.config.get("architectures") or []), "")


def _reads_more(files: CheckpointFiles) -> bool:
    """Whether the model reads images or sound beside text."""
    return any(isinstance(files.config.get(part), dict) for part in _OTHER_PARTS)


def _writes(name: str, files: CheckpointFiles) -> bool:
    if name.endswith(_WRITERS) or name in _loaded_as("CAUSAL_LM").values():
        return True
    # So are those called that read images, and encoder-decoders.
    return name.endswith("ForConditionalGeneration") and _reads_more(files)


def _not_loaded(files: CheckpointFiles, name: str) -> Found:
    """The finding of a model that is not in transformers' table."""
    model_type = files.config["model_type"]
    which = f"transformers {version('transformers')}"
    if _reads_more(files):
        return (
            "error",
            "config.json",
            f"{name or model_type} reads images or sound as well, and {which} loads no language model of it alone",
            "take the language model that it was made of (architectures: [...ForCausalLM])",
        )
    if files.config.get("auto_map"):
        return (
            "error",
            "config.json",
            f"the model is code of its authors (auto_map), which is not run, and {which} has none for {model_type}",
            "take a checkpoint whose model transformers has itself",
        )
    return (
        "error",
        "config.json",
        f"{which} knows no causal language model of the type {model_type!r}",
        f"{_TAKE_ANOTHER}; or install the version of transformers that it was published for",
    )


def _beside_text(files: CheckpointFiles, name: str, loaded: str) -> Found:
    """The finding of a model that reads images or sound, of which transformers loads all or a part."""
    if not loaded.endswith(_WRITERS):
        return (
            "warning",
            "config.json",
            f"{name or loaded} reads images or sound as well: all of it is loaded and takes memory",
            "r1pipe trains it on text alone, and saves the other parts as they are",
        )
    if files.config["model_type"] in _TEXT_ALONE:
        return (
            "warning",
            "config.json",
            f"{name or loaded} reads images as well: its language model alone is loaded ({loaded})",
            "r1pipe saves that alone; what it trains reads no images",
        )
    return (
        "error",
        "config.json",
        f"{name or loaded} reads images or sound as well, and {loaded} does not know the weights for that",
        "take the language model that it was made of (architectures: [...ForCausalLM])",
    )


def _quantized(files: CheckpointFiles, trains: bool) -> Iterator[Found]:
    quantized = files.config.get("quantization_config")
    if not quantized:
        return
    method = str(quantized.get("quant_method", "")) if isinstance(quantized, dict) else ""
    shown = f" ({method})" if method else ""
    if trains:
        yield (
            "error",
            "config.json",
            f"its weights are quantized{shown}: they cannot be trained, nor an adapter be merged into them",
            "take the checkpoint in bfloat16 or float32",
        )
        return
    lacking = [package for package in _READERS.get(method, ()) if not find_spec(package)]
    # vLLM reads them by itself.
    if lacking and not find_spec("vllm"):
        yield (
            "error",
            "config.json",
            f"its weights are quantized{shown}, and {' and '.join(lacking)}, which reads them, is not installed",
            f"take the checkpoint in bfloat16 or float32; or pip install {' '.join(lacking)}",
        )


@lru_cache(maxsize=8)
def _loaded_as(head: str) -> dict[str, str]:
    """model_type -> the class that transformers loads for a head; empty where its table cannot be read.

    >>> _loaded_as("CAUSAL_LM")["qwen2"]
    'Qwen2ForCausalLM'
    """
    spec = find_spec("transformers")
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        return {}
    file = Path(places[0]) / "models" / "auto" / "modeling_auto.py"
    # Another version may have the table elsewhere; then the stage itself finds out.
    text = file.read_text(encoding="utf8") if file.is_file() else ""
    table = re.search(rf"^MODEL_FOR_{head}_MAPPING_NAMES = OrderedDict\((.*?)^\)", text, re.M | re.S)
    return dict(re.findall(r'\("([\w.-]+)", "(\w+)"\)', table[1])) if table else {}
