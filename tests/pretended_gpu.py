"""A GPU where there is none: tensors that say they are on it, and hold their values in main memory.

What PyTorch does with CUDA's tensors is done with theirs on the processor: autocast chooses as on a
GPU, and tensors of two devices do not meet. There are no streams, no kernels and no gradients.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)

BETWEEN_DEVICES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
"""What takes a tensor from one to the other."""


class OnGpu(Tensor):
    """A tensor that says it is on the GPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGpu":
        with torch.inference_mode(False):  # views of weights are of tensors from before it
            return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
                cls,
                held.shape,
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                device=CUDA,
            )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    def requires_grad_(self, requires_grad: bool = True) -> "OnGpu":
        return self  # to note how it was made would end a process without CUDA

    # What a PyTorch without CUDA cannot do with a tensor that is there.

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"OnGpu({self.held})"

    def __bool__(self) -> bool:
        return bool(self.held)

    def __int__(self) -> int:
        return int(self.held)

    def __float__(self) -> float:
        return float(self.held)

    def __invert__(self) -> "OnGpu":
        return OnGpu(~self.held)

    def nonzero(self) -> "OnGpu":  # type: ignore[override]
        return OnGpu(self.held.nonzero())

    def copy_(self, source: Tensor, non_blocking: bool = False) -> "OnGpu":
        self.held.copy_(_held(source), non_blocking)
        return self

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> "OnGpu":
        return OnGpu(self.held.contiguous(memory_format=memory_format))

    def __getitem__(self, index: Any) -> "OnGpu":
        return OnGpu(self.held[_held(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.held[_held(index)] = _held(value)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: object, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """Also what makes new tensors asks us."""

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _held(values: Any) -> Any:
    return tree_map_only(OnGpu, lambda one: one.held, values)


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    # In inference mode what is made of other operations comes here whole.
    if func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
        with _Everywhere():
            return func.decompose(*args, **kwargs)
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    ours = any(isinstance(one, OnGpu) for one in tensors)
    if ours and func not in BETWEEN_DEVICES:
        for one in tensors:
            # As on a GPU a number may come from anywhere.
            if not isinstance(one, OnGpu) and one.dim() > 0:
                raise RuntimeError(f"{func} of tensors on cuda:0 and cpu")
    device = kwargs.get("device")
    there = ours if device is None else torch.device(device).type == "cuda"
    if func is torch.ops.aten.copy_.default:
        there = isinstance(args[0], OnGpu)
    held_args, held_kwargs = _held((tuple(args), kwargs))
    if device is not None:
        held_kwargs = held_kwargs | {"device": "cpu"}
    out = func(*held_args, **held_kwargs)
    if not there:
        return out
    out = tree_map_only(Tensor, OnGpu, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if ours else out


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch, *, bf16: bool = True) -> Iterator[None]:
    """While this lasts there is a GPU, whose tensor cores multiply bf16 or not."""
    with monkeypatch.context() as patch:
        # Weights are moved by taking others, for ours hold more than their address.
        patch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
        with _Everywhere(), torch.no_grad():
            yield
