#!/usr/bin/env bash
# Sets up whatever is missing and runs every check: style, types, Python, Swift and C++ tests. Usage: scripts/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh dev
# One thread a process: several in each would wait for each other in busy loops. nproc reads the variable, so it is asked before.
jobs="$(nproc)"
export S2P_JOBS="$jobs" OMP_NUM_THREADS=1

if command -v apt-get >/dev/null && ! fc-list 2>/dev/null | grep -q NotoColorEmoji && [ "$(id -u)" = 0 ]; then
  apt-get update -qq >/dev/null && apt-get install -y -qq fontconfig fonts-noto-color-emoji >/dev/null
fi

.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet .
.venv/bin/mypy --no-error-summary

if command -v swift >/dev/null; then
  echo "Swift tests"
  (cd ios_harness && swift test --quiet)
fi
android_harness/scripts/test.sh

.venv/bin/python -m pytest -n "$jobs" --dist loadfile
