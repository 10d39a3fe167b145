r"""The kernel engine: a network and images enter, its tangent kernel leaves, for about a forward and a backward pass.

One forward and one backward pass of the summed logits. While the backward pass goes through a convolution or a linear
layer, the gradient of its weight is *replaced* by the Gram matrix of the per-image gradients of that weight, and
nothing else of them is kept: the per-image gradients of the whole network never exist together.

Any module can be measured. During the forward pass a ``TorchFunctionMode`` sees every convolution and linear map and
takes over those whose weight is a chosen parameter. Such a parameter is done if it was taken over exactly once, on
activations whose first axis is the images, and if it reached the output in no other way (autograd would have found a
gradient for it). Every other one (shared, transformed, of another kind of layer) is differentiated image by image.

Axes: n images of the batch · c h w one image · k logits · d combinations of logits.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch._C._autograd import _top_saved_tensors_default_hooks  # type: ignore[import]
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode

from metantk_core.arithmetic import exact_arithmetic
from metantk_core.kernels.layer_grams import (
    Convolution,
    bias_gram,
    convolution,
    convolution_gram,
    input_gradient,
    linear_gram,
    without_unseen_pixels,
)
from metantk_core.kernels.parameters import (
    GRADIENT_BYTES,
    Kernels,
    Outputs,
    ParameterChoice,
    directions,
    gram,
    groups_within,
    head_names,
    parameter_names,
)
from metantk_core.kernels.shortcuts import OnRelu, SharedResults, watched

_AXES: Mapping[Callable, int] = MappingProxyType({torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3})


@runtime_checkable
class Onlooker(Protocol):
    """Who has one more backward pass of the same forward pass, and sees what it brings to each layer."""

    def direction(self, logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Return the gradient by the logits that the pass begins with; it mixes no images."""
        ...

    def see(self, name: str, x: Tensor, output: Tensor, g: Tensor, settings: Convolution | None) -> None:
        """Take up what reached a layer.

        Args:
            name: Of the layer's weight.
            x: The layer's input.
            output: Its output, before anything else.
            g: The gradient by its output.
            settings: Of a convolution; None for a linear layer.
        """
        ...

    def miss(self, names: Set[str]) -> None:
        """Take note of parameters that reached the logits in another way than through one layer that was seen."""
        ...


def kernels_by_layer(
    network: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    parameters: ParameterChoice = "weights",
    outputs: Outputs = "sum",
    on_relu: OnRelu | None = None,
    onlooker: Onlooker | None = None,
) -> Kernels:
    """Return the kernels from the Gram contributions of one layer after the other.

    Args:
        network: As for :func:`metantk_core.kernels.tangent_and_last_layer_kernel`. If it has an attribute
            ``images_first`` that is true, it promises that all of its convolutions and linear layers see the images
            along their first axis (otherwise a second pass, of one image, finds that out), and that it overwrites no
            result of a ReLU or of pooling (otherwise each call has a result of its own).
        images: Images on the network's device, in its precision.
        parameters: Weights, with or without biases, as :func:`metantk_core.kernels.parameter_names` says.
        outputs: Which kernel.
        on_relu: Sees the output of each ReLU of the forward pass.
        onlooker: Has one more backward pass.
    """
    promised = bool(getattr(network, "images_first", False))
    with exact_arithmetic(), torch.enable_grad(), _leaves(network, parameters) as leaves:
        takeover = _TakeOver(leaves, images, on_relu, share=promised, onlooker=onlooker)
        with takeover, watched(on_relu):
            logits = network(_copy(images)).flatten(1)
        totals = logits.detach().sum(1).double()
        wanted = directions(logits[0].detach(), outputs)
        left = _differentiate(logits, wanted, takeover.anchor, leaves, keep_graph=onlooker is not None)
        takeover.show(logits, leaves)
        del logits
        left |= {name for name, uses in takeover.uses.items() if uses > 1}
        if not promised:
            left |= _with_other_layout(network, leaves, takeover, images)
        grams = {name: matrix for name, matrix in takeover.grams.items() if name not in left}
        rest = {name: value for name, value in leaves.items() if name in left}
        grams |= _image_by_image(network, rest, wanted, images)
    ntk = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)
    nngp, head = torch.zeros_like(ntk), head_names(network)
    for name, matrix in grams.items():
        ntk += matrix
        if head and name in head:
            nngp += matrix
    return Kernels(ntk.cpu(), None if head is None else nngp.cpu(), totals.cpu())


def outputs_with_relus(network: nn.Module, images: Float[Tensor, "n c h w"], on_relu: OnRelu) -> Float[Tensor, "n ..."]:
    """Return the outputs of the forward pass of :func:`kernels_by_layer` alone, bit for bit, without gradients.

    Args:
        network: As for the kernel.
        images: As for the kernel.
        on_relu: Sees the output of each ReLU.
    """
    promised = bool(getattr(network, "images_first", False))
    with (
        exact_arithmetic(),
        torch.no_grad(),
        _leaves(network, "weights") as leaves,
        _TakeOver(leaves, images, on_relu, share=promised),
        watched(on_relu),
    ):
        return network(_copy(images))


def look_on(network: nn.Module, images: Float[Tensor, "n c h w"], onlooker: Onlooker) -> None:
    """Run the onlooker's pass of :func:`kernels_by_layer` alone: what it sees is the same, bit for bit.

    Args:
        network: As for the kernel.
        images: As for the kernel.
        onlooker: Has the pass.
    """
    promised = bool(getattr(network, "images_first", False))
    with exact_arithmetic(), torch.enable_grad(), _leaves(network, "weights") as leaves:
        takeover = _TakeOver(leaves, images, share=promised, onlooker=onlooker)
        with takeover:
            logits = network(_copy(images)).flatten(1)
        takeover.show(logits, leaves)


def _copy(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Return images for one pass: a network may overwrite them, and layers leave things behind on activations."""
    return images.detach().clone()


@contextmanager
def _leaves(network: nn.Module, choice: ParameterChoice) -> Iterator[dict[str, Tensor]]:
    """Let the chosen parameters, and no others, require gradients as long as the context lasts; they are its value."""
    chosen = set(parameter_names(network, choice))
    before = [(name, parameter, parameter.requires_grad) for name, parameter in network.named_parameters()]
    try:
        for name, parameter, _ in before:
            parameter.requires_grad_(name in chosen)
        yield {name: parameter for name, parameter, _ in before if name in chosen}
    finally:
        for _, parameter, required in before:
            parameter.requires_grad_(required)


class _TakeOver(TorchFunctionMode):
    """While active, convolutions and linear maps by chosen parameters turn weight gradients into Gram matrices.

    Attributes:
        anchor: Input of every layer that was taken over; a backward pass has to reach it to pass through all of them.
        uses: How often each parameter was taken over.
        layouts: Shape of the input of the layer that each was last taken over in, without the first axis.
        grams: After a backward pass, the Gram matrix of each parameter.
        onlooker: Sees the layers of one more backward pass.
        shown: Whether that pass is running, which makes no Gram matrices.
    """

    def __init__(
        self,
        leaves: Mapping[str, Tensor],
        images: Float[Tensor, "n c h w"],
        on_relu: OnRelu | None = None,
        *,
        share: bool = False,
        onlooker: Onlooker | None = None,
    ) -> None:
        super().__init__()
        self.images = len(images)
        self.onlooker = onlooker
        self.shown = False
        self.anchor = images.new_zeros(()).requires_grad_()
        self.uses: Counter[str] = Counter()
        self.layouts: dict[str, tuple[int, ...]] = {}
        self.grams: dict[str, Tensor] = {}
        self._shared = SharedResults(on_relu, share=share)
        # Identity is what says that a weight is the parameter itself, and not something made from it.
        self._names = {id(leaf): name for name, leaf in leaves.items()}

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            taken = self._linear(*args, **kwargs)
        elif func in _AXES:
            taken = self._convolution(func, *args, **kwargs)
        else:
            taken = self._shared(func, args, kwargs)
        return func(*args, **kwargs) if taken is None else taken

    def add(self, name: str, matrix: Float[Tensor, "n n"]) -> None:
        """Add to the Gram matrix of a parameter, in float64."""
        wide = matrix.double()
        self.grams[name] = self.grams[name] + wide if name in self.grams else wide

    def show(self, logits: Float[Tensor, "n k"], leaves: Mapping[str, Tensor]) -> None:
        """Run the onlooker's backward pass, if there is one."""
        if self.onlooker is None:
            return
        self.shown = True
        found = _differentiate(logits, self.onlooker.direction(logits.detach())[None], self.anchor, leaves)
        self.onlooker.miss(found | {name for name, uses in self.uses.items() if uses > 1})

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        names = self._taken(input, weight, bias)
        if names is None or input.dim() < 2:
            return None
        self._note(names, input)
        return _Linear.apply(self.anchor, input, weight.detach(), _detached(bias), names, self)

    def _convolution(
        self,
        func: Callable,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
    ) -> Tensor | None:
        names, axes = self._taken(input, weight, bias), _AXES[func]
        if names is None or input.dim() != axes + 2:
            return None
        steps, kernel = _per_axis(dilation, axes), tuple(weight.shape[2:])
        if isinstance(padding, str):
            reach = [step * (size - 1) if padding == "same" else 0 for step, size in zip(steps, kernel, strict=True)]
            if any(far % 2 for far in reach):
                # More zeros on the far side, as torch does it.
                input = F.pad(input, [side for far in reversed(reach) for side in (0, far % 2)])
            margin = tuple(far // 2 for far in reach)
        else:
            margin = _per_axis(padding, axes)
        self._note(names, input)
        settings = Convolution(kernel, _per_axis(stride, axes), margin, steps, groups)
        seen = without_unseen_pixels(tuple(input.shape[2:]), settings)
        if seen is not None:
            input, settings = self._shared.pixels(input, seen[0]), seen[1]
        return _Convolution.apply(self.anchor, input, weight.detach(), _detached(bias), names, self, settings)

    def _taken(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[str, str | None] | None:
        """Return the names of weight and (if it counts) bias if the layer can be taken over."""
        name = self._names.get(id(weight))
        also = self._names.get(id(bias))
        made_from_parameters = bias is not None and bias.requires_grad and also is None
        if name is None or made_from_parameters or x.dtype != weight.dtype or len(x) != self.images:
            return None
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            return None
        if is_functorch_wrapped_tensor(x):
            return None
        if _top_saved_tensors_default_hooks(False) is not None:
            return None  # checkpointing: in the backward pass the layer is computed again, where nobody takes it over
        return name, also

    def _note(self, names: tuple[str, str | None], x: Tensor) -> None:
        for name in names:
            if name is not None:
                self.uses[name] += 1
                self.layouts[name] = tuple(x.shape[1:])


class _Linear(torch.autograd.Function):
    """A linear map that leaves Gram matrices of its weight and bias behind in the backward pass."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, names: Any, into: Any) -> Any:
        output = _no_view(F.linear(x, weight, bias))
        ctx.save_for_backward(x, weight, output if into.onlooker is not None else None)
        ctx.names, ctx.into = names, into
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, output = ctx.saved_tensors
        (g,) = gradients
        if ctx.into.shown:
            ctx.into.onlooker.see(ctx.names[0], x, output, g, None)
        else:
            ctx.into.add(ctx.names[0], linear_gram(x, g))
            if ctx.names[1] is not None:
                ctx.into.add(ctx.names[1], bias_gram(g.reshape(len(g), -1, g.shape[-1]).mT))
        return None, g @ weight if ctx.needs_input_grad[1] else None, None, None, None, None


class _Convolution(torch.autograd.Function):
    """A convolution that leaves Gram matrices of its weight and bias behind in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        names: Any,
        into: Any,
        settings: Convolution,
    ) -> Any:
        output = _no_view(convolution(x, weight, bias, settings))
        ctx.save_for_backward(x, weight, output if into.onlooker is not None else None)
        ctx.names, ctx.into, ctx.settings = names, into, settings
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, output = ctx.saved_tensors
        g = gradients[0].contiguous()
        if ctx.into.shown:
            ctx.into.onlooker.see(ctx.names[0], x, output, g, ctx.settings)
        else:
            ctx.into.add(ctx.names[0], convolution_gram(x, g, ctx.settings))
            if ctx.names[1] is not None:
                ctx.into.add(ctx.names[1], bias_gram(g.flatten(2)))
        towards = input_gradient(x, weight, g, ctx.settings) if ctx.needs_input_grad[1] else None
        return None, towards, None, None, None, None, None


def _no_view(outputs: Tensor) -> Tensor:
    """Return the same numbers as a tensor that autograd lets the next layer overwrite; it refuses that for a view."""
    return torch.ops.aten._unsafe_view(outputs, outputs.shape) if outputs._is_view() else outputs


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()


def _per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


def _differentiate(
    logits: Float[Tensor, "n k"],
    wanted: Float[Tensor, "d ..."],
    anchor: Tensor,
    leaves: Mapping[str, Tensor],
    *,
    keep_graph: bool = False,
) -> set[str]:
    """Run the backward passes; return the parameters that autograd itself found a gradient for."""
    found: set[str] = set()
    if not logits.requires_grad:
        return found
    for number, direction in enumerate(wanted, start=1):
        gradients = torch.autograd.grad(
            logits,
            [anchor, *leaves.values()],
            direction.expand_as(logits),
            retain_graph=keep_graph or number < len(wanted),
            allow_unused=True,
        )
        found |= {name for name, gradient in zip(leaves, gradients[1:], strict=True) if gradient is not None}
    return found


def _with_other_layout(
    network: nn.Module,
    leaves: Mapping[str, Tensor],
    batched: _TakeOver,
    images: Float[Tensor, "n c h w"],
) -> set[str]:
    """Return the parameters that were taken over along an axis which does not follow the number of images."""
    number = 1 if len(images) > 1 else 2
    few = images[:1].expand(number, -1, -1, -1)
    probe = _TakeOver(leaves, few)
    with torch.no_grad(), probe:
        network(_copy(few))
    return {name for name, layout in batched.layouts.items() if probe.layouts.get(name) != layout}


def _image_by_image(
    network: nn.Module,
    leaves: Mapping[str, Tensor],
    wanted: Float[Tensor, "d k"],
    images: Float[Tensor, "n c h w"],
) -> dict[str, Tensor]:
    """Return the Gram matrices of parameters of any kind, from the gradients of one image after the other."""
    # With running statistics, torch's backward pass of one single image is wrong where the gradient comes in another
    # layout than the activations (CPU, torch 2.13); that of two is right.
    copies = 2 if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()) else 1
    grams: dict[str, Tensor] = {}
    for names in groups_within(GRADIENT_BYTES, leaves, len(images)):
        for direction in wanted:
            rows = {name: images.new_zeros(len(images), leaves[name].numel()) for name in names}
            for number in range(len(images)):
                logits = network(_copy(images[number : number + 1].expand(copies, -1, -1, -1)))[0].flatten()
                if not logits.requires_grad:
                    continue
                gradients = torch.autograd.grad(logits, [leaves[n] for n in names], direction, allow_unused=True)
                for name, gradient in zip(names, gradients, strict=True):
                    if gradient is not None:
                        rows[name][number] = gradient.to_dense().flatten()  # some tables have sparse gradients
            for name in names:
                grams[name] = grams.get(name, 0) + gram(rows.pop(name))
    return grams
