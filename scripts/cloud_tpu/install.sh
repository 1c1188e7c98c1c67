#!/usr/bin/env bash
# Installs the committed state of this checkout on every worker of a Cloud TPU.
#
# Usage: scripts/cloud_tpu/install.sh --name=NAME --zone=ZONE [flags]
#   --name=NAME          of the TPU
#   --zone=ZONE          of the TPU
#   --project=PROJECT    default: that of gcloud
#   --python=PYTHON      Python of the workers, installed with apt-get; default: python3.11
#   --dry_run            prints the commands without running them
#
# It is installed in prompt-tuning/, with its virtual environment in prompt-tuning/.venv.

# shellcheck source=scripts/cloud_tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
name='' zone='' project='' python=python3.11
read_flags "name zone" "project python" "" "$@"

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
archive=prompt-tuning.tar.gz
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Printed commands must not depend on the temporary folder.
cd "$folder"

run git -C "$repo" archive --format=tar.gz "--output=$folder/$archive" HEAD
tpu scp "$archive" "$name:" --worker=all
# A new machine updates itself, and holds the lock of apt meanwhile.
apt="sudo apt-get -o DPkg::Lock::Timeout=600"
steps=(
  "$apt update -q"
  "$apt install -yq $(quoted "$python" "$python-venv")"
  "rm -rf prompt-tuning && mkdir prompt-tuning && tar -xzf $archive -C prompt-tuning"
  "$(quoted "$python") -m venv prompt-tuning/.venv"
  "prompt-tuning/.venv/bin/pip install -q './prompt-tuning[gcs]' 'jax[tpu]'"
  "prompt-tuning/.venv/bin/prompt-tuning --version"
)
command=$(printf ' && %s' "${steps[@]}")
tpu ssh "$name" --worker=all "--command=${command# && }"
