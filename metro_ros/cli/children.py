"""Child processes that never outlive their parent's work, and say why they failed."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from metro_ros.core.errors import MetroError

GRACE_S = 5.0


class Child:
    """`python -m MODULE ARGUMENTS…` in a session of its own, its output in a log file; ended on leaving the block."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]):
        self.name = name
        self._log = log
        with log.open("w", encoding="utf-8") as file:
            # Its own session: Ctrl-C reaches the parent alone, which then ends everything in order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raises MetroError with the last line of its log when it has failed."""
        code = self._process.poll()
        if code:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
            raise MetroError(f"the {self.name} ended with code {code}", got=lines[-1], remedy=f"see {self._log}")

    def stop(self) -> None:
        """End it: ask, insist, kill."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if not self.running:
                return
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
