"""How many processes collect experience, and how much of it an iteration uses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from quadriga.platform.experiment import Section


class RolloutSettings(Section):
    """Environment runners and the batch that they fill together."""

    env_runners: Annotated[int, Field(ge=0, description="Ray actors that collect; 0 collects in the driver")] = 0
    envs_per_runner: Annotated[int, Field(ge=1, description="environments stepped together in one runner")] = 8
    batch_size: Annotated[int, Field(ge=1, description="environment steps an iteration, over all runners")] = 4000
    normalize_observations: Annotated[
        Literal["auto", "standardize", "shrink", "none"],
        Field(
            description="by mean and deviation over all runners' steps; shrink: only where the deviation exceeds 1; "
            "auto: shrink with Safety-Gymnasium's lidars, else standardize"
        ),
    ] = "auto"
    metrics_window: Annotated[
        int,
        Field(
            ge=1, description="episodes in the reported means: the iteration's, or the last this many if it had fewer"
        ),
    ] = 20
    sample_timeout: Annotated[float, Field(gt=0, description="seconds after which a silent runner counts as lost")] = (
        600.0
    )
    asynchronous: Annotated[
        bool, Field(description="env runners collect the next batch during an update, under the policy before it")
    ] = False
    restart_timeout: Annotated[float, Field(gt=0, description="seconds to wait for a runner when none is left")] = 300.0

    @model_validator(mode="after")
    def _somebody_collects_meanwhile(self) -> RolloutSettings:
        if self.asynchronous and self.env_runners == 0:
            raise ValueError("asynchronous: expected rollout.env_runners of at least 1, got 0: it is they who collect")
        return self
