"""The metrics table, and the sink that feeds it, TensorBoard and Ray's gauges."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from quadriga.platform import storage
from quadriga.platform.errors import UserError
from quadriga.platform.experiment import load
from quadriga.platform.lines import Line
from quadriga.platform.metrics import METRICS, MetricsSink, MetricsTable
from quadriga.platform.run_folder import EXPERIMENT, RunFolder
from quadriga.platform.run_folder import METRICS as METRICS_FILE


def table_at(path: Path) -> MetricsTable:
    return MetricsTable(fs.LocalFileSystem(), str(path))


def remote(tmp_path: Path, **options: object) -> MetricsTable:
    return MetricsTable(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "m.parquet", **options)  # type: ignore[arg-type]


def test_rows_come_back_typed(tmp_path: Path) -> None:
    table = table_at(tmp_path / "m.parquet")
    table.append({"env_steps": 100, "kl": 0.5, "stopped": False, "phase": "warm-up"})
    table.append({"env_steps": 200, "kl": 0.25, "stopped": True, "phase": "main"})
    for found in (table.read(), pq.read_table(tmp_path / "m.parquet")):
        assert found.schema.types == [pa.int64(), pa.float64(), pa.bool_(), pa.string()]
        assert found.to_pylist()[1] == {"env_steps": 200, "kl": 0.25, "stopped": True, "phase": "main"}


def test_every_append_is_on_the_disk_at_once(tmp_path: Path) -> None:
    table = table_at(tmp_path / "m.parquet")
    for count in range(1, 4):
        table.append({"env_steps": count})
        assert table_at(tmp_path / "m.parquet").read().num_rows == count


def test_a_column_seen_later_is_null_before_and_a_missing_value_is_null(tmp_path: Path) -> None:
    table = table_at(tmp_path / "m.parquet")
    table.append({"a": 1})
    table.append({"b": 2.0, "a": None})
    table.append({"a": 3, "b": math.nan})
    assert table.read().to_pydict() == {"a": [1, None, 3], "b": [None, 2.0, None]}


def test_a_column_of_nan_only_is_a_column_of_nulls(tmp_path: Path) -> None:
    table = table_at(tmp_path / "m.parquet")
    table.append({"episode_return_mean": math.nan})
    assert table.read().schema.field("episode_return_mean").type == pa.float64()
    assert table.read().to_pydict() == {"episode_return_mean": [None]}


def test_a_column_widens_to_hold_all_its_numbers(tmp_path: Path) -> None:
    table = table_at(tmp_path / "m.parquet")
    for value in (True, 3, 0.5, 2):
        table.append({"a": value})
    assert table.read().to_pydict() == {"a": [1.0, 3.0, 0.5, 2.0]}


def test_integers_too_large_for_a_column_become_floats(tmp_path: Path) -> None:
    table = table_at(tmp_path / "m.parquet")
    for value in (2**60 + 1, 2**70):
        table.append({"a": value})
    assert table.read().to_pydict() == {"a": [float(2**60), float(2**70)]}


def test_a_row_without_a_value_is_no_row(tmp_path: Path) -> None:
    table = table_at(tmp_path / "m.parquet")
    for row in ({}, {"a": 1}, {"a": None}):
        table.append(row)
    assert table.read().to_pydict() == {"a": [1]}


def test_numpy_scalars_are_numbers(tmp_path: Path) -> None:
    table = table_at(tmp_path / "m.parquet")
    table.append(
        {"f": np.float32(0.5), "i": np.int32(4), "b": np.bool_(True), "z": np.array(2.0), "n": np.float64("nan")}
    )
    assert table.read().to_pylist() == [{"f": 0.5, "i": 4, "b": True, "z": 2.0, "n": None}]
    assert table.read().schema.types == [pa.float64(), pa.int64(), pa.bool_(), pa.float64(), pa.float64()]


@pytest.mark.parametrize("row", [{"a": [1, 2]}, {"a": "text"}])
def test_a_value_that_fits_no_column_is_refused_and_changes_nothing(tmp_path: Path, row: dict[str, object]) -> None:
    table = table_at(tmp_path / "m.parquet")
    table.append({"a": 1})
    with pytest.raises(TypeError, match="metric 'a'"):
        table.append(row)  # type: ignore[arg-type]
    table.append({"a": 2})
    assert table.read().to_pydict() == {"a": [1, 2]}


ROWS = st.lists(
    st.dictionaries(
        st.sampled_from("abcd"), st.one_of(st.none(), st.integers(-(2**40), 2**40), st.floats(width=64)), max_size=4
    ),
    max_size=8,
)


@given(ROWS, st.integers(0, 8))
def test_a_table_opened_again_goes_on_as_if_never_closed(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, float | None]], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("table")
    whole, first = table_at(folder / "whole.parquet"), table_at(folder / "cut.parquet")
    rows = [row for row in rows if any(value is not None for value in row.values())]
    for index, row in enumerate(rows):
        whole.append(row)
        (first if index < cut else table_at(folder / "cut.parquet")).append(row)
    assert table_at(folder / "cut.parquet").read().equals(whole.read())
    for name in whole.read().column_names:
        for row, stored in zip(rows, whole.read().column(name).to_pylist(), strict=True):
            value = row.get(name)
            assert stored == (None if value is None or math.isnan(value) else value)


def test_no_file_is_an_empty_table(tmp_path: Path) -> None:
    table = table_at(tmp_path / "m.parquet")
    assert (table.read().num_rows, table.read().column_names) == (0, [])
    table.flush()
    table.truncate("env_steps", 5)
    assert list(tmp_path.iterdir()) == []


def test_truncate_drops_the_rows_after_a_step(tmp_path: Path) -> None:
    table = table_at(tmp_path / "m.parquet")
    for step in (100, 200, 300, 400):
        table.append({"env_steps": step})
    table_at(tmp_path / "m.parquet").truncate("env_steps", 200)
    again = table_at(tmp_path / "m.parquet")
    assert again.read().to_pydict() == {"env_steps": [100, 200]}
    again.append({"env_steps": 250})
    assert again.read().to_pydict() == {"env_steps": [100, 200, 250]}


def test_truncate_before_the_first_row_drops_all(tmp_path: Path) -> None:
    table = table_at(tmp_path / "m.parquet")
    table.append({"env_steps": 100})
    table.truncate("env_steps", 0)
    assert table_at(tmp_path / "m.parquet").read().num_rows == 0


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a table at all"])
def test_a_damaged_table_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.parquet").write_bytes(content)
    for use in (MetricsTable.read, lambda table: table.append({"a": 1}), lambda table: table.truncate("a", 1)):
        with pytest.raises(UserError, match=r"metrics table '.*m\.parquet' is damaged: .*; move it away"):
            use(table_at(tmp_path / "m.parquet"))
    assert (tmp_path / "m.parquet").read_bytes() == content


def test_a_table_cut_short_is_a_clear_error(tmp_path: Path) -> None:
    table = table_at(tmp_path / "m.parquet")
    table.append({"a": 1})
    content = (tmp_path / "m.parquet").read_bytes()
    for size in range(0, len(content), 7):
        (tmp_path / "m.parquet").write_bytes(content[:size])
        with pytest.raises(UserError, match="is damaged"):
            table_at(tmp_path / "m.parquet").read()


def test_a_full_disk_is_a_clear_error_and_the_rows_before_stand(small_disk: Path) -> None:
    table = table_at(small_disk / "m.parquet")
    table.append({"env_steps": 1})
    with pytest.raises(OSError, match="No space"):
        (small_disk / "ballast").write_bytes(bytes(1 << 20))
    with pytest.raises(UserError, match=r"cannot write the metrics table '.*m\.parquet': No space left on device"):
        table.append({"env_steps": 2, "text": random.Random(0).randbytes(1 << 17).hex()})
    (small_disk / "ballast").unlink()
    assert table_at(small_disk / "m.parquet").read().column("env_steps")[0].as_py() == 1
    assert [path.name for path in small_disk.iterdir()] == ["m.parquet"]


def test_remote_tables_are_written_once_an_interval_and_on_flush(tmp_path: Path) -> None:
    now = [0.0]
    table = remote(tmp_path, interval=30, clock=lambda: now[0])
    stored = []
    for moment in (0, 10, 29, 30, 31):
        now[0] = moment
        table.append({"t": moment})
        stored.append(table_at(tmp_path / "m.parquet").read().num_rows)
    assert stored == [1, 1, 1, 4, 4]
    assert table.read().num_rows == 5
    table.flush()
    assert table_at(tmp_path / "m.parquet").read().to_pydict() == {"t": [0, 10, 29, 30, 31]}


def test_remote_storage_that_fails_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    table = remote(tmp_path, interval=30, clock=lambda: now[0])

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("host unreachable")

    with monkeypatch.context() as broken, caplog.at_level(logging.WARNING, logger="quadriga"):
        broken.setattr(storage, "write", unreachable)
        table.append({"t": 0})
        assert "host unreachable; trying again in 30 s" in caplog.text
        with pytest.raises(UserError, match="host unreachable"):
            table.flush()
    now[0] = 30
    table.append({"t": 30})
    assert table_at(tmp_path / "m.parquet").read().to_pydict() == {"t": [0, 30]}


def test_every_metric_is_described_once() -> None:
    assert all(name.isidentifier() and name == name.lower() for name in METRICS)
    assert all(text and not text.endswith(".") for text in METRICS.values())
    assert len(set(METRICS.values())) == len(METRICS)


@pytest.fixture
def run(toy_line: Line, tmp_path: Path) -> RunFolder:
    run = RunFolder.create(str(tmp_path), "run")
    run.write_text(EXPERIMENT, load("toy").to_yaml())
    return run


def tensorboard_scalars(run: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself shows of a run."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run.local_path("tensorboard")))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_one_call_logs_to_the_table_and_to_tensorboard(run: RunFolder) -> None:
    sink = MetricsSink(run, "env_steps")
    sink.log({"env_steps": 100, "kl": 0.5, "phase": "warm-up", "cost_rate": math.nan, "stopped": True})
    sink.log({"env_steps": 200, "kl": 0.25, "cost_rate": 1.0})
    sink.close()
    sink.close()
    assert RunFolder.open(run.path).metrics.read().column("kl").to_pylist() == [0.5, 0.25]
    assert tensorboard_scalars(run) == {
        "env_steps": [(100, 100.0), (200, 200.0)],
        "kl": [(100, 0.5), (200, 0.25)],
        "stopped": [(100, 1.0)],
        "cost_rate": [(200, 1.0)],
    }


def test_flush_makes_everything_visible(run: RunFolder) -> None:
    sink = MetricsSink(run, "env_steps")
    sink.log({"env_steps": 100})
    sink.flush()
    assert tensorboard_scalars(run) == {"env_steps": [(100, 100.0)]}
    sink.close()


def test_a_resumed_run_hides_the_dropped_rows_in_tensorboard(run: RunFolder) -> None:
    sink = MetricsSink(run, "env_steps")
    for step in (100, 200, 300):
        sink.log({"env_steps": step, "kl": 1.0})
    sink.close()
    resumed = RunFolder.open(run.path)
    resumed.metrics.truncate("env_steps", 100)
    sink = MetricsSink(resumed, "env_steps")
    sink.log({"env_steps": 250, "kl": 2.0})
    sink.close()
    assert tensorboard_scalars(run)["kl"] == [(100, 1.0), (250, 2.0)]
    assert resumed.metrics.read().column("env_steps").to_pylist() == [100, 250]


def test_a_broken_export_is_logged_once_and_training_goes_on(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    folder = run.local_path("tensorboard")
    assert folder is not None
    folder.write_text("a file in the way")
    with caplog.at_level(logging.WARNING, logger="quadriga"):
        sink = MetricsSink(run, "env_steps")
        sink.log({"env_steps": 100})
        sink.log({"env_steps": 200})
        sink.close()
    assert caplog.text.count("TensorBoard is off for the rest of this run") == 1
    assert run.metrics.read().num_rows == 2


def test_remote_runs_have_a_table_and_no_tensorboard(toy_line: Line) -> None:
    run = RunFolder.create(f"memory://{uuid.uuid4().hex}", "run")
    run.write_text(EXPERIMENT, load("toy").to_yaml())
    sink = MetricsSink(run, "env_steps")
    sink.log({"env_steps": 100})
    sink.log({"env_steps": 200})
    sink.close()
    assert RunFolder.open(run.path).metrics.read().column("env_steps").to_pylist() == [100, 200]
    assert not run.exists("tensorboard")


def test_without_ray_there_are_no_gauges(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    sink = MetricsSink(run, "env_steps")
    sink.log({"env_steps": 100})
    sink.close()
    assert caplog.text == ""


def test_reading_leaves_no_thread_behind_that_the_end_of_the_interpreter_could_meet(tmp_path: Path) -> None:
    written = table_at(tmp_path / "m.parquet")
    written.append({f"column{n}": float(n) for n in range(20)})
    written.flush()
    script = (
        "import os, sys; from pyarrow.fs import LocalFileSystem; from quadriga.platform.metrics import MetricsTable\n"
        "threads = os.listdir('/proc/self/task')\n"
        "assert MetricsTable(LocalFileSystem(), sys.argv[1]).read().num_rows == 1\n"
        "assert os.listdir('/proc/self/task') == threads"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "m.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_file_is_where_the_run_folder_says(run: RunFolder) -> None:
    run.metrics.append({"a": 1})
    path = run.local_path(METRICS_FILE)
    assert path is not None and path.is_file()


@pytest.fixture
def metrics_port() -> Iterator[int]:
    """The port where a small Ray of this machine shows its metrics."""
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _system_config={"metrics_report_interval_ms": 200},
        )
    yield ray.nodes()[0]["MetricsExportPort"]
    if started:
        ray.shutdown()


@pytest.mark.usefixtures("toy_line")
def test_with_ray_running_metrics_are_gauges_for_prometheus(tmp_path: Path, metrics_port: int) -> None:
    run = RunFolder.create(str(tmp_path), "shown-by-ray")  # a name of its own: other tests' runs are shown as well
    run.write_text(EXPERIMENT, load("toy").to_yaml())
    sink = MetricsSink(run, "env_steps")
    sink.log({"env_steps": 100, "kl": 0.25, "phase": "main"})
    shown: list[str] = []
    deadline = time.monotonic() + 90
    while not shown and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as page:
            lines = page.read().decode().splitlines()
            shown = [line for line in lines if line.startswith("ray_quadriga_kl{") and 'run="shown-by-ray"' in line]
    sink.close()
    assert len(shown) == 1
    assert shown[0].endswith("} 0.25")
    for tag in ('algorithm="toy"', 'environment="Toy-v0"'):
        assert tag in shown[0]


def test_a_writer_with_nothing_left_to_write_does_not_write_over_its_successor(tmp_path: Path) -> None:
    first = table_at(tmp_path / "m.parquet")
    first.append({"env_steps": 1})
    first.flush()
    second = table_at(tmp_path / "m.parquet")
    second.append({"env_steps": 2})
    first.flush()
    assert table_at(tmp_path / "m.parquet").read().column("env_steps").to_pylist() == [1, 2]
