#!/usr/bin/env bash
# Builds the embedded model t5_mini: data, vocabulary, pre-training, LM adaptation, export as bfloat16.
# Usage: scripts/make_t5_mini.sh NOVELS.jsonl ENCYCLOPEDIA.jsonl OUTPUT   (lines {"title", "text"})
# An interrupted step resumes. The result is OUTPUT/t5_mini, a Hugging Face folder.
set -euo pipefail

case "${1:-}" in "" | -h | --help) sed -n '2,4s/^# //p' "$0"; exit ;; esac
novels=$1 encyclopedia=$2 out=$3
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pretrain_steps=${PRETRAIN_STEPS:-12000} adapt_steps=${ADAPT_STEPS:-2000}

if [ ! -f "$out/data/vocabulary.model" ]; then
  python "$scripts/make_t5_mini_data.py" --novels "$novels" --encyclopedia "$encyclopedia" \
    --lexicon "$scripts/t5_mini_lexicon" --output "$out/data"
fi

train() { # run file, folder, steps, objectives, more flags
  local run=$1 folder=$2 steps=$3 objectives=$4
  shift 4
  prompt-tuning train --gin_file=models/t5_mini.gin --gin_file="runs/$run.gin" \
    --gin.MODEL_DIR="'$folder'" --gin.TRAIN_STEPS="$steps" --gin.OBJECTIVES="$objectives" \
    --gin.VOCABULARY_FILE="'$out/data/vocabulary.model'" --gin.TEXT_FILES="['$out/data/text.jsonl']" \
    --gin.TRAIN_FILE="'$out/data/text_to_text.jsonl'" --gin.TRAIN_FILE_RATE=0.93 \
    --gin.TASK_FEATURE_LENGTHS="{'inputs': 128, 'targets': 32}" --gin.BATCH_SIZE=64 \
    --gin.LEARNING_RATE_FACTORS="'constant * linear_warmup * rsqrt_decay'" \
    --gin.LEARNING_RATE=1.0 --gin.WARMUP_STEPS=200 --gin.LOG_PERIOD=200 "$@"
}

train pretrain "$out/pretrained" "$pretrain_steps" "(('span_corruption', 0.07),)"
train lm_adapt "$out/adapted" $((pretrain_steps + adapt_steps)) "(('prefix_lm', 0.07),)" \
  --gin.INITIAL_CHECKPOINT_PATH="'$out/pretrained/model_$pretrain_steps'"

last=$((pretrain_steps + adapt_steps))
prompt-tuning export --gin_file=models/t5_mini.gin --gin_file=runs/export.gin \
  --gin.INITIAL_CHECKPOINT_PATH="'$out/adapted/model_$last'" \
  --gin.VOCABULARY_FILE="'$out/data/vocabulary.model'" --gin.EXPORT_DIR="'$out'" \
  --gin.EXPORT_FORMAT="'huggingface'" --gin.EXPORT_DTYPE="'bfloat16'"
mv "$out/model_$last" "$out/t5_mini"
