"""Metrics of a run: their names, the table that keeps them, and the one place they are logged from.

A row is one iteration. `MetricsSink.log` sends it to the run folder's table, to TensorBoard and to
Ray's metrics (Prometheus); nothing else in the platform writes metrics anywhere.
"""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from quadriga.platform import storage
from quadriga.platform.errors import StorageFailed, UserError

if TYPE_CHECKING:
    from quadriga.platform.run_folder import RunFolder

logger = logging.getLogger("quadriga")

Value = float | int | bool | str

METRICS: dict[str, str] = {
    # progress
    "iteration": "iterations done, counted from 1",
    "env_steps": "environment steps done",
    "episodes": "episodes finished so far",
    "episodes_this_iteration": "episodes finished in this iteration",
    "wall_time_s": "seconds of training so far, over all resumes",
    # what the agent achieves: means over the episodes of the iteration (or the metrics window, if it had fewer)
    "episode_return_mean": "mean undiscounted return of the episodes",
    "episode_cost_mean": "mean undiscounted cost of the episodes",
    "episode_length_mean": "mean length of the episodes, steps",
    "visits": "steps that ended in each part of the task's plane, as text; drawn by `quadriga plot`",
    "cost_rate": "cost per step over all training steps so far",
    "intrinsic_reward_mean": "mean bonus per step",
    # the bonus
    "bonus_mean": "mean bonus per step before it is scaled, of a surprisal in nats",
    "bonus_scale": "weight of the bonus in the reward, eta",
    "dynamics_loss": "mean negative log-likelihood of the model of the dynamics before its update, nats",
    "dynamics_kl": "largest divergence of an updated model of the dynamics from the one before, nats",
    "dynamics_step_accepted": "fraction of the model's trust-region updates that were accepted",
    "posterior_information": "divergence of a Bayesian model's parameters from their prior, nats",
    "intrinsic_value_loss": "half the mean squared error of the bonus's critic",
    "intrinsic_explained_variance": "fraction of the bonus returns' variance that the bonus's critic explains",
    # the constraint
    "lagrange_multiplier": "multiplier of the cost in the policy's objective",
    "cost_scale": "weight of the cost by reward-scale invariance, beta",
    "constraint_cost": "mean episode cost that the constraint acted on",
    "multiplier_proportional": "proportional part of the multiplier",
    "multiplier_integral": "integral part of the multiplier",
    "multiplier_derivative": "derivative part of the multiplier",
    "constraint_margin": "margin under the cost limit that CPO keeps",
    "cpo_case": "CPO's case: 0 recovery, 1 violated, 2 partly feasible, 3 feasible, 4 cost gradient zero",
    "cpo_lambda": "CPO's dual variable of the trust region, lambda*",
    "cpo_nu": "CPO's dual variable of the cost limit, nu*",
    "cost_surrogate_change": "change of the cost's surrogate by CPO's step, cost per step",
    # how learning goes
    "kl": "mean divergence of the new policy from the one that collected, or that the update began with, nats",
    "behavior_kl": "mean divergence of the policy that the update began with from the one that collected, nats",
    "entropy": "mean entropy of the policy, nats",
    "policy_std": "mean standard deviation of a Gaussian policy",
    "clip_fraction": "fraction of samples whose probability ratio was clipped",
    "explained_variance": "fraction of the returns' variance that the reward critic explains",
    "cost_explained_variance": "fraction of the cost returns' variance that the cost critic explains",
    "reward_value_loss": "half the mean squared error of the reward critic",
    "cost_value_loss": "half the mean squared error of the cost critic",
    "surrogate_improvement": "improvement of the surrogate by a second-order step",
    "step_accepted": "1 if the line search accepted a step, 0 if the old policy stayed",
    "line_search_steps": "steps that the line search tried",
    "cg_residual": "norm of conjugate gradient's residual relative to the gradient's",
    "policy_epochs": "passes of the policy over the batch before its divergence stopped them",
    "learning_rate": "step size of the optimizer",
    "parameters_finite": "1 while no parameter is NaN or infinite",
    # meta-learning
    "meta_iterations": "meta-iterations done",
    "tasks": "training tasks learned so far",
    "inner_loss": "mean loss of a task's last minibatch before its step",
    "query_accuracy": "accuracy on the queries of unseen tasks, transductive",
    "query_loss": "mean squared error on the queries of unseen tasks",
    "query_loss_before": "the same before any inner step",
    "direction_norm": "mean length of the meta-batch's mean direction",
    "meta_step_size": "epsilon of the last meta-iteration",
    # models of code
    "optimizer_steps": "optimizer steps done",
    "tokens": "tokens read so far, padding among them",
    "train_loss": "mean loss of the target tokens of this iteration, nats",
    "validation_loss": "mean loss of documents that are never learned, nats a token",
    "gradient_norm": "length of the last gradient before clipping",
    # judging code, counted by the sandbox workers of a cluster
    "samples_judged_total": "samples that sandbox workers have judged, by verdict",
    # where the time goes
    "env_steps_per_second": "environment steps per second of this iteration",
    "time_sampling_s": "seconds spent collecting",
    "time_learning_s": "seconds spent on updates",
    "tokens_per_second": "tokens read per second of this iteration",
    "time_validation_s": "seconds spent on validation",
    "tasks_per_second": "training tasks learned per second of this iteration",
    "time_tasks_s": "seconds spent learning tasks",
    "time_testing_s": "seconds spent on unseen tasks",
    # faults
    "environment_failures": "environments that raised and were rebuilt in this iteration",
    "env_runners_healthy": "environment runners that live",
    "env_runner_restarts": "environment runners restarted so far",
    "task_worker_restarts": "task workers replaced so far",
}
"""What the names mean, with units; the same everywhere. A line of work may log more."""

REMOTE_INTERVAL_S = 30.0
_WIDER = {pa.bool_(): 0, pa.int64(): 1, pa.float64(): 2}


class MetricsTable:
    """The rows of a run in a parquet file, typed: bool, int64, float64 or string a column.

    A column first seen later is null in the rows before; NaN is stored as null. One process
    appends; anybody may `read`.
    """

    def __init__(
        self,
        filesystem: fs.FileSystem,
        path: str,
        *,
        interval: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the table at `path`, which need not exist yet.

        Args:
            filesystem: where `path` is.
            path: the parquet file.
            interval: least seconds between two writes by `append`; by default 0 on a local disk and 30 elsewhere.
            clock: seconds.
        """
        local = storage.local_path(filesystem, path) is not None
        self._filesystem, self._path, self._local, self._clock = filesystem, path, local, clock
        self._interval = interval if interval is not None else (0.0 if local else REMOTE_INTERVAL_S)
        self._written_at = -math.inf
        self._unwritten = False
        self._durable = True
        self._columns: dict[str, list[Any]] | None = None
        self._types: dict[str, pa.DataType] = {}
        self._rows = 0

    def append(self, row: Mapping[str, Value | None]) -> None:
        """Adds a row and writes the table, unless it was written less than the interval ago.

        A row without a value is no row.

        Raises:
            StorageFailed: it cannot be written to the local disk. (Remote storage that fails is tried again.)
            TypeError: a value is no number, bool or text, or text in a column of numbers or the reverse.
        """
        columns = self._load()
        values = {name: plain for name, value in row.items() if (plain := _plain(name, value)) is not None}
        types = {name: _wider(name, self._types.get(name), kind) for name, (kind, _) in values.items()}
        if not values:
            return
        for name, kind in types.items():
            if kind != self._types.setdefault(name, kind):
                columns[name] = [_as(kind, value) for value in columns[name]]
                self._types[name] = kind
            columns.setdefault(name, [None] * self._rows)
        for name, column in columns.items():
            column.append(_as(self._types[name], values[name][1]) if name in values else None)
        self._rows += 1
        self._unwritten, self._durable = True, False
        if self._clock() - self._written_at < self._interval:
            return
        try:
            self._write(durable=False)
        except UserError as error:
            if self._local:
                raise
            self._written_at = self._clock()
            logger.warning("%s; trying again in %.0f s", error, self._interval)

    def flush(self) -> None:
        """Writes what is not written yet, durably; nothing if there is nothing, for another process may write by now.

        Raises:
            StorageFailed: it cannot be written.
        """
        if self._unwritten or (self._local and not self._durable):
            self._write(durable=True)

    def truncate(self, step_metric: str, step: float) -> None:
        """Drops the first row whose `step_metric` is beyond `step`, and every row after it.

        Raises:
            UserError: the file is damaged or cannot be written.
        """
        columns = self._load()
        beyond = (
            index for index, value in enumerate(columns.get(step_metric, ())) if value is not None and value > step
        )
        first = next(beyond, None)
        if first is None:
            return
        for column in columns.values():
            del column[first:]
        self._rows = first
        self._write(durable=True)

    def read(self) -> pa.Table:
        """All rows, the unwritten ones of this object too; a table without columns if there are none.

        Raises:
            UserError: the file is damaged or cannot be read.
        """
        return self._read_file() if self._columns is None else self._table()

    def _load(self) -> dict[str, list[Any]]:
        if self._columns is None:
            table = self._read_file()
            self._types = {field.name: field.type for field in table.schema}
            self._rows = table.num_rows
            self._columns = {name: table.column(name).to_pylist() for name in table.column_names}
        return self._columns

    def _read_file(self) -> pa.Table:
        try:
            data = storage.read(self._filesystem, self._path)
            # In this thread alone: one that is still letting go of Python's bytes when the interpreter ends aborts it.
            with pq.ParquetFile(pa.BufferReader(data)) as file:
                return file.read(use_threads=False)
        except FileNotFoundError:
            return pa.table({})
        except pa.ArrowInvalid as error:
            raise UserError(
                f"metrics table {self._path!r} is damaged: {storage.reason(error)}; "
                "move it away to go on without the rows in it"
            ) from error
        except OSError as error:
            raise UserError(f"cannot read the metrics table {self._path!r}: {storage.reason(error)}") from error

    def _table(self) -> pa.Table:
        columns = self._load()
        return pa.table({name: pa.array(column, self._types[name]) for name, column in columns.items()})

    def _write(self, *, durable: bool) -> None:
        buffer = io.BytesIO()
        pq.write_table(self._table(), buffer, compression="zstd")
        try:
            storage.write(self._filesystem, self._path, buffer.getvalue(), durable=durable)
        except OSError as error:
            raise StorageFailed(f"cannot write the metrics table {self._path!r}: {storage.reason(error)}") from error
        self._written_at = self._clock()
        self._unwritten, self._durable = False, durable


class MetricsSink:
    """Where a training run logs: table, TensorBoard and Ray's metrics at one call.

    TensorBoard's files lie in `tensorboard/` of a local run folder. Made again for a resumed run
    (after the table was truncated), it hides what TensorBoard still has of the dropped rows.
    Nothing but the table's own failure ends a training.
    """

    def __init__(self, run_folder: RunFolder, step_metric: str) -> None:
        """Opens the sinks of `run_folder`; rows are placed on the axis of `step_metric`."""
        from quadriga.platform.metric_exports import PrometheusGauges, TensorBoardFile

        self._table = run_folder.metrics
        self._step_metric = step_metric
        self._exports = [TensorBoardFile(run_folder, self._last_step()), PrometheusGauges(run_folder)]

    def log(self, row: Mapping[str, Value | None]) -> None:
        """Logs one iteration.

        Raises:
            StorageFailed: the table cannot be written.
        """
        self._table.append(row)
        step = int(row[self._step_metric] or 0)
        numbers = {
            name: float(value)
            for name, value in row.items()
            if value is not None and not isinstance(value, str) and not math.isnan(value)
        }
        for export in self._exports:
            export.log(step, numbers)

    def flush(self) -> None:
        """Makes everything logged so far durable; called before a checkpoint.

        Raises:
            StorageFailed: the table cannot be written.
        """
        for export in self._exports:
            export.flush()
        self._table.flush()

    def close(self) -> None:
        """Flushes and closes. May be called twice.

        Raises:
            StorageFailed: the table cannot be written.
        """
        for export in self._exports:
            export.close()
        self._exports = []
        self._table.flush()

    def _last_step(self) -> int | None:
        rows = self._table.read()
        if self._step_metric not in rows.column_names:
            return None
        steps = rows.column(self._step_metric).drop_null()
        return int(steps[-1].as_py()) if len(steps) else None


def _plain(name: str, value: Value | None) -> tuple[pa.DataType, Value | None] | None:
    """The column type and stored value of what was logged; numpy's and torch's scalars become Python's."""
    item = getattr(value, "item", None)
    if item is not None and not isinstance(value, (bool, int, float, str)):
        value = item()
    if value is None:
        return None
    if isinstance(value, bool):
        return pa.bool_(), value
    if isinstance(value, int):
        return (pa.int64(), value) if -(2**63) <= value < 2**63 else (pa.float64(), float(value))
    if isinstance(value, float):
        return pa.float64(), None if math.isnan(value) else float(value)
    if isinstance(value, str):
        return pa.string(), value
    raise TypeError(f"metric {name!r}: expected a number, bool or text, got {type(value).__name__}")


def _as(kind: pa.DataType, value: Value | None) -> Value | None:
    """`value` in a column of numbers of type `kind`; pyarrow itself refuses bools and large integers there."""
    if value is None or kind not in _WIDER:
        return value
    return float(value) if kind == pa.float64() else int(value) if kind == pa.int64() else bool(value)


def _wider(name: str, known: pa.DataType | None, new: pa.DataType) -> pa.DataType:
    """The type that holds a column's values so far and a new one: bool < int64 < float64."""
    if known is None or known == new:
        return new
    if known in _WIDER and new in _WIDER:
        return max(known, new, key=_WIDER.__getitem__)
    raise TypeError(f"metric {name!r}: {new} in a column of {known}")
