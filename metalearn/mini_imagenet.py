"""Mini-ImageNet (Vinyals et al. 2016) at 84x84 with the split of Ravi & Larochelle 2017: 64/16/20 classes.

The data set is not ours to give away and has no lasting address; it is read in the two layouts in which it is passed
around, below `mini-imagenet/`:

- folders: `train/<class>/*.jpg`, `val/...`, `test/...`;
- tables: `train.csv`, `val.csv`, `test.csv` with the columns `filename` and `label`, and the files in `images/`.

The first reading makes one array a split, which later ones map into memory, so that many workers on a machine
hold it once. As in the code published with the Reptile paper images are brought to 84x84 by the nearest pixel and
scaled to [0, 1]; it trains on the 64 classes, tests on the 20 and leaves the 16 alone.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quadriga.metalearn import data_root
from quadriga.metalearn.image_classes import ImageTasks
from quadriga.metalearn.networks import ConvNet
from quadriga.platform.errors import UserError, one_line

FOLDER = "mini-imagenet"
SIDE = 84
SUFFIXES = {".jpg", ".jpeg", ".png"}

Part = Literal["train", "val", "test"]


class Photos:
    """The classes of one split, images `[n, 84, 84, 3]` scaled to [0, 1].

    Args:
        pixels: uint8 `[images, 84, 84, 3]`, class after class.
        sizes: images of each class, `[classes]`.
    """

    def __init__(self, pixels: NDArray[np.uint8], sizes: NDArray[np.int64]) -> None:
        self._pixels, self._sizes = pixels, sizes
        self._starts = np.cumsum(sizes) - sizes

    def sizes(self) -> NDArray[np.int64]:
        return self._sizes

    def images(self, class_id: int, index: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self._pixels[self._starts[class_id] + index], np.float32) / np.float32(255)


def load(root: Path, part: Part) -> Photos:
    """One split, from the array made of it or else from the images.

    Raises:
        UserError: the data are not there or an image cannot be read.
    """
    folder = root / FOLDER
    array, index = folder / f"{part}{SIDE}.npy", folder / f"{part}{SIDE}.json"
    if not (array.is_file() and index.is_file()):
        _make_array(_files(folder, part), array, index)
    try:
        pixels = np.load(array, mmap_mode="r")
        sizes = np.array(list(json.loads(index.read_text(encoding="utf-8")).values()), np.int64)
    except (OSError, ValueError) as error:
        raise UserError(f"{array} is corrupt: {one_line(error)}; delete it, it is made again") from error
    if pixels.shape != (int(sizes.sum()), SIDE, SIDE, 3):
        raise UserError(f"{array} is corrupt: {len(pixels):,} images, expected {sizes.sum():,}; delete it")
    return Photos(pixels, sizes)


def tasks(root: Path, *, ways: int = 5, filters: int = 32) -> ImageTasks:
    """The distribution of N-way tasks; see `experiment.MiniImageNetSettings`.

    Raises:
        UserError: no data, corrupt data, or more classes asked for than there are.
    """
    network = ConvNet(ways, SIDE, 3, filters, strided=False)
    return ImageTasks(load(root, "train"), load(root, "test"), ways, network, "Mini-ImageNet")


def _files(folder: Path, part: Part) -> dict[str, list[Path]]:
    """The images of each class, sorted."""
    classes: dict[str, list[Path]] = {}
    table = folder / f"{part}.csv"
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as stream:
            rows = csv.DictReader(stream)
            if not {"filename", "label"} <= set(rows.fieldnames or ()):
                raise UserError(f"{table}: expected the columns filename and label, got {rows.fieldnames}")
            for row in rows:
                classes.setdefault(row["label"], []).append(folder / "images" / row["filename"])
    elif (folder / part).is_dir():
        for path in (folder / part).glob("*/*"):
            if path.suffix.lower() in SUFFIXES:
                classes.setdefault(path.parent.name, []).append(path)
    if not classes:
        raise UserError(
            f"no Mini-ImageNet in {folder}: expected {part}.csv with images/, or {part}/<class>/*.jpg; "
            f"give the parent folder with --data-root or {data_root.VARIABLE}"
        )
    return {name: sorted(classes[name]) for name in sorted(classes)}


def _make_array(classes: dict[str, list[Path]], array: Path, index: Path) -> None:
    """Decodes all images into one file; it appears when it is whole, and its index before it."""
    total = sum(map(len, classes.values()))
    partial, partial_index = (path.with_name(f".{path.name}.{os.getpid()}.part") for path in (array, index))
    try:
        pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(total, SIDE, SIDE, 3))
        for row, path in enumerate(path for paths in classes.values() for path in paths):
            pixels[row] = _pixels(path)
        pixels.flush()
        sizes = {name: len(paths) for name, paths in classes.items()}
        partial_index.write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
        partial_index.replace(index)
        partial.replace(array)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot write {array}: {one_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)
        partial_index.unlink(missing_ok=True)


def _pixels(path: Path) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
            return np.asarray(small, np.uint8)
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error
