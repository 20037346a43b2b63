"""Files that are on the disk whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_files(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Files to write, which take their names from older ones once all of them are on the disk.

    A kill or a power cut at any moment leaves each as it was or as it is to be; an exception leaves
    all as they were.

    Raises:
        OSError: they could not be written.
    """
    new = [path.with_name(f"{path.name}.new") for path in paths]
    try:
        with ExitStack() as opened:
            files: list[BinaryIO] = [opened.enter_context(one.open("wb")) for one in new]
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        for one, path in zip(new, paths, strict=True):
            one.replace(path)
    except BaseException as why:
        for one in new:
            one.unlink(missing_ok=True)
        if isinstance(why, OSError):  # which names no file that was open already
            why.filename = why.filename or str(paths[0].parent)
        raise
