"""The slices that a result is made of: read one by one, and named by hash, as `Provenance` does."""

from collections.abc import Callable, Iterable, Iterator

from blake3 import blake3

from model.segmenter import Cancelled
from model.sliding_window import ignore, never
from plugin.archive import Archive, Series
from plugin.jobs.job_changes import digest


def slices_sha256(sop_instance_uids: Iterable[str]) -> str:
    """Which slices they are, in whatever order."""
    return digest(*sorted(sop_instance_uids))


class SliceFiles:
    """The files of one series, and what they were to the last bit when they were read."""

    def __init__(
        self, series: Series, archive: Archive, *, cancelled: Callable[[], bool] = never
    ) -> None:
        self._series = series
        self._archive = archive
        self._cancelled = cancelled
        self._hashes: list[str] = []

    def read(self, progress: Callable[[float], None] = ignore) -> Iterator[bytes]:
        """Each file as it is now. What was read before is forgotten.

        Raises:
            Cancelled: as soon as `cancelled` says so.
            ArchiveError: the archive did not give one.
        """
        self._hashes = []
        instances = self._series.instances
        for number, instance in enumerate(instances):
            if self._cancelled():
                raise Cancelled
            file = self._archive.file(instance)
            # A job waits for it: SHA-256 takes two to three times as long.
            self._hashes.append(blake3(file).hexdigest())
            yield file
            del file  # or it would be held until the next is there
            progress((number + 1) / len(instances))

    def blake3(self) -> str:
        """Of those that were read, in whatever order."""
        return digest(*sorted(self._hashes))

    def blake3_now(self) -> str:
        """Of all, which are read for it. Raises what `read` raises."""
        for _ in self.read():
            pass
        return self.blake3()
