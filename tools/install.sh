#!/bin/sh
# Makes a virtual environment with the packages of requirements.lock but for kenlm, and this project, editable.
# usage: tools/install.sh PYTHON VENV
set -eu
python=$1
venv=$2

# The rule of pyproject.toml's requires-python, checked before anything is made.
"$python" -c 'import sys; sys.exit(not (3, 11, 5) <= sys.version_info < (3, 14))' || {
    echo "error: $python is $("$python" --version 2>&1); Python 3.11.5 or newer, but older than 3.14, is needed:" \
        "name one, e.g. make PYTHON=/path/to/python3.11" >&2
    exit 1
}
"$python" -m venv "$venv"
bin=$venv/bin
"$bin/python" -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' requirements.lock)"

# torch first: uv takes the build that fits the machine's GPU, and the CPU build where there is none. Where PyTorch's
# own index is out of reach, pip takes what its configuration finds; uv's error is shown only if that fails too.
torch=$(grep '^torch==' requirements.lock)
torchvision=$(grep '^torchvision==' requirements.lock)
log=$venv/torch.log
if ! "$bin/uv" pip install --quiet --python "$bin/python" --torch-backend=auto "$torch" "$torchvision" 2>"$log"; then
    "$bin/python" -m pip install --quiet --disable-pip-version-check "$torch" || {
        cat "$log" >&2
        exit 1
    }
    echo "note: PyTorch's own index was not usable, so $torch came from pip's index (details: $log)" >&2
fi

# kenlm has to be compiled: `make test` does that, because only one operator needs it.
grep -v '^kenlm==' requirements.lock >"$venv/requirements.txt"
"$bin/uv" pip install --quiet --python "$bin/python" -r "$venv/requirements.txt"
"$bin/uv" pip install --quiet --python "$bin/python" --no-deps --editable .
