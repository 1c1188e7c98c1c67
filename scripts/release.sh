#!/usr/bin/env bash
# Builds sdist and wheel in dist/, checks them, and runs the quickstart with the wheel in new environments.
# Usage: scripts/release.sh [python ...]   (default: python3.11, python3.12 and python3.13, if installed)
set -euo pipefail

case "${1:-}" in -h | --help) sed -n '2,3s/^# //p' "$0"; exit ;; esac
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH VIRTUAL_ENV

if [ $# -eq 0 ]; then
  for python in python3.11 python3.12 python3.13; do
    # A pyenv shim may exist and not run.
    "$python" --version >/dev/null 2>&1 && set -- "$@" "$python"
  done
fi
[ $# -gt 0 ] || { echo "Python 3.11 or newer is required; pass its name" >&2; exit 1; }

"$1" -m venv "$folder/tools"
"$folder/tools/bin/pip" install -qq --disable-pip-version-check build twine
rm -rf "$repo/dist" "$repo/build"
# The wheel is built from the sdist, so files that the sdist lacks are detected.
"$folder/tools/bin/python" -m build --outdir "$repo/dist" "$repo" >"$folder/build.log" || { cat "$folder/build.log"; exit 1; }
"$folder/tools/bin/twine" check --strict "$repo"/dist/*
"$folder/tools/bin/python" "$repo/scripts/check_wheel.py" "$repo"/dist/*.whl

number=0
cd "$folder" # not the repository: its package would take precedence
for python in "$@"; do
  new=$folder/$((number += 1))
  "$python" -m venv "$new"
  "$new/bin/pip" install -qq --disable-pip-version-check "$repo"/dist/*.whl
  "$new/bin/python" "$repo/scripts/quickstart.py" "$new/run"
  echo "$("$python" --version): $("$new/bin/prompt-tuning" --version) from the wheel"
done
