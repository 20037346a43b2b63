"""Numbers of others to hold ours against, with their sources."""

from typing import NamedTuple


class Published(NamedTuple):
    """Dice in percent of one organ in one column of Table 1."""

    mean: float
    sd: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.sd:.1f}"


NETWORKS = ("U-Net", "Attention U-Net", "SE U-Net", "nnSAM-UNet")

_TABLE_1 = """
brainstem 76.2 6.1 79.9 4.3 81.7 3.9 88.7 1.5
eye_left 87.5 2.4 86.0 2.9 86.9 4.0 90.4 4.9
eye_right 87.2 2.9 86.9 4.1 85.2 3.9 89.6 2.3
lens_left 72.4 11.0 65.3 9.3 61.1 12.8 74.7 10.2
lens_right 67.5 14.3 61.0 16.4 64.5 15.5 73.4 11.5
optic_nerve_left 65.1 11.8 47.8 13.9 58.1 14.1 69.2 6.6
optic_nerve_right 65.3 7.7 42.5 23.3 60.8 7.0 74.5 7.7
optic_chiasm 46.5 14.1 39.3 16.6 34.8 12.7 62.4 14.0
temporal_lobe_left 83.6 5.1 80.9 6.5 82.0 5.3 87.2 5.6
temporal_lobe_right 84.0 5.5 82.5 5.9 82.3 4.7 88.7 4.4
pituitary 51.5 20.3 43.1 13.7 51.3 18.9 68.3 14.9
parotid_left 77.5 6.1 78.0 4.9 75.6 8.9 80.7 5.2
parotid_right 81.1 4.9 80.0 5.4 67.3 10.8 81.9 5.5
inner_ear_left 80.5 5.9 82.5 4.0 78.8 5.7 76.3 3.0
inner_ear_right 83.5 3.6 83.4 3.4 83.7 2.7 82.1 2.4
middle_ear_left 73.2 16.4 70.8 16.2 67.1 24.9 83.1 7.7
middle_ear_right 79.8 6.8 79.9 4.8 80.6 5.4 84.3 4.4
tmj_left 73.0 5.1 73.6 7.2 71.6 9.4 75.6 9.1
tmj_right 73.4 5.1 69.4 5.5 70.0 9.3 74.9 8.0
spinal_cord 81.3 2.9 80.9 2.4 75.8 9.0 84.4 5.6
mandible_left 89.6 2.8 88.1 4.1 89.5 2.4 89.3 1.0
mandible_right 90.0 1.7 89.0 2.6 88.3 2.5 90.6 1.6
"""


def _read(text: str) -> dict[str, tuple[Published, ...]]:
    table = {}
    for line in text.strip().splitlines():
        organ, *numbers = line.split()
        values = list(map(float, numbers))
        table[organ] = tuple(map(Published, values[::2], values[1::2]))
    return table


TABLE_1: dict[str, tuple[Published, ...]] = _read(_TABLE_1)
"""Lin and Zhang, Advances in Clinical Medicine 16(3), 2026, Table 1, StructSeg 2019: other data and
another grid than ours. Columns as `NETWORKS`. The last column averages 80.5; 87.2 is printed."""


class Readers(NamedTuple):
    """Dice in percent between two people, on the masks' own grid and on a coarse one."""

    fine: float  # 1 x 1 x 2.5 mm
    coarse: float  # every 4 x 4 voxels in plane taken together


SECOND_READER: dict[str, Readers] = {
    "brainstem": Readers(89.4, 89.5),
    "eye_left": Readers(93.0, 92.8),
    "eye_right": Readers(93.0, 92.8),
    "lens_left": Readers(86.4, 60.9),
    "lens_right": Readers(86.4, 60.9),
    "optic_nerve_left": Readers(78.8, 75.7),
    "optic_nerve_right": Readers(78.8, 75.7),
    "parotid_left": Readers(86.5, 86.5),
    "parotid_right": Readers(86.5, 86.5),
    "spinal_cord": Readers(84.4, 83.6),
    "mandible_left": Readers(94.5, 94.3),
    "mandible_right": Readers(94.5, 94.3),
}
"""An oncologist and a radiographer on 35 CTs, from the masks that Nikolov et al. 2018 published
(google-deepmind/tcia-ct-scan-dataset). Pairs were taken together; the mandible's is of the whole
bone. Their cochlea (73, 24) is less than our inner ear and is not in this table."""

COARSE_MM = 2.5
"""Pixels of at least this side are held against the readers on the coarse grid."""
