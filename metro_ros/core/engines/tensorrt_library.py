"""TensorRT or TensorRT-RTX, whichever is installed: the module, what it can do, and its messages in our log."""

import functools
import importlib
import logging
from typing import Any, NamedTuple

from metro_ros.core.errors import EngineError

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt_rtx"

log = logging.getLogger(__name__)


class Library(NamedTuple):
    """One of the two, which have the same interface. module: the imported one; messages: its logger, for every call."""

    name: str
    module: Any
    version: str
    messages: Any

    def __str__(self) -> str:
        return f"RTX {self.version}" if self.name == TENSORRT_RTX else self.version

    @property
    def builds_ahead(self) -> bool:
        """Whether it builds for a compute capability by name, without such a GPU, for all GPUs that have it."""
        return hasattr(self.module, "ComputeCapability")

    def capability(self, name: str) -> Any:
        """Its constant for a compute capability such as 8.6. Raises EngineError when it has none."""
        known = self.module.ComputeCapability.__members__
        found = known.get(f"SM{name.replace('.', '')}")
        if found is None:
            numbers = sorted(int(member[2:]) for member in known if member.startswith("SM"))
            raise EngineError(
                f"{self.name} {self.version} has no such compute capability",
                expected=" or ".join(f"{number // 10}.{number % 10}" for number in numbers),
                got=name,
            )
        return found


def find_library(*names: str) -> Library:
    """The first of them that can be imported. Raises ImportError when none can, with the reason of each."""
    problems = []
    for name in names or (TENSORRT, TENSORRT_RTX):
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError where the library itself is missing
            problems.append(str(error))
        else:
            return Library(name, module, str(module.__version__), _messages(module))
    raise ImportError("; ".join(problems))


@functools.cache
def _messages(module: Any) -> Any:
    """The library's logger: one per process, as it keeps the first that it gets.

    What is an error to the library becomes the reason of an EngineError, or of a line about what is done instead, so
    it is no line of its own where only warnings are shown.
    """
    severity = module.ILogger
    levels = {
        severity.INTERNAL_ERROR: logging.INFO,
        severity.ERROR: logging.INFO,
        severity.WARNING: logging.INFO,
        severity.INFO: logging.DEBUG,
    }

    class Messages(module.ILogger):
        """Passes messages on, and keeps the first error until it is asked for."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self._first_error: str | None = None

        def log(self, severity: Any, text: str) -> None:
            if severity in (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR) and self._first_error is None:
                self._first_error = text
            if severity in levels:  # not VERBOSE, some thousand lines
                log.log(levels[severity], "%s: %s", module.__name__, text)

        def take_error(self) -> str:
            """The first error since this was last asked, which is the cause of the others."""
            text, self._first_error = self._first_error, None
            return text or "no reason given"

    return Messages()
