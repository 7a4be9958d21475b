#!/bin/sh
# Writes requirements.lock from pyproject.toml, for every Python that it allows; pins stay where they still fit
# (for newer ones: rm requirements.lock). The CUDA packages stay out: torch's own CUDA build pins and brings them.
set -eu
uv pip compile pyproject.toml --extra dev --universal --python-version 3.11.5 --no-annotate --no-header --quiet \
    --output-file requirements.lock
awk '/^nvidia-ml-py==/ || !/^(nvidia-|cuda-|triton==)/' requirements.lock >requirements.lock.partial
mv requirements.lock.partial requirements.lock
