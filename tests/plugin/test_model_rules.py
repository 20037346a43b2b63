import shutil

import pytest

from model.checkpoint import BadCheckpoint
from plugin.catalogue import Catalogue, UnknownModel
from plugin.conditions import SeriesFacts
from plugin.configuration import BadConfiguration
from plugin.jobs.job import Outcome
from plugin.model_rules import ModelRule, ModelRules
from plugin.orthanc_archive import OrthancArchive
from tests.fake_orthanc import FakeOrthanc
from tests.plugin.parts import new_intake

CHILD = {"Model": "paediatric", "StudyDescription": "child", "ShadowModel": "next"}
NECK = {"Model": "neck", "BodyPart": "NECK"}


def rules(*which: dict[str, str]) -> ModelRules:
    return ModelRules([ModelRule.model_validate(one) for one in which], default="usual")


@pytest.mark.parametrize(
    ("facts", "model", "shadow", "reason"),
    [
        (
            SeriesFacts(study_description="CHILD", body_part="NECK"),
            "paediatric",
            "next",
            "Rule 1 of Models fits: StudyDescription.",
        ),
        (SeriesFacts(body_part="HEADNECK"), "neck", "", "Rule 2 of Models fits: BodyPart."),
        (SeriesFacts(), "usual", "", "No rule of Models fits: the usual model."),
    ],
)
def test_the_first_rule_that_fits_chooses_the_model(facts, model, shadow, reason):
    choice = rules(CHILD, NECK).choose(lambda: facts)

    assert (choice.model, choice.shadow_model, choice.reason) == (model, shadow, reason)


def test_without_rules_orthanc_is_not_asked_about_the_series():
    def never() -> SeriesFacts:
        raise AssertionError("asked")

    assert rules().choose(never).model == "usual"


def test_all_models_that_may_run_by_themselves_are_known_at_the_start():
    assert rules(CHILD, NECK).models() == {"usual", "paediatric", "next", "neck"}


def test_a_model_that_a_rule_names_and_that_is_not_there_stops_the_start(weights):
    catalogue = Catalogue(default="quick", weights=weights)

    with pytest.raises(UnknownModel, match="There is no model 'neck'"):
        ModelRules([ModelRule.model_validate(NECK)], default="quick", name=catalogue.configured)


@pytest.mark.parametrize("alike", ["quick", "by its path"])
def test_a_model_that_would_be_compared_with_itself_stops_the_start(weights, alike):
    catalogue = Catalogue(default="quick", weights=weights)
    shadow = alike if alike == "quick" else str(weights / "quick")
    neck = ModelRule.model_validate({"Model": "quick", "ShadowModel": shadow})

    def start(*rules: ModelRule, shadow_model: str = "") -> None:
        name = catalogue.configured
        ModelRules(rules, default="quick", shadow_model=shadow_model, name=name)

    with pytest.raises(BadConfiguration, match=r"^Oar\.Models\.1\.ShadowModel is its Model quick"):
        start(ModelRule.model_validate(NECK | {"Model": "quick"}), neck)
    with pytest.raises(BadConfiguration, match=r"^Oar\.ShadowModel is its Model quick"):
        start(shadow_model=shadow)


def test_models_of_a_rule_may_lie_anywhere_but_not_two_under_one_name(weights, tmp_path):
    catalogue = Catalogue(default=str(weights / "quick"), weights=tmp_path)
    shutil.copytree(weights / "quick", tmp_path / "quick")

    assert catalogue.configured(str(weights / "blind")) == "blind"
    assert catalogue.configured(str(weights / "quick")) == "quick"
    with pytest.raises(UnknownModel, match="Two models are called quick"):
        catalogue.configured(str(tmp_path / "quick"))


def test_a_model_that_is_half_copied_is_said_to_lack_its_card(weights, tmp_path):
    half = shutil.copytree(weights / "quick", tmp_path / "half")
    (half / "card.json").unlink()

    for path in (half, tmp_path / "nowhere"):
        with pytest.raises(BadCheckpoint, match=rf"no model at {path}: card\.json: No such"):
            Catalogue(default=str(path), weights=weights)


def test_a_model_on_trial_never_takes_the_place_of_the_usual_one_of_its_name(weights, tmp_path):
    catalogue = Catalogue(default="quick", weights=weights)
    shutil.copytree(weights / "quick", tmp_path / "trial" / "quick")

    with pytest.raises(UnknownModel, match="Two models are called quick"):
        catalogue.configured(str(tmp_path / "trial" / "quick"))

    assert catalogue.configured(str(weights / "quick")) == "quick"


def test_a_series_gets_the_model_of_its_rule_and_a_person_may_ask_for_another(jobs, weights, ct):
    orthanc = FakeOrthanc()
    archive = OrthancArchive(orthanc)
    catalogue = Catalogue(default="quick", weights=weights)
    rule = {"Model": "blind", "ShadowModel": "quick", "CalledAet": "^OAR$", "BodyPart": "HEAD"}
    chosen = ModelRules([ModelRule.model_validate(rule)], default="quick")
    intake = new_intake(archive=archive, jobs=jobs, catalogue=catalogue, rules=chosen)
    study = orthanc.receive(ct)

    [job] = intake.take_study(study, asked_by="stable study")
    [series] = archive.series_of_study(study)
    asked = intake.request(series, model="quick", user="alice")

    assert job.model == "blind"
    assert (asked.model, asked.user) == ("quick", "alice")
    finished = [jobs.claim(), jobs.claim()]
    for one in finished:
        jobs.finish(one.id, Outcome(state="done"))
    [shadow] = jobs.find(kind="shadow")  # of the job by rule alone
    assert (shadow.of, shadow.model) == (job.id, "quick")
