"""The figures of docs/capacity.md: `python -m tests.benchmarks.capacity`, run by `make capacity`.

Needs Debian's Orthanc and PostgreSQL. Research use only.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from plugin.catalogue import WEIGHTS
from tests.benchmarks import nodes, queue_rates
from tests.benchmarks.nodes import Throughput
from tests.benchmarks.queue_rates import Figure
from tests.phantoms import make_phantom
from tests.postgresql import new_database, postgresql

PARTS = ("asleep", "at-work", "queue")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--jobs", type=int, default=40, help="for each number of nodes")
    parser.add_argument("--sleep", type=float, default=1.0, help="seconds of the stand-in network")
    parser.add_argument("--model", default="hn22-phantom", help="that works, of model/weights")
    parser.add_argument("--slices", type=int, default=150, help="of 512 x 512, for that")
    parser.add_argument("--work", type=int, default=4, help="jobs of that")
    parser.add_argument("--queue-jobs", type=int, default=400)
    parser.add_argument("--claimers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--done", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--waiting", type=int, nargs="+", default=[100, 100_000])
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if "asleep" in args.only:
            asleep = nodes.asleep(
                Path(folder) / "asleep", numbers=args.nodes, jobs=args.jobs, sleep_s=args.sleep
            )
            show_nodes(asleep, f"The network sleeps {args.sleep:g} s.")
        if "at-work" in args.only:
            shape = (args.slices, 512, 512)
            phantom = make_phantom(spacing_mm=(3.0, 1.0, 1.0), shape=shape, seed=7)
            at_work = nodes.at_work(
                Path(folder) / "at-work",
                model=WEIGHTS / args.model,
                phantom=phantom,
                jobs=args.work,
            )
            show_nodes(at_work, f"{args.model}, {args.slices} slices of 512 x 512.")
    if "queue" in args.only:
        show_queue(args)
    return 0


def show_nodes(measured: Iterable[Throughput], note: str) -> None:
    say("| nodes | threads | jobs | seconds | an hour | times the first | a job's seconds | SEG |")
    say("|---|---|---|---|---|---|---|---|")
    first = 0.0
    for each in measured:
        first = first or each.per_hour
        say(
            f"| {each.nodes} | {each.threads} | {each.jobs} | {each.seconds:.1f} "
            f"| {each.per_hour:.0f} | {each.per_hour / first:.2f} | {each.job_s:.2f} "
            f"| {each.seg_bytes / 2**20:.2f} MiB |"
        )
    say(f"\n{note}\n")


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
