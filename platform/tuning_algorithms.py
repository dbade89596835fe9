"""Tune's schedulers and searchers for the settings of a search: who ends a trial early, and who draws the next point.

Settings are `search`'s; what Tune does with these objects, `tuning`'s.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune import schedulers
from ray.tune.experiment import Trial

from quadriga.platform import search, trial
from quadriga.platform.errors import UserError
from quadriga.platform.search import AshaSettings, HyperBandSettings, MedianSettings, PBTSettings, SearchSettings
from quadriga.platform.trial import LENGTHS, OBJECTIVE, STEP
from quadriga.platform.tuning_events import Watched

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

UNDER_WAY = (Trial.PENDING, Trial.RUNNING)


class Fifo(Watched, schedulers.FIFOScheduler):
    """Every trial runs to its end."""


class Asha(Watched, schedulers.ASHAScheduler):
    """`AshaSettings`."""


class HyperBand(Watched, schedulers.HyperBandScheduler):
    """`HyperBandSettings`.

    A trial that still saves its checkpoint while the last of its bracket ends is missed by Ray when that bracket is
    closed, and would wait for ever.
    """

    def choose_trial_to_run(self, tune_controller: TuneController, **options: Any) -> Trial | None:
        chosen = super().choose_trial_to_run(tune_controller, **options)
        if chosen is None and not any(each.status in UNDER_WAY for each in tune_controller.get_trials()):
            for bracket in filter(None, itertools.chain.from_iterable(self._hyperbands)):
                if any(each.status == Trial.PAUSED for each in bracket.current_trials()):
                    self._process_bracket(tune_controller, bracket)
            chosen = super().choose_trial_to_run(tune_controller, **options)
        return chosen


class BandedByModel(Watched, schedulers.HyperBandForBOHB):
    """`HyperBandSettings` with the searcher `bohb`: the largest bracket first, and trials wait in it for new ones."""


class Median(Watched, schedulers.MedianStoppingRule):
    """`MedianSettings`."""


class Population(Watched, schedulers.PopulationBasedTraining):
    """`PBTSettings`."""


def scheduler(settings: SearchSettings, steps: int) -> schedulers.TrialScheduler:
    """The scheduler of a search whose trials have `steps` steps each."""
    chosen, tenth = settings.scheduler, max(1, steps // 10)
    if isinstance(chosen, AshaSettings):
        return Asha(time_attr=STEP, max_t=steps, grace_period=chosen.grace or tenth, reduction_factor=chosen.reduction)
    if isinstance(chosen, HyperBandSettings):
        # With single steps as units the first bracket alone would take log(steps) trials and end none of them early.
        kind = BandedByModel if settings.searcher == "bohb" else HyperBand
        return kind(time_attr=LENGTHS, max_t=chosen.lengths(steps), reduction_factor=chosen.reduction)
    if isinstance(chosen, MedianSettings):
        return Median(
            time_attr=STEP,
            grace_period=chosen.grace or tenth,
            min_samples_required=chosen.least_trials,
            min_time_slice=math.inf,  # else trials pause for one another at every result until there are enough
        )
    if isinstance(chosen, PBTSettings):
        return Population(
            time_attr=STEP,
            perturbation_interval=chosen.every or tenth,
            quantile_fraction=chosen.quantile,
            resample_probability=chosen.resample,
            hyperparam_mutations={
                trial.POINT: {name: _mutation(parameter) for name, parameter in settings.parameters.items()}
            },
            custom_explore_fn=_Clip(settings),
        )
    return Fifo()


class _Clip:
    """Keeps what PBT has nudged within the search's ranges; picklable."""

    def __init__(self, settings: SearchSettings) -> None:
        self._parameters = settings.parameters

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        point = {name: self._parameters[name].clip(value) for name, value in config[trial.POINT].items()}
        return {**config, trial.POINT: point}


def _mutation(parameter: search.Parameter) -> Any:
    return list(parameter.choice) if parameter.choice else _domain(parameter)


def _domain(parameter: search.Parameter) -> Any:
    """As Tune writes it."""
    if parameter.choice:
        return tune.choice(list(parameter.choice))
    low, high = parameter.bounds()
    if parameter.randint:
        return tune.randint(low, high + 1)
    return tune.loguniform(low, high) if parameter.loguniform else tune.uniform(low, high)


def searcher(settings: SearchSettings) -> Any:
    """Who draws the next point from what is known of the others; None of a random search.

    Raises:
        UserError: its package is not installed.
    """
    if settings.searcher == "optuna":
        return _optuna(settings)
    return _bohb(settings) if settings.searcher == "bohb" else None


def _bohb(settings: SearchSettings) -> Any:
    """HyperBand whose points a density estimate draws (Falkner et al. 2018): `BandedByModel` tells it each rung."""
    try:
        import ConfigSpace  # noqa: F401
        import hpbandster  # noqa: F401
    except ImportError:
        raise UserError(
            "search.searcher: 'bohb' needs the packages hpbandster and ConfigSpace: pip install hpbandster ConfigSpace"
        ) from None
    from ray.tune.search.bohb import TuneBOHB

    class Bohb(TuneBOHB):
        def suggest(self, trial_id: str) -> dict[str, Any] | None:
            """A point with Python's own numbers, which experiments take."""
            point = super().suggest(trial_id)
            return point and {name: getattr(value, "item", lambda kept=value: kept)() for name, value in point.items()}

    space = {name: _domain(parameter) for name, parameter in settings.parameters.items()}
    return Bohb(Bohb.convert_search_space(space), metric=OBJECTIVE, mode="max", seed=settings.seed)


def _optuna(settings: SearchSettings) -> Any:
    """Optuna's tree-structured Parzen estimator."""
    try:
        import optuna
    except ImportError:
        raise UserError("search.searcher: 'optuna' needs the package optuna: pip install optuna") from None
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(space=_Suggest(settings), metric=OBJECTIVE, mode="max", seed=settings.seed)


class _Suggest:
    """Optuna's define-by-run: unconditional fields first, then those whose condition is met; picklable."""

    def __init__(self, settings: SearchSettings) -> None:
        self._parameters = settings.parameters

    def __call__(self, asked: Any) -> None:
        drawn: dict[str, Any] = {}
        for name, parameter in sorted(self._parameters.items(), key=lambda item: bool(item[1].when)):
            if any(drawn.get(other) != value for other, value in parameter.when.items()):
                continue
            if parameter.choice:
                drawn[name] = asked.suggest_categorical(name, list(parameter.choice))
            elif parameter.randint:
                drawn[name] = asked.suggest_int(name, *parameter.randint)
            else:
                drawn[name] = asked.suggest_float(name, *parameter.bounds(), log=parameter.loguniform is not None)
