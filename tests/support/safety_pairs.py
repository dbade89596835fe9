"""Safety-Gymnasium's tasks played side by side: the unmodified environments and the native ones."""

from dataclasses import dataclass, field

import numpy as np

from quadriga.platform.environments.registry import make_env
from quadriga.platform.environments.safety_navigation import SafetyNavigationEnv
from quadriga.platform.environments.safety_tasks import find_task
from quadriga.platform.environments.settings import EnvironmentSettings


@dataclass
class Comparison:
    """What was seen in both, and how far apart it was."""

    steps: int = 0
    costs: int = 0
    goals: int = 0
    ends: int = 0
    terminations: int = 0
    largest: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("sensors", "lidars", "rewards", "layouts", "things"), 0.0)
    )
    mismatches: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("costs", "goals", "terminations", "truncations"), 0)
    )

    def differ(self, name, ours, theirs):
        difference = np.abs(np.asarray(ours) - np.asarray(theirs))
        self.largest[name] = max(self.largest[name], float(difference.max(initial=0.0)))


class Pilot:
    """Drives towards what the reward is for and past nothing; with noise, so that no two drives are alike."""

    def __init__(self, task, low, high, seed):
        self.agent, self.task = task.agent, task
        self.low, self.high = low, high
        self.rng = np.random.default_rng(seed)
        self.drift = np.zeros(len(low))

    def __call__(self, bearing, distance):
        """`bearing` of the target in radians to the left of straight ahead, `distance` in meters."""
        noise = self.rng.normal(size=len(self.low))
        self.drift = 0.9 * self.drift + 0.45 * noise
        if self.agent == "Point":
            action = np.array([np.cos(bearing), 2.0 * bearing]) + 0.3 * self.drift
        elif self.agent == "Car":  # its front is where -y is
            bearing = (bearing + np.pi / 2 + np.pi) % (2 * np.pi) - np.pi
            action = np.cos(bearing) + np.array([1.0, -1.0]) * bearing + 0.3 * self.drift
        elif self.agent == "Racecar":
            action = np.array([10.0 * np.cos(bearing), -bearing]) + 0.2 * self.drift
        else:
            action = self.drift
        return np.clip(action, self.low, self.high).astype(np.float32)


def play_side_by_side(id, seeds, steps, *, max_episode_steps=None, teleport_every=None):
    """Plays one episode a seed and then, without a seed, as many as fit.

    Every `teleport_every` steps the robots are put, in both, near something that matters.
    """
    task = find_task(id)
    settings = EnvironmentSettings(id=id, max_episode_steps=max_episode_steps)
    ours = SafetyNavigationEnv(task, len(seeds), name=id, rebuild=False, max_episode_steps=max_episode_steps)
    theirs = [make_env(settings) for _ in seeds]
    low, high = ours.single_action_space.low, ours.single_action_space.high
    pilots = [Pilot(task, low, high, seed) for seed in seeds]
    random = np.random.default_rng(seeds[0])
    seen = Comparison()
    names = [name for obstacle in task.obstacles for name in obstacle.names]
    felt = ours._sensors.width

    def compare_rows(row, observation, expected):
        seen.differ("sensors", observation[:felt], expected[:felt])
        seen.differ("lidars", observation[felt:], expected[felt:])
        world = theirs[row].unwrapped.task
        actual = [world.data.body(f"{name}obj" if name.startswith("gremlin") else name).xpos[:2] for name in names]
        seen.differ("things", ours.things[row], actual)

    def compare_layout(row):
        layout = theirs[row].unwrapped.task.world_info.reset_layout
        expected = np.array([layout[name] for name in ("agent", *names)])
        rows = np.arange(len(expected)) != 1 + ours._goal
        seen.differ("layouts", ours.places[row][rows], expected[rows])

    expected = [env.reset(seed=seed)[0] for env, seed in zip(theirs, seeds, strict=True)]
    ours.reset(seed=list(seeds))
    for row, observation in enumerate(expected):
        compare_rows(row, ours.exact_observations[row], observation)
        compare_layout(row)
    for step in range(steps):
        if teleport_every and step % teleport_every == teleport_every - 1:
            for row, env in enumerate(theirs):
                teleport(task, ours, row, env.unwrapped.task, random)
        actions = np.zeros((len(seeds), len(low)), np.float32)
        for row, pilot in enumerate(pilots):
            to_box = task.goal == "Push" and step % 100 < 60
            target = ours.things[row, task.things("push_box").start if to_box else ours._goal]
            rotation = ours._simulations.rotations[row].reshape(3, 3)
            offset = np.append(target - ours._simulations.agents[row, :2], 0.0) @ rotation
            actions[row] = pilot(np.arctan2(offset[1], offset[0]), np.hypot(*offset[:2]))
        ours.step(actions)
        for row, env in enumerate(theirs):
            observation, reward, terminated, truncated, info = env.step(actions[row])
            seen.steps += 1
            seen.costs += info["cost"] > 0
            seen.goals += bool(info.get("goal_met"))
            seen.terminations += bool(terminated)
            seen.differ("rewards", ours.exact_rewards[row], reward)
            seen.mismatches["costs"] += ours._costs[row] != info["cost"]
            seen.mismatches["goals"] += ours.goals_met[row] != bool(info.get("goal_met"))
            seen.mismatches["terminations"] += ours._terminations[row] != terminated
            seen.mismatches["truncations"] += ours._truncations[row] != truncated
            if terminated or truncated:
                seen.ends += 1
                final = ours.exact_final_observations[row]
                seen.differ("sensors", final[:felt], observation[:felt])
                seen.differ("lidars", final[felt:], observation[felt:])
                observation, _ = env.reset()
                compare_layout(row)
            compare_rows(row, ours.exact_observations[row], observation)
    for env in theirs:
        env.close()
    return seen


def assert_identical(seen):
    """Everything equal but for the last bits of the lidars, and a second episode everywhere."""
    assert set(seen.mismatches.values()) == {0}, seen
    lidars = seen.largest.pop("lidars")
    assert set(seen.largest.values()) == {0.0}, seen
    assert lidars < 1e-12
    assert seen.ends > 0


def teleport(task, ours, row, theirs, random):
    """Puts the robot (or the box) of both environments beside something."""
    things = ours.things[row]
    place = things[random.integers(len(things))] + random.normal(scale=0.15, size=2)
    if task.goal == "Push" and random.random() < 0.5:
        address = int(theirs.model.joint("push_box").qposadr[0])
        own = int(ours._simulations.models[row].joint("push_box").qposadr[0])
    elif task.agent == "Point":
        address = own = 0
        place = place - ours.places[row, 0]
    else:
        address = own = 0
    theirs.data.qpos[address : address + 2] = place
    ours._simulations.data[row].qpos[own : own + 2] = place
    ours._simulations.read(row)
