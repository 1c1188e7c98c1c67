#!/usr/bin/env bash
# Tunes, evaluates and uses a prompt on the embedded model, and shows its nearest tokens.
# Usage: scripts/quickstart.sh [output folder]   (default: quickstart_run)
set -euo pipefail

case "${1:-}" in -h | --help) sed -n '2,3s/^# //p' "$0"; exit ;; esac
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-quickstart_run}

# shellcheck source=scripts/environment.sh
source "$repo/scripts/environment.sh" ""
python "$repo/scripts/quickstart.py" "$out"
