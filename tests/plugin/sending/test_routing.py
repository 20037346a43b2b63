import pytest
from pydantic import ValidationError

from plugin.conditions import SeriesFacts
from plugin.jobs.job import Result
from plugin.sending.routing import RouteRule, forgets_jobs, parcels

SEG = Result(kind="seg", sop_instance_uid="2.25.1", orthanc_id="the-seg")
FACTS = SeriesFacts(called_aet="OAR", sender_aet="CT1", sender_ip="10.0.0.1")


def sent(*rules: dict[str, object], model: str = "quick") -> dict[tuple[str, str], tuple[str, ...]]:
    """Instances by kind and target."""
    each = [RouteRule.model_validate(rule) for rule in rules]
    found = parcels(each, FACTS, model=model, results=[SEG])
    return {(one.kind, one.target): one.instances for one in found}


def test_every_rule_that_fits_counts_and_each_place_gets_a_result_once():
    assert sent(
        {"To": ["modality:PACS", "peer:BACKUP"]},
        {"To": ["modality:PACS", "dicomweb:ARCHIVE"], "CalledAet": "OAR"},
        {"To": ["modality:ELSEWHERE"], "CalledAet": "OTHER"},
    ) == {
        ("modality", "PACS"): ("the-seg",),
        ("peer", "BACKUP"): ("the-seg",),
        ("dicomweb", "ARCHIVE"): ("the-seg",),
    }


def test_each_kind_of_result_is_a_parcel_of_its_own():
    results = [
        Result(kind="rtstruct", sop_instance_uid="2.25.2", orthanc_id="the-rtstruct"),
        *(
            Result(kind="review", sop_instance_uid=f"2.25.3{page}", orthanc_id=f"page-{page}")
            for page in (1, 2)
        ),
        SEG,
    ]
    rules = [
        RouteRule.model_validate({"To": ["modality:PACS"], "Kinds": ["seg"]}),
        RouteRule.model_validate({"To": ["modality:PACS"]}),
    ]

    found = parcels(rules, FACTS, model="quick", results=results)

    assert {one.result: one.instances for one in found} == {
        "seg": ("the-seg",),
        "rtstruct": ("the-rtstruct",),
        "review": ("page-1", "page-2"),
    }
    assert {(one.kind, one.target) for one in found} == {("modality", "PACS")}


def test_the_sender_is_kept_with_its_title_and_address():
    assert sent({"To": ["sender"]}) == {("sender", "CT1@10.0.0.1"): ("the-seg",)}


@pytest.mark.parametrize(("models", "goes"), [([], True), (["quick"], True), (["other"], False)])
def test_a_rule_may_be_for_some_models_alone(models, goes):
    assert bool(sent({"To": ["modality:PACS"], "Models": models})) is goes


def test_a_rule_may_be_for_some_kinds_of_results_alone():
    rule = RouteRule.model_validate({"To": ["modality:PACS"], "Kinds": ["seg"]})

    assert parcels([rule], FACTS, model="quick", results=[]) == ()
    assert len(parcels([rule], FACTS, model="quick", results=[SEG])) == 1


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"To": []},
        {"To": ["PACS"]},
        {"To": ["modality:"]},
        {"To": ["sender:PACS"]},
        {"To": ["modality:../system"]},
        {"To": ["modality:PACS"], "Kinds": ["ct"]},
    ],
)
def test_a_mistake_in_a_route_is_refused(rule):
    with pytest.raises(ValidationError):
        RouteRule.model_validate(rule)


@pytest.mark.parametrize(
    ("configuration", "forgets"),
    [({}, False), ({"JobsHistorySize": 10}, False), ({"JobsHistorySize": 0}, True)],
)
def test_an_orthanc_that_forgets_how_a_sending_ended_is_noticed(configuration, forgets):
    assert forgets_jobs(configuration) is forgets


@pytest.mark.parametrize(
    ("configuration", "forgets"),
    [({}, True), ({"JobsHistorySize": 999}, True), ({"JobsHistorySize": 1000}, False)],
)
def test_an_orthanc_that_forgets_when_others_keep_it_busy_is_noticed(configuration, forgets):
    assert forgets_jobs(configuration, when_busy=True) is forgets
