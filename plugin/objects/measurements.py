"""The organs' volumes as a DICOM Comprehensive 3D SR, which programs can read (TID 1500)."""

import copy
from collections.abc import Sequence

import highdicom as hd
from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import SegmentationStorage
from pydicom.valuerep import DA, TM

from model.organs import Organ
from model.plausibility import Doubt, about_none_of
from model.volumes import volumes_ml
from plugin.objects.dicom_objects import (
    ANATOMICAL_STRUCTURE,
    LABEL_MAP_SEGMENTATION_STORAGE,
    check_planes,
    device_serial_number,
    organ_code,
    present_organs,
    series_number,
    side_code,
    sign,
    software_versions,
    tracking_uid,
    without_patient,
)
from plugin.objects.identity import MANUFACTURER, RESEARCH_USE_ONLY, Origin, result_uid
from plugin.objects.seg import SegmentationType, seg_series_uid, seg_uid

SEG_CLASS = {
    "BINARY": SegmentationStorage,
    "LABELMAP": LABEL_MAP_SEGMENTATION_STORAGE,
}


def volume_report_uid(origin: Origin, segmentation_type: SegmentationType = "BINARY") -> str:
    """The SOP Instance UID that ``build_volume_report`` gives; known before the work is done."""
    return origin.uid(f"SR {segmentation_type} instance 1")


def build_volume_report(
    labels: hd.Volume,
    slices: Sequence[Dataset],
    *,
    organs: Sequence[Organ],
    origin: Origin,
    segmentation_type: SegmentationType = "BINARY",
    warnings: Sequence[str] = (),
    doubts: Sequence[Doubt] = (),
) -> sr.Comprehensive3DSR:
    """Write the volume of each organ present, with a reference to its segment of our SEG.

    The same arguments give the same bytes.

    Args:
        labels: uint8, ``Organ.label`` or 0, on the grid of the CT.
        slices: headers of the CT, one for each plane of the labels and in their order; not
            altered, and may lack type 2 attributes.
        organs: those that may be present.
        origin: gives the UIDs and the dates.
        segmentation_type: of the SEG that ``build_seg`` makes of the same labels.
        warnings: sentences for the person who reviews.
        doubts: those of them that are about one organ: noted with it, if it is there. All other
            warnings are noted with the report.

    Raises:
        NoOrganFound: no voxel is labelled.
        ValueError: a label belongs to none of ``organs``, or the slices are not those of the grid.
    """
    present = present_organs(labels, organs)
    check_planes(slices, labels)
    source = without_patient(slices[0])
    seg = _seg_header(source, origin, segmentation_type)
    millilitres = volumes_ml(labels, present)
    groups = [
        _group(number, organ, millilitres[organ.name], seg, source, origin, doubts)
        for number, organ in enumerate(present, 1)
    ]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(origin)),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    elsewhere = about_none_of(present, warnings, doubts)
    for sentence in (f"{RESEARCH_USE_ONLY}. Automatic, not reviewed by anybody.", *elsewhere):
        report[0].ContentSequence.append(_comment(sentence))
    result = sr.Comprehensive3DSR(
        evidence=[seg, *map(_identity, slices)],
        content=report,
        series_instance_uid=origin.uid(f"SR {segmentation_type} series"),
        series_number=series_number(slices[0], "SR"),
        sop_instance_uid=volume_report_uid(origin, segmentation_type),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        content_qualification="RESEARCH",
    )
    # highdicom takes these from the clock.
    result.ContentDate, result.ContentTime = DA(origin.created.date()), TM(origin.created.time())
    sign(result, slices[0], origin)
    return result


def _seg_header(source: Dataset, origin: Origin, segmentation_type: SegmentationType) -> Dataset:
    """What the report needs to know of our SEG to refer to it."""
    seg = copy.deepcopy(source)
    seg.SOPClassUID = SEG_CLASS[segmentation_type]
    seg.SOPInstanceUID = seg_uid(origin, segmentation_type)
    seg.SeriesInstanceUID = seg_series_uid(origin, segmentation_type)
    seg.Modality = "SEG"
    return seg


def _observer(origin: Origin) -> sr.ObserverContext:
    return sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=result_uid((), series="", model=origin.model, kind="device"),
            manufacturer_name=MANUFACTURER,
            model_name=origin.model.name,
            serial_number=device_serial_number(origin),
        ),
    )


def _identity(header: Dataset) -> Dataset:
    """What a report says of a slice."""
    identity = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        identity.add(header[keyword])
    return identity


def _group(
    number: int,
    organ: Organ,
    ml: float,
    seg: Dataset,
    source: Dataset,
    origin: Origin,
    doubts: Sequence[Doubt],
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """One organ: what it is, which segment it is, its volume, and what is doubted."""
    group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=tracking_uid(organ, origin), identifier=organ.tg263
        ),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=number,
            source_series=sr.SourceSeriesForSegmentation(source.SeriesInstanceUID),
        ),
        finding_category=ANATOMICAL_STRUCTURE,
        finding_type=organ_code(organ),
        finding_sites=[
            sr.FindingSite(anatomic_location=organ_code(organ), laterality=side_code(organ))
        ],
        algorithm_id=sr.AlgorithmIdentification(
            name=origin.model.name,
            version=software_versions(origin),
            parameters=[f"weights_sha256={origin.model.weights_sha256}"],
        ),
        measurements=[
            sr.Measurement(name=codes.SCT.Volume, value=ml, unit=codes.UCUM.CubicCentimeter)
        ],
    )
    for doubt in doubts:
        if doubt.organ == organ:
            group[0].ContentSequence.append(_comment(doubt.sentence))
    return group


def _comment(sentence: str) -> sr.TextContentItem:
    return sr.TextContentItem(
        name=codes.DCM.Comment,
        value=sentence,
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )
