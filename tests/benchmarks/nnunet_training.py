"""nnU-Net v2 on our patients, in our CPU time: `python -m tests.benchmarks.nnunet_training`.

    make peers
    OMP_NUM_THREADS=1 nnUNet_n_proc_DA=1 .venv-peers/bin/python -m \\
        tests.benchmarks.nnunet_training --cases CASES \\
        --config training/configs/hn6-equal-time.toml --out runs/nnunet --cpu-hours 1.5
    .venv/bin/python -m training.evaluate --predictions runs/nnunet/predictions ...

Its own planner, preprocessing, trainer and predictor; the patients and the split of CONFIG. Where
there was a choice it is the one that favours nnU-Net:

- It has no partial labels, so patients without all six organs are left out. A budget of a few CPU
  hours draws a few thousand patches, which the patients left over are plenty for.
- Voxels of exactly `--unknown-hu` get its ignore label.
- Its trainer without mirroring, because left and right are different organs. No mirroring at test
  time either.
- Its online validation, which changes nothing in the weights, takes one batch an epoch, not 50.
- Epochs are short, and how many there are is planned anew after each from the CPU time it took, so
  that the learning rate's polynomial ends where the budget does, whatever else the machine does.
- Planning and preprocessing do not count, nor does predicting.
- `--gpu-memory-gb` is its planner's memory target, from which it derives the patch. For OpenKBP 1
  gives 2 x 48 x 80 x 80 voxels, near our own patch, at 14 to 23 CPU seconds a step; its default, 8,
  gives 3 x 80 x 128 x 128, 6.4 times as many, and an hour of two cores would not be 100 steps.

The same command again goes on where a run was stopped. CPU time is that of all threads and loader
processes together. Research use only.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from rich.console import Console

from model.organs import BY_NAME
from tests.benchmarks.contest import cpu_seconds
from training.cases import Dataset
from training.config import TrainConfig
from training.split import Split, split_of

DATASET_ID = 601
DATASET = f"Dataset{DATASET_ID}_HeadAndNeck"
PLANS = "nnUNetPlans"
CONFIGURATION = "3d_fullres"
SAVE_EVERY = 5
"""Epochs between checkpoints."""


def write_raw(
    raw: Path, cases: Path, split: Split, organs: Sequence[str], unknown_hu: float
) -> None:
    """nnU-Net's raw data set: its label numbers, our CT files where they are, our split."""
    (raw / "labelsTr").mkdir(parents=True, exist_ok=True)
    number = np.zeros(256, np.uint8)
    for k, organ in enumerate(organs, start=1):
        number[BY_NAME[organ].label] = k
    whole = [
        name
        for name in (*split.training, *split.validation)
        if set(json.loads((cases / name / "labelled.json").read_text())) >= set(organs)
    ]
    for name in whole:
        ct = sitk.ReadImage(str(cases / name / "data.nii.gz"))
        label = sitk.ReadImage(str(cases / name / "label.nii.gz"))
        numbers = number[sitk.GetArrayFromImage(label)]
        numbers[sitk.GetArrayFromImage(ct) == unknown_hu] = len(organs) + 1
        image = sitk.GetImageFromArray(numbers)
        image.CopyInformation(label)
        sitk.WriteImage(image, str(raw / "labelsTr" / f"{name}.nii.gz"))
    values = {
        "channel_names": {"0": "CT"},
        "labels": {
            "background": 0,
            **{organ: k for k, organ in enumerate(organs, start=1)},
            "ignore": len(organs) + 1,
        },
        "numTraining": len(whole),
        "file_ending": ".nii.gz",
        "dataset": {
            name: {
                "images": [str((cases / name / "data.nii.gz").resolve())],
                "label": f"labelsTr/{name}.nii.gz",
            }
            for name in whole
        },
    }
    fold = {
        "train": [name for name in split.training if name in whole],
        "val": [name for name in split.validation if name in whole],
    }
    (raw / "splits_final.json").write_text(json.dumps([fold]))
    (raw / "dataset.json").write_text(json.dumps(values, indent=1))


def plan_and_preprocess(gpu_memory_gb: float) -> None:
    """nnU-Net's own fingerprint, plan and preprocessing."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    extract_fingerprints([DATASET_ID], num_processes=2, check_dataset_integrity=True)
    plan_experiments([DATASET_ID], gpu_memory_target_in_gb=gpu_memory_gb)
    preprocess([DATASET_ID], PLANS, configurations=(CONFIGURATION,), num_processes=(2,))


def new_trainer(out: Path, *, again: bool) -> Any:
    """nnU-Net's trainer on what was preprocessed under `out`; `again` goes on with its log."""
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation import (
        nnUNetTrainerNoMirroring as without_mirroring,
    )

    folder = out / "preprocessed" / DATASET
    plans = json.loads((folder / f"{PLANS}.json").read_text()) | {"continue_training": again}
    return without_mirroring.nnUNetTrainerNoMirroring(
        plans,
        CONFIGURATION,
        fold=0,
        dataset_json=json.loads((folder / "dataset.json").read_text()),
        device=torch.device("cpu"),
    )


def train(out: Path, cpu_hours: float, iterations: int, console: Console) -> Any:
    """nnU-Net's trainer, run epoch by epoch until the budget is spent.

    The body of the loop is that of its `run_training`, which knows no budget but a number of
    epochs.
    """
    from nnunetv2.run.run_training import maybe_load_checkpoint

    again = any(out.glob(f"results/{DATASET}/*/fold_0/checkpoint_*.pth"))
    trainer = new_trainer(out, again=again)
    trainer.num_iterations_per_epoch = iterations
    trainer.num_val_iterations_per_epoch = 1
    trainer.save_every = SAVE_EVERY
    if again:
        maybe_load_checkpoint(trainer, True, False)
    if (Path(trainer.output_folder) / "checkpoint_final.pth").exists():
        return trainer
    clock = out / "cpu_seconds.json"  # spent after each epoch
    spent: list[float] = json.loads(clock.read_text())[: trainer.current_epoch] if again else []
    before = (spent[-1] if spent else 0.0) - cpu_seconds()
    trainer.on_train_start()
    while True:
        if spent:
            left = (cpu_hours * 3600 - spent[-1]) / (spent[-1] / len(spent))  # epochs
            if left < 0.5:
                break
            trainer.num_epochs = len(spent) + max(round(left), 1)
            trainer.lr_scheduler.max_steps = trainer.num_epochs
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        batches = (next(trainer.dataloader_train) for _ in range(iterations))
        trainer.on_train_epoch_end([trainer.train_step(batch) for batch in batches])
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
        spent.append(before + cpu_seconds())
        clock.write_text(json.dumps(spent))
        trainer.on_epoch_end()
        console.print(
            f"epoch {len(spent)} of about {trainer.num_epochs}: "
            f"{spent[-1] / 3600:.3f} of {cpu_hours:g} CPU hours, "
            f"{spent[-1] / len(spent) / iterations:.2f} CPU s a step"
        )
    trainer.on_train_end()
    return trainer


def predict(
    trainer: Any, out: Path, cases: Path, names: Sequence[str], organs: Sequence[str]
) -> None:
    """The last weights on each patient: label files with our numbers on the patient's own grid."""
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(
        use_mirroring=False, device=trainer.device, perform_everything_on_device=False
    )
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        None,
    )
    number = np.array([0, *(BY_NAME[organ].label for organ in organs)], np.uint8)
    out.mkdir(exist_ok=True)
    for name in names:
        target = out / f"{name}.nii.gz"
        if target.exists():
            continue
        file = str(cases / name / "data.nii.gz")
        labels = predictor.predict_single_npy_array(*SimpleITKIO().read_images([file]))
        image = sitk.GetImageFromArray(number[labels])
        image.CopyInformation(sitk.ReadImage(file))
        sitk.WriteImage(image, str(target))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True, help="of ours, for the split")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cpu-hours", type=float, required=True, help="of training, all cores")
    parser.add_argument("--iterations", type=int, default=25, help="optimiser steps of an epoch")
    parser.add_argument("--gpu-memory-gb", type=float, default=1.0, help="its planner's target")
    parser.add_argument("--unknown-hu", type=float, default=-1024.0)
    args = parser.parse_args(argv)
    config = TrainConfig.read(args.config)
    dataset = Dataset.read(config.cases)
    split = split_of(config, dataset.cases)
    for place in ("raw", "preprocessed", "results"):  # nnU-Net takes its folders so
        os.environ[f"nnUNet_{place}"] = str((args.out / place).resolve())
    console = Console()
    ready = args.out / "preprocessed" / "ready"
    if not ready.exists():
        write_raw(args.out / "raw" / DATASET, args.cases, split, dataset.organs, args.unknown_hu)
        plan_and_preprocess(args.gpu_memory_gb)
        ready.touch()
    trainer = train(args.out, args.cpu_hours, args.iterations, console)
    predict(trainer, args.out / "predictions", args.cases, split.test, dataset.organs)
    console.print(f"{len(split.test)} predictions in {args.out / 'predictions'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
