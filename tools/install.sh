#!/bin/sh
# Makes a virtual environment with the packages of requirements.lock but for kenlm, and this project, editable.
# usage: tools/install.sh PYTHON VENV
set -eu
python=$1
venv=$2

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11, 5))' || {
    echo "$python is $("$python" --version 2>&1); Python 3.11.5 or newer is needed: make PYTHON=/path/to/python3.11" >&2
    exit 1
}
"$python" -m venv "$venv"
bin=$venv/bin
"$bin/python" -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' requirements.lock)"

# torch first: uv takes the build that fits the machine's GPU, and the CPU build where there is none. Where PyTorch's
# own index is out of reach, pip takes what its configuration finds.
torch=$(grep '^torch==' requirements.lock)
torchvision=$(grep '^torchvision==' requirements.lock)
"$bin/uv" pip install --quiet --python "$bin/python" --torch-backend=auto "$torch" "$torchvision" ||
    "$bin/python" -m pip install --quiet --disable-pip-version-check "$torch"

# kenlm has to be compiled: `make test` does that, because only one operator needs it.
grep -v '^kenlm==' requirements.lock >"$venv/requirements.txt"
"$bin/uv" pip install --quiet --python "$bin/python" -r "$venv/requirements.txt"
"$bin/uv" pip install --quiet --python "$bin/python" --no-deps --editable .
