"""`quadriga cluster`, `submit` and `jobs`. Thin, as all commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from quadriga.platform.errors import UserError
from quadriga.platform.options import AsJson, Name, Seed, Steps
from quadriga.platform.tables import print_table

cluster = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Local clusters, and templates for others.")
jobs = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Jobs on a cluster: list, logs, stop, status.")
submission = typer.Typer(rich_markup_mode=None)

ClusterName = Annotated[str, typer.Option("--name", metavar="NAME", help="Of the cluster; several may be up.")]
Server = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL|NAME",
        help="Dashboard of the cluster, or name of a local one (default: RAY_API_SERVER_ADDRESS, else the local one).",
    ),
]
JobId = Annotated[
    str, typer.Argument(metavar="JOB", help="Id of the job; see: quadriga jobs list.", show_default=False)
]


@cluster.command(short_help="Start a local cluster.")
def up(
    name: ClusterName = "local",
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Nodes for rollouts and learners.")] = 2,
    sandbox_workers: Annotated[
        int, typer.Option(min=0, metavar="N", help="Nodes for untrusted code alone; with 0 every worker takes it.")
    ] = 0,
    cpus: Annotated[float, typer.Option(min=0, metavar="N", help="CPU slots of each worker.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, metavar="N", help="GPUs of each worker.")] = 0,
    head_cpus: Annotated[float, typer.Option(min=0, metavar="N", help="CPU slots of the head, for jobs' drivers.")] = 1,
    port: Annotated[
        int | None, typer.Option(metavar="P", help="Of the control store (default: 6379, or a free one).")
    ] = None,
    dashboard_port: Annotated[
        int | None, typer.Option(metavar="P", help="Of the dashboard (default: 8265, or a free one).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a head and worker nodes on this machine: authenticated, on the loopback interface only.

    \b
    quadriga cluster up
    """
    from dataclasses import asdict

    from quadriga.clusters import local
    from quadriga.platform.progress import json_line

    shape = local.Shape(workers, sandbox_workers, cpus, gpus, head_cpus)
    made = local.up(name, shape, port=port, dashboard_port=dashboard_port)
    if as_json:
        print(json_line(asdict(made)))
        return
    print(f"cluster {name!r} is up: {len(made.nodes)} nodes")
    print(f"  dashboard  {made.dashboard}  (asks for the token: ray get-auth-token)")
    print(f"  address    {made.address}")
    print(f"  logs       {made.temp_dir}/session_latest/logs")
    print("What next:")
    for line in (
        "quadriga submit examples/ppo_cartpole.yaml",
        "quadriga jobs list",
        f"quadriga cluster down --name {name}",
    ):
        print(f"  {line}")
    print("For Ray's own tools:")
    print("  export " + " ".join(f"{key}={value}" for key, value in made.environment().items()))


@cluster.command(short_help="End a local cluster.")
def down(name: ClusterName = "local") -> None:
    """End a local cluster: exactly the processes that `up` started, and what they started.

    \b
    quadriga cluster down
    """
    from quadriga.clusters import local

    ended = local.down(name)
    print(f"cluster {name!r} is down: {ended} processes ended")


@cluster.command(short_help="Show local clusters and their nodes.")
def status(
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Only this cluster.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show local clusters and their nodes. Exits with 1 if a node is dead, or there is no cluster.

    \b
    quadriga cluster status
    """
    from quadriga.clusters import local
    from quadriga.platform import placement
    from quadriga.platform.progress import json_line

    found = local.clusters() if name is None else [local.find(name)]
    broken = local.broken_records() if name is None else []
    for record in broken:
        print(f"quadriga: warning: {local.BrokenRecord(record)}", file=sys.stderr)
    rows, healthy = [], bool(found) and not broken
    for each in found:
        healthy = healthy and bool(each.nodes) and all(node.alive for node in each.nodes)
        if as_json:
            nodes = {node.name: "alive" if node.alive else "dead" for node in each.nodes}
            print(json_line({"name": each.name, "address": each.address, "dashboard": each.dashboard, "nodes": nodes}))
        for node in each.nodes:
            roles = ", ".join(role for role in node.resources if role != placement.ACTOR_SLOTS) or "jobs"
            state = "alive" if node.alive else "dead"
            rows.append((each.name, node.name, state, f"{node.cpus:g}", f"{node.gpus:g}", roles, each.dashboard))
        if not each.nodes:
            rows.append((each.name, "", "starting", "", "", "", ""))
    if not as_json:
        print_table(("cluster", "node", "state", "CPUs", "GPUs", "takes", "dashboard"), rows)
        if not rows and not broken:
            print("no local cluster; begin with: quadriga cluster up")
    if not healthy:
        raise typer.Exit(1)


@cluster.command(short_help="Write a file for a cloud, Kubernetes or Slurm.")
def template(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="Without it: list the kinds.")] = None,
    values: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A value of the file. May be repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: standard output.")
    ] = None,
) -> None:
    """Write a ready file for Ray's cluster launcher (aws, gcp, azure, on-premise), KubeRay, Slurm or Docker.

    \b
    quadriga cluster template aws --set region=eu-central-1 --set rollout_nodes=20 -o cluster.yaml
    quadriga cluster template slurm --set nodes=4
    """
    from quadriga.clusters import rendering

    if kind is None:
        if values or output is not None:
            raise UserError("which kind of cluster? see: quadriga cluster template")
        rows = [
            (name, each.summary, " ".join(f"{key}={value}" for key, value in each.values.items()))
            for name, each in rendering.KINDS.items()
        ]
        print_table(("kind", "what it is", "values"), rows)
        return
    text = rendering.render(kind, _pairs("--set", values))
    if output is None:
        sys.stdout.write(text)
    else:
        rendering.write(text, output)
        print(f"{rendering.KINDS[kind].summary}: {output}")


@cluster.command(short_help="Write files for Prometheus and Grafana.")
def monitor(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder that gets the files.")] = Path(
        "monitoring"
    ),
    name: ClusterName = "local",
    discovery: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ray's list of addresses (default: that of the local cluster).")
    ] = None,
    cost_limit: Annotated[float, typer.Option(metavar="D", help="Mean cost of an episode that raises an alert.")] = 25,
    multiplier_max: Annotated[float, typer.Option(metavar="M", help="The multiplier's cap.")] = 100,
) -> None:
    """Write configuration, alert rules and dashboards for Prometheus and Grafana; starts neither.

    \b
    quadriga cluster monitor --help
    """
    from quadriga.clusters import local, monitoring

    found = discovery or Path(local.find(name).temp_dir, monitoring.DISCOVERY)
    monitoring.write(output, found.absolute(), monitoring.Thresholds(cost_limit, multiplier_max))
    print(f"monitoring: {output}")
    print("next:")
    print(f"  prometheus --config.file={output}/{monitoring.PROMETHEUS} --web.listen-address=127.0.0.1:9090")
    print(f"  GF_PATHS_PROVISIONING={output.absolute()}/grafana/provisioning grafana server")


@submission.command("submit", short_help="Run an experiment file or a command on a cluster.")
def submit(
    words: Annotated[
        list[str], typer.Argument(metavar="FILE.yaml|-- COMMAND...", help="What to run.", show_default=False)
    ],
    address: Server = None,
    steps: Steps = None,
    seed: Seed = None,
    name: Name = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other field of the file. May be repeated."),
    ] = None,
    runs_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder or URI of all runs, as the cluster sees it.")
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, metavar="N", help="CPU slots of the job's driver.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, metavar="N", help="GPUs of the job's driver.")] = 0,
    slots: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="CPU slots of what a command starts; an experiment's are known."),
    ] = None,
    resources: Annotated[
        list[str] | None,
        typer.Option("--resource", metavar="NAME=N", help="Other resources of the driver. May be repeated."),
    ] = None,
    environment: Annotated[
        list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="Variable of the job. May be repeated.")
    ] = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Goes along (default: the file alone; with a command, this folder)."),
    ] = None,
    wheel: Annotated[
        Path | None, typer.Option(metavar="FILE.whl", help="Goes along instead of the Quadriga that runs here.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job's output to its end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Run an experiment file or a command on a cluster, with this very Quadriga, and follow what it prints.

    \b
    quadriga submit examples/ppo_cartpole.yaml --steps 20k
    quadriga submit --no-wait -- quadriga code check
    """
    from quadriga.clusters import submission as submissions
    from quadriga.clusters.jobs import JobServer, Needs
    from quadriga.platform.progress import json_line

    fields: dict[str, Any] = {
        key: value for key, value in (("steps", steps), ("seed", seed), ("name", name)) if value is not None
    }
    amounts = {}
    for key, text in _pairs("--resource", resources).items():
        try:
            amounts[key] = float(text)
        except ValueError:
            raise UserError(f"--resource {key}={text}: expected a number") from None
    request = submissions.Request(
        words,
        assignments or [],
        fields,
        runs_dir,
        Needs(cpus, gpus, amounts, slots),
        _pairs("--env", environment),
        working_dir,
        wheel,
    )
    server = JobServer(address)
    job, shipped = submissions.submit(server, request)
    if as_json:
        print(json_line({"id": job, "dashboard": server.url}), flush=True)
    else:
        print(f"job {job} submitted to {server.url}, with {shipped}", flush=True)
    if not wait:
        return
    raise typer.Exit(_follow(server, job))


@jobs.command("list", short_help="List the jobs of a cluster.")
def list_(address: Server = None, as_json: AsJson = False) -> None:
    """List the jobs of a cluster, oldest first.

    \b
    quadriga jobs list
    """
    from quadriga.clusters.jobs import JobServer, describe
    from quadriga.clusters.jobs import as_json as in_json
    from quadriga.platform.progress import json_line

    found = JobServer(address).list()
    if as_json:
        for job in found:
            print(json_line(in_json(job)))
        return
    headers = ("job", "state", "from submission", "algorithm", "environment", "run folder", "command")
    print_table(headers, [describe(job) for job in found])
    if not found:
        print("no jobs")


@jobs.command(short_help="Show what a job prints.")
def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="To its end; exits as the job does.")] = False,
    address: Server = None,
) -> None:
    """Show what a job has printed, or follow it to its end.

    \b
    quadriga jobs logs --help
    """
    from quadriga.clusters.jobs import JobServer

    server = JobServer(address)
    if follow:
        raise typer.Exit(_follow(server, job))
    sys.stdout.write(server.logs(job))


@jobs.command(short_help="Stop a job.")
def stop(
    job: JobId,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until it has ended.")] = True,
    address: Server = None,
) -> None:
    """Stop a job; training finishes its iteration and saves a checkpoint first.

    \b
    quadriga jobs stop --help
    """
    from quadriga.clusters.jobs import JobServer

    server = JobServer(address)
    found = server.stop(job)
    waits = found.state == "PENDING"
    if wait and not waits and not found.ended:
        found = server.wait(job)
    print(f"job {job}: {found.state.lower()}" + ("; it is told to end, and will when its turn comes" if waits else ""))


@jobs.command("status", short_help="Show the state of a job.")
def status_(
    job: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended.")] = False,
    address: Server = None,
    as_json: AsJson = False,
) -> None:
    """Show the state of a job. Exits with 0 if it succeeded, 3 if it has not ended, else as the job did.

    \b
    quadriga jobs status --help
    """
    from quadriga.clusters.jobs import JobServer
    from quadriga.clusters.jobs import as_json as in_json
    from quadriga.platform.progress import json_line

    server = JobServer(address)
    found = server.wait(job) if wait else server.find(job)
    if as_json:
        print(json_line(in_json(found)))
    else:
        print(f"job {job}: {found.state.lower()}")
        for key, value in {**found.metadata, "command": found.command}.items():
            print(f"  {key:<12} {value}")
        if found.state == "FAILED":
            print(f"  {'why':<12} {found.message.splitlines()[0] if found.message else 'no reason given'}")
    raise typer.Exit(found.script_code())


def _follow(server: Any, job: str) -> int:
    from quadriga.clusters.connections import NoAnswer
    from quadriga.clusters.jobs import EXIT_RUNNING

    try:
        ended = server.follow(job)
    except NoAnswer as error:
        print(f"quadriga: error: {error}", file=sys.stderr)
        return EXIT_RUNNING
    except KeyboardInterrupt:
        print(
            f"\nthe job goes on; follow: quadriga jobs logs {job} --follow; stop: quadriga jobs stop {job}",
            file=sys.stderr,
        )
        return 130
    if ended.state != "SUCCEEDED":
        why = ended.message.splitlines()[0] if ended.message else ""
        print(f"quadriga: job {job}: {ended.state.lower()}" + (f": {why}" if why else ""), file=sys.stderr)
    return int(ended.script_code())


def _pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise UserError(f"{option} {text!r}: expected NAME=VALUE")
        pairs[key] = value
    return pairs
