#!/usr/bin/env bash
# Runs `prompt-tuning train` on every worker of a Cloud TPU. It continues there when this connection ends.
#
# Usage: scripts/cloud_tpu/train.sh --name=NAME --zone=ZONE [flags] -- ARGUMENTS
#   --name=NAME          of the TPU
#   --zone=ZONE          of the TPU
#   --project=PROJECT    default: gcloud's own
#   --command=COMMAND    train by default; eval and infer run the same way
#   --slice              a pod slice: the workers find each other and work as one
#   --dry_run            prints the commands and runs none
#   ARGUMENTS            as for `prompt-tuning train` here; MODEL_DIR on gs://
#
# The log is COMMAND.log on each worker. Where COMMAND runs there already, this shows its log and starts nothing.

# shellcheck source=scripts/cloud_tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
name='' zone='' project='' command=train slice=''
read_flags "name zone" "project command" "slice" "$@"
((${#rest[@]})) || fail "the arguments of prompt-tuning $command are needed after --"

line=$(quoted prompt-tuning/.venv/bin/prompt-tuning "$command" "${rest[@]}" ${slice:+--multiprocess_gpu})
log=$(quoted "$command.log") pid=$(quoted "$command.pid")
# The number may be another process's by now.
running="job=\$(cat $pid 2> /dev/null) && grep -qs prompt-tuning /proc/\$job/cmdline"
follow="tail --pid=\$job -n +1 -F $log"
# nohup: the end of the connection ends `tail` alone.
start="nohup $line > $log 2>&1 & job=\$!; echo \$job > $pid; $follow; wait \$job"
tpu ssh "$name" --worker=all "--command=if $running; then $follow; else $start; fi"
