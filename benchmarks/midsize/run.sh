#!/usr/bin/env bash
# A mid-size teacher and the comparison from one start on it, on one CUDA GPU, without a network, in calls of at most nine minutes:
#   benchmarks/midsize/run.sh WHEELS OUT [options of python -m midsize]
# WHEELS: a folder of wheels with what the machine's Python lacks beside PyTorch (wheels.txt; README.md has the command that fills it)
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

if [ ! -e "$state/installed" ]; then
  "$python" -m venv --clear --system-site-packages "$state/venv" || exit 2
  # Not this project itself: it runs from the source tree. What is installed already stays, PyTorch above all.
  "$state/venv/bin/pip" install --quiet --no-index --find-links "$wheels" -r benchmarks/midsize/wheels.txt || exit 2
  touch "$state/installed"
fi
export PYTHONPATH="$PWD/sdk:$PWD/converters:$PWD/runtime_py:$PWD/tools:$PWD/benchmarks"
export S2P_CACHE="$state/cache" TOKENIZERS_PARALLELISM=true HF_HUB_DISABLE_PROGRESS_BARS=1

left=$((limit - SECONDS + began))
# It stops by itself; should it hang, it is ended, and what it had saved is there for the next call.
timeout --kill-after 5 "$((left + 25))" \
  "$state/venv/bin/python" -m midsize --state "$state/run" --out "$out" --device "${DEVICE:-cuda}" --limit "$left" "$@"
