"""A CT with its organs, and the pictures that can be taken of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.organs import Organ
from model.volumes import boxes_by_label
from plugin.ct.hounsfield import AIR_HU
from plugin.objects.drawing import (
    BONE,
    CORONAL,
    ORIENTATION,
    SAGITTAL,
    SOFT_TISSUE,
    Frame,
    Image2D,
    View,
    annotate,
    box_around,
    coloured,
    finished,
    tick,
    write_name,
)

FIELDS_MM = (100, 120, 150, 200, 250, 300, 400, 500, 700, 1000)
"""Sides of the squares that are shown, so that few scales occur."""

FIELD_PER_ORGAN, FIELD_PER_PATIENT = 1.8, 1.3
"""How many times as large as what it is about a picture is, at least."""

PROJECTION_NAMES = {CORONAL: "X-ray view from the front", SAGITTAL: "X-ray view from the left"}

DENSITY_HU = (-1000.0, 2500.0)
"""HU of what casts no shadow, and of what is as dense as metal."""

IN_BONE = ("inner_ear", "middle_ear", "tmj", "mandible")
"""Organs, sides left out, whose borders are bone."""

THIN, THICK = 1, 2
"""Half widths of outlines, in steps of the finer grid."""

Plane = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """Built by `of`; volumes and boxes are in ORIENTATION."""

    ct: hd.Volume
    labels: hd.Volume
    image_numbers: tuple[int, ...]  # of the CT's images along `slice_axis`
    slice_axis: int
    boxes: dict[Organ, tuple[slice, ...]]  # around each organ that is there, in the table's order

    @classmethod
    def of(
        cls,
        ct: hd.Volume,
        labels: hd.Volume,
        organs: Sequence[Organ],
        image_numbers: Sequence[int],
    ) -> "Scene":
        """The scene of a CT.

        Args:
            ct: HU, any orientation.
            labels: on the same grid.
            organs: those that may be there.
            image_numbers: InstanceNumber of each image, along the first axis of `ct`.
        """
        along = ct.direction[:, 0]
        labels = labels.to_patient_orientation(ORIENTATION)
        cosines = labels.direction.T @ along
        axis = int(np.abs(cosines).argmax())
        found = boxes_by_label(labels.array)
        return cls(
            ct=ct.to_patient_orientation(ORIENTATION),
            labels=labels,
            image_numbers=tuple(image_numbers)[:: 1 if cosines[axis] > 0 else -1],
            slice_axis=axis,
            boxes={
                organ: box
                for organ in sorted(organs, key=lambda organ: organ.label)
                if (box := found.get(organ.label)) is not None
            },
        )

    def middle(self, organ: Organ) -> Plane:
        """On each axis the plane that halves the organ; it always passes through it."""
        box = self.boxes[organ]
        mask = self.labels.array[box] == organ.label
        planes = []
        for axis, side in enumerate(box):
            voxels = mask.sum(axis=tuple({0, 1, 2} - {axis})).cumsum()
            planes.append(side.start + int(np.searchsorted(voxels, voxels[-1] / 2)))
        return planes[0], planes[1], planes[2]

    def images(self, organ: Organ) -> tuple[int, int]:
        """Numbers of the first and the last of the CT's images that show the organ."""
        side = self.boxes[organ][self.slice_axis]
        ends = self.image_numbers[side.start], self.image_numbers[side.stop - 1]
        return min(ends), max(ends)

    def picture(self, organ: Organ, view: View, size: int) -> Image.Image:
        """A plane through the middle of an organ, around it; the organ's outline is thick."""
        planes = self.middle(organ)
        index = planes[view.normal]
        labels = np.take(self.labels.array, index, axis=view.normal)
        own = labels == organ.label
        frame = self._around(own, view, FIELD_PER_ORGAN, size)
        window = BONE if organ.name.startswith(IN_BONE) else SOFT_TISSUE
        hu = np.take(self.ct.array, index, axis=view.normal)
        # What lies outside the CT is shown as 0: as air.
        picture = coloured(window.greys(frame.shown(hu - AIR_HU) + AIR_HU))
        for other, box in self.boxes.items():
            if other != organ and box[view.normal].start <= index < box[view.normal].stop:
                frame.paint_outline(picture, labels == other.label, other.rgb, THIN)
        frame.paint_outline(picture, own, organ.rgb, THICK)
        image = finished(picture)
        tick(image, frame, planes[view.down], planes[view.across])
        annotate(image, frame, self.ct.direction, self._caption(frame, planes))
        write_name(image, frame, own, organ.tg263, organ.rgb)
        return image

    def projections(self, size: int) -> tuple[Image.Image, Image.Image]:
        """The patient from the front and from the side, as X-rays, with all silhouettes."""
        n = self.ct.spatial_shape
        front, side = np.zeros((n[0], n[2]), np.float32), np.zeros((n[0], n[1]), np.float32)
        for plane, down, across in zip(self.ct.array, front, side, strict=True):
            density = plane.clip(*DENSITY_HU) - DENSITY_HU[0]
            down[:], across[:] = density.mean(axis=0), density.mean(axis=1)
        return self._projection(CORONAL, front, size), self._projection(SAGITTAL, side, size)

    def _projection(self, view: View, density: Image2D, size: int) -> Image.Image:
        shadows = {organ: self._shadow(organ, view) for organ in self.boxes}
        everything = np.any([*shadows.values()], axis=0) if shadows else np.ones_like(density, bool)
        frame = self._around(everything, view, FIELD_PER_PATIENT, size)
        greys = frame.shown(density)
        greys *= 255 / max(float(np.percentile(greys, 99.5)), 1.0)
        picture = coloured(greys.clip(0, 255))
        for organ, shadow in shadows.items():
            frame.paint_outline(picture, shadow, organ.rgb, THIN)
        image = finished(picture)
        annotate(image, frame, self.ct.direction, PROJECTION_NAMES[view])
        return image

    def _shadow(self, organ: Organ, view: View) -> NDArray[np.bool_]:
        """Where a ray along the view's normal meets the organ."""
        box = self.boxes[organ]
        shadow = np.zeros(np.delete(self.labels.spatial_shape, view.normal), bool)
        shadow[box[view.down], box[view.across]] = (self.labels.array[box] == organ.label).any(
            axis=view.normal
        )
        return shadow

    def _around(self, mask: NDArray[np.bool_], view: View, room: float, size: int) -> Frame:
        """A square around a mask, `room` times as large or a little more."""
        down, across = box_around(mask)
        spacing_mm = self.ct.spacing[view.down], self.ct.spacing[view.across]
        longest_mm = max(
            (side.stop - side.start) * mm
            for side, mm in zip((down, across), spacing_mm, strict=True)
        )
        return Frame(
            view=view,
            centre=((down.start + down.stop - 1) / 2, (across.start + across.stop - 1) / 2),
            spacing_mm=spacing_mm,
            field_mm=next((mm for mm in FIELDS_MM if mm >= room * longest_mm), FIELDS_MM[-1]),
            size=size,
        )

    def _caption(self, frame: Frame, planes: Plane) -> str:
        """Which plane it is: in the patient, and in the CT if the plane is one of its images."""
        view = frame.view
        index = np.zeros(3)
        index[[view.normal, view.down, view.across]] = planes[view.normal], *frame.centre
        [at_mm] = self.ct.map_indices_to_reference(index[None])
        caption = f"{view.name}  {view.coordinate} {at_mm['xyz'.index(view.coordinate)]:.1f} mm"
        if view.normal == self.slice_axis:
            caption += f"  image {self.image_numbers[planes[view.normal]]}"
        return caption
