"""The segmenter: a CT in, labels at the same place in the patient out."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.checkpoint import BadCheckpoint
from model.organs import BY_NAME
from model.preprocess import NoBody, Preprocessing
from model.segmenter import Cancelled, DeviceLost, NoSuchDevice, Segmenter
from model.unet import UNet
from tests.model.networks import ORGANS, TILE, save_tiny, tiny_card, tiny_config
from tests.phantoms import COSINES, Orientation, make_phantom


@cache
def ct(orientation: Orientation = "axial") -> hd.Volume:
    phantom = make_phantom(orientation=orientation, shape=(30, 40, 44), spacing_mm=(8, 6.3, 5.9))
    return phantom.ct.astype(np.float32)


class FindsBone(UNet):
    """Calls brainstem what is denser than 400 HU, and remembers the tiles it was shown."""

    def __init__(self, *, largest_tile: int | None = None) -> None:
        super().__init__(tiny_config("plain"))
        self.largest_tile = largest_tile  # voxels; a larger one does not fit into memory
        self.tiles: list[tuple[int, ...]] = []
        with torch.no_grad():
            self.heads[0].weight.zero_()[1, 0] = 20
            self.heads[0].bias.copy_(torch.tensor([0.0, 0.0, -20.0, -20.0]))

    def features(self, x: Tensor) -> Tensor:
        self.tiles.append(tuple(x.shape[2:]))
        if self.largest_tile is not None and x[0].numel() > self.largest_tile:
            raise torch.OutOfMemoryError("out of memory")
        return (x - 400 / 300).expand(-1, self.config.widths[0], -1, -1, -1)


def finds_bone(*, largest_tile: int | None = None) -> tuple[Segmenter, FindsBone]:
    network = FindsBone(largest_tile=largest_tile)
    return Segmenter(network, tiny_card(network.config), "cpu"), network


@pytest.fixture
def segmenter(tmp_path: Path) -> Segmenter:
    save_tiny(tmp_path / "tiny")
    return Segmenter.load(tmp_path / "tiny", device="cpu")


def test_patients_get_only_organs_that_were_measured() -> None:
    network = FindsBone()
    card = tiny_card(network.config)
    others = replace(card, measured={name: {"dice_mean": 0.1} for name in ORGANS[1:]})

    ours = Segmenter(network, card, "cpu")(ct())
    theirs = Segmenter(network, others, "cpu")
    measured = Segmenter(network, others, "cpu", unmeasured=True)(ct())

    assert ours.labels.array.any()
    assert not theirs(ct()).labels.array.any()
    assert [organ.name for organ in theirs.organs] == list(ORGANS[1:])
    np.testing.assert_array_equal(measured.labels.array, ours.labels.array)


@pytest.mark.parametrize("never", [{}, {"dice_mean": 0.0, "dice_sd": 0.0, "patients": 9}])
def test_patients_do_not_get_an_organ_that_was_never_found(never: dict[str, float]) -> None:
    network = FindsBone()
    card = replace(
        tiny_card(network.config), measured={ORGANS[0]: never, ORGANS[1]: {"dice_mean": 0.0001}}
    )

    segmenter = Segmenter(network, card, "cpu")

    assert [organ.name for organ in segmenter.organs] == [ORGANS[1]]


def test_a_model_that_nobody_measured_is_for_nobody_else() -> None:
    network = FindsBone()
    card = replace(tiny_card(network.config), measured={})

    with pytest.raises(BadCheckpoint, match="has not been measured on unseen patients"):
        Segmenter(network, card, "cpu")


@pytest.mark.parametrize("orientation", COSINES)
def test_labels_lie_on_the_cts_own_grid_in_the_patient(
    segmenter: Segmenter, orientation: Orientation
) -> None:
    result = segmenter(ct(orientation))

    assert result.labels.array.dtype == np.uint8
    assert result.labels.geometry_equal(ct(orientation))
    assert result.labels.frame_of_reference_uid == ct(orientation).frame_of_reference_uid
    assert set(result.seconds) == {"preprocess", "network", "postprocess"}
    assert all(seconds >= 0 for seconds in result.seconds.values())


def test_only_organs_of_the_card_are_found_by_their_own_labels(segmenter: Segmenter) -> None:
    found: set[int] = set()
    for channel, name in enumerate(ORGANS, start=1):
        with torch.no_grad():
            segmenter._network.get_parameter("heads.0.bias").copy_(20.0 * torch.eye(4)[channel])
        labels = set(np.unique(segmenter(ct()).labels.array))
        assert labels <= {0, BY_NAME[name].label}
        found |= labels
    assert found == {0, *(BY_NAME[name].label for name in ORGANS)}


@pytest.mark.parametrize("orientation", COSINES)
def test_an_organ_is_found_where_it_is_however_the_ct_is_stored(orientation: Orientation) -> None:
    segmenter, _ = finds_bone()
    volume = ct(orientation)
    bone = np.zeros(volume.array.shape, bool)
    bone[12:18, 16:26, 8:16] = True
    hu = np.where(volume.array > -300, 0.0, -1000.0)
    hu[bone] = 800.0

    found = segmenter(volume.with_array(hu.astype(np.float32))).labels

    ours = found.array == BY_NAME["brainstem"].label
    assert 2 * (ours & bone).sum() / (ours.sum() + bone.sum()) > 0.85


def test_the_same_ct_gives_the_same_labels(segmenter: Segmenter) -> None:
    first = segmenter(ct()).labels.array

    np.testing.assert_array_equal(segmenter(ct()).labels.array, first)
    assert first.any()


def test_the_ct_is_left_as_it_was(segmenter: Segmenter) -> None:
    volume = ct()
    before = volume.array.copy()

    segmenter(volume)

    np.testing.assert_array_equal(volume.array, before)


def test_pairs_on_the_wrong_side_come_with_a_warning() -> None:
    segmenter, network = finds_bone()

    def swapped(x: Tensor) -> Tensor:  # the last axis grows to the patient's left
        columns = torch.arange(x.shape[4]).expand(x.shape)
        left_half = columns >= x.shape[4] // 2
        right = torch.where((x > 2) & left_half, 20.0, -20.0)
        left = torch.where((x > 2) & ~left_half, 20.0, -20.0)
        return torch.cat([0 * x, 0 * x - 20, left, right], dim=1)

    network.features = swapped  # type: ignore[method-assign]
    network.heads[0] = nn.Identity()  # they are logits already, of as many classes as channels
    volume = ct()
    hu = np.where(volume.array > -300, 0.0, -1000.0)
    hu[12:18, 16:26, 18:26] = 1200.0

    result = segmenter(volume.with_array(hu.astype(np.float32)))

    assert not result.labels.array.any()
    assert "Parotid_L and Parotid_R" in result.warnings[0]


def test_progress_ends_at_one_and_never_goes_back(segmenter: Segmenter) -> None:
    told: list[float] = []

    segmenter(ct(), progress=told.append)

    assert told == sorted(told)
    assert len(told) > 1
    assert told[-1] == 1


def test_a_cancelled_case_stops_and_the_next_one_runs() -> None:
    segmenter, network = finds_bone()

    with pytest.raises(Cancelled):
        segmenter(ct(), cancelled=lambda: len(network.tiles) == 1)

    assert len(network.tiles) == 1
    assert segmenter(ct()).labels.geometry_equal(ct())


def test_air_alone_is_refused_in_a_sentence(segmenter: Segmenter) -> None:
    air = ct().with_array(np.full(ct().array.shape, -1000, np.float32))

    with pytest.raises(NoBody, match="denser than -300 HU"):
        segmenter(air)


def test_the_segmenter_says_who_it_is(segmenter: Segmenter, tmp_path: Path) -> None:
    digest = hashlib.sha256((tmp_path / "tiny" / "weights.safetensors").read_bytes()).hexdigest()
    assert (segmenter.name, segmenter.version) == ("tiny", "1.2.3")
    assert segmenter.weights_sha256 == digest
    assert [organ.name for organ in segmenter.organs] == list(ORGANS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused_in_a_sentence(tmp_path: Path) -> None:
    save_tiny(tmp_path)

    with pytest.raises(NoSuchDevice, match="The device is cuda, but PyTorch sees no GPU"):
        Segmenter.load(tmp_path, device="cuda")
    assert Segmenter.load(tmp_path).device == "cpu"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("out of memory"), "has no room for the weights of tiny"),
        # CUDA's own, where another process has left no room for a context.
        (torch.AcceleratorError("CUDA error: out of memory"), "has no room for the weights of"),
        (
            torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy\nSearch for"),
            r"cannot be used: CUDA error: CUDA-capable device\(s\) is/are busy\.$",
        ),
    ],
)
def test_a_gpu_that_cannot_take_the_weights_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError, says: str
) -> None:
    network = FindsBone()

    def fails(*given: object, **named: object) -> FindsBone:
        raise error

    monkeypatch.setattr(network, "to", fails)

    with pytest.raises(NoSuchDevice, match=f"The GPU {says}"):
        Segmenter(network, tiny_card(network.config), "cuda")


def test_a_gpu_for_which_pytorch_has_no_kernels_is_refused_before_a_patient_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such a one takes the weights, for a copy is no kernel."""
    network = FindsBone()

    def no_kernel(weights: Tensor) -> Tensor:
        raise torch.AcceleratorError("CUDA error: no kernel image is available")

    monkeypatch.setattr(network, "to", lambda device: network)
    monkeypatch.setattr(Tensor, "sum", no_kernel)

    with pytest.raises(NoSuchDevice, match="cannot be used: CUDA error: no kernel image is avail"):
        Segmenter(network, tiny_card(network.config), "cuda")


def test_a_gpu_is_tried_with_its_tile_then_half_of_it_then_the_cpu() -> None:
    segmenter, _ = finds_bone()
    assert segmenter._attempts() == [("cpu", TILE)]

    segmenter.device = "cuda"

    assert segmenter._attempts() == [("cuda", TILE), ("cuda", (8, 16, 16)), ("cpu", TILE)]


def test_half_a_tile_still_suits_the_network(tmp_path: Path) -> None:
    network = save_tiny(tmp_path)
    card = replace(tiny_card(network.config), tile=(8, 80, 16))
    segmenter = Segmenter(network, card, "cuda" if torch.cuda.is_available() else "cpu")

    assert segmenter._smaller(card.tile) == (8, 32, 16)  # patches of 16 x 16 pixels


def test_tiles_overlap_as_much_as_the_card_says() -> None:
    passes = []
    for overlap in (0.0, 0.5):
        network = FindsBone()
        Segmenter(network, replace(tiny_card(network.config), overlap=overlap), "cpu")(ct())
        passes.append(len(network.tiles))

    assert passes[0] < passes[1]


def test_short_of_memory_a_case_is_done_in_smaller_tiles(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no GPU where this runs, so the processor stands in for it."""
    half = (8, 16, 16)
    easy, _ = finds_bone()
    segmenter, network = finds_bone(largest_tile=8 * 16 * 16)
    attempts = [("cpu", TILE), ("cpu", half)]
    monkeypatch.setattr(segmenter, "_attempts", lambda: attempts)

    found = segmenter(ct()).labels.array

    assert network.tiles[0] == TILE
    assert set(network.tiles[1:]) == {half}
    assert f"cpu ran out of memory with tiles of {TILE}" in caplog.text
    np.testing.assert_array_equal(found, easy(ct()).labels.array)  # the network sees single voxels
    network.tiles.clear()
    segmenter(ct())
    assert network.tiles[0] == TILE  # the next case begins anew


def test_an_answer_of_the_cpu_counts_though_the_gpu_has_no_room_for_the_network_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segmenter, network = finds_bone()
    expected = segmenter(ct()).labels.array
    segmenter.device = "cuda"

    def to(device: str) -> FindsBone:
        if device == "cuda":
            raise torch.OutOfMemoryError("out of memory")
        return network

    monkeypatch.setattr(network, "to", to)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    np.testing.assert_array_equal(segmenter(ct()).labels.array, expected)


def test_a_network_that_fits_nowhere_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, network = finds_bone(largest_tile=0)
    attempts = [("cpu", TILE), ("cpu", (8, 16, 16))]
    monkeypatch.setattr(segmenter, "_attempts", lambda: attempts)

    with pytest.raises(MemoryError, match="does not fit into memory"):
        segmenter(ct())
    assert network.tiles == [TILE, (8, 16, 16)]


def test_a_processor_that_runs_out_of_memory_says_the_same(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UNet, "features", lambda self, x: torch.empty(2**50))  # of any machine

    with pytest.raises(MemoryError, match="does not fit into memory"):
        segmenter(ct())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
)
def test_libraries_of_a_gpu_that_run_out_of_memory_say_the_same(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def full(self: UNet, x: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(UNet, "features", full)

    with pytest.raises(MemoryError, match="does not fit into memory"):
        segmenter(ct())


def test_a_fault_that_is_not_of_memory_is_said_as_it_is(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: UNet, x: Tensor) -> Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(UNet, "features", fail)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        segmenter(ct())


def test_a_gpu_that_failed_is_told_from_a_ct_that_failed(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: UNet, x: Tensor) -> Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(UNet, "features", fail)

    with pytest.raises(DeviceLost, match="the GPU failed: CUDA error: an illegal memory"):
        segmenter(ct())


def test_a_gpu_that_failed_on_the_way_back_to_the_ct_is_told_too(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object, **named: object) -> hd.Volume:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Preprocessing, "backward", staticmethod(fail))

    with pytest.raises(DeviceLost, match="the GPU failed: CUDA error: an illegal memory"):
        segmenter(ct())


def test_probabilities_that_leave_no_room_on_their_device_go_back_to_the_ct_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no GPU where this runs, so the first of two ways on the processor runs out."""
    segmenter, _ = finds_bone()
    expected = segmenter(ct()).labels.array
    backward, calls = Preprocessing.backward, list[torch.device]()

    def full_at_first(
        probabilities: Tensor, grid: hd.VolumeGeometry, onto: hd.Volume, *, labels: Sequence[int]
    ) -> hd.Volume:
        calls.append(probabilities.device)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("out of memory")
        return backward(probabilities, grid, onto, labels=labels)

    monkeypatch.setattr(Preprocessing, "backward", staticmethod(full_at_first))

    np.testing.assert_array_equal(segmenter(ct()).labels.array, expected)
    assert len(calls) == 2
    assert "ran out of memory on the way back" in caplog.text


def test_a_network_is_compiled_when_that_is_asked_for_and_the_cpu_does_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no GPU where this runs, and a compiler takes minutes on a processor."""
    network = FindsBone()
    asked = list[dict[str, object]]()

    def compiled(features: object, **options: object) -> Callable[[Tensor], Tensor]:
        asked.append(options)
        return lambda tile: pytest.fail("the CPU runs what was made for a GPU")

    monkeypatch.setattr(torch, "compile", compiled)

    segmenter = Segmenter(network, tiny_card(network.config), "cpu", compiled=True)
    expected = finds_bone()[0](ct()).labels.array

    assert asked == [{"dynamic": False}]  # nor with CUDA graphs, which threads would share
    np.testing.assert_array_equal(segmenter(ct()).labels.array, expected)


def test_each_model_is_compiled_whole_and_for_its_own_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyTorch traces is looked at: to compile it takes minutes on a processor."""
    compiles, graphs = torch.compile, list[list[object]]()

    def traced(graph: torch.fx.GraphModule, inputs: list[object]) -> Callable[..., object]:
        graphs.append([one for one in inputs if not isinstance(one, Tensor)])  # sides left open
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(compiles, backend=traced, fullgraph=True))
    for tile in (TILE, (8, 64, 32)):
        network = UNet(tiny_config("sam"))
        segmenter = Segmenter(network, tiny_card(network.config), "cpu", compiled=True)
        segmenter._on_gpu(torch.zeros(1, 1, *tile))

    assert graphs == [[], []]
