"""Rendering on machines without a display: what MuJoCo and pygame are to draw with."""

from __future__ import annotations

import ctypes.util
import os
import sys


def prepare_headless() -> None:
    """Chooses offscreen backends where there is no display and the environment names none.

    `MUJOCO_GL` becomes `egl`, or `osmesa` where only that is installed; SDL (pygame) gets its dummy
    drivers. Called only when something is going to be rendered: with `MUJOCO_GL=egl`, mujoco cannot even
    be imported on a machine that lacks the library, and training needs none.
    """
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return
    if not os.environ.get("MUJOCO_GL"):
        only_osmesa = not ctypes.util.find_library("EGL") and ctypes.util.find_library("OSMesa")
        os.environ["MUJOCO_GL"] = "osmesa" if only_osmesa else "egl"
    for driver in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(driver, "dummy")
