#!/usr/bin/env bash
# Creates a Cloud TPU: one VM (such as v3-8), or a pod slice of several (such as v3-32).
#
# Usage: scripts/cloud_tpu/create.sh --name=NAME --zone=ZONE [flags]
#   --name=NAME                of the TPU, also for the other scripts
#   --zone=ZONE                for example europe-west4-a
#   --project=PROJECT          default: that of gcloud
#   --accelerator_type=TYPE    default: v3-8
#   --version=VERSION          runtime version, default: tpu-ubuntu2204-base; v2-alpha-tpuv6e for a v6e
#   --spot                     cheaper, and may be preempted; train.sh then resumes from the last state
#   --dry_run                  prints the commands without running them

# shellcheck source=scripts/cloud_tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
name='' zone='' project='' accelerator_type=v3-8 version=tpu-ubuntu2204-base spot=''
read_flags "name zone" "project accelerator_type version" "spot" "$@"

tpu create "$name" "--accelerator-type=$accelerator_type" "--version=$version" ${spot:+--spot}
