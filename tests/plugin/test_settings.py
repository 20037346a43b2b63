import json
from pathlib import Path

import pytest

from plugin.configuration import BadConfiguration
from plugin.settings import Settings, settings_digest

ROOT = Path(__file__).parents[2]


def test_no_section_at_all_means_the_defaults():
    assert Settings.from_orthanc({}) == Settings()


def test_the_configuration_that_we_ship_names_every_setting_at_its_default():
    configuration = json.loads((ROOT / "orthanc.json").read_text())

    assert configuration["Oar"] == Settings().model_dump(by_alias=True)
    assert configuration["RemoteAccessAllowed"] is False
    assert (ROOT / configuration["PythonScript"]).is_file()


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ({"Automatik": True}, "Oar.Automatik"),
        ({"Device": "tpu"}, "Oar.Device"),
        ({"MaxAttempts": 0}, "Oar.MaxAttempts"),
        ({"Series": {"MinSlice": 3}}, "Oar.Series.MinSlice"),
        ({"Series": {"IncludeBodyPart": "("}}, "Oar.Series.IncludeBodyPart"),
        ({"automatic": True}, "Oar.automatic"),
        ("yes", "Oar"),
        ({"CatchUpDays": 800_000}, "Oar.CatchUpDays"),  # a date before all dates
        ({"LeaseSeconds": 1e12}, "Oar.LeaseSeconds"),
        ({"LeaseSeconds": 0}, "Oar.LeaseSeconds"),  # every job would be everybody's
        ({"RetryDelaySeconds": 1e12}, "Oar.RetryDelaySeconds"),
        ({"Delivery": {"GiveUpAfterHours": 1e8}}, "Oar.Delivery.GiveUpAfterHours"),
        ({"Delivery": {"GiveUpAfterHours": 0}}, "Oar.Delivery.GiveUpAfterHours"),
        ({"Delivery": {"RetryDelaySeconds": 1e12}}, "Oar.Delivery.RetryDelaySeconds"),
        ({"Threads": 2**40}, "Oar.Threads: Input should be less than or equal to 1024"),
        ({"MaxAttempts": 2**40}, "Oar.MaxAttempts: Input should be less than or equal to 20"),
        ({"Database": "mysql://h/oar"}, "Oar.Database: the queue is kept"),
        ({"Database": "postgres://h/oar"}, "the queue is kept in an SQLite file or in PostgreSQL"),
        ({"Database": "postgresql+psycopg2://h/oar"}, "the queue is kept in an SQLite file"),
        ({"Database": "sqlite+aiosqlite:////oar.db"}, "the queue is kept in an SQLite file"),
        ({"Database": "http://h/oar"}, "the queue is kept in an SQLite file"),
        ({"Database": "sqlite://"}, "Oar.Database: SQLite needs a file's whole path"),
        ({"Database": "sqlite:///"}, "Oar.Database: SQLite needs a file's whole path"),
        ({"Database": "sqlite:///oar-jobs.db"}, "Oar.Database: SQLite needs a file's whole path"),
        ({"Database": "sqlite:///:memory:"}, "Oar.Database: SQLite needs a file's whole path"),
        ({"Routes": [{"To": "sender"}]}, "Oar.Routes.0.To: Input should be a valid list."),
        ({"Routes": ["sender"]}, "Oar.Routes.0: Input should be a valid dictionary."),
        ({"Routes": [{"To": ["TPS"]}]}, "Oar.Routes.0.To.0: 'TPS' is none of"),
        ({"Routes": [{"To": ["peer:A/B"]}]}, "or its NAME has one of"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(section, names):
    with pytest.raises(BadConfiguration, match=names.replace(".", r"\.")):
        Settings.from_orthanc({"Oar": section})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"StorageDirectory": 3}, "StorageDirectory in Orthanc's configuration must be text."),
        ({"IndexDirectory": None}, "IndexDirectory in Orthanc's configuration must be text."),
        ({"StableAge": "60"}, "StableAge in Orthanc's configuration must be a whole number."),
        ({"JobsHistorySize": "many"}, "JobsHistorySize in Orthanc's .* must be a whole number."),
        ({"Python": True}, "Python in Orthanc's configuration must be a section."),
        ({"DicomWeb": []}, "DicomWeb in Orthanc's configuration must be a section."),
        ({"ServeFolders": "/x"}, "ServeFolders in Orthanc's configuration must be a section."),
        ({"RegisteredUsers": None}, "RegisteredUsers in Orthanc's .* must be a section."),
    ],
)
def test_a_key_of_orthancs_own_that_we_cannot_read_is_named(wrong, said):
    with pytest.raises(BadConfiguration, match=f"^{said}$"):
        Settings.from_orthanc(wrong)


@pytest.mark.parametrize(
    ("kind", "needs"),
    [("rtstruct", "Rtstruct"), ("sr", "VolumeReport"), ("review", "ReviewPages")],
)
def test_a_route_of_what_is_never_made_is_refused(kind, needs):
    routes = [{"To": ["sender"]}, {"To": ["sender"], "Kinds": ["seg", kind]}]

    with pytest.raises(
        BadConfiguration, match=rf"Oar\.Routes\.1\.Kinds: {kind} is not made: set {needs}"
    ):
        Settings.from_orthanc({"Oar": {"Routes": routes}})

    assert Settings.from_orthanc({"Oar": {"Routes": routes, needs: True}}).routes


def test_a_webhook_for_no_end_of_a_job_is_refused():
    webhook = {"Name": "ris", "Url": "https://ris.example/", "Secret": "a" * 16, "On": []}

    with pytest.raises(BadConfiguration, match=r"Oar\.Webhooks\.0\.On: "):
        Settings.from_orthanc({"Oar": {"Webhooks": [webhook]}})


@pytest.mark.parametrize(
    ("configuration", "file"),
    [
        ({}, "/etc/orthanc/OrthancStorage/oar-jobs.db"),
        ({"StorageDirectory": "db"}, "/etc/orthanc/db/oar-jobs.db"),
        ({"StorageDirectory": "db", "IndexDirectory": "/fast"}, "/fast/oar-jobs.db"),
    ],
)
def test_the_queue_lies_beside_orthancs_index(configuration, file):
    assert Settings().database_url(configuration, Path("/etc/orthanc")) == f"sqlite:///{file}"


def test_another_database_can_be_named():
    settings = Settings.from_orthanc({"Oar": {"Database": "postgresql://host/oar"}})

    assert settings.database_url({}, Path("/etc/orthanc")) == "postgresql://host/oar"


def test_a_queue_in_the_file_of_orthancs_own_index_is_refused_before_it_makes_it_useless():
    settings = Settings(Database="sqlite:////srv/images/index")

    with pytest.raises(BadConfiguration, match="Orthanc's own index: name another file, or none"):
        settings.database_url({"StorageDirectory": "../images"}, Path("/srv/etc"))


@pytest.mark.parametrize(
    ("orthancs", "asks"),
    [
        ({"RemoteAccessAllowed": True}, True),
        ({"RemoteAccessAllowed": True, "AuthenticationEnabled": False}, False),
        ({}, False),
    ],
)
def test_roles_are_for_an_orthanc_that_asks_for_passwords(orthancs, asks):
    configuration = orthancs | {"Oar": {"Roles": {"lea": "look"}}}
    if asks:
        assert Settings.from_orthanc(configuration).role_of("lea") == "look"
    else:
        with pytest.raises(BadConfiguration, match="Roles needs AuthenticationEnabled"):
            Settings.from_orthanc(configuration)


def test_work_is_left_to_nodes_only_where_they_can_reach_the_queue():
    for database in ("", "sqlite:////fast/jobs.db"):
        with pytest.raises(
            BadConfiguration, match=r"no worker node can reach a queue in an SQLite file"
        ):
            Settings.from_orthanc({"Oar": {"TakeJobs": False, "Database": database}})

    shared = {"TakeJobs": False, "Database": "postgresql://host/oar"}
    assert not Settings.from_orthanc({"Oar": shared}).take_jobs


def different_for_a_node(section: dict[str, object]) -> set[str]:
    """The settings of which Orthanc would tell a node that they say otherwise there."""
    here = Settings().digests_for_nodes()
    there = Settings.from_orthanc({"Oar": section}).digests_for_nodes()
    assert here.keys() == there.keys()
    return {key for key in here if here[key] != there[key]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SegmentationType", "LABELMAP"),
        ("Rtstruct", True),
        ("RtstructHoles", "xor"),
        ("VolumeReport", True),
        ("ReviewPages", True),
        ("Series", {"MinSlices": 21}),
        ("LateSlices", "replace"),
        ("Labels", False),
        ("Routes", [{"To": ["sender"]}]),
        ("Webhooks", [{"Name": "ris", "Url": "https://ris.example/", "Secret": "a" * 16}]),
    ],
)
def test_a_node_whose_results_would_be_others_is_known_by_its_settings(key, value):
    assert different_for_a_node({key: value}) == {key}


def test_a_node_may_have_another_device_and_number_of_threads():
    assert different_for_a_node({"Device": "cpu", "Threads": 4, "Compile": True}) == set()


def test_the_settings_have_one_digest_whatever_the_secrets_are():
    def digest(secret: str, name: str = "ris") -> str:
        hook = {"Name": name, "Url": "https://ris.example/", "Secret": secret}
        return settings_digest(Settings.from_orthanc({"Oar": {"Webhooks": [hook]}}))

    assert digest("a" * 16) == digest("b" * 16)
    assert digest("a" * 16) != digest("a" * 16, name="other")
