"""A CT through the network alone, and beside one busy process, as Orthanc may be.

Against OpenMP's own way to wait, by which threads keep their cores while they wait for each other.
OpenMP reads that once, so each turn is a process of its own: `python -m tests.benchmarks.beside
MODEL IMAGE.pt`; it prints seconds.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch

from model.segmenter import Segmenter
from plugin import SPIN_ROUNDS
from tests.benchmarks.contest import OURS, Options, Row, against, in_turns

OWN = "OpenMP's own waiting"
OWN_ROUNDS = "300000"
"""Of libgomp, where there are not more threads than cores."""


def rows(options: Options) -> list[Row]:
    """Seconds of the network, loaded and warm."""
    segmenter = Segmenter.load(options.model, device="cpu")
    image = segmenter.card.preprocessing.forward(options.phantom().ct).array
    file = options.folder / "image.pt"
    torch.save(torch.from_numpy(image), file)
    command = [sys.executable, "-m", "tests.benchmarks.beside", str(options.model), str(file)]

    def seconds(rounds: str) -> float:
        run = subprocess.run(
            command,
            env=os.environ | {"GOMP_SPINCOUNT": rounds},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return float(run.stdout)

    contestants = {
        OURS: lambda: seconds(SPIN_ROUNDS),
        OWN: lambda: seconds(OWN_ROUNDS),
    }
    alone = in_turns(contestants, options.repeats)
    with busy():
        beside = in_turns(contestants, options.repeats)
    return [
        *against(alone, {OWN: None}, what="the network alone"),
        *against(beside, {OWN: None}, what="the network beside one busy process"),
    ]


@contextmanager
def busy() -> Iterator[None]:
    """A process that wants one core all the time."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def main(argv: Sequence[str]) -> None:
    segmenter = Segmenter.load(Path(argv[0]), device="cpu")
    image = torch.load(argv[1])
    segmenter.probabilities(image)
    begun = perf_counter()
    segmenter.probabilities(image)
    sys.stdout.write(f"{perf_counter() - begun}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
