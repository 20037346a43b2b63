"""Requests made from our own OpenAPI, against a real Orthanc: every answer is one that it has."""

import shutil
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import given
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

from model.checkpoint import save
from tests.corpus.case import patient
from tests.integration.conftest import PLUGINS, Orthanc
from tests.tiny_model import tiny_model

pytestmark = [pytest.mark.orthanc, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    if shutil.which("Orthanc") is None or not (PLUGINS / "libOrthancPython.so").exists():
        pytest.skip("needs Orthanc and its Python plugin: apt-get install orthanc orthanc-python")
    model = tmp_path_factory.mktemp("weights") / "quick"
    save(model, *tiny_model("quick"))
    one = Orthanc(tmp_path_factory.mktemp("asked"), model)
    try:
        one.start()
        one.push(patient(1))
        one.wait_for_job("done")
        yield one
    finally:
        one.kill()


# Not checked: that all wrong data is refused. Orthanc 1.10 hands values of a query over as they are
# encoded, so that a zero is the text "%00", which is a name like any other.
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
def test_every_answer_is_one_that_the_description_promises(orthanc, mode):
    description = schemathesis.openapi.from_url(f"{orthanc.url}/oar/openapi.json")
    operations = [each.ok() for each in description.get_all_operations()]
    assert len(operations) > 15

    for operation in operations:
        raw = operation.definition.raw
        can_be_wrong = "requestBody" in raw or any(p["in"] == "query" for p in raw["parameters"])
        if mode is GenerationMode.NEGATIVE and not can_be_wrong:
            continue

        @given(operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            answer = case.call()
            if "OrthancError" in answer.text and answer.status_code == 404:
                return  # no address of ours: Orthanc's own words
            case.validate_response(answer, excluded_checks=[negative_data_rejection])

        ask()

    assert orthanc.get("/oar/health")["status"] == "ok"
    assert "traceback" not in orthanc.log().lower()
