"""A worker node: `python -m plugin.node CONFIG --orthanc http://USER@HOST:8042`.

Takes jobs from the queue in PostgreSQL, on any machine, and reads and stores through Orthanc's REST
API. CONFIG is Orthanc's own configuration, or a file with a copy of its section Oar alone (with
AuthenticationEnabled beside it if that has Roles); Database must be a postgresql:// URL. The
password of the user comes from RegisteredUsers in CONFIG, --password-file or ~/.netrc. SIGTERM
gives the running job back to the queue. Exit status 0: stopped by a signal. 1: cannot work; the
sentence says why. Research use only.
"""

import argparse
import logging
import signal
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from model.unusable import Unusable
from plugin import __version__
from plugin.archive import ArchiveError
from plugin.configuration import read_configuration
from plugin.jobs.job import Job
from plugin.jobs.jobs import Jobs
from plugin.log import OneLine, attach
from plugin.rest_archive import RestArchive, login_for
from plugin.settings import Settings
from plugin.station import Station
from plugin.status import show_on_study

log = logging.getLogger("plugin.node")

LOOK_S = 10.0
"""Between two looks at whether everything works."""

STOP_S = 60.0
"""How long a stop waits for the network to reach a place where it can be interrupted."""


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configuration", type=Path, metavar="CONFIG")
    parser.add_argument("--orthanc", metavar="URL", required=True)
    parser.add_argument("--password-file", type=Path, metavar="FILE")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="signs Orthanc's certificate")
    parser.add_argument(
        "--alive", type=Path, metavar="FILE", help="touched every 10 s while everything works"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Be a node until a signal comes, and return the exit status."""
    args = command_line().parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
    attach(handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same exception as Ctrl-C
    try:
        settings = Settings.read(args.configuration)
        if not settings.has_shared_queue:
            raise Unusable(
                "The queue is an SQLite file, which Orthanc alone can use: Database in the section "
                "Oar must be a postgresql:// URL, for Orthanc and for its nodes."
            )
        users = read_configuration(args.configuration).get("RegisteredUsers", {})
        url, login = login_for(args.orthanc, args.password_file, known=users)
        with RestArchive(url, login=login, ca_file=args.ca_file) as archive:
            archive.check()
            with closing(open_station(settings, archive)) as station:
                check_same_work(settings, station, archive)
                return work(station, archive, args.alive)
    except KeyboardInterrupt:
        log.info("stopped before any job was taken")
        return 0
    except Unusable as why:
        log.error("%s", why)
        return 1


def open_station(settings: Settings, archive: RestArchive) -> Station:
    """The models and the queue."""

    def changed(jobs: Jobs, job: Job) -> None:
        show_on_study(archive, jobs, job, labels=settings.labels)

    return Station(
        settings,
        archive=archive,
        database_url=settings.database,
        # Never the same twice: what a node leaves behind is taken up when its lease has ended,
        # and nobody is robbed who happens to have the same host name.
        owner=f"node {socket.gethostname()} {uuid.uuid4().hex[:8]}",
        changed=changed,
    )


def check_same_work(settings: Settings, station: Station, archive: RestArchive) -> None:
    """Refuse another version, queue, weights or settings than Orthanc's.

    A job's series would not be found; its result would be another one than was asked for, or would
    not be sent to where it should go.
    """
    try:
        version, queue_owner, promised, wanted = archive.offer()
    except ArchiveError as why:
        raise Unusable(f"Orthanc does not say which queue and which models it has: {why}") from why
    if version != __version__:
        raise Unusable(
            f"Orthanc's plugin is orthanc-oar {version} and this node {__version__}: install the "
            "same version here and there."
        )
    if station.belonging.owner != queue_owner:
        raise Unusable(
            "Orthanc has another queue than this node: Database in the section Oar must be the "
            "same here and there, and --orthanc the address of the Orthanc that has this queue."
        )
    here = {name: card.weights_sha256 for name, card in station.catalogue.cards().items()}
    if other := sorted(name for name in promised if here.get(name) != promised[name]):
        raise Unusable(
            f"Orthanc's plugin offers models that are not here, or not with the same weights: "
            f"{', '.join(other)}. Install the same version here and there; a model that Orthanc's "
            "configuration gives by path must stand in this node's configuration and on its disk."
        )
    digests = settings.digests_for_nodes()
    if other := sorted(key for key in digests | wanted if digests.get(key) != wanted.get(key)):
        raise Unusable(
            f"Orthanc's configuration says otherwise than this node's of {', '.join(other)}: copy "
            "its section Oar here, and start the node again after each change there."
        )


def work(station: Station, archive: RestArchive, alive: Path | None) -> int:
    """Do jobs until a signal comes."""

    def reachable() -> bool:
        try:
            archive.check()
        except ArchiveError as why:
            log.warning("no job is taken: %s", why)
            return False
        return True

    worker = station.worker(reachable=reachable)
    segmenter = station.catalogue.get(station.catalogue.default)
    log.info(
        "orthanc-oar %s takes jobs on %s with model %s; research use only",
        __version__,
        segmenter.device,
        segmenter.name,
    )
    try:
        worker.start()
        while worker.alive:
            if alive is not None and _answers(station) and reachable():
                _touch(alive)
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # we are at it
        log.info("stopping: the running job goes back to the queue")
        worker.stop(STOP_S)
        log.info("stopped")
        return 0
    log.error("the worker has ended")
    return 1


def _touch(alive: Path) -> None:
    """Give the sign of life. Whoever looks for it misses it; the job at hand goes on."""
    try:
        alive.touch()
    except OSError as why:
        log.warning("no sign of life at %s: %s", alive, why.strerror)


def _answers(station: Station) -> bool:
    """Whether the database does."""
    try:
        station.pause.holds()
    except SQLAlchemyError as why:
        log.warning("the queue of jobs does not answer: %s", type(why).__name__)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
