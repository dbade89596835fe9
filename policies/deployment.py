"""A trained policy outside of training: as a callable on an environment's own observations, and as a file for others.

Exported files (TorchScript, torch.export, ONNX) take raw observations, float32 `[N, obs_dim]`, flattened as
`quadriga.platform.environments.spaces` has it, and give the most likely actions within their bounds: float32
`[N, act_dim]`, or int64 `[N]` counted from 0. Normalization is inside; reading them needs neither Ray nor Quadriga.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from quadriga.platform.environments.registry import make_env
from quadriga.platform.environments.spaces import (
    action_decoder,
    flat_action_space,
    flat_observation_space,
    observation_encoder,
)
from quadriga.platform.errors import UserError
from quadriga.platform.rollouts.actors import OBSERVATION_CLIP, ActionScale
from quadriga.platform.rollouts.recurrent import RecurrentActor
from quadriga.policies.experiment import RLExperiment
from quadriga.policies.policy import Policy

FORMATS = {".pt": "TorchScript", ".pt2": "torch.export", ".onnx": "ONNX"}
OPSET = 17


class Agent:
    """A policy on an environment's own observations and actions.

    Attributes:
        observation_space: of the environment.
        action_space: of the environment.
    """

    def __init__(self, policy: Policy, observation_space: gym.Space, action_space: gym.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self._policy = policy
        self._encode = observation_encoder(observation_space) or (lambda observation: observation)
        self._decode = action_decoder(action_space)

    def __call__(self, observations: Any, rng: np.random.Generator | None = None) -> Any:
        """Actions of observations.

        Args:
            observations: one of the environment's, or several: an array with one more axis in front, or a list.
            rng: draws the actions; without it they are the most likely ones.

        Returns:
            An action that the environment takes; of several observations, an array with one in each row.

        Raises:
            ValueError: the observations are not of the environment's shape.
        """
        several = self._are_several(observations)
        rows = [np.asarray(self._encode(each), np.float32) for each in (observations if several else [observations])]
        actions = list(self._decode(self._policy(np.stack(rows), rng)))
        return np.asarray(actions) if several else actions[0]

    def forget(self) -> None:
        """Begins anew: a recurrent policy remembers what it saw in the episode."""
        self._policy.forget()

    def _are_several(self, observations: Any) -> bool:
        if isinstance(observations, list):
            return True
        if not isinstance(self.observation_space, gym.spaces.Box):
            return False
        shape, given = self.observation_space.shape, np.shape(observations)
        if given not in (shape, (*given[:1], *shape)):
            raise ValueError(f"observations: expected shape {shape} or (N, {', '.join(map(str, shape))}), got {given}")
        return given != shape


def agent(experiment: RLExperiment, checkpoint: Path) -> Agent:
    """The policy of a checkpoint folder.

    Raises:
        UserError: the folder holds none, or the environment cannot be made.
    """
    policy, observation_space, action_space = _load(experiment, checkpoint)
    return Agent(policy, observation_space, action_space)


def export(experiment: RLExperiment, checkpoint: Path, output: Path) -> None:
    """Writes the policy of a checkpoint folder into the file `output`.

    Raises:
        UserError: an ending that is none of `FORMATS`, a recurrent policy, a missing package `onnx`, or a file
            that cannot be written.
    """
    kind = output.suffix.lower()
    if kind not in FORMATS:
        known = ", ".join(f"{ending} ({name})" for ending, name in FORMATS.items())
        raise UserError(f"export to {str(output)!r}: expected a file name that ends with {known}")
    policy, observation_space, action_space = _load(experiment, checkpoint)
    if isinstance(policy.actor, RecurrentActor):
        raise UserError("a recurrent policy cannot be exported: it carries a memory from step to step")
    flat = flat_observation_space(observation_space, experiment.env.id)
    parts = _parts(policy, experiment.network.activation, flat_action_space(action_space, experiment.env.id))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if kind == ".onnx":
            _write_onnx(parts, output)
        else:
            _write_torch(parts, int(flat.shape[0]), output)
    except OSError as error:
        raise UserError(f"cannot write {str(output)!r}: {error.strerror or error}") from error


def _load(experiment: RLExperiment, checkpoint: Path) -> tuple[Policy, gym.Space, gym.Space]:
    env = make_env(experiment.env)
    try:
        observation_space, action_space = env.observation_space, env.action_space
    finally:
        env.close()
    flat = flat_action_space(action_space, experiment.env.id)
    policy = Policy.load(checkpoint, activation=experiment.network.activation, action_space=flat)
    return policy, observation_space, action_space


def _parts(policy: Policy, activation: str, space: gym.Space) -> dict[str, Any]:
    """Everything that an exported policy computes with: arrays float32, and what joins them."""
    actor = policy.actor
    parts: dict[str, Any] = {
        "activation": activation,
        "mean": actor.mean,
        "scale": actor.scale,
        "weights": [np.asarray(weight, np.float32) for weight in actor.policy.weights],
        "biases": [np.asarray(bias, np.float32) for bias in actor.policy.biases],
        "bounds": None,
    }
    if isinstance(space, gym.spaces.Box):
        scale, largest = ActionScale(space), np.finfo(np.float32).max  # files hold no infinities
        parts["bounds"] = {
            "low": scale.low.clip(-largest, largest),
            "high": scale.high.clip(-largest, largest),
            "reach": scale.half,
            "center": scale.middle,
        }
    return parts


def _write_torch(parts: Mapping[str, Any], obs_dim: int, output: Path) -> None:
    import warnings

    import torch

    from quadriga.policies.networks import ACTIVATIONS

    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = len(parts["weights"])
            self.activation = ACTIVATIONS[parts["activation"]]
            arrays = {"mean": parts["mean"], "scale": parts["scale"], **(parts["bounds"] or {})}
            arrays |= {f"weight{layer}": array for layer, array in enumerate(parts["weights"])}
            arrays |= {f"bias{layer}": array for layer, array in enumerate(parts["biases"])}
            for name, array in arrays.items():
                self.register_buffer(name, torch.from_numpy(np.array(array)))

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            x = ((observations - self.mean) * self.scale).clamp(-OBSERVATION_CLIP, OBSERVATION_CLIP)
            for layer in range(self.layers):
                x = torch.matmul(x, getattr(self, f"weight{layer}")) + getattr(self, f"bias{layer}")
                if layer < self.layers - 1:
                    x = self.activation(x)
            if parts["bounds"] is None:
                return x.argmax(dim=-1)
            return torch.maximum(torch.minimum(x, self.high), self.low) * self.reach + self.center

    module, example = Exported().eval(), torch.zeros(2, obs_dim)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit is to be superseded by torch.export, and says so at every call
        if output.suffix.lower() == ".pt":
            torch.jit.trace(module, example).save(str(output))
        else:
            batch = torch.export.Dim("batch")
            torch.export.save(torch.export.export(module, (example,), dynamic_shapes=({0: batch},)), str(output))


def _write_onnx(parts: Mapping[str, Any], output: Path) -> None:
    try:
        import onnx
    except ImportError:
        raise UserError("export to ONNX needs the package onnx: pip install onnx") from None
    from onnx import TensorProto, helper, numpy_helper

    constants: list[Any] = []
    nodes: list[Any] = []

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def node(operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        result = output or f"{operator.lower()}{len(nodes)}"
        nodes.append(helper.make_node(operator, list(inputs), [result], **attributes))
        return result

    x = node("Mul", node("Sub", "observations", constant("mean", parts["mean"])), constant("scale", parts["scale"]))
    x = node("Clip", x, constant("lowest", -OBSERVATION_CLIP), constant("highest", OBSERVATION_CLIP))
    last = len(parts["weights"]) - 1
    for layer, (weight, bias) in enumerate(zip(parts["weights"], parts["biases"], strict=True)):
        x = node("Add", node("MatMul", x, constant(f"weight{layer}", weight)), constant(f"bias{layer}", bias))
        if layer < last:
            x = node({"tanh": "Tanh", "relu": "Relu"}[parts["activation"]], x)
    if parts["bounds"] is None:
        node("ArgMax", x, output="actions", axis=-1, keepdims=0)
        shape: list[Any] = ["batch"]
    else:
        bounds = parts["bounds"]
        x = node("Max", node("Min", x, constant("high", bounds["high"])), constant("low", bounds["low"]))
        x = node("Mul", x, constant("reach", bounds["reach"]))
        node("Add", x, constant("center", bounds["center"]), output="actions")
        shape = ["batch", len(bounds["reach"])]
    kind = TensorProto.INT64 if parts["bounds"] is None else TensorProto.FLOAT
    given = helper.make_tensor_value_info("observations", TensorProto.FLOAT, ["batch", len(parts["mean"])])
    result = helper.make_tensor_value_info("actions", kind, shape)
    graph = helper.make_graph(nodes, "policy", [given], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="quadriga")
    model.ir_version = 8  # read by every runtime since 2022
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(output))
