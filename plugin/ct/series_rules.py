"""The rules for choosing a CT series: every tolerance and expression, declared as data."""

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_pascal

from plugin.conditions import Expression


class UnsuitableSeries(Exception):
    """This series cannot be segmented, and trying again will not help.

    The message is read by a radiographer: it says what was found and what was expected, and
    never a patient's name.
    """


class SeriesRules(BaseModel):
    """Which CT series are segmented; the ``Series`` section of our part of orthanc.json.

    The defaults accept an original axial head-and-neck planning CT. Expressions are Python
    regular expressions, found anywhere in the value and blind to case; an empty one is no rule.
    An attribute that is absent counts as an empty value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_pascal)

    include_body_part: Expression = Field("", description="BodyPartExamined must match this.")
    exclude_body_part: Expression = Field(
        "^(ABDOMEN|ABDOMENPELVIS|PELVIS|PROSTATE|BLADDER|RECTUM|CERVIX|UTERUS|LSPINE|SSPINE|"
        "HIP|LEG|KNEE|ANKLE|FOOT|ARM|HAND)$",
        description="BodyPartExamined must not match this. Absent body parts pass.",
    )
    include_series_description: Expression = Field(
        "", description="SeriesDescription must match this."
    )
    exclude_series_description: Expression = Field(
        "", description="SeriesDescription must not match this."
    )
    include_study_description: Expression = Field(
        "", description="StudyDescription must match this."
    )
    exclude_study_description: Expression = Field(
        "", description="StudyDescription must not match this."
    )

    accept_derived: bool = Field(
        False, description="Also take reformatted, averaged or otherwise derived images."
    )
    max_angle_from_axial_deg: float = Field(
        20.0,
        ge=0,
        le=90,
        description="Slice normal to the patient's head-foot axis: the network sees a head turned "
        "by as much, and has learned from few.",
    )
    min_slices: int = Field(20, ge=2, description="Fewer are not a planning CT.")
    max_slices: int = Field(1000, ge=2, description="More do not fit in the memory.")
    min_length_mm: float = Field(
        100.0, ge=0, description="Number of slices times their spacing, along the slice normal."
    )
    max_length_mm: float = Field(
        1000.0, gt=0, description="Number of slices times their spacing, along the slice normal."
    )
    max_slice_spacing_mm: float = Field(
        6.0, gt=0, description="Wider than this, small organs fall between two slices."
    )

    spacing_tolerance_mm: float = Field(
        0.1, ge=0, description="How far a slice may lie from its place in an even stack."
    )
    shift_tolerance_mm: float = Field(
        0.5,
        ge=0,
        description="How far a slice may be shifted within its plane; more is gantry tilt.",
    )
    pixel_spacing_tolerance_mm: float = Field(
        1e-3, ge=0, description="Between slices; over 512 pixels this adds up to half a mm."
    )
    orientation_tolerance: float = Field(
        1e-3, ge=0, description="Between slices, in each direction cosine; about 0.06 degrees."
    )

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> "SeriesRules":
        if self.min_slices > self.max_slices:
            raise ValueError("MinSlices is greater than MaxSlices")
        if self.min_length_mm > self.max_length_mm:
            raise ValueError("MinLengthMm is greater than MaxLengthMm")
        return self
