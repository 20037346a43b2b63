"""Training patches: drawn from prepared cases, the same at the same step of every run."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.augment import sample_patch
from training.cases import UNKNOWN, Case, Dataset
from training.config import TrainConfig


class Patches:
    """Draws training batches; the same step always draws the same batch, so resuming is exact."""

    def __init__(self, cases: Sequence[Case], dataset: Dataset, config: TrainConfig) -> None:
        self.config = config
        self.spacing_mm = dataset.preprocessing.spacing_mm
        self.images = [torch.from_numpy(case.image) for case in cases]
        self.labels = [torch.from_numpy(classes(case, dataset)) for case in cases]
        self.labelled = [labelled_classes(case, dataset) for case in cases]
        self.places = [
            [np.argwhere(y.numpy() == k) for k in range(1, len(dataset.organs) + 1)]
            for y in self.labels
        ]
        self.holders = [  # per organ, the cases that have a voxel of it
            [i for i, places in enumerate(self.places) if len(places[k])]
            for k in range(len(dataset.organs))
        ]

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, 1, *patch)`` images, ``(B, *patch)`` classes, ``(B, K)`` labelled classes."""
        rng = np.random.default_rng((self.config.seed, step))
        images, targets, labelled = [], [], []
        for _ in range(self.config.batch):
            case, centre = self._place(rng)
            image, target = sample_patch(
                self.images[case],
                self.labels[case],
                centre,
                self.config.patch,
                self.spacing_mm,
                self.config.augment,
                rng,
            )
            images.append(image[None])
            targets.append(target)
            labelled.append(self.labelled[case])
        return torch.stack(images), torch.stack(targets), torch.stack(labelled)

    def _place(self, rng: np.random.Generator) -> tuple[int, tuple[float, float, float]]:
        if rng.random() < self.config.foreground:
            organ = int(rng.choice([k for k, having in enumerate(self.holders) if having]))
            case = int(rng.choice(self.holders[organ]))
            centre = rng.choice(self.places[case][organ]).astype(float)
            centre += rng.uniform(-0.2, 0.2, 3) * self.config.patch
        else:
            case = int(rng.integers(len(self.images)))
            centre = rng.uniform(0, 1, 3) * self.images[case].shape
        z, y, x = centre
        return case, (z, y, x)


def classes(case: Case, dataset: Dataset) -> np.ndarray:
    """Labels of the table of organs to this data set's classes 1..K-1; `UNKNOWN` stays."""
    table = np.zeros(256, np.uint8)
    table[UNKNOWN] = UNKNOWN
    labelled = {organ.name: organ.label for organ in case.labelled}
    for k, name in enumerate(dataset.organs, start=1):
        if name in labelled:
            table[labelled[name]] = k
    return table[case.labels]


def labelled_classes(case: Case, dataset: Dataset) -> Tensor:
    """``(K,)`` bool: background and the organs that the case labels."""
    names = {organ.name for organ in case.labelled}
    return torch.tensor([True, *(name in names for name in dataset.organs)])
