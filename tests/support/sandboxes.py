"""Sandboxes for tests."""

import pytest

from quadriga.codegen.sandbox.limits import Limits, Tier
from quadriga.codegen.sandbox.supervisor import Sandbox
from quadriga.platform.errors import UserError


def make(tier: Tier | None = None, mode: str = "split", **limits: float) -> Sandbox:
    """A sandbox with roomy limits, for a busy machine must not change a verdict."""
    try:
        return Sandbox(Limits(**{"wall_s": 20.0, **limits}), mode, tier=tier)
    except UserError as error:
        pytest.skip(str(error))
