#!/bin/sh
# Creates a virtual environment with the packages of requirements.lock except kenlm, and with this project (editable).
# usage: [NO_BYTECODE=1] tools/install.sh VENV [PYTHON]
set -eu
venv=$1

# Without PYTHON: use that of an existing environment, else the first suitable one on PATH.
if [ -n "${2:-}" ]; then
    python=$(sh tools/find_python.sh "$2")
elif [ -e "$venv/bin/python" ]; then
    python=$(sh tools/find_python.sh "$venv/bin/python" python3.11 python3.12 python3.13 python3)
else
    python=$(sh tools/find_python.sh python3.11 python3.12 python3.13 python3)
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# Clear an environment of another Python version: the new version would never read its packages.
clear=
[ ! -e "$venv/pyvenv.cfg" ] || [ -d "$venv/lib/python$version" ] || clear=--clear
echo "Creating $venv with $("$python" --version), $python"
"$python" -m venv $clear "$venv"
bin=$venv/bin
log=$venv/install.log
: >"$log"

pin() { sed -n "s/^\($1==[^ ;]*\).*/\1/p" requirements.lock; }
pip() { "$bin/python" -m pip --disable-pip-version-check "$@" >>"$log" 2>&1; }
plain_uv() { "$bin/uv" --no-progress pip install --python "$bin/python" "$@" >"$log.uv" 2>&1; }
# uv brings its own certificates. Behind a proxy that signs with a company's certificate, the system's are needed.
uv() {
    plain_uv "$@" || { grep -q "invalid peer certificate" "$log.uv" && plain_uv --system-certs "$@"; }
    code=$?
    cat "$log.uv" >>"$log"
    return "$code"
}
fail() {
    tail -n 20 "$log" >&2
    echo "error: could not install $1; the full output is in $log" >&2
    exit 1
}

uv=$(pin uv) torch=$(pin torch) torchvision=$(pin torchvision)
echo "Installing $uv"
pip install "$uv" || fail "$uv"

# torch comes first, because uv selects the build that matches the machine's GPU, or the CPU build without one. If
# PyTorch's package index is not reachable, pip installs from its configured index; uv's own number of retries would
# wait for ten seconds before that.
echo "Installing $torch and $torchvision"
(export UV_HTTP_RETRIES=1 && uv --torch-backend=auto "$torch" "$torchvision") || {
    echo "  PyTorch's package index is not reachable: installing $torch from pip's index"
    pip install --no-compile "$torch" || fail "$torch"
}

# kenlm must be compiled and is needed by one operator only, so `make test` installs it (tools/kenlm.sh).
grep -v '^kenlm==' requirements.lock >"$venv/requirements.txt"
echo "Installing the other packages of requirements.lock"
uv -r "$venv/requirements.txt" || fail "a package of requirements.lock"
echo "Installing this project, editable"
uv --no-deps --editable . || fail "this project"

# uv does not compile. Usually Python does, at the first import. Where PYTHONDONTWRITEBYTECODE is set, as in many
# containers, each process would compile again what it imports, which takes longer than the imports. Left out is what few
# or no processes import. Some packages contain templates that are no Python: no error here.
if [ -n "${NO_BYTECODE:-}" ]; then
    echo "Compiling the packages to bytecode, because PYTHONDONTWRITEBYTECODE is set"
    rare='/(tests?|transformers/models|diffusers|ray/rllib|torch/_inductor|torch/testing/_internal|streamlit|altair)/'
    "$bin/python" -m compileall -q -j 0 -x "$rare" "$venv/lib/python$version/site-packages" >>"$log" 2>&1 || :
fi
