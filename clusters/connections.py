"""How a cluster's job API is reached: by which address, whether that is here, and what a connection that breaks means.

Knows addresses, tokens and errors; jobs are `jobs`' business.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

from quadriga.clusters import local
from quadriga.platform.errors import UserError, one_line

RECONNECT_S = 60.0
"""For so long a connection that was lost is tried again."""
PAUSES_S = 0.25, 8.0
"""Between two tries, at first and at most."""

Answer = TypeVar("Answer")


class NoAnswer(UserError):
    """No cluster answers, or none does any more; what runs there is not touched by it."""


def resolve(address: str | None) -> str:
    """The URL of a dashboard.

    Args:
        address: `http://host:port`, or the name of a local cluster; by default `RAY_API_SERVER_ADDRESS`, else the
            local cluster that is up.

    Raises:
        UserError: it is no such address, or no such cluster is up.
    """
    given = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if given and "://" in given:
        if urlsplit(given).scheme not in ("http", "https"):
            raise UserError(f"--address {given!r}: expected http://host:port of the dashboard")
        return given.rstrip("/")
    if given and ":" in given:
        return f"http://{given}"
    if given:
        cluster = local.find(given)
    else:
        running = [cluster for cluster in local.clusters() if cluster.alive]
        if not running:
            raise UserError(
                "no local cluster is up: begin with quadriga cluster up, or give --address http://host:8265"
            )
        named = [cluster for cluster in running if cluster.name == local.DEFAULT_NAME]
        if len(running) > 1 and not named:
            raise UserError(f"--address: which cluster? {', '.join(cluster.name for cluster in running)}")
        cluster = (named or running)[0]
    if not cluster.alive:
        raise UserError(f"the head of cluster {cluster.name!r} is dead; see: quadriga cluster status")
    return cluster.dashboard


def is_here(url: str) -> bool:
    """Whether it is the dashboard of a local cluster that is up. Another address of this machine may be a tunnel's."""
    return any(cluster.alive and cluster.dashboard == url for cluster in local.clusters())


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Errors of Ray and of the connection as ours.

    Raises:
        NoAnswer: no cluster answers.
        UserError: it asks for a token, or refuses.
    """
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError
    from ray.util.state.exception import RayStateApiException, ServerUnavailable

    try:
        yield
    except AuthenticationError as error:
        raise UserError(
            f"the cluster at {url} asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH (or put it into ~/.ray/auth_token); a local cluster is addressed by its name"
        ) from error
    except (ConnectionError, requests.RequestException, aiohttp.ClientError, ServerUnavailable) as error:
        raise NoAnswer(f"no cluster answers at {url}; see: quadriga cluster status") from error
    except (RuntimeError, RayStateApiException) as error:
        raise UserError(f"the cluster at {url} refused: {one_line(error)}") from error


def patiently(ask: Callable[[], Answer], otherwise: str) -> Answer:
    """What `ask` returns; while no cluster answers, it is asked again, for `RECONNECT_S`.

    Args:
        ask: what is asked.
        otherwise: what to do if it is in vain.

    Raises:
        NoAnswer: it was in vain.
    """
    deadline, pause = time.monotonic() + RECONNECT_S, PAUSES_S[0]
    while True:
        try:
            return ask()
        except NoAnswer as error:
            if time.monotonic() >= deadline:
                raise NoAnswer(f"{error}; {otherwise}") from error
            time.sleep(pause)
            pause = min(2 * pause, PAUSES_S[1])
