"""Which environments there are, and how one or a vector of them is made from its settings.

Any id of gymnasium works, `module:Id` included, Safety-Gymnasium's tasks and the tasks of exploration. What an
environment returns is left as it is by `make_env` and becomes columns in `make_vector_env`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit

from quadriga.platform.environments import rendering, safety_gymnasium, sparse_tasks
from quadriga.platform.environments.costs import CostInInfo
from quadriga.platform.environments.safety_tasks import find_task
from quadriga.platform.environments.seeds import EpisodeSeeds
from quadriga.platform.environments.serial import SerialVectorEnv
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.environments.single import SingleEnv
from quadriga.platform.environments.sparse_tasks import SPARSE_TASKS, make_sparse_task
from quadriga.platform.environments.vector import ColumnVectorEnv
from quadriga.platform.errors import UserError, unknown

LISTING = "quadriga list environments"
NEEDS = {"box2d": "Box2D", "mujoco": "mujoco", "phys2d": "jax", "tabular": "jax"}
"""The package that a family of gymnasium's needs."""


class EnvironmentRow(NamedTuple):
    """One line of the list of environments."""

    id: str
    family: str
    summary: str


def list_environments() -> list[EnvironmentRow]:
    """The supported environments by family: Safety-Gymnasium's tasks and the newest version of gymnasium's."""
    rows = [EnvironmentRow(id, *row) for id, row in safety_gymnasium.task_summaries().items()]
    rows += [EnvironmentRow(id, task.family, sparse_tasks.summary(id)) for id, task in SPARSE_TASKS.items()]
    newest: dict[tuple[str | None, str], EnvSpec] = {}
    for spec in _gymnasium_specs():
        key = spec.namespace, spec.name
        if key not in newest or (newest[key].version or 0) < (spec.version or 0):
            newest[key] = spec
    for spec in newest.values():
        family = _family(spec)
        summary = f"at most {spec.max_episode_steps} steps" if spec.max_episode_steps else "no time limit"
        package = NEEDS.get(family)
        if package is not None and importlib.util.find_spec(package) is None:
            summary += f"; needs {package}, which is not installed"
        rows.append(EnvironmentRow(spec.id, family, summary))
    return sorted(rows, key=lambda row: (not row.family.startswith("safety"), row.family, row.id))


def make_env(settings: EnvironmentSettings, render_mode: str | None = None) -> gymnasium.Env:
    """One environment as gymnasium knows it, with the cost in `info["cost"]`; for evaluation and video.

    With pictures asked for, Safety-Gymnasium's tasks Goal, Button and Push are the native ones where they are in
    `make_vector_env`; in all else they are the unmodified ones.

    Args:
        settings: which, its arguments and its time limit.
        render_mode: e.g. `"rgb_array"`; `None` renders nothing and leaves out what only rendering needs.

    Raises:
        UserError: unknown id (names the nearest), wrong arguments, a missing package, or a render
            mode that the environment lacks.
    """
    if settings.id in SPARSE_TASKS:
        return _single(settings, render_mode)
    if render_mode is not None:
        rendering.prepare_headless()
        task = find_task(settings.id)
        if render_mode == "rgb_array" and task is not None and settings.native and not settings.kwargs:
            from quadriga.platform.environments.safety_renderer import RenderedSafetyEnv

            return RenderedSafetyEnv(task, name=settings.id, max_episode_steps=settings.max_episode_steps)
    safety = settings.id in safety_gymnasium.task_summaries()
    if safety:
        safety_gymnasium.load()
    spec = gymnasium.registry[settings.id] if safety else _find(settings.id)
    kwargs: dict[str, Any] = dict(settings.kwargs)
    if isinstance(kwargs.get("config"), dict) and isinstance(spec.kwargs.get("config"), dict):
        kwargs["config"] = {**spec.kwargs["config"], **kwargs["config"]}
    if render_mode is not None:
        if safety:
            kwargs = {**safety_gymnasium.camera(spec, kwargs), **kwargs}
        kwargs["render_mode"] = render_mode
    env = _construct(spec, kwargs, settings)
    if render_mode is not None and render_mode not in (env.metadata.get("render_modes") or []):
        modes = ", ".join(map(str, env.metadata.get("render_modes") or ["none"]))
        env.close()
        raise UserError(f"environment {settings.id!r} cannot render {render_mode!r}; its render modes: {modes}")
    if safety:
        limit = settings.max_episode_steps
        safety_gymnasium.prepare(env.unwrapped, render=render_mode is not None, max_episode_steps=limit)
    env = CostInInfo(env)
    limit = settings.max_episode_steps or spec.max_episode_steps
    return env if limit is None else TimeLimit(env, limit)


def make_vector_env(
    settings: EnvironmentSettings, num_envs: int, *, episode_seeds: EpisodeSeeds | None = None
) -> ColumnVectorEnv:
    """`num_envs` environments as columns; for training.

    Safety-Gymnasium's tasks Goal, Button, Push and Velocity are the native ones, with the episodes of the
    unmodified ones; unless `settings.native` is false or `settings.kwargs` has arguments, which only these take.

    Args:
        settings: which, its arguments, its time limit and what happens when one raises.
        num_envs: how many, at least 1.
        episode_seeds: the seed of every episode; needed for snapshots.

    Raises:
        UserError: as `make_env`; or a space that is not supported.
    """
    rebuild = settings.on_error == "rebuild"
    limit = settings.max_episode_steps
    if settings.id in SPARSE_TASKS:
        _check_unmodified(settings)
        return make_sparse_task(
            settings.id, num_envs, rebuild=rebuild, max_episode_steps=limit, episode_seeds=episode_seeds
        )
    native = settings.native and not settings.kwargs
    task = find_task(settings.id) if native else None
    if settings.sleeping and task is None:
        raise UserError(
            "env.sleeping: only Safety-Gymnasium's native tasks Goal, Button and Push have sleeping objects, "
            f"got env.id={settings.id!r}, env.native={settings.native}, env.kwargs={settings.kwargs}"
        )
    if native:
        # Not at the top: they import MuJoCo, which most environments do without.
        robot = safety_gymnasium.velocity_robot(settings.id)
        if task is not None:
            from quadriga.platform.environments.safety_navigation import SafetyNavigationEnv

            return SafetyNavigationEnv(
                task,
                num_envs,
                name=settings.id,
                rebuild=rebuild,
                max_episode_steps=limit,
                episode_seeds=episode_seeds,
                sleeping=settings.sleeping,
            )
        if robot is not None:
            from quadriga.platform.environments.safety_velocity import SafetyVelocityEnv

            return SafetyVelocityEnv(
                robot, num_envs, name=settings.id, rebuild=rebuild, max_episode_steps=limit, episode_seeds=episode_seeds
            )
    make = functools.partial(make_env, settings)
    return SerialVectorEnv(make, num_envs, name=settings.id, rebuild=rebuild, episode_seeds=episode_seeds)


def _single(settings: EnvironmentSettings, render_mode: str | None) -> gymnasium.Env:
    """One environment of a task of exploration."""
    _check_unmodified(settings)
    if render_mode is not None:
        raise UserError(f"environment {settings.id!r} cannot render {render_mode!r}; its render modes: none")
    return SingleEnv(make_sparse_task(settings.id, 1, max_episode_steps=settings.max_episode_steps, autoreset=False))


def _check_unmodified(settings: EnvironmentSettings) -> None:
    if settings.kwargs:
        raise UserError(f"env.kwargs: environment {settings.id!r} takes no arguments, got {settings.kwargs}")
    if settings.sleeping:
        raise UserError(f"env.sleeping: environment {settings.id!r} has no sleeping objects, got True")


def _find(id: str) -> EnvSpec:
    module, colon, name = id.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"environment {id!r}: cannot import {module!r}: {error}") from error
    known = {spec.id: spec for spec in _gymnasium_specs()}
    if name in known:
        return known[name]
    if safety_gymnasium.is_unsupported(name):
        raise UserError(f"environment {id!r} is not supported: it is made for images or a keyboard; see: {LISTING}")
    raise unknown("environment", id, [*safety_gymnasium.task_summaries(), *SPARSE_TASKS, *known], listing=LISTING)


def _gymnasium_specs() -> Iterable[EnvSpec]:
    """What is registered with gymnasium now, without Safety-Gymnasium's own entries and gymnasium's adapters."""
    for spec in list(gymnasium.registry.values()):
        package = str(spec.entry_point).partition(".")[0]
        if package != safety_gymnasium.PACKAGE and spec.entry_point is not None and not spec.id.startswith("GymV"):
            yield spec


def _construct(spec: EnvSpec, kwargs: dict[str, Any], settings: EnvironmentSettings) -> gymnasium.Env:
    try:
        # The time limit goes outside the adapter of costs; the checker knows five-tuples only.
        with np.errstate(over="ignore"):  # float64 bounds that spaces compare with float32's
            return gymnasium.make(spec, max_episode_steps=-1, disable_env_checker=True, **kwargs)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(f"environment {settings.id!r}: {error}") from error
    except Exception as error:
        # gymnasium appends all arguments of the environment, the registered ones too, to a TypeError.
        reason = str(error).partition(" was raised from the environment creator")[0]
        reason = " ".join(reason.split()) or type(error).__name__
        given = f" with env.kwargs {settings.kwargs}" if settings.kwargs else ""
        raise UserError(f"environment {settings.id!r} cannot be made{given}: {reason}") from error


def _family(spec: EnvSpec) -> str:
    parts = str(spec.entry_point).replace(":", ".").split(".")
    inside = parts[2] if parts[:2] == ["gymnasium", "envs"] and len(parts) > 2 else parts[0]
    return spec.namespace or inside.replace("_", " ")
