"""What a CT was filled with where somebody cut it away, and whether `--unknown-hu` says so."""

from collections.abc import Sequence

import highdicom as hd
import numpy as np

MOST = 0.5
"""Share of voxels of one value from which it is hardly measured: air is noisy, and the corners that
a round field of view leaves are a fifth of a slice."""


def filling_hu(ct: hd.Volume) -> float | None:
    """The lowest HU, if most voxels are exactly that."""
    lowest = ct.array.min()
    return float(lowest) if np.mean(ct.array == lowest) > MOST else None


def not_called_unknown(fillings: Sequence[float | None], unknown_hu: float | None) -> str:
    """A sentence for the person who may have forgotten the option; or nothing.

    Args:
        fillings: `filling_hu` of every CT.
        unknown_hu: what the option says.
    """
    found = [hu for hu in fillings if hu is not None and hu != unknown_hu]
    if not found:
        return ""
    given = "is not given" if unknown_hu is None else f"is {unknown_hu:g}"
    return (
        f"most voxels of {len(found)} of {len(fillings)} CTs are exactly {found[0]:g} HU, and "
        f"--unknown-hu {given}: if they say nothing of the patient, it must be {found[0]:g}"
    )
