"""The UIDs of a result follow from what it was made of, and stay what they were."""

from dataclasses import replace
from datetime import datetime

from pydicom.uid import UID

from plugin.objects.identity import Model, Origin, result_uid

MODEL = Model(name="hn6", version="1.0.0", weights_sha256="ab" * 32)
ORIGIN = Origin(model=MODEL, series="s", slices=("1.2", "1.3"), created=datetime(2026, 3, 14))


def test_results_that_archives_hold_already_keep_their_uids() -> None:
    """Pinned: with other UIDs, every study of every archive would be segmented once more."""
    uid = ORIGIN.uid("SEG BINARY instance")
    assert uid == "2.25.4538297729405096988273855602550882335"


def test_a_uid_follows_from_series_slices_model_kind_and_run() -> None:
    base = result_uid(["1.2", "1.3"], series="s", model=MODEL, kind="SEG")
    assert result_uid(["1.3", "1.2", "1.2"], series="s", model=MODEL, kind="SEG") == base
    others = {
        result_uid(["1.2", "1.3"], series="t", model=MODEL, kind="SEG"),
        result_uid(["1.2"], series="s", model=MODEL, kind="SEG"),
        result_uid(["1.2", "1.3", "1.4"], series="s", model=MODEL, kind="SEG"),
        result_uid(
            ["1.2", "1.3"], series="s", model=replace(MODEL, weights_sha256="cd" * 32), kind="SEG"
        ),
        result_uid(["1.2", "1.3"], series="s", model=replace(MODEL, version="1.0.1"), kind="SEG"),
        result_uid(["1.2", "1.3"], series="s", model=MODEL, kind="RTSTRUCT"),
        result_uid(["1.2", "1.3"], series="s", model=MODEL, kind="SEG", run="2"),
    }
    assert len(others | {base}) == 8
    assert all(UID(uid).is_valid and len(uid) <= 64 for uid in others | {base})


def test_when_it_was_made_changes_no_uid() -> None:
    later = replace(ORIGIN, created=datetime(2027, 1, 1))
    assert later.uid("SEG BINARY instance") == ORIGIN.uid("SEG BINARY instance")


def test_a_result_on_trial_and_a_forced_one_share_no_uid_with_the_first() -> None:
    changes = ({}, {"run": "2"}, {"shadow": True}, {"run": "2", "shadow": True})
    assert len({replace(ORIGIN, **change).uid("SEG") for change in changes}) == 4
