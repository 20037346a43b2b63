"""22 organs as the bytes of a SEG: ours against dcmqi's itkimage2segimage and plain highdicom.

Ours and highdicom have the slices' headers in memory, as the plugin has. dcmqi is a program: it
reads labels and slices from files, which is in its seconds as it would be for its users.
"""

import json
import subprocess
import sys
from datetime import datetime
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import SimpleITK as sitk
from pydicom import Dataset
from pydicom.sr.codedict import codes

from model.organs import ORGANS
from plugin.objects.dicom_objects import ANATOMICAL_STRUCTURE, organ_code
from plugin.objects.identity import Model, Origin
from plugin.objects.seg import build_seg
from tests.benchmarks.contest import OURS, Options, Row, against, in_turns
from tests.phantoms import Phantom, ct_slices, write_series
from tests.results import finding_of

DCMQI, HIGHDICOM = "dcmqi", "plain highdicom"


def rows(options: Options) -> list[Row]:
    """From a label volume to a file's bytes."""
    phantom = options.phantom()
    slices = ct_slices(phantom)
    for ds in slices:
        del ds.PixelData
    origin = Origin(
        model=Model(name="benchmark", version="0.0.0", weights_sha256="0" * 64),
        series="1.2.series",
        slices=tuple(ds.SOPInstanceUID for ds in slices),
        created=datetime(2026, 1, 1),
    )
    size: dict[str, int] = {}

    def written(name: str, seg: Dataset) -> None:
        buffer = BytesIO()
        seg.save_as(buffer)
        size[name] = buffer.tell()

    def ours() -> None:
        written(OURS, build_seg(finding_of(phantom.labels, slices), origin, "BINARY"))

    def highdicom() -> None:
        written(HIGHDICOM, plain_highdicom(phantom, slices))

    command = dcmqi_command(phantom, options.folder)

    def dcmqi() -> None:
        subprocess.run(command, capture_output=True, check=True)
        size[DCMQI] = Path(command[-1]).stat().st_size

    figures = in_turns(
        {OURS: ours, DCMQI: dcmqi, HIGHDICOM: highdicom}, options.repeats, options.clock
    )
    sizes = ", ".join(f"{name} {bytes_ / 1e6:.2f} MB" for name, bytes_ in size.items())
    return against(
        figures,
        {DCMQI: 3.0, HIGHDICOM: 1.0},
        what="labels to SEG bytes",
        note=f"{len(np.unique(phantom.labels.array)) - 1} organs; the file: {sizes}",
    )


def plain_highdicom(phantom: Phantom, slices: list[Dataset]) -> Dataset:
    """As in highdicom's own guide: the label array and a description for each number."""
    algorithm = hd.AlgorithmIdentificationSequence(
        name="benchmark", family=codes.DCM.ArtificialIntelligence, version="0"
    )
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=organ.label,
            segment_label=organ.tg263,
            segmented_property_category=ANATOMICAL_STRUCTURE,
            segmented_property_type=organ_code(organ),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for organ in ORGANS
    ]
    return hd.seg.Segmentation(
        source_images=slices,
        pixel_array=phantom.labels.array,
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="benchmark",
        manufacturer_model_name="benchmark",
        software_versions="0",
        device_serial_number="0",
    )


def dcmqi_command(phantom: Phantom, folder: Path) -> list[str]:
    """itkimage2segimage on the same labels; empty frames are left out, as by the others."""
    write_series(phantom, folder / "slices")
    image = sitk.GetImageFromArray(phantom.labels.array)
    affine = phantom.labels.affine
    image.SetSpacing(phantom.labels.spacing[::-1])
    image.SetOrigin(tuple(affine[:3, 3]))
    image.SetDirection(tuple(phantom.labels.direction[:, ::-1].ravel()))
    sitk.WriteImage(image, str(folder / "labels.nrrd"))
    segments = [
        {
            "labelID": organ.label,
            "SegmentDescription": organ.tg263,
            "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": "benchmark",
            "SegmentedPropertyCategoryCodeSequence": code(ANATOMICAL_STRUCTURE),
            "SegmentedPropertyTypeCodeSequence": code(organ_code(organ)),
            "recommendedDisplayRGBValue": list(organ.rgb),
        }
        for organ in ORGANS
    ]
    metadata = {
        "ContentCreatorName": "benchmark",
        "ClinicalTrialSeriesID": "0",
        "ClinicalTrialTimePointID": "0",
        "SeriesDescription": "benchmark",
        "SeriesNumber": "2",
        "InstanceNumber": "1",
        "BodyPartExamined": "HEADNECK",
        "segmentAttributes": [segments],
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))
    program = Path(sys.executable).parent / "itkimage2segimage"
    arguments = {
        "--skip": "1",
        "--inputMetadata": folder / "metadata.json",
        "--inputImageList": folder / "labels.nrrd",
        "--inputDICOMDirectory": folder / "slices",
        "--outputDICOM": folder / "seg.dcm",
    }
    return [str(program), *(str(each) for pair in arguments.items() for each in pair)]


def code(concept: hd.sr.CodedConcept) -> dict[str, str]:
    """As dcmqi writes codes."""
    return {
        "CodeValue": concept.value,
        "CodingSchemeDesignator": concept.scheme_designator,
        "CodeMeaning": concept.meaning,
    }
