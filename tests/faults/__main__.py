"""All faults on a real Orthanc, counted: `python -m tests.faults [--only NAME] [--repeats N]`.

Prints a table. Exit status 1 if a study was lost or has a result twice, or Orthanc did not answer.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from tests.faults.stories import FAULTS
from tests.faults.tally import Tally, percentile

HEAD = """\
| fault | repeats | studies | results | reasons | lost | twice | /system, 99 % | worst | seen |
|---|---|---|---|---|---|---|---|---|---|"""


def row(name: str, tally: Tally) -> str:
    """One row of the table, in Markdown."""
    seen = ", ".join(f"{what} {count}" for what, count in sorted(tally.notes.items()))
    cells = (
        *(name, tally.repeats, tally.accepted, tally.results, tally.reasons),
        *(len(tally.lost), tally.twice),
        *(f"{percentile(tally.system_s, 0.99):.2f} s", f"{tally.worst_s:.2f} s", seen),
    )
    return f"| {' | '.join(map(str, cells))} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="NAME", help="the faults whose name holds this")
    parser.add_argument("--repeats", type=int, metavar="N", help="of each; default: its own")
    args = parser.parse_args(argv)
    chosen = [fault for fault in FAULTS if (args.only or "") in fault.name]
    bad = []
    print(HEAD)
    for site, faults in groupby(chosen, lambda fault: fault.site):
        if site.why_not:
            for fault in faults:
                print(f"| {fault.name} | not tried: {site.why_not} |")
            continue
        with tempfile.TemporaryDirectory() as folder, site.open(Path(folder)) as ward:
            for fault in faults:
                tally = fault.run(ward, args.repeats or fault.repeats)
                print(row(fault.name, tally), flush=True)
                bad += [f"{fault.name}: {what}" for what in tally.lost]
                bad += [] if tally.survived else [fault.name]
    print(*bad, sep="\n", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
