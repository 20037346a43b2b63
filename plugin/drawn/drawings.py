"""Structure sets in the archive, ours and other people's, as labels on the grid of their CT."""

from collections.abc import Callable

import highdicom as hd

from model.sliding_window import never
from plugin.archive import Archive, Series, UnknownResource
from plugin.ct.series import read_headers, sort_and_check
from plugin.ct.series_rules import SeriesRules
from plugin.dicom_file import UnreadableFile, read_dicom
from plugin.drawn.drawn_organs import DrawnOrgans, draw_organs
from plugin.drawn.structure_names import StructureNames
from plugin.drawn.structure_sets import StructureSet, UnusableStructureSet, read_structure_set
from plugin.jobs.job import Job


class Drawings:
    """Reads them."""

    def __init__(self, archive: Archive, rules: SeriesRules) -> None:
        self._archive = archive
        self._rules = rules
        self._names = StructureNames.read()

    def grid(self, ct: Series) -> hd.VolumeGeometry:
        """Of a CT series, its slices along the first axis.

        Raises:
            UnsuitableSeries: it makes no even stack.
        """
        headers = read_headers(self._archive.file(instance) for instance in ct.instances)
        return sort_and_check(headers, self._rules).geometry

    def read(self, instance: str) -> StructureSet:
        """An RTSTRUCT or SEG.

        Raises:
            UnusableStructureSet: it is none, or cannot be used.
        """
        try:
            return read_structure_set(read_dicom(self._archive.file(instance)))
        except UnreadableFile as error:
            raise UnusableStructureSet("It cannot be read: not DICOM, or cut short.") from error

    def draw(
        self,
        drawing: StructureSet,
        grid: hd.VolumeGeometry,
        cancelled: Callable[[], bool] = never,
    ) -> DrawnOrgans:
        """Its organs on a grid; raises UnusableStructureSet if it was drawn on another CT."""
        return draw_organs(drawing, grid, self._names, cancelled)

    def result(self, job: Job, grid: hd.VolumeGeometry) -> hd.Volume:
        """The organs of a job's SEG on the grid of its CT.

        Raises:
            UnknownResource: it has none any more.
            UnusableStructureSet: some of them cannot be read, and would count as not found.
        """
        seg = next((one.orthanc_id for one in job.results if one.kind == "seg"), None)
        if seg is None:
            raise UnknownResource(f"Job {job.id} has no result any more.")
        drawn = self.draw(self.read(seg), grid)
        for organ, why in drawn.left_out.items():
            raise UnusableStructureSet(f"Our result cannot be compared: {organ.tg263}: {why}.")
        return drawn.labels
