#!/bin/sh
# Writes requirements.lock from pyproject.toml for every supported Python version. Existing pins are kept if they are
# still valid; to upgrade, delete requirements.lock first. The CUDA packages are left out, because torch's CUDA build
# pins and installs them itself.
set -eu
uv pip compile pyproject.toml --extra dev --universal --python-version 3.11.5 --no-annotate --no-header --quiet \
    --output-file requirements.lock
awk '/^nvidia-ml-py==/ || !/^(nvidia-|cuda-|triton==)/' requirements.lock >requirements.lock.partial
mv requirements.lock.partial requirements.lock
