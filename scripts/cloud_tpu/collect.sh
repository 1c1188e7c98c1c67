#!/usr/bin/env bash
# Copies the results of a run to a local folder: prompts, metrics, predictions, settings, the log.
#
# Usage: scripts/cloud_tpu/collect.sh --name=NAME --zone=ZONE --model_dir=MODEL_DIR --output=FOLDER [flags]
#   --name=NAME                of the TPU
#   --zone=ZONE                of the TPU
#   --project=PROJECT          default: that of gcloud
#   --model_dir=MODEL_DIR      MODEL_DIR of the run: on gs://, or a folder on the first worker
#   --output=FOLDER            local folder, created if missing
#   --log=FILE                 log on the first worker, default: train.log
#   --dry_run                  prints the commands without running them

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
