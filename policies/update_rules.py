"""The update rules by the kind of their settings: ours, and anybody's.

A rule takes an `UpdateBatch` whose advantages are weighed already and an `UpdateContext`, changes
the policy and its critics in place, and returns metrics. Which constraint or bonus is behind the advantages is none of
its business. With several learners every one calls it with its own rows (perhaps none), and all must take
the same steps: gradients are summed by `Descent.descend`, anything else by `UpdateContext.sum`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping

from quadriga.platform.errors import UserError, one_line
from quadriga.platform.imports import load_object
from quadriga.policies import cpo, ppo, trpo
from quadriga.policies.batch import UpdateBatch
from quadriga.policies.context import UpdateContext
from quadriga.policies.experiment import CPOSettings, CustomUpdateSettings, PPOSettings, TRPOSettings

UpdateRule = Callable[[UpdateBatch, UpdateContext], dict[str, float]]

RULES: Mapping[str, Callable[..., dict[str, float]]] = {"ppo": ppo.update, "trpo": trpo.update, "cpo": cpo.update}


def update_rule(settings: PPOSettings | TRPOSettings | CPOSettings | CustomUpdateSettings) -> UpdateRule:
    """The rule that `settings` ask for, with its settings in it.

    Raises:
        UserError: a rule of somebody's own cannot be imported, or does not take its options.
    """
    if not isinstance(settings, CustomUpdateSettings):
        return functools.partial(RULES[settings.kind], settings=settings)
    rule = load_object(settings.rule, "update.rule")
    if not callable(rule):
        raise UserError(f"update.rule {settings.rule!r}: expected a function, got {type(rule).__name__}")
    try:
        inspect.signature(rule).bind(None, None, **settings.options)
    except TypeError as error:
        raise UserError(f"update.options of {settings.rule!r}: {one_line(error)}") from error
    return functools.partial(rule, **settings.options)
