#!/usr/bin/env bash
# The main job on a bare machine: sets up .venv and converts the built-in model for Core ML.
# Usage: scripts/demo.sh [options of s2p-mobile convert]
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
exec .venv/bin/s2p-mobile convert --target coreml "$@"
