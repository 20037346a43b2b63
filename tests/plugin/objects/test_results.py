"""What a result consists of is found again, and what says that all is there comes last."""

from types import SimpleNamespace

import pytest

from plugin.objects.results import build_results, find_results, seg_first, wanted_kinds
from plugin.objects.review import review_uid
from plugin.settings import Settings
from tests.results import finding_of, headers, origin_of

ALL = {"Rtstruct": True, "VolumeReport": True, "ReviewPages": True}


@pytest.mark.parametrize(
    "settings",
    [
        Settings.model_validate(ALL),
        Settings.model_validate(ALL | {"SegmentationType": "LABELMAP", "RtstructHoles": "xor"}),
    ],
    ids=["usual", "otherwise"],
)
def test_all_that_is_stored_is_found_again_and_the_first_page_and_the_seg_are_stored_last(
    settings: Settings,
) -> None:
    kinds, origin = wanted_kinds(settings), origin_of(headers())
    made = build_results(kinds, finding_of(), origin, settings)
    stored = {(str(one.SOPInstanceUID), "study") for _, one in made}
    archive = SimpleNamespace(
        find_instance=lambda uid, *, study: uid if (uid, study) in stored else None
    )

    found = find_results(kinds, origin, settings, archive, "study")

    assert len(found) == len(made)
    assert seg_first(found)[0].kind == "seg"
    assert not find_results(kinds, origin, settings, archive, "the study of another patient")
    pages = [str(one.SOPInstanceUID) for kind, one in made if kind == "review"]
    assert len(pages) > 1
    assert pages[-1] == review_uid(origin, 1)
    assert made[-1][0] == "seg"
