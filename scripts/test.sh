#!/usr/bin/env bash
# Runs all checks of CI: set-up, lint, types, the site, all tests.
# Usage: scripts/test.sh [pytest arguments]
set -euo pipefail

case "${1:-}" in -h | --help) sed -n '2,3s/^# //p' "$0"; exit ;; esac
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/environment.sh
source "$repo/scripts/environment.sh" "[docs,test]"
cd "$repo"
ruff check .
ruff format --check .
shellcheck --external-sources scripts/*.sh scripts/cloud_tpu/*.sh .ci/run
if [ $# -eq 0 ]; then
  mypy
  scripts/docs.sh
fi
# Two processes: each test has eight devices of its own. A file stays in one, for its fixtures.
python -m pytest --numprocesses=2 --dist=loadfile "$@"
