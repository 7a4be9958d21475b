#!/bin/sh
# Compiles and installs kenlm, which takes about a minute. Only perplexity_filter needs it.
# usage: tools/kenlm.sh VENV
set -eu
venv=$1
log=$venv/kenlm.log
kenlm=$(grep '^kenlm==' requirements.lock)
echo "Compiling ${kenlm%% *}"
# uv skips a package whose marker excludes this Python.
if ! "$venv/bin/uv" --no-progress pip install --python "$venv/bin/python" "$kenlm" >"$log" 2>&1; then
    echo "  not built: install g++ and the Python headers (output: $log); perplexity_filter cannot run"
elif ! "$venv/bin/python" -c 'import kenlm' 2>>"$log"; then
    echo "  skipped: kenlm does not compile on $("$venv/bin/python" --version); perplexity_filter cannot run"
fi
