"""Where the pixel data of a series waits until the whole series has been looked at."""

import numpy as np

BOARD = 2**25
"""Bytes that are taken from the system at once."""


class Shelf:
    """Keeps many values of some hundred kilobytes side by side in a few large arrays.

    For memory of its own such a value waits longer than for its bytes: the system hands it out page
    by page, to arrays as large as these in huge pages. The memory of an array is given back when
    nothing on it is used any more.
    """

    def __init__(self) -> None:
        self._board = np.empty(0, np.uint8)
        self._used = 0

    def put(self, value: memoryview) -> memoryview:
        """A copy of the bytes, on the shelf."""
        if self._used + len(value) > len(self._board):
            self._board = np.empty(max(BOARD, len(value)), np.uint8)
            self._used = 0
        place = self._board.data[self._used : self._used + len(value)]
        place[:] = value
        self._used += len(value)
        return place
