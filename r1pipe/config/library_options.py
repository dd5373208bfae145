"""The options of TRL's, transformers' and peft's configs, read from their source: the driver never imports torch."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# Where the classes stand from which the others inherit: class -> package, file.
_BASES = {
    "_BaseConfig": ("trl", "trainer/base_config.py"),
    "TrainingArguments": ("transformers", "training_args.py"),
    "PeftConfig": ("peft", "config.py"),
    "PeftConfigMixin": ("peft", "config.py"),
}
# A method of the class, or what comes behind the class.
_AFTER_FIELDS = re.compile(r"^(    )?(def |@)|^class ", re.MULTILINE)

LORA = "peft/tuners/lora/config.py:LoraConfig"


@cache
def options(config: str) -> frozenset[str]:
    """The fields of a dataclass that its constructor takes, with those that it inherits.

    Args:
        config: `package/path/of/file.py:Class`.

    Returns:
        Empty where the package is not installed, or has its classes elsewhere: then nobody knows, and the library
        itself refuses what it does not take when the stage starts.
    """
    file, _, name = config.partition(":")
    package, _, path = file.partition("/")
    return frozenset(_fields(package, path, name) or ())


def _fields(package: str, path: str, name: str) -> set[str] | None:
    text = _class_body(package, path, name)
    if text is None:
        return None
    (body,) = ast.parse(text).body
    assert isinstance(body, ast.ClassDef)
    fields = {
        line.target.id
        for line in body.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and not _is_hidden(line)
    }
    for base in body.bases:
        if isinstance(base, ast.Name) and base.id in _BASES:
            inherited = _fields(*_BASES[base.id], base.id)
            if inherited is None:
                return None
            fields |= inherited
    return fields


def _class_body(package: str, path: str, name: str) -> str | None:
    """The source of a class up to its first method: parsing the rest of a large file would take 0.03 s."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    try:
        text = Path(next(iter(found.submodule_search_locations)), path).read_text(encoding="utf8")
    except OSError:
        return None
    begin = re.search(rf"^class {name}\b", text, re.MULTILINE)
    if begin is None:
        return None
    end = _AFTER_FIELDS.search(text, begin.end())
    return text[begin.start() : end.start() if end else len(text)]


def _is_hidden(field: ast.AnnAssign) -> bool:
    """Whether the constructor does not take it: `field(init=False)`, or a variable of the class."""
    if "ClassVar" in ast.unparse(field.annotation):
        return True
    arguments = field.value.keywords if isinstance(field.value, ast.Call) else []
    return any(
        argument.arg == "init" and isinstance(argument.value, ast.Constant) and argument.value.value is False
        for argument in arguments
    )
