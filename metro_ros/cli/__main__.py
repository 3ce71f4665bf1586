"""`python -m metro_ros.cli`, the same as `metro-ros`."""

import sys

from metro_ros.cli import main

sys.exit(main())
