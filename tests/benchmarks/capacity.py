"""The figures of docs/capacity.md: `python -m tests.benchmarks.capacity`, run by `make capacity`.

Needs Debian's Orthanc and PostgreSQL. Research use only.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import nodes, queue_rates
from tests.benchmarks.queue_rates import Figure
from tests.postgresql import new_database, postgresql


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("nodes", "queue"), nargs="+", default=["nodes", "queue"])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--jobs", type=int, default=40, help="for each number of nodes")
    parser.add_argument("--sleep", type=float, default=1.0, help="seconds of the stand-in network")
    parser.add_argument("--queue-jobs", type=int, default=400)
    parser.add_argument("--claimers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--done", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--waiting", type=int, nargs="+", default=[100, 100_000])
    args = parser.parse_args(argv)
    if "nodes" in args.only:
        show_nodes(args.nodes, args.jobs, args.sleep)
    if "queue" in args.only:
        show_queue(args)
    return 0


def show_nodes(numbers: Sequence[int], jobs: int, sleep_s: float) -> None:
    say("| nodes | jobs | seconds | jobs an hour | times one node | a job's own seconds |")
    say("|---|---|---|---|---|---|")
    one = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for each in nodes.scaling(Path(folder), numbers=numbers, jobs=jobs, sleep_s=sleep_s):
            one = one or each.per_hour / each.nodes
            say(
                f"| {each.nodes} | {each.jobs} | {each.seconds:.1f} | {each.per_hour:.0f} "
                f"| {each.per_hour / one:.2f} | {each.job_s:.2f} |"
            )
    say(f"\nThe network sleeps {sleep_s:g} s.\n")


def show_queue(args: argparse.Namespace) -> None:
    say("| queue on PostgreSQL | |")
    say("|---|---|")
    with postgresql(durable=True) as server:
        url = new_database(server, "rates")
        for figure in queue_rates.rates(url, jobs=args.queue_jobs, claimers=tuple(args.claimers)):
            show(figure)
        for figure in queue_rates.sizes(url):
            show(figure)
        for done, waiting in zip(args.done, args.waiting, strict=True):
            url = new_database(server, f"{done} {waiting}")
            for figure in queue_rates.old_and_waiting(url, done=done, waiting=waiting):
                show(figure)


def show(figure: Figure) -> None:
    say(f"| {figure.what} | {figure.value:,.3g} {figure.unit} |")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
