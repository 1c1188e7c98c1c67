#!/usr/bin/env bash
# Deletes a Cloud TPU with its disks. Buckets are not changed.
#
# Usage: scripts/cloud_tpu/clean_up.sh --name=NAME --zone=ZONE [flags]
#   --name=NAME          of the TPU
#   --zone=ZONE          of the TPU
#   --project=PROJECT    default: that of gcloud
#   --dry_run            prints the commands without running them
#
# Files on the TPU are lost; collect.sh copies them.

# shellcheck source=scripts/cloud_tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
name='' zone='' project=''
read_flags "name zone" "project" "" "$@"

tpu delete "$name" --quiet
