"""Few-shot classification tasks from images in classes; where the images come from is the loaders' business."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quadriga.metalearn.networks import ConvNet
from quadriga.metalearn.tasks import Loss, Split, Task
from quadriga.platform.errors import UserError

Images = NDArray[np.generic]


class ImageClasses(Protocol):
    """Classes of images of one size."""

    def sizes(self) -> NDArray[np.int64]:
        """Images in each class, `[classes]`."""

    def images(self, class_id: int, index: NDArray[np.int64]) -> Images:
        """Some images of a class, `[len(index), side, side, channels]`."""


class Rotated:
    """Every class four times, turned by 0, 90, 180 and 270 degrees counter-clockwise: four new classes."""

    def __init__(self, classes: ImageClasses) -> None:
        self._classes, self._count = classes, len(classes.sizes())

    def sizes(self) -> NDArray[np.int64]:
        return np.tile(self._classes.sizes(), 4)

    def images(self, class_id: int, index: NDArray[np.int64]) -> Images:
        turns, unturned = divmod(class_id, self._count)
        return turned(self._classes.images(unturned, index), turns)


def turned(images: Images, turns: int) -> Images:
    """A view of images `[n, side, side, channels]` turned counter-clockwise by quarters, as `np.rot90` in less time."""
    if turns == 1:
        return images.swapaxes(1, 2)[:, ::-1]
    if turns == 2:
        return images[:, ::-1, ::-1]
    return images.swapaxes(1, 2)[:, :, ::-1] if turns == 3 else images


class ImageTasks:
    """N-way tasks as the published code draws them: N classes, labeled in the order drawn, some images of each.

    Args:
        train: classes to meta-train on.
        test: classes to test on.
        ways: N.
        network: what classifies them.
        name: of the data, for messages.
    """

    loss: Loss = "cross_entropy"

    def __init__(self, train: ImageClasses, test: ImageClasses, ways: int, network: ConvNet, name: str) -> None:
        self._classes: dict[Split, ImageClasses] = {"train": train, "test": test}
        self._sizes = {split: classes.sizes() for split, classes in self._classes.items()}
        self.ways, self.network, self._name = ways, network, name
        for split, sizes in self._sizes.items():
            if ways > len(sizes):
                raise UserError(
                    f"task.ways: expected at most {len(sizes)}, the classes {name} has to {split} on, got {ways}"
                )

    def check(self, split: Split, shots: int) -> None:
        least = int(self._sizes[split].min())
        if shots > least:
            where = "inner.shots" if split == "train" else "evaluation.shots"
            more = "" if split == "train" else ", one of them to be tested on"
            raise UserError(
                f"{where}: a {split} class of {self._name} has {least} images, a task asks for {shots}{more}"
            )

    def sample(self, rng: np.random.Generator, split: Split, shots: int, query_shots: int) -> Task:
        """`ways * shots` support and `ways * query_shots` query images, ordered by shot, then class."""
        classes, sizes = self._classes[split], self._sizes[split]
        chosen = rng.choice(len(sizes), self.ways, replace=False)
        drawn = (
            classes.images(int(class_id), rng.permutation(int(sizes[class_id]))[: shots + query_shots])
            for class_id in chosen
        )
        first = next(drawn)
        images = np.empty((len(first), self.ways, *first.shape[1:]), first.dtype)
        images[:, 0] = first
        for label, of_class in enumerate(drawn, 1):
            images[:, label] = of_class
        labels = np.arange(self.ways, dtype=np.int64)
        support, query = images[:shots], images[shots:]
        return Task(
            support.reshape(-1, *images.shape[2:]),
            np.tile(labels, shots),
            query.reshape(-1, *images.shape[2:]),
            np.tile(labels, query_shots),
        )
