#!/usr/bin/env bash
# A mid-size teacher and the comparison from one start on it, on one CUDA GPU, without a network, in calls of at most nine minutes:
#   benchmarks/midsize/run.sh WHEELS OUT [options of python -m midsize]
# WHEELS: a folder of wheels: what the machine's Python lacks of wheels.txt, and nothing else (README.md has the command that fills it)
# OUT:    gets results.json, report.md, teacher.png and log.txt, small files all of them
# The same command again goes on where the last call stopped. What it goes on with lies in STATE (build/midsize). Where that is lost, name
# the last call's results with --earlier OUT/results.json: a new teacher is trained, and the report keeps what is known of the old one.
# Exit status: 0 done, 1 the teacher did not pass the gate, 2 something is wrong, 3 stopped by the time; there is a report in any case
# that has one.
set -uo pipefail
began=$SECONDS
cd "$(dirname "$0")/../.."
wheels="${1:?folder of wheels}"
out="${2:?folder for results}"
shift 2
state="${STATE:-$PWD/build/midsize}"
limit="${LIMIT:-510}"  # seconds of a call
python="${PYTHON:-python3}"
mkdir -p "$out" "$state"

# Beside what is installed, in a folder of its own: an environment made from one that is an environment itself would not see PyTorch.
# This project is not installed at all: it runs from the source tree.
if [ ! -e "$state/installed" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$state/site" "$wheels"/*.whl || exit 2
  touch "$state/installed"
fi
export PYTHONPATH="$PWD/sdk:$PWD/converters:$PWD/runtime_py:$PWD/tools:$PWD/benchmarks:$state/site"
export S2P_CACHE="$state/cache" TOKENIZERS_PARALLELISM=true HF_HUB_DISABLE_PROGRESS_BARS=1

left=$((limit - SECONDS + began))
# It stops by itself; should it hang, it is ended, and what it had saved is there for the next call.
timeout --kill-after 5 "$((left + 25))" \
  "$python" -m midsize --state "$state/run" --out "$out" --device "${DEVICE:-cuda}" --limit "$left" "$@"
