"""A real PostgreSQL server from Debian for tests and benchmarks, on loopback, gone afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

from tests.demo import free_port

SERVERS = Path("/usr/lib/postgresql")
"""Where Debian puts each version's programs."""


class NoPostgresql(Exception):
    """It is not installed."""


@contextmanager
def postgresql(*, durable: bool = False) -> Iterator[str]:
    """The URL of an empty database of a server of its own.

    Args:
        durable: whether a commit waits for the disk, as in a hospital; tests do not need to.
    """
    programs = max(SERVERS.glob("*/bin"), default=None)
    if programs is None or not (programs / "initdb").exists():
        raise NoPostgresql("needs PostgreSQL: apt-get install postgresql")
    folder, port = Path(tempfile.mkdtemp(prefix="oar-postgresql-")), free_port()
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name  # never root
    shutil.chown(folder, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    run("initdb", "--pgdata", data, "--auth", "trust", "--username", "oar", "--no-sync")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories="
    if not durable:
        options += " -c fsync=off"
    run("pg_ctl", "start", "--wait", "--pgdata", data, "--options", options, "--log", f"{data}/log")
    try:
        yield f"postgresql+psycopg://oar@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "stop", "--pgdata", data, "--mode", "immediate")
        shutil.rmtree(folder)


def new_database(server: str, name: str) -> str:
    """The URL of another empty database of the same server."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
    return make_url(server).set(database=name).render_as_string(hide_password=False)
