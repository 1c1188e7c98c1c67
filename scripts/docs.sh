#!/usr/bin/env bash
# Builds the site from Markdown and docstrings; warnings are errors.
# Usage: scripts/docs.sh [output folder]   (default: build/site)
set -euo pipefail

case "${1:-}" in -h | --help) sed -n '2,3s/^# //p' "$0"; exit ;; esac
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$(realpath -m "${1:-$repo/build/site}")
# shellcheck source=scripts/environment.sh
source "$repo/scripts/environment.sh" "[docs]"
cd "$repo"
python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet --jobs=auto -c docs . "$out"
echo "$out/docs/index.html"
