"""Organ labels drawn on the CT as Secondary Capture images, which every DICOM viewer shows.

For people who look, not for machines that measure: the SEG holds the contours.
"""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from highdicom.frame import encode_frame
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless, SecondaryCaptureImageStorage
from pydicom.valuerep import DA, TM

from plugin.dicom_file import number_in
from plugin.objects.dicom_objects import new_object, reference_to, say_what_was_lost, sign
from plugin.objects.finding import Finding
from plugin.objects.identity import RESEARCH_USE_ONLY, Origin
from plugin.objects.review_pages import draw_pages
from plugin.objects.scene import Scene

KIND = "REVIEW"


def review_uid(origin: Origin, page: int) -> str:
    """The SOP Instance UID of a page; known before the work is done."""
    return origin.uid(f"{KIND} instance {page}")


def build_review(finding: Finding, origin: Origin) -> list[hd.SOPClass]:
    """Draw the organs as a short series: an overview, then every organ in three planes.

    No patient, study or series description is drawn.
    """
    slices, organs = finding.slices, finding.organs
    scene = Scene.of(finding.ct.volume, finding.labels, organs, _image_numbers(slices))
    pages = draw_pages(scene, organs=organs, origin=origin, warnings=finding.warnings)
    return [_capture(page, n, slices, origin) for n, page in enumerate(pages, 1)]


def _image_numbers(slices: Sequence[Dataset]) -> list[int]:
    """What viewers call the CT's images; their places if the numbers do not run with them."""
    numbers = [int(number_in(header, "InstanceNumber") or 0) for header in slices]
    steps = np.sign(np.diff(numbers))
    return numbers if abs(steps.sum()) == len(steps) else list(range(1, len(slices) + 1))


def _capture(
    page: Image.Image, number: int, slices: Sequence[Dataset], origin: Origin
) -> hd.SOPClass:
    """One page as a Secondary Capture image."""
    capture = new_object(
        slices[0],
        origin,
        sop_class_uid=SecondaryCaptureImageStorage,
        modality="OT",
        kind=KIND,
        instance_number=number,
        transfer_syntax_uid=RLELossless,
    )
    capture.ConversionType = "WSD"
    capture.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    capture.PatientOrientation = None  # of many pictures
    capture.ContentDate = capture.DateOfSecondaryCapture = DA(origin.created.date())
    capture.ContentTime = capture.TimeOfSecondaryCapture = TM(origin.created.time())
    # No patient is drawn, but the time is, which is nearly that of the scan: let those who
    # remove identities look at the pixels.
    capture.BurnedInAnnotation = "YES"
    capture.ImageComments = RESEARCH_USE_ONLY
    capture.DerivationDescription = "Outlines of automatically segmented organs drawn on the CT"
    capture.SourceImageSequence = [reference_to(header) for header in slices]
    capture.SamplesPerPixel = 3
    capture.PhotometricInterpretation = "RGB"
    capture.PlanarConfiguration = 0
    capture.Columns, capture.Rows = page.size
    capture.BitsAllocated = capture.BitsStored = 8
    capture.HighBit = 7
    capture.PixelRepresentation = 0
    capture.LossyImageCompression = "00"
    say_what_was_lost(capture, slices)
    capture.PixelData = encapsulate([_encoded(page)])
    sign(capture, slices[0], origin)
    return capture


def _encoded(page: Image.Image) -> bytes:
    """Half its size, and nothing lost; Orthanc decodes it for its previews and for peers.

    JPEG-LS would halve it again, but its encoder (CharLS) has the same symbols as Orthanc's own, of
    another version: within Orthanc it ends the whole process.
    """
    return encode_frame(
        np.asarray(page),
        transfer_syntax_uid=RLELossless,
        bits_allocated=8,
        bits_stored=8,
        photometric_interpretation="RGB",
        planar_configuration=0,
    )
