"""Image classes that are told apart in a few steps: noisy copies of a random picture each."""

from __future__ import annotations

import numpy as np

from quadriga.metalearn.image_classes import ImageTasks
from quadriga.metalearn.networks import ConvNet


class Glyphs:
    """`count` classes of `drawings` images `[side, side, channels]`, mostly paper (1) with some ink (0)."""

    def __init__(self, count: int, drawings: int, side: int, seed: int, channels: int = 1) -> None:
        rng = np.random.default_rng(seed)
        pictures = rng.random((count, 1, side, side, channels)) < 0.8
        noise = rng.random((count, drawings, side, side, channels)) < 0.05
        self._images = (pictures ^ noise).astype(np.uint8)

    def sizes(self) -> np.ndarray:
        return np.full(len(self._images), self._images.shape[1], np.int64)

    def images(self, class_id: int, index: np.ndarray) -> np.ndarray:
        return self._images[class_id, index]


def tasks(ways: int = 3, side: int = 14, filters: int = 8, strided: bool = True, classes: int = 12) -> ImageTasks:
    """Tasks of such classes, for `task: {kind: custom, factory: "small_images:tasks"}`."""
    network = ConvNet(ways, side, 1, filters, strided)
    return ImageTasks(Glyphs(classes, 6, side, 0), Glyphs(classes, 6, side, 1), ways, network, "glyphs")
