#!/usr/bin/env bash
# Copies what a run has written to a folder here: prompts, metrics, answers, settings, the log.
#
# Usage: scripts/cloud_tpu/collect.sh --name=NAME --zone=ZONE --model_dir=MODEL_DIR --output=FOLDER [flags]
#   --name=NAME                of the TPU
#   --zone=ZONE                of the TPU
#   --project=PROJECT          default: gcloud's own
#   --model_dir=MODEL_DIR      of the run; on gs://, or a folder on the first worker
#   --output=FOLDER            here, made if it is not there
#   --log=FILE                 on the first worker, train.log by default
#   --dry_run                  prints the commands and runs none

# shellcheck source=scripts/cloud_tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
name='' zone='' project='' model_dir='' output='' log=train.log
read_flags "name zone model_dir output" "project log" "" "$@"

run mkdir -p "$output"
case $model_dir in
  gs://*) run gcloud storage cp --recursive "${model_dir%/}" "$output" ;;
  *) tpu scp --recurse "$name:$model_dir" "$output" --worker=0 ;;
esac
tpu scp "$name:$log" "$output" --worker=0
