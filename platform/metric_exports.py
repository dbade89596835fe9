"""The two views of a run's metrics that others draw: TensorBoard's event files and Ray's gauges.

Both are conveniences: whatever goes wrong in them is logged once and training goes on.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quadriga.platform.metrics import METRICS
from quadriga.platform.run_folder import TENSORBOARD

if TYPE_CHECKING:
    from quadriga.platform.run_folder import RunFolder

FLUSH_INTERVAL_S = 10.0

logger = logging.getLogger("quadriga")


class _Export:
    """Calls `_write`, `_flush` and `_close` until one of them fails, then warns and does nothing more."""

    label = ""

    def __init__(self) -> None:
        self._works = True

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Shows the numbers of one iteration; none is NaN."""
        self._guarded(self._write, step, numbers)

    def flush(self) -> None:
        """Makes what was logged visible now."""
        self._guarded(self._flush)

    def close(self) -> None:
        """Flushes and closes."""
        self._guarded(self._close)
        self._works = False

    def _guarded(self, call: Any, *arguments: Any) -> None:
        if not self._works:
            return
        try:
            call(*arguments)
        except Exception as error:
            self._works = False
            logger.warning("%s is off for the rest of this run: %s", self.label, error)

    def _write(self, step: int, numbers: Mapping[str, float]) -> None:
        raise NotImplementedError

    def _flush(self) -> None: ...

    def _close(self) -> None: ...


class TensorBoardFile(_Export):
    """An event file of one scalar a metric, tagged with the metric's name.

    Written record by record in the calling thread: tensorboardX's `SummaryWriter` hands values to
    a thread through a short queue, and blocks for ever when that thread has died of a full disk.
    """

    label = "TensorBoard"

    def __init__(self, run_folder: RunFolder, last_step: int | None) -> None:
        """A file in `tensorboard/` of a local run folder; hides earlier events after `last_step`, if given."""
        super().__init__()
        self._flushed_at = time.monotonic()
        self._guarded(self._open, run_folder, last_step)

    def _open(self, run_folder: RunFolder, last_step: int | None) -> None:
        folder = run_folder.local_path(TENSORBOARD)
        if folder is None:
            self._works = False
            return
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._event = Event
        folder.mkdir(exist_ok=True)
        # The time in the name orders the files of a resumed run; TensorBoard asks for `tfevents`.
        now = time.time()
        self._records = RecordWriter(str(folder / f"events.out.tfevents.{now:.6f}.{os.getpid()}"))
        self._put(wall_time=now, file_version="brain.Event:2")
        if last_step is not None:
            self._put(wall_time=now, step=last_step + 1, session_log=SessionLog(status=SessionLog.START))
        self._flush()

    def _write(self, step: int, numbers: Mapping[str, float]) -> None:
        values = [{"tag": name, "simple_value": value} for name, value in numbers.items()]
        self._put(wall_time=time.time(), step=step, summary={"value": values})
        if time.monotonic() - self._flushed_at > FLUSH_INTERVAL_S:
            self._flush()

    def _put(self, **fields: Any) -> None:
        self._records.write(self._event(**fields).SerializeToString())

    def _flush(self) -> None:
        self._records.flush()
        self._flushed_at = time.monotonic()

    def _close(self) -> None:
        self._records.close()


class PrometheusGauges(_Export):
    """`quadriga_<metric>` gauges of `ray.util.metrics`, tagged with run, algorithm and environment."""

    label = "Ray's metrics export"

    def __init__(self, run_folder: RunFolder) -> None:
        """The gauges of one run; they do nothing while Ray is not running in this process."""
        super().__init__()
        self._run_folder = run_folder
        self._gauges: dict[str, Any] = {}
        self._tags: dict[str, str] | None = None

    def _write(self, step: int, numbers: Mapping[str, float]) -> None:
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        from ray.util.metrics import Gauge

        if self._tags is None:
            self._tags = _tags(self._run_folder)
        for name, value in numbers.items():
            if name not in self._gauges:
                gauge = f"quadriga_{re.sub('[^a-zA-Z0-9_]', '_', name)}"
                self._gauges[name] = Gauge(gauge, METRICS.get(name, name), tuple(self._tags))
            self._gauges[name].set(value, self._tags)


def _tags(run_folder: RunFolder) -> dict[str, str]:
    from quadriga.platform.lines import line_of

    experiment = run_folder.experiment()
    return {
        "run": run_folder.name,
        "algorithm": experiment.preset,
        "environment": line_of(experiment).task(experiment),
    }
