"""From an experiment file or a command to a submitted job: what it runs, where it writes, what its metadata say."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quadriga.clusters import shipment
from quadriga.clusters.jobs import JobServer, Needs
from quadriga.platform import storage
from quadriga.platform.errors import UserError

PROGRAM = "python -m quadriga.platform.cli"
PASSED_ON = ("QUADRIGA_DATA", "QUADRIGA_PLACEMENT")


@dataclass(frozen=True)
class Request:
    """What is to be submitted.

    Attributes:
        words: one experiment file, or a command and its arguments.
        assignments: `key=value` texts over the file.
        fields: fields over the file, nested.
        runs_dir: where the job keeps its run.
        needs: of the job's driver.
        environment: for the job.
        working_dir: goes along; by default the experiment file alone, or with a command the current folder.
        wheel: goes along instead of the Quadriga that runs here.
    """

    words: Sequence[str]
    assignments: Sequence[str] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    runs_dir: str | None = None
    needs: Needs = field(default_factory=Needs)
    environment: Mapping[str, str] = field(default_factory=dict)
    working_dir: Path | None = None
    wheel: Path | None = None

    @property
    def file(self) -> Path | None:
        """The experiment file, if it is one."""
        if len(self.words) == 1 and Path(self.words[0]).suffix in (".yaml", ".yml"):
            return Path(self.words[0])
        return None


def submit(server: JobServer, request: Request) -> tuple[str, str]:
    """Submits a job; everything that can be checked here is checked before.

    Returns:
        The job's id, and what was shipped.

    Raises:
        UserError: the experiment is not valid, or the cluster refuses.
    """
    environment = {name: os.environ[name] for name in PASSED_ON if server.is_local and name in os.environ}
    environment |= request.environment
    with tempfile.TemporaryDirectory(prefix="quadriga-job-") as folder:
        staged = Path(folder)
        metadata: Mapping[str, str] = {}
        needs = request.needs
        if request.file is not None:
            name, command, metadata, slots = _experiment(server, request, request.file, staged)
            needs = replace(needs, slots=slots)
        else:
            wished, command = _command(request, staged)
            name = server.free_id(wished)
        shipped = shipment.stage_code(staged, request.wheel)
        job = server.submit(name, command, staged, needs=needs, environment=environment, metadata=metadata)
    return job, shipped


def _experiment(
    server: JobServer, request: Request, file: Path, staged: Path
) -> tuple[str, str, Mapping[str, str], int]:
    """Name, command, metadata, and CPU slots of the actors."""
    from quadriga.platform import experiment as experiments
    from quadriga.platform import training
    from quadriga.platform.lines import line_of

    if request.needs.slots is not None:
        raise UserError("--slots goes with a command; how many an experiment occupies is known")
    runs_dir = _runs_dir(server, request)
    overrides = experiments.merged(request.fields, experiments.parse_assignments(list(request.assignments)))
    experiment = experiments.load(str(file), overrides)
    if request.working_dir is not None:
        shipment.stage_files(request.working_dir, staged)
    shutil.copy(file, staged / file.name)
    name = server.free_id(experiment.name or training.run_name(experiment), _taken(runs_dir))
    sets = [f"--set={assignment}" for assignment in [*_flattened(request.fields), *request.assignments]]
    words = ["train", file.name, *sets, "--name", name, "--runs-dir", runs_dir]
    line = line_of(experiment)
    metadata = {
        "experiment": name,
        "algorithm": experiment.preset,
        "environment": line.task(experiment),
        "run": storage.join(runs_dir, name),
    }
    return name, f"{PROGRAM} {shlex.join(words)}", metadata, line.actor_slots(experiment)


def _command(request: Request, staged: Path) -> tuple[str, str]:
    if request.assignments or request.fields or request.runs_dir:
        raise UserError("--set, --steps, --seed, --name and --runs-dir go with an experiment file, not with a command")
    shipment.stage_files(request.working_dir or Path(), staged)
    program, *rest = request.words
    ours = Path(program).name == "quadriga"
    wraps = ours or Path(program).name.startswith(("python", "bash", "sh"))
    name = next((word for word in rest if not word.startswith("-")), program) if wraps else program
    command = f"{PROGRAM} {shlex.join(rest)}" if ours else shlex.join(request.words)
    return Path(name).stem or "job", command


def _runs_dir(server: JobServer, request: Request) -> str:
    """A local job writes where a local run would; elsewhere `runs` of this machine means nothing."""
    given = request.runs_dir
    if given is not None and (storage.is_uri(given) or Path(given).is_absolute()):
        return given
    if server.is_local:
        return str(Path(given or "runs").absolute())
    raise UserError(
        "--runs-dir: give a URI (s3://...) or an absolute path that the cluster's machines share, since the job "
        "does not run here (a local cluster is addressed by its name)"
    )


def _taken(runs_dir: str) -> Callable[[str], bool]:
    """Whether a run of some name would get another, for there is something of that name in `runs_dir`."""
    filesystem, parent = storage.resolve(runs_dir)

    def taken(name: str) -> bool:
        try:
            return storage.exists(filesystem, storage.join(parent, name))
        except OSError:  # where the job runs the storage may answer
            return False

    return taken


def _flattened(fields: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in fields.items() if key != "name"]
