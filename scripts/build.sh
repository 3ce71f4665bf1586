#!/bin/sh
# Build metro_msgs and metro_ros into install/ with the Python that is on the path (scripts/env.sh puts .venv there).
set -eu
log=log/build.txt
mkdir -p log && touch log/COLCON_IGNORE
echo "colcon build, log in $log"
if ! python -m colcon build --base-paths . msg --event-handlers console_direct+ --cmake-args -DBUILD_TESTING=OFF \
    -DPython3_EXECUTABLE="$(command -v python)" -DPython3_ROOT_DIR="$VIRTUAL_ENV" >"$log" 2>&1; then
  tail -40 "$log"
  exit 1
fi
