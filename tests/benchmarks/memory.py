"""Peak memory of a whole CT, 22 organs at 1 x 1 x 3 mm: our segmenter against nnU-Net's predictor.

Each in a process of its own, from HU in memory to labels on the CT's own grid. Both run the same
small network in the same tiles: it is what is around a network that is compared. `python -m
tests.benchmarks.memory ours|nnunet CT.npz` is one such process; it prints bytes.
"""

import resource
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import highdicom as hd
import numpy as np
import torch

from model.checkpoint import Card
from model.organs import ORGANS
from model.postprocess import OutOfOrder
from model.preprocess import Preprocessing
from model.segmenter import Segmenter
from model.unet import UNet, UNetConfig
from tests.benchmarks.contest import OURS, Options, Row, against

NNUNET = "nnU-Net v2"
TILE = (48, 160, 160)
IN_PLANE_MM = 0.977
"""Of the CT: a field of 500 mm, so that both have to resample."""


def rows(options: Options) -> list[Row]:
    """Peak resident memory in GiB, Python and its libraries included."""
    ct = options.phantom(in_plane_mm=IN_PLANE_MM).ct
    file = options.folder / "ct.npz"
    np.savez(file, hu=ct.array, affine=ct.affine)
    figures: dict[str, list[float]] = {OURS: [], NNUNET: []}
    for _ in range(min(options.repeats, 2)):  # memory does not vary as time does
        for name, argument in ((OURS, "ours"), (NNUNET, "nnunet")):
            command = [sys.executable, "-m", "tests.benchmarks.memory", argument, str(file)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures[name].append(int(run.stdout.split()[-1]) / 2**30)
    shape = " x ".join(map(str, ct.spatial_shape))
    note = f"a CT of {shape} voxels of 3 x {IN_PLANE_MM} x {IN_PLANE_MM} mm, tiles of {TILE}"
    return against(figures, {NNUNET: 4.0}, what="peak memory", unit="GiB", note=note)


def small_network() -> UNet:
    """A plain U-Net of few channels for 22 organs."""
    torch.manual_seed(0)
    config = UNetConfig(
        num_classes=len(ORGANS) + 1, widths=(4, 8), strides=((1, 2, 2),), attention="plain"
    )
    return UNet(config).eval()


def segment_by_ours(ct_hu: np.ndarray, affine: np.ndarray) -> None:
    """As the plugin does, from float32 HU."""
    network = small_network()
    card = Card(
        name="memory",
        version="0.0.0",
        description="Untrained.",
        organs=tuple(organ.name for organ in ORGANS),
        network=network.config,
        preprocessing=Preprocessing(spacing_mm=(3.0, 1.0, 1.0)),
        tile=TILE,
        training={},
        measured={},
    )
    segmenter = Segmenter(network, card, "cpu", unmeasured=True)
    with suppress(OutOfOrder):  # an untrained network's organs; only a copy of labels would follow
        segmenter(hd.Volume(ct_hu, affine, "PATIENT"))


def segment_by_nnunet(ct_hu: np.ndarray, affine: np.ndarray) -> None:
    """Its preprocessing, sliding window and resampling of the logits, in one process."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    resampling = {"order_z": 0, "force_separate_z": None}
    plans = PlansManager(
        {
            "dataset_name": "memory",
            "plans_name": "nnUNetPlans",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {
                "0": {"mean": 43.0, "std": 230.0, "percentile_00_5": -300, "percentile_99_5": 1200}
            },
            "configurations": {
                "3d_fullres": {
                    "data_identifier": "memory",
                    "preprocessor_name": "DefaultPreprocessor",
                    "batch_size": 2,
                    "patch_size": list(TILE),
                    "spacing": [3.0, 1.0, 1.0],
                    "normalization_schemes": ["CTNormalization"],
                    "use_mask_for_norm": [False],
                    "resampling_fn_data": "resample_data_or_seg_to_shape",
                    "resampling_fn_seg": "resample_data_or_seg_to_shape",
                    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
                    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
                    "resampling_fn_probabilities_kwargs": {
                        "is_seg": False,
                        "order": 1,
                        **resampling,
                    },
                    "architecture": {},
                }
            },
        }
    )
    network = small_network()
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    labels = {"background": 0, **{organ.name: organ.label for organ in ORGANS}}
    predictor.manual_initialization(
        network,
        plans,
        plans.get_configuration("3d_fullres"),
        [network.state_dict()],
        {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"},
        "",
        None,
    )
    spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    predictor.predict_single_npy_array(ct_hu[None], {"spacing": spacing})


def main(argv: Sequence[str]) -> int:
    """One process of the comparison."""
    who, file = argv
    segment = {"ours": segment_by_ours, "nnunet": segment_by_nnunet}[who]
    with np.load(Path(file)) as ct:
        hu, affine = ct["hu"].astype(np.float32), ct["affine"]
    segment(hu, affine)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(f"{peak}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
