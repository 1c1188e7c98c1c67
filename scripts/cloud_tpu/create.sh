#!/usr/bin/env bash
# Creates a Cloud TPU: one VM (such as v3-8), or a pod slice of several (such as v3-32).
#
# Usage: scripts/cloud_tpu/create.sh --name=NAME --zone=ZONE [flags]
#   --name=NAME                of the TPU, for the other scripts too
#   --zone=ZONE                such as europe-west4-a
#   --project=PROJECT          default: gcloud's own
#   --accelerator_type=TYPE    v3-8 by default
#   --version=VERSION          of the VM's system, tpu-ubuntu2204-base by default; v2-alpha-tpuv6e for a v6e
#   --spot                     cheaper, and may be taken away: train.sh then goes on from the last state
#   --dry_run                  prints the commands and runs none

# shellcheck source=scripts/cloud_tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
name='' zone='' project='' accelerator_type=v3-8 version=tpu-ubuntu2204-base spot=''
read_flags "name zone" "project accelerator_type version" "spot" "$@"

tpu create "$name" "--accelerator-type=$accelerator_type" "--version=$version" ${spot:+--spot}
