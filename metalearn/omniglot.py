"""Omniglot (Lake, Salakhutdinov, Tenenbaum 2015): 1,623 characters, 20 drawings each, at 28x28.

As the code published with the Reptile paper reads it: both published sets merged, alphabets and characters
sorted by name, images halved to 28x28 by taking the nearest pixel (which Pillow does with one-bit images whatever
filter is asked for), paper 1 and ink 0. Its split is reproduced: `random.seed(0)`, a shuffle, the first 1,200
characters to train on and the other 423 to test on.

The published zip files, or their unpacked folders, are read once and kept as `omniglot28.parquet` of under a megabyte.
"""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadriga.metalearn import data_root
from quadriga.metalearn.image_classes import ImageTasks, Rotated
from quadriga.metalearn.networks import ConvNet
from quadriga.platform.errors import UserError, one_line

FOLDER = "omniglot"
CACHE = "omniglot28.parquet"
SETS = ("images_background", "images_evaluation")
URL = "https://github.com/brendenlake/omniglot/raw/master/python"
# As torchvision lists them.
MD5 = {"images_background": "68d2efa1b9178cc56df9314c21c6e718", "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811"}
SHA256 = "4c223884b301500ce0a174850910e63e13b71db85219a2c50abdc801bd027711"
CHARACTERS, DRAWINGS, SIDE, SOURCE_SIDE = 1623, 20, 28, 105
NEAREST = np.floor((np.arange(SIDE) + 0.5) * SOURCE_SIDE / SIDE).astype(np.int64)
PIXELS = SIDE * SIDE

Drawings = NDArray[np.uint8]


def load(root: Path) -> Drawings:
    """All drawings, uint8 `[1623, 20, 28, 28, 1]`, 1 paper and 0 ink.

    Args:
        root: folder that holds `omniglot/`.

    Raises:
        UserError: the data are not there, or not what was published.
    """
    folder = root / FOLDER
    if (folder / CACHE).is_file():
        packed = _read_cache(folder / CACHE)
    else:
        packed = _read_published(folder)
        _verify(packed, folder)
        _write_cache(packed, folder / CACHE)
    pixels = np.unpackbits(packed, axis=-1)[..., :PIXELS]
    return pixels.reshape(CHARACTERS, DRAWINGS, SIDE, SIDE, 1)


def download(root: Path) -> Path:
    """Fetches the published zip files, checks them and makes the cache; returns its path.

    Raises:
        UserError: no network, no room, or other bytes than were published.
    """
    folder = root / FOLDER
    for name in SETS:
        data_root.fetch(f"{URL}/{name}.zip", folder / f"{name}.zip", MD5[name])
    load(root)
    return folder / CACHE


def split(characters: int, train: int, seed: int) -> tuple[list[int], list[int]]:
    """Characters to train on and to test on, in the shuffled order of the published code."""
    order = list(range(characters))
    random.Random(seed).shuffle(order)
    return order[:train], order[train:]


class Characters:
    """Some characters as image classes.

    Args:
        drawings: of all characters, as `load` gives them.
        chosen: which characters.
    """

    def __init__(self, drawings: Drawings, chosen: list[int]) -> None:
        self._drawings, self._chosen = drawings, chosen

    def sizes(self) -> NDArray[np.int64]:
        return np.full(len(self._chosen), self._drawings.shape[1], np.int64)

    def images(self, class_id: int, index: NDArray[np.int64]) -> Drawings:
        return self._drawings[self._chosen[class_id], index]


def tasks(
    root: Path,
    *,
    ways: int = 5,
    filters: int = 64,
    train_characters: int = 1200,
    split_seed: int = 0,
    rotations: bool = True,
) -> ImageTasks:
    """The distribution of N-way tasks; see `experiment.OmniglotSettings`.

    Raises:
        UserError: no data, corrupt data, or more classes asked for than there are.
    """
    if train_characters >= CHARACTERS:
        raise UserError(f"task.train_characters: expected fewer than all {CHARACTERS}, got {train_characters}")
    drawings = load(root)
    train, test = split(CHARACTERS, train_characters, split_seed)
    known = Characters(drawings, train)
    network = ConvNet(ways, SIDE, 1, filters, strided=True)
    return ImageTasks(Rotated(known) if rotations else known, Characters(drawings, test), ways, network, "Omniglot")


def _read_cache(path: Path) -> Drawings:
    try:
        table = pq.read_table(path, columns=["class_id", "slot", "bits28"])
        rows = table.sort_by([("class_id", "ascending"), ("slot", "ascending")]).column("bits28").to_pylist()
        packed = np.frombuffer(b"".join(rows), np.uint8)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{path} is corrupt: {one_line(error)}; delete it, it is made again from the zips") from error
    expected = CHARACTERS * DRAWINGS * (PIXELS // 8)
    if packed.size != expected:
        raise UserError(f"{path} is corrupt: {packed.size:,} bytes of pixels, expected {expected:,}; delete it")
    packed = packed.reshape(CHARACTERS, DRAWINGS, PIXELS // 8)
    _verify(packed, path)
    return packed


def _verify(packed: Drawings, where: Path) -> None:
    found = hashlib.sha256(packed.tobytes()).hexdigest()
    if found != SHA256:
        raise UserError(
            f"{where} does not hold the published drawings: SHA-256 {found[:12]}..., expected {SHA256[:12]}..."
        )


def _write_cache(packed: Drawings, path: Path) -> None:
    count = CHARACTERS * DRAWINGS
    bits = pa.array([row.tobytes() for row in packed.reshape(count, -1)], pa.binary(PIXELS // 8))
    class_id, slot = (axis.ravel().astype(np.int16) for axis in np.indices((CHARACTERS, DRAWINGS)))
    layout = "28x28 images as numpy packbits, most significant bit first; 1 paper, 0 ink"
    table = pa.table({"class_id": class_id, "slot": slot, "bits28": bits}).replace_schema_metadata({"layout": layout})
    partial = path.with_name(f".{path.name}.part")
    try:
        pq.write_table(table, partial, compression="zstd", compression_level=19)
        partial.replace(path)
    except OSError:  # a folder that may only be read: read the zips again next time
        partial.unlink(missing_ok=True)


def _read_published(folder: Path) -> Drawings:
    """The drawings of the published files, bits packed; within a character sorted by their pixels."""
    characters: dict[tuple[str, str], list[Drawings]] = {}
    for name in SETS:
        for alphabet, character, image in _images(folder, name):
            characters.setdefault((alphabet, character), []).append(image)
    uneven = [key for key, images in characters.items() if len(images) != DRAWINGS]
    if len(characters) != CHARACTERS or uneven:
        raise UserError(
            f"{folder}: found {len(characters):,} characters, {len(uneven)} of them without {DRAWINGS} drawings; "
            f"expected {CHARACTERS:,}: fetch the files again"
        )
    packed = np.empty((CHARACTERS, DRAWINGS, PIXELS // 8), np.uint8)
    for row, key in enumerate(sorted(characters)):
        images = sorted(characters[key], key=lambda image: np.packbits(image).tobytes())
        small = np.stack(images)[:, NEAREST[:, None], NEAREST]
        packed[row] = np.packbits(small.reshape(DRAWINGS, PIXELS), axis=1)
    return packed


def _images(folder: Path, name: str) -> Iterator[tuple[str, str, Drawings]]:
    """Alphabet, character and one-bit image of every drawing in a zip file or the folder it unpacks to."""
    archive = folder / f"{name}.zip"
    if archive.is_file():
        data_root.verify(archive, MD5[name])
        try:
            with zipfile.ZipFile(archive) as opened:
                for entry in sorted(opened.namelist()):
                    parts = entry.split("/")
                    if entry.endswith(".png"):
                        yield parts[-3], parts[-2], _bits(io.BytesIO(opened.read(entry)), f"{archive}/{entry}")
        except zipfile.BadZipFile as error:
            raise UserError(f"{archive} is corrupt: {one_line(error)}; delete it and fetch it again") from error
    elif (folder / name).is_dir():
        for path in sorted((folder / name).glob("*/*/*.png")):
            yield path.parts[-3], path.parts[-2], _bits(path, str(path))
    else:
        raise UserError(
            f"no Omniglot in {folder}: expected {CACHE}, or {name}.zip or its folder; give its parent with "
            f"--data-root or {data_root.VARIABLE}, or run: quadriga meta download omniglot"
        )


def _bits(source: Any, where: str) -> Drawings:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(source) as image:
            bits = np.asarray(image.convert("1"), np.uint8)
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{where} is corrupt: {one_line(error)}") from error
    if bits.shape != (SOURCE_SIDE, SOURCE_SIDE):
        raise UserError(f"{where}: expected {SOURCE_SIDE}x{SOURCE_SIDE} pixels, got {bits.shape[1]}x{bits.shape[0]}")
    return bits
