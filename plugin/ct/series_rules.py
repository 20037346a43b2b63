"""The rules for choosing a CT series: every tolerance and expression, declared as data."""

from typing import Annotated

from pydantic import Field, model_validator

from plugin.conditions import Expression
from plugin.configuration import Section


class UnsuitableSeries(Exception):
    """This series cannot be segmented, and trying again will not help.

    The message is read by a radiographer: it says what was found and what was expected, and
    never a patient's name.
    """


class SeriesRules(Section):
    """Which CT series are segmented; section "Series" of ours in orthanc.json.

    The defaults accept an original axial head-and-neck planning CT. Expressions are Python
    regular expressions, found anywhere in the value and blind to case; an empty one is no rule.
    An attribute that is absent counts as an empty value.
    """

    include_body_part: Expression = ""
    """BodyPartExamined must match this."""

    exclude_body_part: Expression = (
        "^(ABDOMEN|ABDOMENPELVIS|PELVIS|PROSTATE|BLADDER|RECTUM|CERVIX|UTERUS|LSPINE|SSPINE|"
        "HIP|LEG|KNEE|ANKLE|FOOT|ARM|HAND)$"
    )
    """BodyPartExamined must not match this. Absent body parts pass."""

    include_series_description: Expression = ""
    """SeriesDescription must match this."""

    exclude_series_description: Expression = ""
    """SeriesDescription must not match this."""

    include_study_description: Expression = ""
    """StudyDescription must match this."""

    exclude_study_description: Expression = ""
    """StudyDescription must not match this."""

    accept_derived: bool = False
    """Also take reformatted, averaged or otherwise derived images."""

    max_angle_from_axial_deg: Annotated[float, Field(ge=0, le=90)] = 20.0
    """Slice normal to the patient's head-foot axis: the network sees a head turned by as much, and
    has learned from few."""

    min_slices: Annotated[int, Field(ge=2)] = 20
    """Fewer are not a planning CT."""

    max_slices: Annotated[int, Field(ge=2)] = 1000
    """More do not fit in the memory."""

    min_length_mm: Annotated[float, Field(ge=0)] = 100.0
    """Number of slices times their spacing, along the slice normal."""

    max_length_mm: Annotated[float, Field(gt=0)] = 1000.0
    """Number of slices times their spacing, along the slice normal."""

    max_slice_spacing_mm: Annotated[float, Field(gt=0)] = 6.0
    """Wider than this, small organs fall between two slices."""

    spacing_tolerance_mm: Annotated[float, Field(ge=0)] = 0.1
    """How far a slice may lie from its place in an even stack."""

    shift_tolerance_mm: Annotated[float, Field(ge=0)] = 0.5
    """How far a slice may be shifted within its plane; more is gantry tilt."""

    pixel_spacing_tolerance_mm: Annotated[float, Field(ge=0)] = 1e-3
    """Between slices; over 512 pixels this adds up to half a mm."""

    orientation_tolerance: Annotated[float, Field(ge=0)] = 1e-3
    """Between slices, in each direction cosine; about 0.06 degrees."""

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> "SeriesRules":
        if self.min_slices > self.max_slices:
            raise ValueError("MinSlices is greater than MaxSlices")
        if self.min_length_mm > self.max_length_mm:
            raise ValueError("MinLengthMm is greater than MaxLengthMm")
        return self
