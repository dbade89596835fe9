"""One measured run of OmniSafe 0.5.0, in a process of its own virtual environment; `training.py` starts it.

Its environment is made by `install_omnisafe.sh`. Nothing of ours is imported here but the stopwatch.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import tempfile
import xml.etree.ElementTree as ElementTree
from typing import Any

from phases import LEARNING, SAMPLING, Stopwatch, run


def import_omnisafe() -> Any:
    """The package; Python 3.11 refuses the array defaults of safety-gymnasium's dataclasses unless they are copied."""
    original = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        def decorate(cls: type) -> type:
            affected = cls.__module__.startswith("safety_gymnasium")
            for name in vars(cls).get("__annotations__", {}) if affected else ():
                default = vars(cls).get(name)
                if type(default).__hash__ is None and not isinstance(default, dataclasses.Field):
                    setattr(cls, name, dataclasses.field(default_factory=functools.partial(copy.deepcopy, default)))
            return original(cls, **options)

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = dataclass
    try:
        import omnisafe
    finally:
        dataclasses.dataclass = original
    return omnisafe


def leave_out_textures() -> None:
    """Gives the peer the cheaper resets that our environments have: models are compiled without textures."""
    from safety_gymnasium.world import World

    def without_textures(world: Any, xml: str | None) -> None:
        if xml is not None:
            root = ElementTree.fromstring(xml)
            for asset in root.iter("asset"):
                for texture in asset.findall("texture"):
                    asset.remove(texture)
                for material in asset.findall("material"):
                    material.attrib.pop("texture", None)
            xml = ElementTree.tostring(root, encoding="unicode")
        world.__dict__["xml_string"] = xml

    World.xml_string = property(lambda world: world.__dict__["xml_string"], without_textures)


def configuration(specification: dict[str, Any], log_dir: str) -> dict[str, Any]:
    """OmniSafe's `custom_cfgs`; without settings its own defaults, but for the one thread."""
    settings = specification["settings"]
    steps = 20_000 if settings is None else settings["batch_size"]
    changed: dict[str, Any] = {
        "seed": specification["seed"],
        "train_cfgs": {
            "device": "cpu",
            "torch_threads": 1,
            "vector_env_nums": 1,
            "parallel": 1,
            "total_steps": steps * (specification["warmup"] + specification["iterations"]),
        },
        "algo_cfgs": {"steps_per_epoch": steps},
        "logger_cfgs": {"use_wandb": False, "use_tensorboard": False, "log_dir": log_dir},
    }
    if settings is not None:
        network = {
            "hidden_sizes": list(settings["hidden_sizes"]),
            "activation": settings["activation"],
            "lr": settings["learning_rate"],
        }
        critic_rate = settings.get("critic_learning_rate", settings["learning_rate"])
        changed["model_cfgs"] = {"actor": network, "critic": network | {"lr": critic_rate}}
        changed["algo_cfgs"] |= {
            "update_iters": settings["epochs"],
            "batch_size": settings["minibatch_size"],
            "kl_early_stop": False,
            "obs_normalize": settings["normalize_observations"],
            "max_grad_norm": settings["max_grad_norm"],
            "gamma": settings["discount"],
            "cost_gamma": settings["discount"],
            "lam": settings["gae_lambda"],
            "lam_c": settings["gae_lambda"],
        }
        if "cg_iterations" in settings:
            changed["algo_cfgs"] |= {
                "target_kl": settings["target_kl"],
                "cg_damping": settings["damping"],
                "cg_iters": settings["cg_iterations"],
                "fvp_sample_freq": 1,
            }
        else:
            changed["algo_cfgs"] |= {"clip": settings["clip"]}
    return changed


def measure(specification: dict[str, Any]) -> dict[str, Any]:
    """Epochs of OmniSafe: from the beginning of a rollout to the end of its table, checkpoints left out."""
    omnisafe = import_omnisafe()
    if not specification["textures"]:
        leave_out_textures()
    with tempfile.TemporaryDirectory() as log_dir:
        agent = omnisafe.Agent(
            specification["algorithm"], specification["env"], custom_cfgs=configuration(specification, log_dir)
        )
        algorithm = agent.agent
        watch = Stopwatch()
        watch.wrap(algorithm._env, "rollout", SAMPLING)
        watch.wrap(algorithm, "_update", LEARNING)
        logger, steps = algorithm._logger, agent.cfgs.algo_cfgs.steps_per_epoch
        passes: list[float] = []
        around(algorithm._env, "rollout", before=watch.begin)
        around(
            logger,
            "dump_tabular",
            before=lambda: passes.append(float(logger.get_stats("Train/StopIter")[0])),
            after=lambda: watch.end(steps),
        )
        algorithm.learn()
    return {"iterations": watch.iterations[specification["warmup"] :], "passes": passes[-1]}


def around(owner: Any, method: str, *, before: Any = None, after: Any = None) -> None:
    """Calls `before` and `after` with every call of `owner.method`."""
    original = getattr(owner, method)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before()
        result = original(*args, **kwargs)
        if after is not None:
            after()
        return result

    setattr(owner, method, wrapped)


if __name__ == "__main__":
    run(measure)
