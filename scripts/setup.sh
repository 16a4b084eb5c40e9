#!/usr/bin/env bash
# Makes the virtual environment .venv in the repository with s2p-mobile in it. Usage: scripts/setup.sh [extra]
set -euo pipefail
cd "$(dirname "$0")/.."
extra="${1:-}"

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
stamp=".venv/.installed-$(cat pyproject.toml runtime_py/s2p_runtime/__init__.py | cksum | cut -d' ' -f1)-${extra:-base}"
if [ ! -e "$stamp" ]; then
  echo "installing s2p-mobile into .venv (PyTorch is large: a few minutes)" >&2
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".${extra:+[$extra]}"
  touch "$stamp"
fi
