#!/bin/sh
# Prints the path of the first Python that meets the project's requirements. If there is none, says why for each one.
# usage: tools/find_python.sh CANDIDATE...
set -eu

# The rule of pyproject.toml's requires-python (project/test_install.py compares them). Debian packages venv separately.
probe='
import sys
version = tuple(sys.version_info[:3])
if not (3, 11, 5) <= version < (3, 14):
    sys.exit("is Python %d.%d.%d" % version)
try:
    import ensurepip, venv
except ImportError:
    sys.exit("has no venv module (Debian, Ubuntu: apt install python3-venv)")
print(getattr(sys, "_base_executable", sys.executable))
'
faults=
for candidate; do
    if ! command -v "$candidate" >/dev/null; then
        fault='not found'
    elif answer=$("$candidate" -c "$probe" 2>&1); then
        printf '%s\n' "$answer"
        exit
    else
        # Shims of version managers print several lines for an inactive version; keep the first.
        fault=$(printf '%s\n' "$answer" | head -n 1)
    fi
    faults="$faults
  $candidate: $fault"
done
echo "error: Python 3.11.5 or newer, but older than 3.14, is needed; tried:$faults
Set its path, e.g. make PYTHON=/path/to/python3.12" >&2
exit 1
