#!/usr/bin/env bash
# Makes a virtual environment in the repository with both distributions in it, s2p-runtime and s2p-mobile, as they stand here.
# Usage: scripts/setup.sh [extras] [versions]
#   extras: of s2p-mobile, separated by commas (default: coreml,evaluate); "dev" brings all of them and the tools of the tests
#   versions: a file of constraints/ (default: development, in .venv; others have an environment of their own, .venv-oldest)
set -euo pipefail
cd "$(dirname "$0")/.."
extras="${1:-coreml,evaluate}"
versions="${2:-development}"
constraints="constraints/$versions.txt"
[ -e "$constraints" ] || { echo "error: there is no $constraints; there are $(ls constraints | xargs)" >&2; exit 2; }
if [ "$versions" = development ]; then venv=.venv; else venv=".venv-$versions"; fi

. scripts/packages.sh

find_python() {
  for name in python3.11 python3.12 python3; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
}

python="$(find_python)"
if [ -z "$python" ]; then
  if ! command -v apt-get >/dev/null; then
    echo "error: Python 3.11 or 3.12 with venv is needed; install it and run this again" >&2
    exit 2
  fi
  need python3 python3-venv
  python="$(find_python)"
  [ -n "$python" ] || { echo "error: this system has no Python 3.11 or 3.12; install one and run this again" >&2; exit 2; }
fi

# pip is quick to find that nothing is to do, but not instant: a stamp of the inputs saves even that.
inputs="$(cat pyproject.toml runtime_py/pyproject.toml runtime_py/s2p_runtime/__init__.py "$constraints" | cksum | cut -d' ' -f1)"
stamp="$venv/.installed-$inputs-$extras"
if [ ! -e "$stamp" ]; then
  echo "installing s2p-mobile into $venv (PyTorch is large: a few minutes)" >&2
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  # In one call, so that s2p-mobile finds its runtime here and not in a registry.
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$constraints" -e runtime_py -e ".[$extras]"
  touch "$stamp"
fi
