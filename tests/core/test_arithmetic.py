"""Exact arithmetic: whatever the process has chosen, everything that is scored is computed in products of float32."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metantk_core.arithmetic import exact_arithmetic
from metantk_core.kernels import last_layer_kernel, tangent_and_last_layer_kernel
from metantk_core.meta_training.adaptation import adapted_logits
from metantk_core.networks import FewShotNetwork
from metantk_core.scores.activations import code_kernel, linear_regions, linear_regions_of_batches
from metantk_core.scores.gradients import loss_gradients
from metantk_core.scores.synflow import synflow

BACKENDS: Any = torch.backends
CHOICES: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "older setting of products, TF32": lambda: torch.set_float32_matmul_precision("high"),
    "older setting of products, bfloat16": lambda: torch.set_float32_matmul_precision("medium"),
    "newer setting of products": lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
    "newer setting of everything": lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
    "newer setting of convolutions": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
    "convolutions on the CPU": lambda: setattr(BACKENDS.mkldnn.conv, "fp32_precision", "bf16"),
    "whatever is fastest": lambda: setattr(BACKENDS.cudnn, "benchmark", True),
}


def operations() -> dict[str, str]:
    """Return the precision of every operation that torch keeps one of."""
    return {
        f"{backend.__name__} {name}": getattr(backend, name).fp32_precision
        for backend, names in (
            (BACKENDS.cuda, ["matmul"]),
            (BACKENDS.cudnn, ["conv", "rnn"]),
            (BACKENDS.mkldnn, ["matmul", "conv", "rnn"]),
        )
        for name in names
    }


def settings() -> list[object]:
    """Return all that a context could leave changed."""
    cudnn = BACKENDS.cudnn
    return [
        operations(),
        BACKENDS.fp32_precision,
        cudnn.fp32_precision,
        cudnn.enabled,
        cudnn.benchmark,
        cudnn.deterministic,
    ]


@pytest.fixture(params=CHOICES.values(), ids=list(CHOICES))
def chosen(request: pytest.FixtureRequest) -> Iterator[None]:
    """A process that has chosen something; torch's defaults afterwards."""
    before = operations()
    request.param()
    yield
    BACKENDS.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True
    for backend, name in (operation.split() for operation in before):
        owner = getattr(BACKENDS, backend.rpartition(".")[2])
        getattr(owner, name).fp32_precision = before[f"{backend} {name}"]
    BACKENDS.cudnn.benchmark = False
    assert operations() == before


@pytest.mark.usefixtures("chosen")
def test_products_are_exact_whatever_the_process_has_chosen_and_its_choice_is_kept():
    before = settings()
    with exact_arithmetic():
        with exact_arithmetic():
            pass
        assert set(operations().values()) == {"ieee"}
        assert (BACKENDS.cudnn.benchmark, BACKENDS.cudnn.deterministic) == (False, True)
        # CUDA's matrix products ask for this, and fail where the older and the newer settings contradict each other.
        assert torch._C._get_cublas_allow_tf32() is False
    assert settings() == before


def test_choice_comes_back_after_an_error():
    before = settings()
    with pytest.raises(RuntimeError, match="of the network"), exact_arithmetic():
        raise RuntimeError("of the network")
    assert settings() == before


def test_one_thread_leaves_while_another_still_computes():
    before = settings()
    first, second = exact_arithmetic(), exact_arithmetic()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(operations().values()) == {"ieee"}
    second.__exit__(None, None, None)
    assert settings() == before


class Watching(FewShotNetwork):
    """A network that notes the arithmetic of each of its passes."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), features=4, ways=2)
        self.seen: list[tuple[str, ...]] = []

    def features(self, x: Tensor) -> Tensor:
        self.seen.append((*operations().values(), str(BACKENDS.cudnn.deterministic)))
        return torch.relu(self.body(x)).mean(dim=(2, 3))

    def __deepcopy__(self, memo: dict) -> "Watching":
        copied = Watching()
        copied.load_state_dict(self.state_dict())
        copied.seen = self.seen  # SynFlow runs a copy
        return copied


IMAGES = torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 0, 1, 0, 1])
PASSES: dict[str, Callable[[FewShotNetwork], object]] = {
    "kernel": lambda network: tangent_and_last_layer_kernel(network, IMAGES),
    "features": lambda network: last_layer_kernel(network, IMAGES),
    "codes": lambda network: code_kernel(network, IMAGES),
    "linear regions": lambda network: linear_regions(network, IMAGES),
    "linear regions of batches": lambda network: linear_regions_of_batches(network, [IMAGES]),
    "gradients": lambda network: loss_gradients(network, [IMAGES], [LABELS]),
    "synflow": lambda network: synflow(network, (1, 5, 5)),
    "adaptation to an episode": lambda network: adapted_logits(
        network, IMAGES, LABELS, IMAGES, algorithm="maml", learning_rate=0.1, steps=2
    ),
}


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("run", PASSES.values(), ids=list(PASSES))
def test_every_pass_of_every_score_runs_in_exact_arithmetic(run: Callable[[FewShotNetwork], object]):
    network = Watching()
    run(network)
    assert set(network.seen) == {("ieee",) * 6 + ("True",)}


def test_one_place_decides_about_precision_and_determinism():
    package = Path(__file__).parents[2] / "metantk_core"
    settings = re.compile(
        r"backends\.(?!cpu\.get_cpu_capability)|tf32|fp32_precision|matmul_precision|use_deterministic", re.IGNORECASE
    )
    deciding = [
        path.relative_to(package).as_posix()
        for path in sorted(package.rglob("*.py"))
        if any(settings.search(line) for line in path.read_text(encoding="utf-8").splitlines())
    ]
    assert deciding == ["arithmetic.py"]
