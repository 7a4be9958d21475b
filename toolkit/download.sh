#!/usr/bin/env bash
# Downloads the public weights of MGM-2B and assembles the base model from which training starts. Each model has its own
# licence. Accept Gemma's on its model page and run `hf auth login` first.
#
#   bash toolkit/download.sh             (from the project's folder)
#
# Revisions are pinned; set GEMMA_REVISION, CLIP_REVISION or CONVNEXT_REVISION to a commit to use another. Files with a
# published SHA-256 sum (below) are checked against it. The sums of all other files are recorded in checksums.txt at the
# first download (in the format of `sha256sum -c`) and checked from then on; the revisions are written to revisions.txt.
# A mismatch is an error that names the file.
set -euo pipefail
case "${1-}" in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    ?*) echo "error: unknown argument '$1'; set values before the command, e.g. ZOO=folder bash $0" >&2; exit 2 ;;
esac

ZOO=${ZOO:-toolkit/training/model_zoo}
PYTHON=${PYTHON:-python}
RECORD=$ZOO/checksums.txt

published() { # revision, file -> its published sum, or nothing
    awk -v at="$1 $2" '$2 " " $3 == at {print $1}' << 'SUMS'
561656f892a2a1ca0837ca529c5ce820a72b40f4f563b1cd0a1acc0b3899c30c 96988410cbdaeb8d5093d1ebdc5a8fb563e02bad model-00001-of-00002.safetensors
20fe2ee66bf1361241a6c522091a5e0328fc6c1703f93734889fa381fcf8760c 96988410cbdaeb8d5093d1ebdc5a8fb563e02bad model-00002-of-00002.safetensors
61a7b147390c64585d6c3543dd6fc636906c9af3865a5548f27f31aee1d4c8e2 96988410cbdaeb8d5093d1ebdc5a8fb563e02bad tokenizer.model
c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801 ce19dc912ca5cd21c8a653c79e251e808ccabcd1 pytorch_model.bin
51b1c14aabcdf639c4a0370eeda1010b773bbe1df78319c7d0f5882c22ac0ac0 ce19dc912ca5cd21c8a653c79e251e808ccabcd1 config.json
d253881f65322dc546df59cf925a408e5538b8ecb5a1b496cdd36af9992686d4 ce19dc912ca5cd21c8a653c79e251e808ccabcd1 preprocessor_config.json
4572137af44b2e26f01f638337a59688ec289e9363e15c08dde16640afb86988 39918dfbdf69ccd2172e6510a430e92337ee23e1 open_clip_pytorch_model.bin
SUMS
}

fetch() { # repository, revision, folder, files…
    local repository=$1 revision=$2 folder=$3 file sum expected
    shift 3
    hf download "$repository" "$@" --revision "$revision" --local-dir "$ZOO/$folder" > /dev/null
    for file in "$@"; do
        sum=$(sha256sum "$ZOO/$folder/$file" | cut -d ' ' -f 1)
        expected=$(published "$revision" "$file")
        expected=${expected:-$(awk -v at="$folder/$file" '$2 == at {print $1}' "$RECORD")}
        if [[ -z $expected ]]; then
            printf '%s  %s\n' "$sum" "$folder/$file" >> "$RECORD"
        elif [[ $sum != "$expected" ]]; then
            echo "error: $ZOO/$folder/$file has SHA-256 $sum, expected $expected; delete it and run this again" \
                "(if you changed the revision, also delete its line in $RECORD)" >&2
            exit 1
        fi
    done
    echo "$repository $revision" | tee -a "$ZOO/revisions.txt"
}

mkdir -p "$ZOO"
touch "$RECORD"
: > "$ZOO/revisions.txt"
gemma=LLM/gemma/gemma-2b-it
clip=OpenAI/clip-vit-large-patch14-336
convnext=OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup
fetch google/gemma-2b-it "${GEMMA_REVISION:-96988410cbdaeb8d5093d1ebdc5a8fb563e02bad}" "$gemma" \
    config.json generation_config.json model.safetensors.index.json model-00001-of-00002.safetensors \
    model-00002-of-00002.safetensors special_tokens_map.json tokenizer.json tokenizer.model tokenizer_config.json
fetch openai/clip-vit-large-patch14-336 "${CLIP_REVISION:-ce19dc912ca5cd21c8a653c79e251e808ccabcd1}" "$clip" \
    config.json preprocessor_config.json pytorch_model.bin
fetch laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup \
    "${CONVNEXT_REVISION:-39918dfbdf69ccd2172e6510a430e92337ee23e1}" "$convnext" \
    open_clip_config.json open_clip_pytorch_model.bin
"$PYTHON" -m toolkit.models.mgm.assemble --gemma "$ZOO/$gemma" --clip "$ZOO/$clip" --convnext "$ZOO/$convnext" \
    --output "$ZOO/MGM-2B-base"
