import pytest
from pydantic import ValidationError

from plugin.conditions import Condition, SeriesFacts

FACTS = SeriesFacts(
    called_aet="OAR-HN",
    sender_aet="CT1",
    study_description="Planning CT head and neck",
    body_part="HEADNECK",
)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({}, True),
        ({"CalledAet": "oar"}, True),
        ({"CalledAet": "^OAR$"}, False),
        ({"SenderAet": "CT1|CT2"}, True),
        ({"StudyDescription": "neck", "BodyPart": "HEAD"}, True),
        ({"StudyDescription": "neck", "BodyPart": "PELVIS"}, False),
        ({"SeriesDescription": "."}, False),  # absent: nothing is found in it
    ],
)
def test_a_condition_holds_if_all_that_it_asks_for_is_found(condition, holds):
    assert Condition.model_validate(condition).holds(FACTS) is holds


def test_what_a_condition_asks_for_is_said_without_the_values():
    condition = Condition.model_validate({"CalledAet": "x", "BodyPart": "NAME^OF^A^PATIENT"})

    assert condition.asks_for() == "CalledAet and BodyPart"
    assert Condition.model_validate({}).asks_for() == "every series"


@pytest.mark.parametrize("wrong", [{"CalledAet": "("}, {"Calledaet": "x"}])
def test_a_mistake_in_a_condition_is_refused(wrong):
    with pytest.raises(ValidationError):
        Condition.model_validate(wrong)
