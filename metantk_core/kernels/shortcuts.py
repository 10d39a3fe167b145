"""Parameter-free layers made cheap: calls of ReLU and pooling enter, the same numbers leave, sooner.

Two things cost a pass of a cell-based network much more than they have to. Several edges leave one node and each begins
with its own ReLU or pooling of the same activations: here that is computed once, for networks that promise to overwrite
no such result. And torch's pooling is slow on a CPU in the default memory layout: here average pooling is a depthwise
convolution with ones (5 to 20 times faster) and maximum pooling runs in channels-last layout (about 10 times faster).
Averages change by rounding alone; maxima and ReLU do not change.

Axes: n images · c channels · h w input, p q output pixels.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metantk_core.kernels.layer_grams import Convolution, input_gradient

OnRelu = Callable[[Tensor], None]
"""Sees the output of a ReLU; the same tensor again where a result is shared."""

_RESULTS = "_shared_results"  # attribute of an activation: what was made of it; it goes when the activation goes


class SharedResults:
    """Calls pooling the fast way, and both ReLU and pooling at most once for each activation.

    Args:
        on_relu: Sees the output of each ReLU that is not computed because its result is there already.
        share: Whether calls of one function on one activation may have one result. It is one tensor: whoever
            overwrites it after a later call overwrites what that call has returned.
    """

    def __init__(self, on_relu: OnRelu | None = None, *, share: bool) -> None:
        self._on_relu = on_relu
        self._share = share

    def __call__(self, func: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Tensor | None:
        """Return the result of a call if it is one of these layers, otherwise None.

        Args:
            func: Function of torch that is called.
            args: Its arguments.
            kwargs: Its named arguments.
        """
        plan = _LAYERS.get(func)
        if plan is None:
            return None
        bound = plan(*args, **kwargs)
        if bound is None:
            return None
        x, make, settings = bound
        if is_functorch_wrapped_tensor(x):
            return None
        return self._once(x, make, settings) if self._share else make(x, *settings)

    def pixels(self, x: Float[Tensor, "n c *hw"], chosen: tuple[slice, ...]) -> Float[Tensor, "n c *pq"]:
        """Return some pixels of all images.

        Args:
            x: Activations.
            chosen: Along each axis, slices with a positive step.
        """
        return self._once(x, _Pixels.apply, tuple((part.start, part.step) for part in chosen))

    def _once(self, x: Tensor, make: Callable[..., Tensor], settings: tuple) -> Tensor:
        results = getattr(x, _RESULTS, None)
        if results is None:
            results = {}
            setattr(x, _RESULTS, results)
        key = (make, settings, torch.is_grad_enabled(), x._version)
        if key in results:
            result, version = results[key]
            if result._version == version:
                if make is torch.relu and self._on_relu is not None:
                    self._on_relu(result)
                return result
        result = make(x, *settings)
        results[key] = result, result._version
        return result


_Plan = tuple[Tensor, Callable[..., Tensor], tuple]


def _relu(input: Tensor, inplace: bool = False) -> _Plan | None:
    return None if inplace else (input, torch.relu, ())


def _avg_pool(
    input: Tensor,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> _Plan | None:
    if ceil_mode or divisor_override is not None or not _slow_here(input):
        return None
    kernel = _pair(kernel_size)
    return input, _average_pool, (kernel, _pair(stride) if stride else kernel, _pair(padding), count_include_pad)


def _max_pool(
    input: Tensor,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> _Plan | None:
    if return_indices or not _slow_here(input):
        return None
    kernel = _pair(kernel_size)
    settings = kernel, _pair(stride) if stride else kernel, _pair(padding), _pair(dilation), ceil_mode
    return input, _maximum_pool, settings


_LAYERS: Mapping[Callable, Callable[..., _Plan | None]] = MappingProxyType(
    {
        F.relu: _relu,
        torch.relu: _relu,
        F.avg_pool2d: _avg_pool,
        torch.max_pool2d: _max_pool,
        F.max_pool2d: _max_pool,
    }
)


def _slow_here(x: Tensor) -> bool:
    """Return whether torch pools these activations slowly: on a CPU, in single precision, in the default layout."""
    return x.dim() == 4 and x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous()


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values[0], values[-1]


class _Watch(TorchDispatchMode):
    """While active, shows every ReLU's output to a function."""

    def __init__(self, on_relu: OnRelu) -> None:
        super().__init__()
        self._on_relu = on_relu

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _RELUS:
            self._on_relu(result)
        return result


_RELUS = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)


def watched(on_relu: OnRelu | None) -> AbstractContextManager:
    """Return a context in which every ReLU that is computed, be it a module or a function, is seen.

    Args:
        on_relu: Sees its output; none to see nothing.
    """
    return nullcontext() if on_relu is None else _Watch(on_relu)


class _Pixels(torch.autograd.Function):
    """Some pixels, one after the other in memory; their gradient is written once, where slices would do it by axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *chosen: tuple[int, int]) -> Tensor:
        ctx.shape, ctx.chosen = x.shape, (..., *(slice(start, None, step) for start, step in chosen))
        return x[ctx.chosen].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (g,) = gradients
        towards = g.new_zeros(ctx.shape)
        towards[ctx.chosen] = g
        return towards, *(None for _ in ctx.chosen[1:])


class _AveragePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, settings: Convolution) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.settings, ctx.shape = settings, x.shape
        pooled = F.conv2d(x, weight, None, settings.stride, settings.padding, 1, settings.groups)
        return pooled.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        weight, scale = ctx.saved_tensors
        (g,) = gradients
        return input_gradient(weight.new_empty(1).expand(ctx.shape), weight, g * scale, ctx.settings), None, None, None


def _average_pool(
    x: Float[Tensor, "n c h w"],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    count_include_pad: bool,
) -> Float[Tensor, "n c p q"]:
    channels = x.shape[1]
    settings = Convolution(kernel, stride, padding, (1, 1), channels)
    ones = x.new_ones(channels, 1, *kernel)
    if count_include_pad:
        scale = x.new_tensor(1 / (kernel[0] * kernel[1]))
    else:
        scale = 1 / F.conv2d(x.new_ones(1, 1, *x.shape[2:]), ones[:1], None, stride, padding)
    return _AveragePool.apply(x, ones, scale, settings)


class _MaximumPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Tensor:
        pooled, indices = torch.ops.aten.max_pool2d_with_indices(
            x.contiguous(memory_format=torch.channels_last), kernel, stride, padding, dilation, ceil_mode
        )
        # Kept as small as they fit: 8 bytes a pixel would be twice the activations.
        small = torch.int16 if x[0, 0].numel() < 2**15 else torch.int32
        ctx.save_for_backward(indices.to(small).contiguous())
        ctx.settings, ctx.shape = (kernel, stride, padding, dilation, ceil_mode), x.shape
        return pooled.contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (indices,) = ctx.saved_tensors
        (g,) = gradients
        towards = torch.ops.aten.max_pool2d_with_indices_backward(
            g.contiguous(), g.new_empty(1).expand(ctx.shape).contiguous(), *ctx.settings, indices.long()
        )
        return towards, None, None, None, None, None


def _maximum_pool(x: Float[Tensor, "n c h w"], *settings: Any) -> Float[Tensor, "n c p q"]:
    return _MaximumPool.apply(x, *settings)
