# Sourced, from the checkout: puts .venv, the built messages and this checkout on the paths. POSIX sh.
_root=$PWD
if [ -n "${BASH_SOURCE:-}" ]; then _root=$(cd "$(dirname "$BASH_SOURCE")/.." && pwd); fi

unset _ROS_WHEELS_BOOTSTRAP_COMPLETE  # inherited from another environment it would hide this one's libraries
export VIRTUAL_ENV="$_root/.venv"
case ":$PATH:" in *":$VIRTUAL_ENV/bin:"*) ;; *) export PATH="$VIRTUAL_ENV/bin:$PATH" ;; esac
if [ -f "$VIRTUAL_ENV/ros_wheels" ]; then  # the wheels make the environment itself a ROS prefix
  export AMENT_PREFIX_PATH="$VIRTUAL_ENV" CMAKE_PREFIX_PATH="$VIRTUAL_ENV"
fi
if [ -f "$_root/install/local_setup.sh" ]; then
  COLCON_CURRENT_PREFIX="$_root/install" . "$_root/install/local_setup.sh"
fi
# The checkout comes before the copy in install/, so that an edit counts at once.
export PYTHONPATH="$_root${PYTHONPATH:+:$PYTHONPATH}"
unset _root
