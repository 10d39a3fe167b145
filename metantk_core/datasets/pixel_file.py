"""Images in a file: a row enters, its bytes leave, and nothing of the file stays in memory.

Axes: ``c`` channels, ``h`` rows of pixels, ``w`` columns.
"""

import os
import weakref
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from metantk_core.errors import InputError
from metantk_core.files import reason


class PixelFile:
    """The images of one split in a file, one after the other.

    They are read, not mapped. The pages of a mapped file count as the memory of the process that touched them, and an
    epoch touches all. And where a file was cut short or a network disk went away, a read fails with a sentence, but
    whoever touches a mapped page is killed.

    Args:
        path: The file; it is kept open, so that one that is replaced is read on as it was.
        offset: Where the first image begins, in bytes.
        image_shape: Channels, height and width of every image.
    """

    def __init__(self, path: Path, offset: int, image_shape: tuple[int, int, int]) -> None:
        self.path = path
        self._offset, self._image_shape = offset, image_shape
        self._size = int(np.prod(image_shape))
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, row: int) -> UInt8[np.ndarray, "c h w"]:
        """Return one image; may be called by several threads at once.

        Args:
            row: Its position in the split.

        Raises:
            InputError: It can't be read.
        """
        try:
            pixels = os.pread(self._descriptor, self._size, self._offset + row * self._size)
        except OSError as error:
            raise InputError(f"Image {row} in '{self.path}' can't be read ({reason(error)}).") from error
        if len(pixels) != self._size:
            raise InputError(
                f"Expected {self._size:,} bytes of image {row} in '{self.path}', but the file ends after "
                f"{len(pixels):,} of them: it was cut short. Start the run again, which prepares the images anew."
            )
        return np.frombuffer(pixels, np.uint8).reshape(self._image_shape)
