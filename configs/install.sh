# Makes the environment: a torch that fits the machine, then r1pipe from this folder. Called by `make install`.
set -eu
: "${PYTHON:=python3}" "${VENV:=.venv}" "${TORCH_INDEX:=https://download.pytorch.org/whl/cpu}"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "r1pipe needs Python 3.11 or newer; name one with PYTHON=..."; exit 2; }

pin=$(grep -E '^torch==' constraints.txt | cut -d= -f3)
# A torch that the chosen Python already imports is used as it is.
if "$PYTHON" -c 'import torch' 2>/dev/null; then site=--system-site-packages; else site=; fi
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv $site "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check -q "$@"; }

if ! "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
    if command -v nvidia-smi >/dev/null 2>&1; then
        pip install "torch==$pin"
    # First a wheel on disk (pip's find-links), then the CPU index. Never the default index: its build brings CUDA.
    elif ! pip install --no-index "torch==$pin" --no-deps 2>/dev/null; then
        pip install "torch==$pin" --index-url "$TORCH_INDEX"
    fi
fi
pip install -c constraints.txt -e ".[deepspeed,dev]"
