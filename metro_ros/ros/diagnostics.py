"""What the node counts of each camera, and the small message that it reports it with."""

import threading
from collections import Counter, deque

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

LATENCIES_KEPT = 300


class Statistics:
    """Counters of frames, errors by kind, and the latest latencies. For use by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._latencies_ms: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._last_error = ""
        self._reported: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Count one more of `name`."""
        with self._lock:
            self._counts[name] += 1

    def add_error(self, error: Exception) -> None:
        """Count an error by its type and remember what it said."""
        with self._lock:
            self._counts["messages_refused"] += 1
            self._counts[f"errors_{type(error).__name__}"] += 1
            self._last_error = str(error)

    def add_latency(self, latency_ms: float) -> None:
        """Remember how long a frame took from its arrival to its publication, milliseconds."""
        with self._lock:
            self._latencies_ms.append(latency_ms)

    def report(self, name: str) -> DiagnosticStatus:
        """The status called `name`: WARN when frames were refused since the last report, else OK."""
        with self._lock:
            counts, latencies_ms, last_error = self._counts.copy(), list(self._latencies_ms), self._last_error
            since = counts - self._reported
            self._reported = counts
        status = DiagnosticStatus(level=DiagnosticStatus.OK, name=name)
        status.message = f"{since['frames_done']} frames since the last report"
        if since["messages_refused"]:
            status.level = DiagnosticStatus.WARN
            status.message = f"{since['messages_refused']} messages refused: {last_error}"
        values = {key: str(counts[key]) for key in ("frames_received", "frames_done", "frames_dropped")}
        values |= {key: str(count) for key, count in sorted(counts.items())}
        if latencies_ms:
            p50, p99 = np.percentile(latencies_ms, (50, 99))
            values |= {"latency_ms_p50": f"{p50:.1f}", "latency_ms_p99": f"{p99:.1f}"}
        if last_error:
            values["last_error"] = last_error
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        return status
