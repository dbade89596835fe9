"""Prometheus and Grafana for a cluster: a folder of configuration, alert rules and dashboards that name our metrics.

Ray exports `quadriga.platform.metrics` as `ray_quadriga_<name>` with the labels run, algorithm and
environment, and keeps a file of the addresses to ask. Nothing is started here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from quadriga.platform.errors import UserError
from quadriga.platform.experiment import dump_yaml
from quadriga.platform.metrics import METRICS

PREFIX = "ray_quadriga_"
DISCOVERY = "prom_metrics_service_discovery.json"
PROMETHEUS, ALERTS = "prometheus.yml", "alerts.yml"
SCRAPE_S = 10


@dataclass(frozen=True)
class Thresholds:
    """When alerts fire.

    Attributes:
        cost_limit: mean cost of an episode.
        multiplier_max: the multiplier's cap.
        sampling_share: of an iteration's time, above which learners starve.
    """

    cost_limit: float = 25.0
    multiplier_max: float = 100.0
    sampling_share: float = 0.95


class Rate(NamedTuple):
    """A panel of a counter's increase a second, one line for each value of a label."""

    metric: str
    by: str


DASHBOARDS: Mapping[str, Sequence[str | tuple[str, ...] | Rate]] = {
    "Reinforcement learning": (
        "episode_return_mean",
        "episode_cost_mean",
        "lagrange_multiplier",
        "bonus_mean",
        "env_steps_per_second",
        ("time_sampling_s", "time_learning_s"),
        ("kl", "entropy"),
        ("explained_variance", "cost_explained_variance"),
    ),
    "Meta-learning": (
        "query_accuracy",
        "query_loss",
        "inner_loss",
        "tasks_per_second",
        ("time_tasks_s", "time_testing_s"),
        "meta_step_size",
    ),
    "Models of code": (
        "train_loss",
        "validation_loss",
        "tokens_per_second",
        Rate("samples_judged_total", by="verdict"),
    ),
    "Faults": (
        "env_runners_healthy",
        "env_runner_restarts",
        "environment_failures",
        "task_worker_restarts",
    ),
}
"""Panels by dashboard: metrics of a run, several in one panel where they belong together, or a rate over all runs."""


def rules(thresholds: Thresholds) -> dict[str, Any]:
    """Prometheus' alert rules."""

    def rule(name: str, expression: str, minutes: int, summary: str, of: str = "run") -> dict[str, Any]:
        return {
            "alert": name,
            "expr": expression,
            "for": f"{minutes}m",
            "labels": {"severity": "warning"},
            "annotations": {"summary": f"{{{{ $labels.{of} }}}}: {summary}"},
        }

    sampling, learning = f"{PREFIX}time_sampling_s", f"{PREFIX}time_learning_s"
    restarts = f"increase({PREFIX}env_runner_restarts[10m]) > 0 or increase({PREFIX}task_worker_restarts[10m]) > 0"
    found = [
        rule(
            "MultiplierAtItsCap",
            f"{PREFIX}lagrange_multiplier >= {thresholds.multiplier_max:g}",
            5,
            "the multiplier is at its cap; the limit may be out of reach",
        ),
        rule(
            "CostAboveTheLimit",
            f"{PREFIX}episode_cost_mean > {thresholds.cost_limit:g}",
            30,
            "the mean cost has been above its limit for half an hour",
        ),
        rule(
            "LearnersStarve",
            f"{sampling} / ({sampling} + {learning}) > {thresholds.sampling_share:g}",
            10,
            "learners wait for samples; more environment runners would help",
        ),
        rule("WorkersRestart", restarts, 0, "a worker died and was replaced"),
        rule(
            "SandboxesFail",
            f'increase({PREFIX}samples_judged_total{{verdict="infrastructure_error"}}[10m]) > 0',
            0,
            "samples could not be judged: a sandbox or a problem is at fault",
            of="instance",
        ),
        rule("EnvironmentsFail", f"{PREFIX}environment_failures > 0", 0, "an environment raised and was rebuilt"),
    ]
    return {"groups": [{"name": "quadriga", "rules": found}]}


def prometheus(discovery: Path) -> dict[str, Any]:
    """Prometheus' configuration; `discovery` is the file that Ray keeps in its folder."""
    return {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
        "rule_files": [ALERTS],
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [str(discovery)]}]}],
    }


def dashboard(title: str) -> dict[str, Any]:
    """A dashboard as Grafana reads it."""
    panels = []
    for number, panel in enumerate(DASHBOARDS[title]):
        metrics, queries = _queries(panel)
        targets = [
            {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend}
            for place, (query, legend) in enumerate(queries)
        ]
        panels.append(
            {
                "id": number + 1,
                "type": "timeseries",
                "title": " / ".join(metric.replace("_", " ") for metric in metrics),
                "description": "; ".join(METRICS[metric] for metric in metrics),
                "datasource": {"type": "prometheus", "uid": "prometheus"},
                "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
                "targets": targets,
            }
        )
    query = f"label_values({PREFIX}iteration, run)"
    run = {
        "name": "run",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "query": {"query": query, "refId": "run"},
        "definition": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }
    return {
        "uid": f"quadriga-{title.lower().replace(' ', '-')}",
        "title": f"Quadriga: {title}",
        "tags": ["quadriga"],
        "refresh": f"{SCRAPE_S}s",
        "time": {"from": "now-1h", "to": "now"},
        "schemaVersion": 39,
        "templating": {"list": [run]},
        "panels": panels,
    }


def _queries(panel: str | tuple[str, ...] | Rate) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """The metrics of a panel; its queries, each with the legend of its lines."""
    if isinstance(panel, Rate):
        query = f"sum by ({panel.by}) (rate({PREFIX}{panel.metric}[1m]))"
        return (panel.metric,), [(query, f"{{{{{panel.by}}}}}")]
    metrics = (panel,) if isinstance(panel, str) else panel
    legends = ["{{run}}"] if len(metrics) == 1 else [f"{{{{run}}}} {metric}" for metric in metrics]
    return metrics, [
        (f'{PREFIX}{metric}{{run=~"$run"}}', legend) for metric, legend in zip(metrics, legends, strict=True)
    ]


def files(discovery: Path, folder: Path, thresholds: Thresholds, address: str) -> Iterator[tuple[str, str]]:
    """Names and contents of everything in `folder`; `address` is Prometheus', for Grafana."""
    yield PROMETHEUS, dump_yaml(prometheus(discovery))
    yield ALERTS, dump_yaml(rules(thresholds))
    for title in DASHBOARDS:
        made = dashboard(title)
        yield f"grafana/dashboards/{made['uid']}.json", json.dumps(made, indent=2) + "\n"
    source = {"name": "Prometheus", "uid": "prometheus", "type": "prometheus", "url": address, "isDefault": True}
    yield (
        "grafana/provisioning/datasources/prometheus.yml",
        dump_yaml({"apiVersion": 1, "datasources": [{**source, "access": "proxy"}]}),
    )
    provider = {"name": "quadriga", "type": "file", "options": {"path": str(folder.absolute() / "grafana/dashboards")}}
    yield "grafana/provisioning/dashboards/quadriga.yml", dump_yaml({"apiVersion": 1, "providers": [provider]})


def write(folder: Path, discovery: Path, thresholds: Thresholds, address: str = "http://127.0.0.1:9090") -> None:
    """Writes the folder.

    Raises:
        UserError: it cannot be written.
    """
    try:
        for name, text in files(discovery, folder, thresholds, address):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
