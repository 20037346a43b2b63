import subprocess
import sys
from pathlib import Path

import pytest

from plugin.belonging import NAME_FILE, Belonging, NotOurs, hold, name_of_archive
from plugin.jobs.job_table import UnwritableQueue, open_database

ROOT = Path(__file__).parents[2]


def test_a_queue_belongs_to_the_first_archive_that_uses_it(database, tmp_path):
    queue, first, second = (
        Belonging(open_database(database)),
        tmp_path / "first",
        tmp_path / "second",
    )
    assert queue.owner == ""

    queue.give(first)
    queue.give(first)  # a restart
    with pytest.raises(NotOurs, match="The queue belongs to the archive") as why:
        queue.give(second)

    assert queue.owner == name_of_archive(first) != name_of_archive(second)
    assert f"write {name_of_archive(first)} into {second / NAME_FILE}" in str(why.value)


def test_of_two_archives_that_take_a_queue_at_once_the_faster_has_it(
    database, tmp_path, monkeypatch
):
    queue, first, second = (
        Belonging(open_database(database)),
        tmp_path / "first",
        tmp_path / "second",
    )
    queue.give(first)
    owners = iter(["", queue.owner])  # the slower had looked before
    monkeypatch.setattr(Belonging, "owner", property(lambda self: next(owners)))

    with pytest.raises(NotOurs, match=f"belongs to the archive {name_of_archive(first)}"):
        queue.give(second)


def test_an_archive_whose_storage_was_made_anew_gets_its_queue_back_as_the_refusal_says(
    database, tmp_path
):
    queue, new = Belonging(open_database(database)), tmp_path / "new"
    queue.give(tmp_path / "old")
    with pytest.raises(NotOurs):
        queue.give(new)

    (new / NAME_FILE).write_text(f"{queue.owner}\n")

    queue.give(new)


def test_an_archive_whose_name_was_lost_in_a_power_cut_is_named_again(tmp_path):
    (tmp_path / NAME_FILE).touch()

    name = name_of_archive(tmp_path)

    assert name
    assert name_of_archive(tmp_path) == name


def test_a_storage_that_orthanc_has_yet_to_make_is_named_too(tmp_path):
    storage = tmp_path / "lib" / "orthanc"

    assert name_of_archive(storage) == name_of_archive(storage)


def test_a_storage_that_cannot_be_written_is_named(tmp_path):
    storage = tmp_path / "storage"
    storage.touch()

    with pytest.raises(NotOurs, match="storage/oar-archive, the name of this archive, cannot be"):
        name_of_archive(storage)


def test_a_queue_is_held_in_a_folder_that_is_not_there_yet_but_not_where_none_can_be(tmp_path):
    hold(f"sqlite:///{tmp_path / 'new' / 'jobs.db'}")
    assert (tmp_path / "new").is_dir()

    (tmp_path / "file").touch()
    with pytest.raises(UnwritableQueue):
        hold(f"sqlite:///{tmp_path / 'file' / 'jobs.db'}")


def test_a_queue_in_a_file_is_for_one_process_at_a_time(database):
    script = f"from plugin.belonging import hold; hold({database!r}); print('held'); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(NotOurs, match="is in use: a file is for one Orthanc alone"):
            hold(database)
        other.kill()  # as a power cut does

    hold(database)
    hold("postgresql://oar@db/oar")  # which is for many
