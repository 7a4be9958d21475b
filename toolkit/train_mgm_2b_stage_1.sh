#!/usr/bin/env bash
# Runs stage 1 of the contest kit: batch check, sample budget, LLaVA format, pre-training, fine-tuning, evaluation
# (default: TextVQA and MMBench), copy of this script. Stops at the first failure and names the failed step.
#
#   bash toolkit/train_mgm_2b_stage_1.sh            (from the project's folder; set any value below before the command)
#   GPUS=1 DEVICE=cpu DEEPSPEED= bash toolkit/train_mgm_2b_stage_1.sh                                 (without a GPU)
#
# Unless set, gradient accumulation is computed from the global batch (256 and 128), the number of GPUs and the batch
# per GPU.
set -euo pipefail
case "${1-}" in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    ?*) echo "error: unknown argument '$1'; set values before the command, e.g. GPUS=1 DEVICE=cpu DEEPSPEED= bash $0" >&2; exit 2 ;;
esac
KIT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

############################## may be changed ##############################
EXP_NAME=${EXP_NAME:-default}
PRETRAIN_DATASET=${PRETRAIN_DATASET:-output/processed_data/processed_data.jsonl}
PRETRAIN_DATASET_IMAGE_PATH=${PRETRAIN_DATASET_IMAGE_PATH:-input/pretrain_stage_1}
PRETRAIN_BATCH_SIZE_PER_GPU=${PRETRAIN_BATCH_SIZE_PER_GPU:-8}
PRETRAIN_GRADIENT_ACCUMULATION_STEPS=${PRETRAIN_GRADIENT_ACCUMULATION_STEPS-}    # empty: computed, 4 on 8 GPUs
PRETRAIN_DATALOADER_NUM_WORKERS=${PRETRAIN_DATALOADER_NUM_WORKERS:-4}
FINETUNE_BATCH_SIZE_PER_GPU=${FINETUNE_BATCH_SIZE_PER_GPU:-8}
FINETUNE_GRADIENT_ACCUMULATION_STEPS=${FINETUNE_GRADIENT_ACCUMULATION_STEPS-}    # empty: computed, 2 on 8 GPUs
FINETUNE_DATALOADER_NUM_WORKERS=${FINETUNE_DATALOADER_NUM_WORKERS:-4}
LOGGING_STEP=${LOGGING_STEP:-1}
CKPT_SAVE_STEPS=${CKPT_SAVE_STEPS:-100}      # steps between checkpoints, from which a killed run resumes; 0: none
TOTAL_SAVE_CKPT_LIMIT=${TOTAL_SAVE_CKPT_LIMIT:-1}
INFER_CUDA_IDX=${INFER_CUDA_IDX-}            # GPUs for evaluation, e.g. "0"; empty: CUDA_VISIBLE_DEVICES is unchanged
BENCHMARKS=${BENCHMARKS:-textvqa mmbench}    # benchmarks to evaluate; the contest's score needs these two
EVAL_OPTIONS=${EVAL_OPTIONS-}                # files of other benchmarks, without spaces, e.g. "--pope-questions DIR --pope-images DIR"
GPUS=${GPUS:-8}                              # training processes
DEVICE=${DEVICE:-cuda}
DEEPSPEED=${DEEPSPEED-$KIT/train/deepspeed/zero2.json}   # empty: train without DeepSpeed
############################ fixed by the contest ##########################
SAMPLE_BUDGET=${SAMPLE_BUDGET:-200000}          # semifinal: 5000
BASE_MODEL=${BASE_MODEL:-toolkit/training/model_zoo/MGM-2B-base}
ORIGINAL_QUESTIONS=${ORIGINAL_QUESTIONS:-input/pretrain_stage_1/stage_1.json}
FINETUNE_DATASET=${FINETUNE_DATASET:-toolkit/training/data/finetuning_stage_1/mgm_instruction_stage_1.json}
FINETUNE_IMAGES=${FINETUNE_IMAGES:-toolkit/training/data/finetuning_stage_1}
EVAL_DATA=${EVAL_DATA:-toolkit/training/data/eval_stage_1}
TEXTVQA_QUESTIONS=${TEXTVQA_QUESTIONS:-$EVAL_DATA/textvqa/llava_textvqa_val_v051_ocr.jsonl}
TEXTVQA_ANNOTATIONS=${TEXTVQA_ANNOTATIONS:-$EVAL_DATA/textvqa/TextVQA_0.5.1_val.json}
TEXTVQA_IMAGES=${TEXTVQA_IMAGES:-$EVAL_DATA/textvqa/train_images}
MMBENCH=${MMBENCH:-$EVAL_DATA/mmbench/mmbench_dev_20230712.tsv}
SEED=${SEED:-42}
############################################################################

PYTHON=${PYTHON:-python}
TRAINING=output/training_dirs
RUN=$TRAINING/MGM-2B-$EXP_NAME
PRETRAIN=MGM-2B-Pretrain-$EXP_NAME
FINETUNE=MGM-2B-Finetune-$EXP_NAME
EVALUATION=output/eval_results/$FINETUNE
STEP=start

finish() {
    local code=$?
    [ "$code" -eq 0 ] || echo "failed in step: $STEP (exit code $code)" >&2
}
trap finish EXIT

refuse() { # message with the fault and the fix
    echo "error: $1" >&2
    exit 2
}

need_number() { # name of a variable, minimum
    # Accept digits only: bash arithmetic evaluates anything else, including commands.
    if [[ ${!1} =~ ^[0-9]{1,9}$ ]]; then ((10#${!1} >= $2)); else false; fi || refuse "$1='${!1}': set $1 to a whole number of at least $2"
}

need_input() { # name of a variable, its kind: file or folder
    if [ "$2" = file ]; then [ -f "${!1}" ]; else [ -d "${!1}" ]; fi || refuse "no such $2: $1='${!1}'; set $1=PATH before the command"
}

case "$EXP_NAME" in
    *[!A-Za-z0-9._-]* | '' | .* | -*) refuse "EXP_NAME='$EXP_NAME': use letters, digits, '.', '_' and '-', and start with a letter, a digit or '_'" ;;
esac
case "$DEVICE" in auto | cuda | cpu) ;; *) refuse "DEVICE='$DEVICE': set DEVICE to cuda, cpu or auto" ;; esac

STEP="1 global batch"
need_number GPUS 1
for stage in PRETRAIN FINETUNE; do
    need_number "${stage}_BATCH_SIZE_PER_GPU" 1
    need_number "${stage}_DATALOADER_NUM_WORKERS" 0
done
for name in LOGGING_STEP TOTAL_SAVE_CKPT_LIMIT SAMPLE_BUDGET; do need_number "$name" 1; done
for name in CKPT_SAVE_STEPS SEED; do need_number "$name" 0; done

accumulation() { # global batch, batch per GPU -> micro-batches per step, rounded down, at least 1
    local steps=$(($1 / (10#$GPUS * 10#$2)))
    echo $((steps > 0 ? steps : 1))
}
: "${PRETRAIN_GRADIENT_ACCUMULATION_STEPS:=$(accumulation 256 "$PRETRAIN_BATCH_SIZE_PER_GPU")}"
: "${FINETUNE_GRADIENT_ACCUMULATION_STEPS:=$(accumulation 128 "$FINETUNE_BATCH_SIZE_PER_GPU")}"
need_number PRETRAIN_GRADIENT_ACCUMULATION_STEPS 1
need_number FINETUNE_GRADIENT_ACCUMULATION_STEPS 1

check_batch() { # stage, batch per GPU, accumulation
    "$PYTHON" -m toolkit.preprocess.check_global_batch_size "$1" --gpus "$GPUS" --per-gpu "$2" --accumulation "$3"
}
check_batch pretrain "$PRETRAIN_BATCH_SIZE_PER_GPU" "$PRETRAIN_GRADIENT_ACCUMULATION_STEPS"
check_batch finetune "$FINETUNE_BATCH_SIZE_PER_GPU" "$FINETUNE_GRADIENT_ACCUMULATION_STEPS"

STEP="inputs of all steps"
for name in PRETRAIN_DATASET ORIGINAL_QUESTIONS FINETUNE_DATASET; do need_input "$name" file; done
for name in PRETRAIN_DATASET_IMAGE_PATH BASE_MODEL FINETUNE_IMAGES; do need_input "$name" folder; done
evaluation=()   # options of toolkit.evaluation.run, which checks all other inputs
for benchmark in $BENCHMARKS; do
    case "$benchmark" in
        textvqa)
            for name in TEXTVQA_QUESTIONS TEXTVQA_ANNOTATIONS; do need_input "$name" file; done
            need_input TEXTVQA_IMAGES folder
            evaluation+=(--textvqa-questions "$TEXTVQA_QUESTIONS" --textvqa-annotations "$TEXTVQA_ANNOTATIONS" --textvqa-images "$TEXTVQA_IMAGES")
            ;;
        mmbench)
            need_input MMBENCH file
            evaluation+=(--mmbench-table "$MMBENCH")
            ;;
        *)
            [[ " $EVAL_OPTIONS" == *" --$benchmark-"* ]] || refuse "BENCHMARKS='$BENCHMARKS': give the files of $benchmark in EVAL_OPTIONS, e.g. EVAL_OPTIONS='--$benchmark-… PATH'"
            ;;
    esac
done
read -ra more <<< "$EVAL_OPTIONS"
evaluation+=("${more[@]}" --benchmarks "${BENCHMARKS// /,}")
[ -z "$DEEPSPEED" ] || need_input DEEPSPEED file

STEP="2 sample budget"
mkdir -p "$TRAINING"
capped=$TRAINING/$PRETRAIN-data.jsonl
"$PYTHON" -m toolkit.preprocess.check_sample_number --order keep --budget "$SAMPLE_BUDGET" --input "$PRETRAIN_DATASET" --output "$capped"

STEP="3 LLaVA format"
llava=$TRAINING/$PRETRAIN-data.json
"$PYTHON" -m toolkit.preprocess.dj_to_llava --questions "$ORIGINAL_QUESTIONS" --input "$capped" --output "$llava"

STEP="4 and 5 training"
plan=$TRAINING/MGM-2B-$EXP_NAME-plan.json
export BASE_MODEL RUN SEED DEVICE DEEPSPEED LOGGING_STEP CKPT_SAVE_STEPS TOTAL_SAVE_CKPT_LIMIT
export llava PRETRAIN_DATASET_IMAGE_PATH FINETUNE_DATASET FINETUNE_IMAGES
export PRETRAIN_BATCH_SIZE_PER_GPU PRETRAIN_GRADIENT_ACCUMULATION_STEPS PRETRAIN_DATALOADER_NUM_WORKERS
export FINETUNE_BATCH_SIZE_PER_GPU FINETUNE_GRADIENT_ACCUMULATION_STEPS FINETUNE_DATALOADER_NUM_WORKERS
"$PYTHON" - > "$plan" <<'PLAN'
import json
from os import environ as e

# The kit averages the loss over micro-batches of 8 rows; loss_group keeps that for any batch per GPU.
shared = {"deepspeed": e["DEEPSPEED"] or None, "loss_group": 8, "pad_multiple": 1 if e["DEVICE"] == "cpu" else 16}
stages = []
for name, kit, data, images, rest in (
    ("pretrain", "PRETRAIN", e["llava"], e["PRETRAIN_DATASET_IMAGE_PATH"],
     {"trained": "projector", "image_aspect": "square", "global_batch": 256, "learning_rate": 1e-3}),
    ("finetune", "FINETUNE", e["FINETUNE_DATASET"], e["FINETUNE_IMAGES"],
     {"trained": "projector+llm", "image_aspect": "pad", "global_batch": 128, "learning_rate": 2e-5,
      "group_by_modality_length": True}),
):
    stages.append({
        "name": name, "data": data, "images": images, **rest, **shared,
        "per_device_batch": int(e[f"{kit}_BATCH_SIZE_PER_GPU"]),
        "accumulation": int(e[f"{kit}_GRADIENT_ACCUMULATION_STEPS"]),
        "workers": int(e[f"{kit}_DATALOADER_NUM_WORKERS"]),
    })
dtype = "float32" if e["DEVICE"] == "cpu" else "bfloat16"
print(json.dumps({
    "base_model": e["BASE_MODEL"], "output_dir": e["RUN"], "seed": int(e["SEED"]), "device": e["DEVICE"], "dtype": dtype,
    "log_every": int(e["LOGGING_STEP"]), "checkpoint_every": int(e["CKPT_SAVE_STEPS"]) or None,
    "checkpoint_limit": int(e["TOTAL_SAVE_CKPT_LIMIT"]), "stages": stages,
}, indent=1))
PLAN
if [ "$GPUS" -gt 1 ]; then
    "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node="$GPUS" -m toolkit.training.run "$plan"
else
    "$PYTHON" -m toolkit.training.run "$plan"
fi
for stage in pretrain finetune; do   # require the manifest in addition to exit code 0
    [ -f "$RUN/$stage/manifest.json" ] || { echo "error: $RUN/$stage has no manifest.json: the stage is incomplete; run this again" >&2; exit 1; }
done
ln -sfn "MGM-2B-$EXP_NAME/pretrain" "$TRAINING/$PRETRAIN"
ln -sfn "MGM-2B-$EXP_NAME/finetune" "$TRAINING/$FINETUNE"

STEP="6 and 7 evaluation"
[ -z "$INFER_CUDA_IDX" ] || export CUDA_VISIBLE_DEVICES=$INFER_CUDA_IDX
"$PYTHON" -m toolkit.evaluation.run --model "$TRAINING/$FINETUNE" --output "$EVALUATION" --device "$DEVICE" "${evaluation[@]}"

STEP="8 copy of the script"
cp "$0" output/train.sh
STEP=end
