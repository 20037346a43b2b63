"""Training patches: drawn from prepared cases, the same at the same step of every run."""

import zlib
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import Card
from model.volumes import boxes_by_label
from training.augment import Scan, sample_patch
from training.cases import UNKNOWN, Case, Dataset
from training.config import TrainConfig
from training.distributed import Ranks

Batch = tuple[Tensor, Tensor, Tensor]
"""``(B, 1, *patch)`` images, ``(B, *patch)`` classes, ``(B, K)`` labelled classes."""


class Patches:
    """Draws training batches, or one process's share of them.

    A patch depends on the run, the step and its place in the batch, and on nothing else: resuming
    is exact, and several processes draw what one alone would. The run is its seed and the model
    that it starts from, so that going on from a model does not show it the same patches again.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        dataset: Dataset,
        config: TrainConfig,
        ranks: Ranks | None = None,
        first: Card | None = None,
    ) -> None:
        self.config = config
        self.mine = (ranks or Ranks()).share(range(config.batch))
        self.run = (config.seed,) if first is None else (config.seed, _number(first))
        self.scans = [
            Scan(
                torch.from_numpy(case.image),
                torch.from_numpy(case.labels),
                dataset.preprocessing.least,
                dataset.preprocessing.spacing_mm,
            )
            for case in cases
        ]
        self.classes = [torch.from_numpy(_classes_by_label(case, dataset)).long() for case in cases]
        self.labelled = [labelled_classes(case, dataset) for case in cases]
        self.places = [_places(case, dataset) for case in cases]
        self.holders = [  # per organ, the cases that have a voxel of it
            [i for i, places in enumerate(self.places) if len(places[k])]
            for k in range(len(dataset.organs))
        ]
        self.shares = self._organ_shares()

    def batch(self, step: int) -> Batch:
        """This process's share of a step's batch."""
        drawn = [self._draw(np.random.default_rng((*self.run, step, i))) for i in self.mine]
        images, targets, labelled = zip(*drawn, strict=True)
        return torch.stack(images), torch.stack(targets), torch.stack(labelled)

    def _draw(self, rng: np.random.Generator) -> Batch:
        case, centre = self._place(rng)
        config = self.config
        image, target = sample_patch(self.scans[case], centre, config.patch, config.augment, rng)
        return image[None], self.classes[case][target], self.labelled[case]

    def _place(self, rng: np.random.Generator) -> tuple[int, tuple[float, float, float]]:
        if rng.random() < self.config.foreground:
            organ = int(rng.choice(len(self.shares), p=self.shares))
            case = int(rng.choice(self.holders[organ]))
            centre = rng.choice(self.places[case][organ]).astype(float)
            centre += rng.uniform(-0.2, 0.2, 3) * self.config.patch
        else:
            case = int(rng.integers(len(self.scans)))
            centre = rng.uniform(0, 1, 3) * self.scans[case].image.shape
        # The patch lies within its case as far as it fits, as the tiles of a patient do.
        half = (np.asarray(self.config.patch) - 1) / 2
        last = np.asarray(self.scans[case].image.shape) - 1 - half
        z, y, x = np.clip(centre, np.minimum(half, last), np.maximum(half, last))
        return case, (z, y, x)

    def _organ_shares(self) -> np.ndarray:
        """How often each organ is the one that a patch is centred on; they sum to 1."""
        shares = np.zeros(len(self.holders))
        for k, holders in enumerate(self.holders):
            if holders:
                voxels = float(np.median([len(self.places[case][k]) for case in holders]))
                shares[k] = voxels**-self.config.small_organs
        if not shares.any():
            raise ValueError("no training patient has a voxel of any organ")
        return shares / shares.sum()


def drawn_ahead(
    patches: Patches, steps: range, workers: int, *, pinned: bool = False
) -> Generator[Batch, None, None]:
    """The batches of `steps` in order; threads draw the next ones while this one is used.

    Args:
        patches: what draws.
        steps: of the run.
        workers: threads, each on one processor: the network has the others.
        pinned: in memory that a GPU can copy from by itself.
    """

    def draw(step: int) -> Batch:
        image, target, labelled = patches.batch(step)
        if pinned:
            return image.pin_memory(), target.pin_memory(), labelled.pin_memory()
        return image, target, labelled

    to_come = iter(steps)
    with ThreadPoolExecutor(workers, "patches", torch.set_num_threads, (1,)) as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            waiting.extend(pool.submit(draw, step) for step in islice(to_come, workers + 1))
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(draw, step) for step in islice(to_come, 1))
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def classes(case: Case, dataset: Dataset) -> np.ndarray:
    """Labels of the table of organs to this data set's classes 1..K-1; `UNKNOWN` stays."""
    return _classes_by_label(case, dataset)[case.labels]


def _classes_by_label(case: Case, dataset: Dataset) -> np.ndarray:
    """``(256,)`` uint8: the class of each label."""
    table = np.zeros(256, np.uint8)
    table[UNKNOWN] = UNKNOWN
    labelled = {organ.name: organ.label for organ in case.labelled}
    for k, name in enumerate(dataset.organs, start=1):
        if name in labelled:
            table[labelled[name]] = k
    return table


def _places(case: Case, dataset: Dataset) -> list[np.ndarray]:
    """``(N, 3)`` of every organ of the data set: its voxels, in the order of memory."""
    boxes, labelled = boxes_by_label(case.labels), {organ.name: organ for organ in case.labelled}
    found = []
    for name in dataset.organs:
        there = np.empty((0, 3), np.int16)
        if name in labelled and (box := boxes.get(labelled[name].label)) is not None:
            voxels = np.argwhere(case.labels[box] == labelled[name].label)
            there = (voxels + [side.start for side in box]).astype(np.int16)
        found.append(there)
    return found


def organs_in(case: Case, dataset: Dataset) -> set[str]:
    """The organs of the data set of which the case has a voxel."""
    there = boxes_by_label(case.labels)
    known = {organ.name for organ in case.labelled if organ.label in there}
    return known & set(dataset.organs)


def _number(model: Card) -> int:
    """One that only this version of a model has."""
    return zlib.crc32(f"{model.name} {model.version}".encode())


def labelled_classes(case: Case, dataset: Dataset) -> Tensor:
    """``(K,)`` bool: background and the organs that the case labels."""
    names = {organ.name for organ in case.labelled}
    return torch.tensor([True, *(name in names for name in dataset.organs)])
