"""Safety-Gymnasium's tasks Goal, Button and Push at the speed of their physics.

N simulations, each with a model of its own that was compiled once, are stepped one after the other in MuJoCo;
what the package does in Python for each of them (rewards, costs, lidars, flattening) is done for all at once. The
same seeds give the same episodes as safety-gymnasium 1.0.0: physics, layouts, rewards, costs and goals to the last
bit, lidars within 1e-14.

Its random numbers are drawn in its order. In particular one is drawn in every step (for a number of physics steps
that is always 10); here these are counted, and drawn when something depends on it.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from quadriga.platform.environments.native import Failed, NativeVectorEnv
from quadriga.platform.environments.planes import Plane
from quadriga.platform.environments.safety_layout import LayoutSampler, NoPlace
from quadriga.platform.environments.safety_lidar import NUM_BINS, lidar
from quadriga.platform.environments.safety_model import TaskModel, task_model
from quadriga.platform.environments.safety_sensors import RobotSensors
from quadriga.platform.environments.safety_simulation import Simulations
from quadriga.platform.environments.safety_tasks import (
    ANT_DIES_BELOW,
    BUTTON_DELAY,
    MAX_STEPS,
    REWARD_CLIP,
    VASE_SPEED,
    Task,
)
from quadriga.platform.environments.seeds import EpisodeSeeds

BEYOND = 0.5
"""How far outside of the square where things are placed a robot's place is told apart, in meters."""


class StartingCost(RuntimeError):
    """An episode would begin with a cost."""


class SafetyNavigationEnv(NativeVectorEnv):
    """N environments of one task; see the module.

    Attributes:
        task: which task.
        goals_met: whether a goal was reached in the last step, bool `[N]`.
        places: where the robot and each thing were when the episode began, `[N, 1 + things, 2]` in meters.
        things: where each thing is now, `[N, things, 2]` in meters.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int,
        *,
        name: str,
        rebuild: bool = True,
        max_episode_steps: int | None = None,
        episode_seeds: EpisodeSeeds | None = None,
        autoreset: bool = True,
        sleeping: bool = False,
    ) -> None:
        """Makes the simulations.

        Args:
            task: which task.
            num_envs: how many.
            name: what error messages call them.
            rebuild: begin a new episode where one raises instead of raising `EnvironmentFailed`.
            max_episode_steps: time limit; by default the task's own.
            episode_seeds: the seed of every episode; needed for snapshots.
            autoreset: see `NativeVectorEnv`.
            sleeping: let objects at rest sleep: faster, and no longer the package's episodes.

        Raises:
            UserError: Safety-Gymnasium is not installed; or `sleeping`, and MuJoCo cannot.
        """
        shared = task_model(task)
        template = shared.model
        self._sensors = RobotSensors(template)
        self._felt = self._sensors.width
        self._control_low, self._control_high = template.actuator_ctrlrange.T.copy()
        super().__init__(
            num_envs,
            _observation_space(self._felt, len(task.obstacles)),
            spaces.Box(self._control_low.astype(np.float32), self._control_high.astype(np.float32)),
            name=name,
            rebuild=rebuild,
            max_episode_steps=max_episode_steps or MAX_STEPS,
            episode_seeds=episode_seeds,
            autoreset=autoreset,
        )
        self.task = task
        reach = task.extent + BEYOND
        self.plane = Plane(("x", "y"), (-reach, -reach), (reach, reach))
        self._read_task(task)
        joints = template.actuator_trnid[:, 0]
        self._noisy_joints = template.jnt_qposadr[joints].tolist() if task.agent == "Ant" else []
        self._sampler = LayoutSampler(task.extent, task.keepouts)
        self._random = [np.random.RandomState() for _ in range(num_envs)]
        self._undrawn = np.zeros(num_envs, np.int64)

        self.goals_met = np.zeros(num_envs, np.bool_)
        self.places = np.zeros((num_envs, 1 + task.num_things, 2))
        self.things = np.zeros((num_envs, task.num_things, 2))
        self._yaws = np.zeros((num_envs, 1 + task.num_things))
        self._goal_distances = np.zeros(num_envs)
        self._box_distances = np.zeros(num_envs)
        self._timers = np.zeros(num_envs, np.int64)
        self._goal_buttons = np.zeros(num_envs, np.int64)
        self._sleeping = sleeping
        self._simulations = Simulations(shared, num_envs, sleeping=sleeping)

    def _read_task(self, task: Task) -> None:
        self._is_button, self._is_push = task.goal == "Button", task.goal == "Push"
        self._goal = task.things("goal").start
        goal = task.obstacle("goal")
        assert goal is not None
        self._goal_size, self._goal_height = goal.size, goal.z
        self._hazards = task.things("hazard")
        hazard = task.obstacle("hazard")
        self._hazard_size = hazard.size if hazard else 0.0
        self._others = np.array([n for n in range(1 + task.num_things) if n != 1 + self._goal])
        self._lidars = np.repeat(np.arange(len(task.obstacles)), [obstacle.num for obstacle in task.obstacles])
        button = task.obstacle("button")
        self._buttons_cost = button is not None and button.costly

    def in_plane(self) -> NDArray[np.float64]:
        """As `ColumnVectorEnv.in_plane`: of the robots, in meters."""
        return self._simulations.agents

    @property
    def costs(self) -> NDArray[np.float32]:
        """The costs of the last step, `[N]`."""
        return self._costs

    def layout(self, index: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Places `[1 + things, 2]` and rotations `[1 + things]` with which environment `index` began its episode."""
        return self.places[index], self._yaws[index]

    def simulation(self, index: int) -> mujoco.MjData:
        """The simulation of environment `index`, to be looked at."""
        return self._simulations.data[index]

    def _seed(self, index: int, seed: int) -> None:
        self._random[index] = np.random.RandomState(seed)
        self._undrawn[index] = 0

    def _random_of(self, index: int) -> np.random.RandomState:
        """The random numbers of environment `index`, behind those that are to be skipped."""
        random = self._random[index]
        if self._undrawn[index]:
            random.random_sample(int(self._undrawn[index]))
            self._undrawn[index] = 0
        return random

    def _begin_episode(self, index: int) -> None:
        random = self._random_of(index)
        places = self.places[index]
        places[:] = self._sampler.layout(random)
        self._yaws[index] = 2 * np.pi * random.random_sample(len(places))
        self.things[index] = places[1:]
        self._draw_goal(index, places[0])
        self._simulations.place(index, places, self._yaws[index])
        for n, address in enumerate(self._noisy_joints):
            noise = random.uniform(-0.1, 0.1)
            angle = noise if n % 2 == 0 else np.pi / 2 + noise
            self._simulations.data[index].qpos[address] = -angle if n in (3, 5) else angle
        self._simulations.read(index)
        self._timers[index] = 0
        row = slice(index, index + 1)
        offsets = self._offsets(row)
        if self._forbidden(row, _lengths(offsets), self._simulations.touched(row))[0]:
            raise StartingCost("the episode would begin with a cost")
        self._measure(index, offsets)
        self._observe(row, offsets)

    def _offsets(self, rows: slice) -> NDArray[np.float64]:
        """From the robots to their things, `[rows, things, 2]` in meters; notes where these have moved to."""
        free = self._simulations.free[rows]
        if free.shape[1]:
            self.things[rows, -free.shape[1] :] = free[..., :2]
        offsets: NDArray[np.float64] = self.things[rows] - self._simulations.agents[rows, None, :2]
        return offsets

    def _draw_goal(self, index: int, agent: NDArray[np.float64]) -> None:
        """Draws the next goal of environment `index`.

        Raises:
            NoPlace: there is no room for it.
        """
        random = self._random_of(index)
        things = self.things[index]
        if self._is_button:
            buttons = self.task.things("button")
            self._goal_buttons[index] = random.choice(buttons.stop - buttons.start)
            things[self._goal] = things[buttons.start + self._goal_buttons[index]]
        else:
            places = np.concatenate([agent[None], things])[self._others]
            things[self._goal] = self._sampler.goal(random, 1 + self._goal, self._others, places)

    def _measure(self, index: int, offsets: NDArray[np.float64]) -> None:
        """Takes the distances from which the next reward counts; `offsets` `[1, things, 2]` of this environment."""
        self._goal_distances[index] = self._goal_distance(slice(index, index + 1), _lengths(offsets))[0]
        if self._is_push:
            self._box_distances[index] = self._box_distance(slice(index, index + 1))[0]

    def _goal_distance(self, rows: slice, distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """In the floor's plane from the robot to the goal, or in space from the box to the goal, `[rows]`."""
        if not self._is_push:
            return distances[:, self._goal]
        goal = self.things[rows, self._goal]
        box = self._simulations.free[rows, 0]
        x, y, z = box[:, 0] - goal[:, 0], box[:, 1] - goal[:, 1], box[:, 2] - self._goal_height
        return np.sqrt(x * x + y * y + z * z)

    def _box_distance(self, rows: slice) -> NDArray[np.float64]:
        """In space from the robot to the box, `[rows]`."""
        offset = self._simulations.free[rows, 0] - self._simulations.agents[rows]
        x, y, z = offset.T
        return np.sqrt(x * x + y * y + z * z)

    def _forbidden(self, rows: slice, distances: NDArray[np.float64], touched: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Whether each robot does something that costs, `[rows]`."""
        forbidden: NDArray[np.bool_] = (touched & TaskModel.FORBIDDEN) != 0
        if self._hazard_size:
            forbidden |= (distances[:, self._hazards] < self._hazard_size).any(axis=1)
        if self._buttons_cost:
            wrong = touched & ~(TaskModel.FORBIDDEN | (TaskModel.BUTTON << self._goal_buttons[rows]))
            forbidden |= (wrong != 0) & (self._timers[rows] == 0)
        if self._simulations.vase_velocities.size:
            x, y, z = np.moveaxis(self._simulations.vase_velocities[rows, :, :3], -1, 0)
            forbidden |= (np.sqrt(x * x + y * y + z * z) >= VASE_SPEED).any(axis=1)
        return forbidden

    def _simulate(self, actions: NDArray[np.float32]) -> Failed:
        failed = self._simulations.move(np.clip(actions, self._control_low, self._control_high), self._lengths)
        self._undrawn += 1
        everywhere = slice(None)
        offsets = self._offsets(everywhere)
        distances = _lengths(offsets)
        touched = self._simulations.touched(everywhere)
        self._reward(distances, touched)
        self._costs[:] = self._forbidden(everywhere, distances, touched)
        if self._is_button:
            np.maximum(self._timers - 1, 0, out=self._timers)
        if self.task.agent == "Ant":
            np.less_equal(self._simulations.agents[:, 2], ANT_DIES_BELOW, out=self._terminations)
        else:
            self._terminations[:] = False
        for index in np.flatnonzero(self.goals_met).tolist():
            self._move_goal(index, offsets)
        self._observe(everywhere, offsets)
        if np.isnan(self.exact_observations.sum()):
            broken = set(np.flatnonzero(np.isnan(self.exact_observations).any(axis=1)).tolist())
            broken -= {index for index, _ in failed}
            failed += [(index, FloatingPointError("an observation is not a number")) for index in sorted(broken)]
        return failed

    def _reward(self, distances: NDArray[np.float64], touched: NDArray[np.uint8]) -> None:
        everywhere = slice(None)
        goal_distances = self._goal_distance(everywhere, distances)
        rewards = self.exact_rewards
        np.subtract(self._goal_distances, goal_distances, out=rewards)
        if self._is_push:
            box_distances = self._box_distance(everywhere)
            rewards += (self._box_distances - box_distances) * (self._box_distances > 0)
            self._box_distances[:] = box_distances
        self._goal_distances[:] = goal_distances
        if self._is_button:
            np.not_equal(touched & (TaskModel.BUTTON << self._goal_buttons), 0, out=self.goals_met)
        else:
            np.less_equal(goal_distances, self._goal_size, out=self.goals_met)
        rewards += self.goals_met
        np.clip(rewards, -REWARD_CLIP, REWARD_CLIP, out=rewards)

    def _move_goal(self, index: int, offsets: NDArray[np.float64]) -> None:
        """The goal of environment `index` was reached: a new one, or the episode ends where there is no room."""
        agent = self._simulations.agents[index, :2]
        try:
            self._draw_goal(index, agent)
        except NoPlace:
            self._terminations[index] = True
            return
        offsets[index, self._goal] = self.things[index, self._goal] - agent
        self._measure(index, offsets[index, None])
        self._timers[index] = BUTTON_DELAY

    def _observe(self, rows: slice, offsets: NDArray[np.float64]) -> None:
        out = self.exact_observations[rows]
        simulations = self._simulations
        self._sensors.observe(simulations.readings[rows], out[:, : self._felt])
        heights, rotations = simulations.agents[rows, 2], simulations.rotations[rows]
        seen = lidar(offsets, heights, rotations, self._lidars, len(self.task.obstacles))
        if self._is_button:  # the buttons' lidar is the first
            seen[self._timers[rows] != 0, :NUM_BINS] = 0.0
        out[:, self._felt :] = seen

    def _snapshot(self) -> dict[str, Any]:
        snapshot = {
            "physics": self._simulations.states(),
            "places": self.places.copy(),
            "yaws": self._yaws.copy(),
            "goals": self.things[:, self._goal].copy(),
            "goal_distances": self._goal_distances.copy(),
            "box_distances": self._box_distances.copy(),
            "timers": self._timers.copy(),
            "goal_buttons": self._goal_buttons.copy(),
            "random": [random.get_state(legacy=False) for random in self._random],
            "undrawn": self._undrawn.copy(),
        }
        if self._sleeping:  # MuJoCo's states do not say who sleeps: all are woken, here and where it is restored
            for index in range(self.num_envs):
                self._restore(index, snapshot)
        return snapshot

    def _restore(self, index: int, snapshot: dict[str, Any]) -> None:
        for mine, name in (
            (self.places, "places"),
            (self._yaws, "yaws"),
            (self._goal_distances, "goal_distances"),
            (self._box_distances, "box_distances"),
            (self._timers, "timers"),
            (self._goal_buttons, "goal_buttons"),
            (self._undrawn, "undrawn"),
        ):
            mine[index] = snapshot[name][index]
        self._random[index].set_state(snapshot["random"][index])
        self.things[index] = self.places[index, 1:]
        self.things[index, self._goal] = snapshot["goals"][index]
        self._simulations.place(index, self.places[index], self._yaws[index])
        self._simulations.set_state(index, snapshot["physics"][index])
        self._simulations.read(index)
        row = slice(index, index + 1)
        self._observe(row, self._offsets(row))


def _lengths(offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lengths of plane vectors `[..., 2]`."""
    x, y = offsets[..., 0], offsets[..., 1]
    lengths: NDArray[np.float64] = np.sqrt(x * x + y * y)
    return lengths


def _observation_space(felt: int, num_lidars: int) -> spaces.Box:
    low = np.full(felt + NUM_BINS * num_lidars, -np.inf, np.float32)
    high = np.full_like(low, np.inf)
    low[felt:], high[felt:] = 0.0, 1.0
    return spaces.Box(low, high)
