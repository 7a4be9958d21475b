#!/bin/sh
# Makes a virtual environment with the packages of requirements.lock but for kenlm, and this project, editable.
# usage: tools/install.sh VENV [PYTHON]
set -eu
venv=$1

# Without PYTHON: the one of an existing environment, else the first of PATH that fits.
if [ -n "${2:-}" ]; then
    python=$(sh tools/find_python.sh "$2")
elif [ -e "$venv/bin/python" ]; then
    python=$(sh tools/find_python.sh "$venv/bin/python" python3.11 python3.12 python3.13 python3)
else
    python=$(sh tools/find_python.sh python3.11 python3.12 python3.13 python3)
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# An environment of another Python is emptied: its packages would stay in a folder that this one never reads.
clear=
[ ! -e "$venv/pyvenv.cfg" ] || [ -d "$venv/lib/python$version" ] || clear=--clear
echo "Making $venv with $("$python" --version), $python"
"$python" -m venv $clear "$venv"
bin=$venv/bin
log=$venv/install.log
: >"$log"

pin() { sed -n "s/^\($1==[^ ;]*\).*/\1/p" requirements.lock; }
pip() { "$bin/python" -m pip --disable-pip-version-check "$@" >>"$log" 2>&1; }
uv() { "$bin/uv" --no-progress pip install --python "$bin/python" "$@" >>"$log" 2>&1; }
fail() {
    tail -n 20 "$log" >&2
    echo "error: $1 could not be installed; the full output is in $log" >&2
    exit 1
}

uv=$(pin uv) torch=$(pin torch) torchvision=$(pin torchvision)
echo "Installing $uv"
pip install "$uv" || fail "$uv"

# torch first: uv takes the build that fits the machine's GPU, and the CPU build where there is none. Where PyTorch's
# own index cannot be used, pip takes what its configuration finds.
echo "Installing $torch and $torchvision"
uv --torch-backend=auto "$torch" "$torchvision" || {
    echo "  PyTorch's own index cannot be used: $torch comes from pip's index"
    pip install "$torch" || fail "$torch"
}

# kenlm has to be compiled: `make test` does that, because only one operator needs it.
grep -v '^kenlm==' requirements.lock >"$venv/requirements.txt"
echo "Installing the other packages of requirements.lock"
uv -r "$venv/requirements.txt" || fail "a package of requirements.lock"
echo "Installing this project, editable"
uv --no-deps --editable . || fail "this project"
