# shellcheck shell=bash disable=SC2154
# Sourced by other scripts, which set $repo: activates a virtual environment with the package.
# Argument: the extra to install, such as "[test]", or "".

if [ -z "${VIRTUAL_ENV:-}" ]; then
  if [ ! -x "$repo/.venv/bin/python" ]; then
    python=
    for candidate in python3.11 python3.12 python3.13 python3; do
      # A pyenv shim may exist and not run.
      if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
      fi
    done
    [ -n "$python" ] || { echo "Python 3.11 or newer is required" >&2; exit 1; }
    echo "Creating $repo/.venv with $($python --version)"
    "$python" -m venv "$repo/.venv"
  fi
  # shellcheck disable=SC1091
  source "$repo/.venv/bin/activate"
fi
echo "Installing (takes some minutes the first time)"
python -m pip install -qq --disable-pip-version-check -e "$repo$1"
