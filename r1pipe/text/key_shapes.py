"""How keys and passwords look: configs refuse them, and what is written down of other programs loses them."""

from __future__ import annotations

import os
import re

# Names of options and variables that hold a secret; `eos_token` and its like are words.
SECRET_NAME = re.compile(
    r"(.*_)?(api_?key|password|passwd|secret|secret_key|access_key|authorization|bearer)|"
    r"(.*_)?(hub|hf|auth|access|api|session|write)_token|token",
    re.IGNORECASE,
)

# How keys of services look: Hugging Face, OpenAI and its like, GitHub, AWS, Slack, W&B, and of HTTP itself.
SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}|xox[abp]-[\w-]{10,}|"
    r"wandb_v\d+_[A-Za-z0-9_]{20,})|"
    r"\bBearer\s+[\w.~+/-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY"
)

# A parameter of an address, as in http://127.0.0.1:7860/?write_token=...
_IN_ADDRESS = re.compile(r"(?i)([?&#;][\w.-]*(?:token|key|secret|password|auth)=)[^\s&#;\"'<>]+")
_USER_IN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@]+@")

# A shorter value of a variable is no key, and would be found in words.
SHORTEST_KEY = 8
STRUCK = "[struck out]"


def without_keys(text: str) -> str:
    """A text without what looks like a key, and without the values of this process's variables that hold keys.

    >>> without_keys("dashboard: http://127.0.0.1:7860/?project=r1&write_token=Zx81")
    'dashboard: http://127.0.0.1:7860/?project=r1&write_token=[struck out]'
    """
    # First: what a key looks like may be known to nobody but its owner.
    for name, value in os.environ.items():
        if len(value) >= SHORTEST_KEY and SECRET_NAME.fullmatch(name):
            text = text.replace(value, STRUCK)
    text = _IN_ADDRESS.sub(rf"\g<1>{STRUCK}", text)
    text = _USER_IN_ADDRESS.sub(rf"\g<1>{STRUCK}@", text)
    return SECRET_VALUE.sub(STRUCK, text)
