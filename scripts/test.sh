#!/usr/bin/env bash
# All tests: those of training in several processes, then, alone, those that wait for other processes' answers in time.
# Arguments go to pytest, which then runs one test after the other.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -gt 0 ]; then exec python -m pytest "$@"; fi
failed=0
run() {
  python -m pytest "$@" || failed=$?
  [ $failed -ne 2 ] || exit 2  # interrupted
}
OMP_NUM_THREADS=1 run test/training -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
run --ignore test/training
exit $failed
