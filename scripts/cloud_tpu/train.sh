#!/usr/bin/env bash
# Runs `prompt-tuning train` on every worker of a Cloud TPU. It continues if the connection ends.
#
# Usage: scripts/cloud_tpu/train.sh --name=NAME --zone=ZONE [flags] -- ARGUMENTS
#   --name=NAME          of the TPU
#   --zone=ZONE          of the TPU
#   --project=PROJECT    default: that of gcloud
#   --command=COMMAND    default: train; also eval and infer
#   --slice              a pod slice: the workers run as one computation
#   --dry_run            prints the commands without running them
#   ARGUMENTS            those of `prompt-tuning train`, with MODEL_DIR on gs://
#
# The log is COMMAND.log on each worker. If COMMAND is already running, its log is shown instead.

# shellcheck source=scripts/cloud_tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
name='' zone='' project='' command=train slice=''
read_flags "name zone" "project command" "slice" "$@"
((${#rest[@]})) || fail "the arguments of prompt-tuning $command are required after --"

line=$(quoted prompt-tuning/.venv/bin/prompt-tuning "$command" "${rest[@]}" ${slice:+--multiprocess_gpu})
log=$(quoted "$command.log") pid=$(quoted "$command.pid")
# The process id may have been reused.
running="job=\$(cat $pid 2> /dev/null) && grep -qs prompt-tuning /proc/\$job/cmdline"
follow="tail --pid=\$job -n +1 -F $log"
# nohup: the end of the connection ends only `tail`.
start="nohup $line > $log 2>&1 & job=\$!; echo \$job > $pid; $follow; wait \$job"
tpu ssh "$name" --worker=all "--command=if $running; then $follow; else $start; fi"
