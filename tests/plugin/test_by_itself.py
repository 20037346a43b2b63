import pytest

from plugin.by_itself import ByItself
from plugin.catalogue import Catalogue
from plugin.conditions import Condition, SeriesFacts
from plugin.configuration import BadConfiguration
from plugin.orthanc_archive import OrthancArchive
from plugin.settings import Settings
from tests.fake_orthanc import FakeOrthanc
from tests.phantoms import ct_slices
from tests.plugin.parts import new_intake

OURS = {"CalledAet": "^OAR$"}
NECK = {"SenderAet": "^RT_CT$", "StudyDescription": "neck"}


def by_itself(*rules: dict[str, str], automatic: bool = True) -> ByItself:
    return ByItself(automatic, [Condition.model_validate(one) for one in rules])


@pytest.mark.parametrize(
    ("facts", "answer"),
    [
        (SeriesFacts(called_aet="OAR"), (True, "Rule 1 of AutomaticFor fits: CalledAet.")),
        (
            SeriesFacts(sender_aet="RT_CT", study_description="Head Neck", called_aet="PACS"),
            (True, "Rule 2 of AutomaticFor fits: SenderAet and StudyDescription."),
        ),
        (SeriesFacts(sender_aet="RT_CT", study_description="Thorax"), (False, "No rule")),
        (SeriesFacts(), (False, "No rule of AutomaticFor fits.")),  # it came by REST
    ],
)
def test_a_ct_is_segmented_by_itself_if_one_rule_fits(facts, answer):
    wanted, why = by_itself(OURS, NECK).judge(lambda: facts)

    assert (wanted, why[: len(answer[1])]) == answer


@pytest.mark.parametrize(
    ("one", "answer"),
    [
        (by_itself(), (True, "Automatic is true.")),
        (by_itself(OURS, automatic=False), (False, "Automatic is false.")),
    ],
)
def test_orthanc_is_not_asked_about_a_series_where_no_rule_decides(one, answer):
    def never() -> SeriesFacts:
        raise AssertionError("asked")

    assert one.judge(never) == answer


def test_of_a_study_only_what_fits_has_a_job_and_a_person_may_ask_for_the_rest(
    jobs, weights, small_phantom
):
    orthanc = FakeOrthanc()
    archive = OrthancArchive(orthanc)
    intake = new_intake(
        archive=archive,
        jobs=jobs,
        catalogue=Catalogue(default="quick", weights=weights),
        by_itself=by_itself({"SeriesDescription": "planning"}),
    )
    diagnostic = ct_slices(small_phantom, series_description="Diagnostic")
    planning = ct_slices(small_phantom, series_number=2, series_description="Planning")
    study = orthanc.receive([*diagnostic, *planning])
    series = {archive.facts(one).series_description: one for one in archive.series_of_study(study)}

    [job] = intake.take_study(study, asked_by="stable study")

    assert job.series == series["Planning"].id
    assert intake.request(series["Diagnostic"]).series == series["Diagnostic"].id


def test_a_rule_with_a_key_that_there_is_not_stops_the_start_by_its_name():
    with pytest.raises(BadConfiguration, match=r"Oar\.AutomaticFor\.0\.CalledAe\b"):
        Settings.from_orthanc({"Oar": {"AutomaticFor": [{"CalledAe": "OAR"}]}})
