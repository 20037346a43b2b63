"""The organs' volumes as a DICOM Comprehensive 3D SR, which programs can read (TID 1500)."""

import copy
from collections.abc import Sequence

from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import SegmentationStorage
from pydicom.valuerep import DA, TM

from model.organs import Organ
from model.volumes import volumes_ml
from plugin.objects.dicom_objects import (
    ANATOMICAL_STRUCTURE,
    LABEL_MAP_SEGMENTATION_STORAGE,
    device_serial_number,
    organ_code,
    series_number,
    side_code,
    sign,
    software_versions,
    tracking_uid,
    without_patient,
)
from plugin.objects.finding import Finding
from plugin.objects.identity import MANUFACTURER, RESEARCH_USE_ONLY, Origin, result_uid
from plugin.objects.seg import SegmentationType, seg_series_uid, seg_uid

SEG_CLASS = {
    "BINARY": SegmentationStorage,
    "LABELMAP": LABEL_MAP_SEGMENTATION_STORAGE,
}


def volume_report_uid(origin: Origin, segmentation_type: SegmentationType) -> str:
    """The SOP Instance UID that ``build_volume_report`` gives; known before the work is done."""
    return origin.uid(f"SR {segmentation_type} instance 1")


def build_volume_report(
    finding: Finding, origin: Origin, segmentation_type: SegmentationType
) -> sr.Comprehensive3DSR:
    """Write the volume of each organ present, with a reference to its segment of our SEG.

    Doubts about an organ that is there are noted with it, all other warnings with the report.

    Args:
        finding: of which ``build_seg`` makes the SEG.
        origin: as the SEG's.
        segmentation_type: of the SEG.

    Raises:
        NoOrganFound: no voxel is labelled.
        ValueError: a label belongs to none of the model's organs.
    """
    slices, present = finding.slices, finding.present
    source = without_patient(slices[0])
    seg = _seg_header(source, origin, segmentation_type)
    millilitres = volumes_ml(finding.labels, present)
    groups = [
        _group(
            number,
            organ,
            millilitres[organ.name],
            seg,
            source,
            origin,
            finding.doubts_about(organ),
        )
        for number, organ in enumerate(present, 1)
    ]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(origin)),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    notice = f"{RESEARCH_USE_ONLY}. Automatic, not reviewed by anybody."
    for sentence in (notice, *finding.about_none_present()):
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
    doubts: Sequence[str],
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
    for sentence in doubts:
        group[0].ContentSequence.append(_comment(sentence))
    return group


def _comment(sentence: str) -> sr.TextContentItem:
    return sr.TextContentItem(
        name=codes.DCM.Comment,
        value=sentence,
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )
