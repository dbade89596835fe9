"""Writing frames to a video file, `.mp4` or `.gif`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from quadriga.platform.errors import UserError

SUFFIXES = (".mp4", ".gif")


def check_video_path(path: Path) -> None:
    """Refuses a file that no encoder here can write.

    Raises:
        UserError: the suffix is not supported, or the folder does not exist.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"video file {str(path)!r}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError(f"video file {str(path)!r}: the folder {str(path.parent)!r} does not exist")


class VideoWriter:
    """Encodes frames one by one; a context manager. `fps`: frames a second."""

    def __init__(self, path: Path, fps: int = 30) -> None:
        import imageio.v2 as imageio

        check_video_path(path)
        self._gif = path.suffix.lower() == ".gif"
        # Browsers play frame durations below 20 ms slowly: a gif shows every second frame.
        self._stride = 2 if self._gif and fps > 25 else 1
        self._frames = 0
        options: dict[str, Any] = (
            {"duration": 1000 * self._stride / fps, "loop": 0} if self._gif else {"fps": fps, "macro_block_size": 2}
        )
        self._writer = imageio.get_writer(path, **options)

    def add(self, frame: np.ndarray) -> None:
        """One frame, uint8 [height, width, 3]."""
        if self._frames % self._stride == 0:
            self._writer.append_data(frame)
        self._frames += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._writer.close()
