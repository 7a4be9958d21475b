#!/usr/bin/env bash
# Fetches the public weights of MGM-2B and joins them to the base that training starts from. Each has a licence of its
# own; Gemma's must be accepted on its page first, and `hf auth login` makes you known.
#
#   bash toolkit/download.sh             (from the project's folder)
#
# A revision can be pinned, e.g. GEMMA_REVISION=<commit>; what was fetched is written to revisions.txt.
set -euo pipefail

ZOO=${ZOO:-toolkit/training/model_zoo}
PYTHON=${PYTHON:-python}

fetch() { # repository, revision, folder, files…
    local repository=$1 revision=$2 folder=$3
    shift 3
    hf download "$repository" --revision "$revision" --local-dir "$ZOO/$folder" "$@" > /dev/null
    printf '%s %s %s\n' "$repository" "$revision" "$(cat "$ZOO/$folder"/.cache/huggingface/download/*.metadata | sed -n 1p)" \
        >> "$ZOO/revisions.txt"
}

mkdir -p "$ZOO"
: > "$ZOO/revisions.txt"
fetch google/gemma-2b-it "${GEMMA_REVISION:-main}" LLM/gemma/gemma-2b-it --exclude '*.gguf'
fetch openai/clip-vit-large-patch14-336 "${CLIP_REVISION:-main}" OpenAI/clip-vit-large-patch14-336
convnext=OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup
fetch laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup "${CONVNEXT_REVISION:-main}" "$convnext"
$PYTHON -m toolkit.mgm.assemble --gemma "$ZOO/LLM/gemma/gemma-2b-it" --clip "$ZOO/OpenAI/clip-vit-large-patch14-336" \
    --convnext "$ZOO/$convnext" --output "$ZOO/MGM-2B-base"
cat "$ZOO/revisions.txt"
