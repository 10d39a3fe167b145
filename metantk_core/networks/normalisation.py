"""Normalisation layers: activations, as a rule maps ``[n c h w]``, enter, and leave normalised in the same shape.

Four kinds: per sample (GroupNorm: needed by kernels, because samples must not mix), by the moments of an episode's
support images (training), by the moments of whatever is in the batch (training, transductive), and by those of the
batch while training and their running mean afterwards (torch's own, for training that knows no episodes).

Axes: n images, c channels, h height, w width.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

#: Makes the normalisation of a number of channels.
Normalise = Callable[[int], nn.Module]

MAX_GROUPS = 16


class BatchMoments(nn.Module):
    r"""Batch normalisation by the moments of one batch, remembered on request; nothing is averaged over batches.

    .. math:: y = (x - \mu) / \sqrt{\sigma^2 + \epsilon} \cdot weight + bias

    with mean and (biased) variance over images and space. With ``remember`` this is the MetaBN of Bronskill et al.,
    "TaskNorm", ICML 2020: in ``train()`` mode the batch is the support set of an episode, whose moments are used and
    remembered with their gradient; in ``eval()`` mode the remembered moments normalise the queries, so that a query's
    output does not depend on the other queries. Without it every batch is normalised by its own moments in both modes,
    as MAML's published code does, and queries help each other (transductive).

    The moments belong to one episode: they are a plain attribute, not a buffer; copies of the module, pickles and state
    dicts come without them.

    Args:
        channels: Number of channels.
        remember: Whether ``eval()`` mode uses the moments remembered in ``train()`` mode.
        epsilon: Added to the variance.
    """

    moments: tuple[Tensor, Tensor] | None

    def __init__(self, channels: int, *, remember: bool, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.remember = remember
        self.epsilon = epsilon
        self.moments = None
        self.written_out = False

    def forward(self, x: Float[Tensor, "n c *_"]) -> Float[Tensor, "n c *_"]:
        """Return the normalised activations.

        Raises:
            RuntimeError: If remembered moments are needed but no support images came before.
        """
        if self.training or not self.remember:
            if self.remember or self.written_out:
                self.moments = _moments(x)
            if self.written_out:
                return self._applied(x)
            # The built-in takes the moments once more, and is still faster than applying those that are remembered.
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.epsilon)
        if self.moments is None:
            raise RuntimeError("no moments to normalise by: pass the support images in train() mode first")
        return self._applied(x)

    def _applied(self, x: Tensor) -> Tensor:
        assert self.moments is not None
        mean, variance = self.moments
        scale = self.weight * torch.rsqrt(variance + self.epsilon)
        # The mean goes first: folding it into the shift would leave rounding noise where all activations are equal.
        return torch.addcmul(_over(x, self.bias), x - _over(x, mean), _over(x, scale))

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "moments": None}

    def extra_repr(self) -> str:
        """Return what ``print(network)`` shows of this layer."""
        return f"{self.weight.numel()}, remember={self.remember}"


def _moments(x: Float[Tensor, "n c *_"]) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Return mean and biased variance over images and space (reduced in two steps, which torch does faster)."""
    mean = _over_space(x).mean(dim=0)
    variance = _over_space((x - _over(x, mean)).square()).mean(dim=0)
    return mean, variance


def _over_space(x: Float[Tensor, "n c *_"]) -> Float[Tensor, "n c"]:
    return x.mean(dim=tuple(range(2, x.dim()))) if x.dim() > 2 else x


def _over(x: Float[Tensor, "n c *_"], values: Float[Tensor, " c"]) -> Tensor:
    """Return a number a channel in a shape that spreads over images and space."""
    return values.reshape(-1, *(1 for _ in x.shape[2:]))


def forget_moments(network: nn.Module) -> None:
    """Drop all remembered moments of a network, and with them the graph of the episode that they came from."""
    for module in network.modules():
        if isinstance(module, BatchMoments):
            module.moments = None


@contextmanager
def written_out(network: nn.Module) -> Iterator[None]:
    """Give a context in which batch normalisation is written out, not torch's own.

    Under ``torch.func``'s transforms the second derivative of torch's own takes a batch's moments for constants
    (measured with torch 2.13 against finite differences); that of its parts is right. Moments are forgotten afterwards.

    Args:
        network: Its layers of :class:`BatchMoments` change for that time.
    """
    layers = [module for module in network.modules() if isinstance(module, BatchMoments)]
    for layer in layers:
        layer.written_out = True
    try:
        yield
    finally:
        for layer in layers:
            layer.written_out, layer.moments = False, None


def groups_of(channels: int) -> int:
    """Return the number of groups for GroupNorm: the most, up to 16, of one size of at least 2 channels.

    A group of one channel would be normalised to mean 0 over space, and global average pooling would then give zeros.

    Args:
        channels: Number of channels, at least 1.
    """
    return max(
        groups
        for groups in range(1, MAX_GROUPS + 1)
        if channels % groups == 0 and (groups == 1 or channels >= 2 * groups)
    )


def _group(channels: int) -> nn.Module:
    return nn.GroupNorm(groups_of(channels), channels)


def _batch_support(channels: int) -> nn.Module:
    return BatchMoments(channels, remember=True)


def _batch_transductive(channels: int) -> nn.Module:
    return BatchMoments(channels, remember=False)


def _batch_running(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels)


NORMALISATIONS: Mapping[str, Normalise] = MappingProxyType(
    {
        "batch_support": _batch_support,
        "batch_transductive": _batch_transductive,
        "batch_running": _batch_running,
        "group": _group,
    }
)


def batch_normalised(network: nn.Module) -> nn.Module:
    """Return a copy with batch normalisation, as in training, in the place of group normalisation.

    All weights are equal to the network's, those of normalisation layers included. The moments are those of each batch
    in both modes, and none are remembered: the copy is a function of its weights and of the batch, whose images it
    mixes. Batch normalisation that is there already becomes of this kind. Scores whose definition needs batch
    normalisation are published for such networks.

    Args:
        network: Left as it is. Its group normalisations see maps ``[n c h w]``.
    """
    copied = copy.deepcopy(network)
    made: dict[nn.Module, nn.Module] = {}  # a layer that two modules share stays one layer
    for parent in list(copied.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.GroupNorm):
                if child not in made:
                    made[child] = _in_place_of(child)
                parent._modules[name] = made[child]
            elif isinstance(child, nn.modules.batchnorm._BatchNorm):
                child.track_running_stats = False
                child.running_mean = child.running_var = child.num_batches_tracked = None
    return copied


def _in_place_of(group: nn.GroupNorm) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(group.num_channels, group.eps, affine=group.affine, track_running_stats=False)
    layer.weight, layer.bias = group.weight, group.bias  # the copy's own
    return layer
