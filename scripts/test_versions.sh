#!/usr/bin/env bash
# Tests at either end of the version ranges in pyproject.toml: the libraries of constraints/oldest.txt or constraints/newest.txt, in an
# environment of their own. Usage: scripts/test_versions.sh oldest|newest [arguments of pytest; default: the tests that depend on them]
set -euo pipefail
cd "$(dirname "$0")/.."
versions="${1:?oldest or newest}"
shift
scripts/setup.sh dev "$versions"
[ $# -gt 0 ] || set -- tests/converters tests/runtime tests/sdk/models tests/packaging
jobs="$(nproc)"  # asked before the variable is set, which nproc reads
export S2P_JOBS="$jobs" OMP_NUM_THREADS=1
exec ".venv-$versions/bin/python" -m pytest -n "$jobs" --dist loadfile "$@"
