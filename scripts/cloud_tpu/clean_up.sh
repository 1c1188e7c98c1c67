#!/usr/bin/env bash
# Deletes a Cloud TPU with its disks, so that it costs nothing more. Buckets stay as they are.
#
# Usage: scripts/cloud_tpu/clean_up.sh --name=NAME --zone=ZONE [flags]
#   --name=NAME          of the TPU
#   --zone=ZONE          of the TPU
#   --project=PROJECT    default: gcloud's own
#   --dry_run            prints the commands and runs none
#
# What is only on the TPU is lost: collect.sh copies it first.

# shellcheck source=scripts/cloud_tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
name='' zone='' project=''
read_flags "name zone" "project" "" "$@"

tpu delete "$name" --quiet
