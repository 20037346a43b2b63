"""Orthanc shows the review pages as they were drawn, in its own Explorer and to every viewer."""

import json
import urllib.request
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from model.organs import BY_NAME
from plugin.objects.review import build_review
from tests.phantoms import make_phantom
from tests.results import finding_of, headers_of, origin_of

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]


def test_orthanc_previews_every_page_as_it_was_drawn(new_orthanc, quick_model):
    phantom = make_phantom(spacing_mm=(6.0, 8.0, 8.0), shape=(22, 32, 32))
    organs = [BY_NAME["parotid_left"], BY_NAME["parotid_right"]]
    labels = phantom.labels.array
    labels = np.where(np.isin(labels, [organ.label for organ in organs]), labels, 0)
    finding = finding_of(
        phantom.labels.with_array(labels.astype(np.uint8)),
        headers_of(phantom),
        hu=phantom.ct,
        organs=organs,
    )
    pages = build_review(finding, origin_of(finding.slices))
    orthanc = new_orthanc(quick_model, Automatic=False)
    orthanc.start()

    for page in pages:
        file = BytesIO()
        page.save_as(file, enforce_file_format=True)
        status, _, stored = orthanc.request("POST", "/instances", file.getvalue())
        assert status == 200, json.dumps(stored)
        url = f"{orthanc.url}/instances/{stored['ID']}/preview"
        with urllib.request.urlopen(url) as answer:  # what Orthanc Explorer shows
            seen = np.asarray(Image.open(BytesIO(answer.read())))
        np.testing.assert_array_equal(seen, page.pixel_array)

    assert [s["MainDicomTags"]["Modality"] for s in orthanc.get("/series?expand")] == ["OT"]
