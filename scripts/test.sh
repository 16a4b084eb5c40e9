#!/usr/bin/env bash
# Sets up whatever is missing and runs the checks. Usage: scripts/test.sh [--fast | --slow]
#   neither: style, types, Python, Swift and C++ tests
#   --fast: style, types, and the Python tests that are quick (tests/fast.txt)
#   --slow: what repeats on another variant what the others show: the Python tests marked so, and C++ on another processor
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh

case "${1:-}" in
  "" | --fast | --slow) only="${1:-}" ;;
  *) echo "error: unknown option $1; give --fast, --slow or nothing" >&2; exit 2 ;;
esac

check_python() {
  scripts/setup.sh dev
  # One thread a process: several in each would wait for each other in busy loops. nproc reads the variable, so it is asked before.
  jobs="$(nproc)"
  export S2P_JOBS="$jobs" OMP_NUM_THREADS=1
  .venv/bin/ruff check .
  .venv/bin/ruff format --check --quiet .
  .venv/bin/mypy --no-error-summary
}

if [ -n "$only" ]; then
  check_python
  if [ "$only" = --slow ]; then
    android_harness/scripts/test.sh aarch64
    .venv/bin/python -m pytest -n "$jobs" --dist loadfile -m slow
  else
    grep -v '^#' tests/fast.txt | xargs .venv/bin/python -m pytest -n "$jobs" --dist loadfile
  fi
  exit
fi

# The harnesses need no Python: they are built and tested beside everything else. What they print waits for the end.
logs="$(mktemp -d)"
asides=""
finish() {
  for process in $asides; do kill -- "-$process" 2>/dev/null || true; done
  rm -rf "$logs"
}
trap finish EXIT

# aside NAME COMMAND...: in a process group of its own, so that its compilers end with it.
aside() {
  name="$1"
  shift
  set -m
  "$@" </dev/null >"$logs/$name" 2>&1 &
  set +m
  asides="$asides $!"
}

swift_tests() {
  cd ios_harness
  swift test --quiet
}

aside cpp android_harness/scripts/test.sh sanitize
if command -v swift >/dev/null; then
  aside swift swift_tests
else
  echo "skipped: swift test, as swift is not installed" >"$logs/swift"
fi

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  need fontconfig fonts-noto-color-emoji
fi
check_python
failed=""
.venv/bin/python -m pytest -n "$jobs" --dist loadfile || failed=1
for process in $asides; do wait "$process" || failed=1; done
asides=""
cat "$logs"/*
[ -z "$failed" ]
