"""How large each organ usually is, so that a person is told of one that is not.

The bounds are wide on purpose: beyond them a contour is more often wrong than the patient unusual.
Where what is published is not the volume of a contour on planning CT, or is about few people, the
row says "thin" and the bounds are our judgement of it.

*OpenKBP* stands for the clinical contours of 200 head-and-neck patients (Babier et al. 2021, DOI
10.1002/mp.14845), 1st to 99th percentile, measured by us at about 4 x 4 x 2.5 mm. Some of those
contours end where the cropped CT does, so its lowest values count little.
"""

from typing import NamedTuple

from model.organs import Organ


class UsualVolume(NamedTuple):
    """Of one organ, or of one side of a pair."""

    low: float
    high: float
    source: str
    per_cm: bool = False  # ml for each centimetre of length, for what runs out of every scan


USUAL_VOLUME_ML: dict[str, UsualVolume] = {
    "brainstem": UsualVolume(10, 45, "OpenKBP: 6.7 to 43.9 ml, 5th percentile 9.9"),
    "eye": UsualVolume(
        4,
        11,
        "6.3 +- 0.7 ml by MRI (Heymsfield 2016, DOI 10.4172/2161-0940.1000239), "
        "21 to 27 mm across by CT (Bekerman 2014, DOI 10.1155/2014/503645)",
    ),
    "lens": UsualVolume(
        0.08,
        0.5,
        "thin: lenses of donors weigh 143 mg and 1.3 mg more each year (Mohamed and Augusteyn, "
        "Mol Vis 24:867, 2018); contours on slices of 3 mm may be twice as large",
    ),
    "optic_nerve": UsualVolume(
        0.2,
        1.8,
        "thin: 3.5 to 4 mm across by MRI (Karim 2004, IOVS 45), 4 to 5 cm long; contours may "
        "hold the sheath",
    ),
    "optic_chiasm": UsualVolume(
        0.1,
        1.5,
        "thin: 3.5 x 15 mm in coronal MRI (Parravano 1993, J Comput Assist Tomogr 17:688); "
        "contours may hold the beginning of nerves and tracts",
    ),
    "temporal_lobe": UsualVolume(
        30,
        150,
        "thin: contours differ in where the lobe ends behind; right 7 ml larger than left by MRI "
        "(Jack 1988, J Comput Assist Tomogr 12)",
    ),
    "pituitary": UsualVolume(
        0.1,
        1.5,
        "0.54 +- 0.16 ml by MRI, aged 10 to 19 (Naik 2015, DOI 10.11648/j.ijmi.20150306.11)",
    ),
    "parotid": UsualVolume(
        8,
        60,
        "9.2 to 54.1 ml, median 25.3, by MRI (Medbery 2000, Radiother Oncol 54:87); "
        "OpenKBP: 8.8 to 54.9 ml",
    ),
    "inner_ear": UsualVolume(
        0.1, 2.5, "thin: contours hold cochlea and labyrinth with more or less of the bone around"
    ),
    "middle_ear": UsualVolume(
        0.3,
        6,
        "thin: the tympanic cavity alone has 0.64 +- 0.07 ml (8 adults, Ikui 2000, DOI "
        "10.1080/000164800750000595)",
    ),
    "tmj": UsualVolume(
        0.4,
        6,
        "thin: the condyle alone has 0.68 +- 0.06 ml by CBCT (Tecco 2010, DOI "
        "10.1186/1471-2342-10-28); contours hold the joint",
    ),
    "spinal_cord": UsualVolume(
        0.5,
        3.0,
        "OpenKBP: 0.66 to 2.9 ml per cm; 0.7 to 0.8 by MRI (Kato 2012, DOI "
        "10.1007/s00586-012-2176-4), where contours are of the cord and not of the canal",
        per_cm=True,
    ),
    "mandible": UsualVolume(13, 55, "each half. OpenKBP: 14.7 to 50.0 ml"),
}
"""By the organ's name without its side."""


def usual_volume(organ: Organ) -> UsualVolume:
    """Of the organ, or of either side of it."""
    stem = organ.name.removesuffix(f"_{organ.side}") if organ.side else organ.name
    return USUAL_VOLUME_ML[stem]
