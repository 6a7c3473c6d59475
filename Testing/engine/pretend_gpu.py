"""A GPU for machines that have none: it computes on the CPU, and is as strict about where tensors are.

Inside ``with PretendGPU():`` the device "cuda" can be used. A tensor there says that it is there, refuses to be mixed
with those on the CPU, and must be copied before NumPy sees it. What it cannot show is memory, speed and rounding.
"""
from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
TO_HOST = ("__float__", "__int__", "__bool__", "__index__", "item", "tolist")
aten = torch.ops.aten
BY_INDEX = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class OnGPU(torch.Tensor):
    """A tensor that is on the pretended GPU; ``inner`` is where its values really are."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            requires_grad=inner.requires_grad)
        made.inner = inner
        return made

    def __repr__(self):
        return f"OnGPU({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if function is aten._has_compatible_shallow_copy_type.default:  # asked when a module moves
            return isinstance(tensors[0], OnGPU) == isinstance(tensors[1], OnGPU)
        check(function, tensors)
        result = function(*tree_map(inner_of, args), **tree_map(inner_of, kwargs or {}))
        stays = function is not aten.copy_.default or isinstance(tensors[0], OnGPU)
        same = {id(inner_of(tensor)): tensor for tensor in tensors}  # what works in place gives its own argument back

        def outer(value):
            if not isinstance(value, torch.Tensor) or not stays:
                return value
            return same.get(id(value)) if id(value) in same else OnGPU(value)
        return tree_map(outer, result)


class PretendGPU(TorchFunctionMode):
    """While it is active, "cuda" is a device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        first = args[0] if args else None
        there = isinstance(first, OnGPU)
        if function == torch.Tensor.device.__get__:
            return GPU if there else function(first)
        if name in TO_HOST and there:
            return function(first.inner, *args[1:], **kwargs)
        if name in ("numpy", "__array__") and there:
            raise TypeError("can't convert a tensor on the GPU to numpy: copy it to the CPU first")
        if name == "cpu":
            return inner_of(first)
        if name == "to":
            return moved(first, args[1:], kwargs)
        if name == "new_tensor" and there:
            return OnGPU(torch.tensor(*args[1:], **{"dtype": first.dtype, **kwargs}))
        if "device" in kwargs:
            device = kwargs.pop("device")
            wanted = there if device is None else torch.device(device).type == "cuda"
            made = function(*tree_map(inner_of, args), **kwargs)
            return OnGPU(made) if wanted else made
        return function(*args, **kwargs)


def inner_of(value):
    return value.inner if isinstance(value, OnGPU) else value


def moved(tensor, args, kwargs):
    """``Tensor.to`` of any spelling."""
    kwargs = {key: value for key, value in kwargs.items() if key != "copy"}
    if args and isinstance(args[0], torch.Tensor):
        device, dtype = (GPU if isinstance(args[0], OnGPU) else torch.device("cpu")), args[0].dtype
    else:
        device, dtype = torch._C._nn._parse_to(*args, **kwargs)[:2]
    inner = inner_of(tensor) if dtype is None else inner_of(tensor).to(dtype)
    if not (isinstance(tensor, OnGPU) if device is None else device.type == "cuda"):
        return inner
    return tensor if isinstance(tensor, OnGPU) and inner is tensor.inner else OnGPU(inner)


def check(function, tensors):
    """Refuse what CUDA refuses: tensors of both places, except single numbers, copies, and indices from the CPU."""
    there = [isinstance(tensor, OnGPU) or not tensor.dim() for tensor in tensors]
    if all(there) or function is aten.copy_.default or (function in BY_INDEX and isinstance(tensors[0], OnGPU)):
        return
    raise RuntimeError(f"{function}: tensors of shapes {[tuple(tensor.shape) for tensor in tensors]} must be on one "
                       f"device, but these are on the GPU: {[isinstance(tensor, OnGPU) for tensor in tensors]}")
