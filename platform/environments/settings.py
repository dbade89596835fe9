"""Which environment an experiment runs in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from quadriga.platform.experiment import Section


class EnvironmentSettings(Section):
    """An environment of the registry, how it is made and what happens when it raises."""

    id: Annotated[
        str, Field(min_length=1, description="id of the registry or of gymnasium; see: quadriga list environments")
    ]
    kwargs: Annotated[
        dict[str, Any], Field(description="arguments of the environment's constructor; with any, it is unmodified")
    ] = {}
    max_episode_steps: Annotated[int | None, Field(ge=1, description="time limit instead of the registered one")] = None
    native: Annotated[
        bool, Field(description="Safety-Gymnasium's tasks vectorized here, same episodes; false: the unmodified ones")
    ] = True
    sleeping: Annotated[
        bool,
        Field(
            description="Goal, Button and Push: skip the physics of objects at rest; faster, not the same episodes; "
            "needs MuJoCo 3.17"
        ),
    ] = False
    on_error: Annotated[
        Literal["rebuild", "raise"],
        Field(description="when step or reset raises: build it anew and drop the broken step, or stop the run"),
    ] = "rebuild"
