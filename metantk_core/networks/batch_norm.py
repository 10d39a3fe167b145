"""Batch normalisation in networks of other people: a network that mixes images enters, one that does not leaves.

A kernel needs a gradient of each image, and batch normalisation by the moments of the batch leaves none. Two ways out:
GroupNorm in its place, and its running statistics, which at initialisation are mean 0 and variance 1.

Axes: n images, c channels, _ anything.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from metantk_core.errors import InputError
from metantk_core.networks.config import BatchNormTreatment, Normalisation
from metantk_core.networks.normalisation import BatchMoments, groups_of

_BATCH_NORM = nn.modules.batchnorm._BatchNorm
# A subclass with another one computes something else as well.
_USUAL_FORWARD = (_BATCH_NORM.forward, nn.SyncBatchNorm.forward)


class GroupNormOfImages(nn.GroupNorm):
    """GroupNorm in the place of a batch normalisation; images of one position have one group, whatever ``groups`` says.

    A vector, or a map of 1 × 1, would have few numbers in a group: a pair that is normalised is -1 and 1, whatever it
    was.

    Args:
        groups: Number of groups where images have more than one position.
        channels: Number of channels.
        epsilon: Added to the variance.
        after: What is done to the normalised activations, one after the other, by name.
    """

    def __init__(
        self, groups: int, channels: int, *, epsilon: float = 1e-5, after: Mapping[str, nn.Module] | None = None
    ) -> None:
        super().__init__(groups, channels, eps=epsilon, affine=False)
        self._after = tuple(after or ())
        for name, module in (after or {}).items():
            self.add_module(name, module)

    def forward(self, input: Float[Tensor, "n c *_"]) -> Float[Tensor, "n c *_"]:
        """Return the normalised activations."""
        groups = self.num_groups if math.prod(input.shape[2:]) > 1 else 1
        output = F.group_norm(input, groups, self.weight, self.bias, self.eps)
        for name in self._after:
            output = self.get_submodule(name)(output)
        return output


def mixes_images(module: nn.Module) -> bool:
    """Return whether a module is a batch normalisation that uses the moments of the batch."""
    return isinstance(module, _BATCH_NORM) and (module.training or module.running_mean is None)


def batch_norm_to_group_norm(network: nn.Module) -> nn.Module:
    """Put GroupNorm in the place of each batch normalisation of a network, and return the network.

    ``BatchNorm1d``, ``2d``, ``3d``, ``SyncBatchNorm`` and their subclasses are replaced, in training mode or not; of a
    subclass with a forward of its own, those that end in modules ``drop`` and ``act`` (timm's ``BatchNormAct2d``),
    which are kept. What is fixed already, such as torchvision's ``FrozenBatchNorm2d``, stays. The number of groups is
    that of our own networks (:func:`metantk_core.networks.normalisation.groups_of`: the most, up to 16, of one size of
    at least 2 channels); images of one position have one group. The scale and the shift are the very parameters that
    were there, epsilon and the mode are kept, and a module that is used in several places stays one module.

    Args:
        network: Changed in place, unless it is itself a batch normalisation.

    Raises:
        InputError: A subclass computes something of its own, or has parametrised weights; nothing is changed then.
    """
    return _replaced(network, _group_norm_for)


def batch_norm_as(network: nn.Module, norm: Normalisation) -> nn.Module:
    """Let each batch normalisation of a network do what our own networks do that are trained, and return the network.

    Scales, shifts and epsilon are the very ones that were there.

    Args:
        network: Changed in place, unless it is itself a batch normalisation.
        norm: ``"group"`` for GroupNorm, ``"batch_support"`` and ``"batch_transductive"`` for the moments of an episode
            (see :class:`metantk_core.networks.normalisation.BatchMoments`); with any other one they stay as they are.

    Raises:
        InputError: A subclass computes something of its own, or has parametrised weights; nothing is changed then.
    """
    if norm == "group":
        return batch_norm_to_group_norm(network)
    if norm in ("batch_support", "batch_transductive"):
        return _replaced(network, lambda module: _moments_for(module, remember=norm == "batch_support"))
    return network


def _replaced(network: nn.Module, made_for: Callable[[nn.modules.batchnorm._BatchNorm], nn.Module]) -> nn.Module:
    found: dict[nn.Module, nn.Module] = {
        module: made_for(module) for module in network.modules() if isinstance(module, _BATCH_NORM)
    }
    for module in list(network.modules()):
        for name, child in module._modules.items():
            if child in found:
                module._modules[name] = found[child]
    return found.get(network, network)


def _parts_after(module: nn.modules.batchnorm._BatchNorm, instead: str) -> dict[str, nn.Module]:
    """Return what a batch normalisation does to its result, as timm's does, in order; nothing for a usual one."""
    after = dict(module.named_children())
    usual = type(module).forward in _USUAL_FORWARD
    if is_parametrized(module) or not (usual or ("act" in after and after.keys() <= {"drop", "act"})):
        raise InputError(
            f"{type(module).__name__} is a batch normalisation that computes something of its own, for which {instead} "
            "can't stand in; use its running statistics (--batch-norm eval), or replace it yourself"
        )
    return {} if usual else {name: after[name] for name in ("drop", "act") if name in after}


def _group_norm_for(module: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    after = _parts_after(module, "GroupNorm")
    made = GroupNormOfImages(groups_of(module.num_features), module.num_features, epsilon=module.eps, after=after)
    made.weight, made.bias = module.weight, module.bias
    made.affine = module.affine
    made.training = module.training
    return made


def _moments_for(module: nn.modules.batchnorm._BatchNorm, *, remember: bool) -> nn.Module:
    after = _parts_after(module, "normalisation by the moments of an episode")
    made = BatchMoments(module.num_features, remember=remember, epsilon=module.eps)
    if module.affine:
        made.weight, made.bias = module.weight, module.bias
    else:
        for name, value in (("weight", made.weight), ("bias", made.bias)):
            delattr(made, name)
            made.register_buffer(name, value.detach(), persistent=False)
    return nn.Sequential(OrderedDict(norm=made, **after)) if after else made


def batch_norm_to_running_statistics(network: nn.Module) -> nn.Module:
    """Let each batch normalisation of a network use its running statistics, and return the network.

    Args:
        network: Changed in place; its other modules stay in their mode.

    Raises:
        InputError: A batch normalisation keeps no running statistics; nothing is changed then.
    """
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, _BATCH_NORM)]
    without = [name or type(module).__name__ for name, module in found if module.running_mean is None]
    if without:
        raise InputError(
            f"{', '.join(without[:3])} keeps no running statistics (track_running_stats=False); use GroupNorm in its "
            "place (--batch-norm group)"
        )
    for _, module in found:
        module.eval()
    return network


#: What can be done about batch normalisation.
BATCH_NORM_TREATMENTS: Mapping[BatchNormTreatment, Callable[[nn.Module], nn.Module]] = MappingProxyType(
    {"group": batch_norm_to_group_norm, "eval": batch_norm_to_running_statistics}
)
