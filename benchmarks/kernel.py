"""Speed and memory of the kernel engine beside an ordinary pass: settings enter, a table of ratios leaves.

Run as ``python benchmarks/kernel.py [--quick] [--json FILE] [--threads N] [--profile]``. Every ratio is of medians of
alternating runs within one process: of wall times, or with one thread of processor times, which other programs on the
machine disturb less. Memory is the peak of a process of its own above what it held before the pass. ``--profile``
prints where the time of one pass of the engine goes instead.

"Ordinary" is one forward and one backward pass of the summed logits, with ``Tensor.backward``, of the same network.
"Per-sample" is what libraries for per-sample gradients do: hooks keep the input of every layer, gradients of all images
and all weights are made by unfolding and one ``einsum`` a layer and kept, and their Gram matrix is taken at the end.

Axes: n images · c input channels of a group, d output channels of a group, g groups · k taps · p positions.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from metantk_core.candidates import parse_genotype, space_named
from metantk_core.kernels import engine as engine_module
from metantk_core.kernels import tangent_and_last_layer_kernel
from metantk_core.kernels.layer_grams import Convolution
from metantk_core.networks import NetworkConfig, build, initialise

IMAGES, SIZE, WAYS = 30, 32, 5
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"

#: Name → (space, supernet, channels, cells, most that engine ÷ ordinary may be).
CASES: dict[str, tuple[str, bool, int, int, float | None]] = {
    "DARTS-fewshot supernet, C = 48": ("darts_fewshot", True, 48, 5, 0.85),
    "DARTS-fewshot supernet, C = 16": ("darts_fewshot", True, 16, 5, 0.70),
    "DARTS-fewshot single path, C = 48": ("darts_fewshot", False, 48, 5, 1.0),
    "DARTS-fewshot single path, C = 16": ("darts_fewshot", False, 16, 5, None),
    "NAS-Bench-201 cell, C = 16": ("nasbench201", False, 16, 5, None),
}
QUICK = ("DARTS-fewshot single path, C = 16", "NAS-Bench-201 cell, C = 16")
LEAST_OVER_PER_SAMPLE, MOST_MEMORY = 2.5, 0.75


def network_of(case: str) -> nn.Module:
    """Return the initialised scoring network of a case."""
    space, supernet, channels, cells, _ = CASES[case]
    if supernet:
        genotype = space_named(space).supernet()
    elif space == "nasbench201":
        genotype = parse_genotype(space, CELL)
    else:
        genotype = space_named(space).sample(np.random.default_rng(3))
    network = build(
        genotype, NetworkConfig(channels=channels, cells=cells), in_channels=3, ways=WAYS, variant="scoring"
    )
    initialise(network, 0, "benchmark")
    return network


def ordinary(network: nn.Module, images: Tensor) -> None:
    """Run one forward and one backward pass."""
    network.zero_grad()
    network(images).sum().backward()


def engine(network: nn.Module, images: Tensor) -> Tensor:
    """Return the kernel."""
    return tangent_and_last_layer_kernel(network, images).ntk


def vmap(network: nn.Module, images: Tensor) -> Tensor:
    """Return the kernel from ``torch.func``."""
    return tangent_and_last_layer_kernel(network, images, implementation="vmap").ntk


def per_sample(network: nn.Module, images: Tensor) -> Tensor:
    """Return the kernel from per-sample gradients that are all kept."""
    gradients: list[Tensor] = []
    inputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        inputs[module] = given[0].detach()

    def collect(module: nn.Module, towards: Any, given: Any) -> None:
        g, x = given[0], inputs.pop(module)
        if isinstance(module, nn.Conv2d):
            patches = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
            left = g.reshape(len(g), module.groups, -1, patches.shape[2])
            right = patches.reshape(len(g), module.groups, -1, patches.shape[2])
            gradients.append(torch.einsum("ngdp,ngkp->ngdk", left, right).flatten(1))
        else:
            gradients.append(torch.einsum("nd,nc->ndc", g, x).flatten(1))

    warnings.filterwarnings("ignore", "Full backward hook is firing")  # the images need no gradient
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    handles += [layer.register_full_backward_hook(collect) for layer in layers]
    ordinary(network, images)
    for handle in handles:
        handle.remove()
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)
    for gradient in gradients:
        kernel += (gradient @ gradient.mT).double()
    return kernel


WAYS_TO_RUN: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "ordinary": ordinary,
    "engine": engine,
    "per-sample": per_sample,
    "vmap": vmap,
}


def images_of() -> Tensor:
    """Return white noise in the shape of a batch."""
    return torch.randn(IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def seconds(case: str, ways: list[str], repeats: int) -> dict[str, list[float]]:
    """Return the times of each way, run in turns after one run each that does not count."""
    network, images = network_of(case), images_of()
    clock = process_time if torch.get_num_threads() == 1 else perf_counter
    times: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way in ways:
            start = clock()
            WAYS_TO_RUN[way](network, images)
            if repeat:
                times[way].append(clock() - start)
    return times


#: What the engine does with a convolution, by the name of the function that does it.
PARTS = {"convolution": "forward", "input_gradient": "input gradient", "convolution_gram": "Gram matrix"}
#: The other costs of a pass, by the names under which the profiler knows them.
OTHERS = {
    "group normalisation": ("aten::native_group_norm", "aten::native_group_norm_backward"),
    "ReLU": ("aten::relu", "aten::threshold_backward"),
    "pooling": ("_AveragePool", "_AveragePoolBackward", "_MaximumPool", "_MaximumPoolBackward"),
    "pixels that strided layers see": ("_Pixels", "_PixelsBackward"),
    "sums of activations and of gradients": ("aten::add",),
}


@contextmanager
def named_parts() -> Iterator[None]:
    """Let the profiler see which kind of layer each part of the engine works for."""

    def named(part: str, work: Callable) -> Callable:
        def run(*arguments: Any) -> Any:
            settings = next(value for value in arguments if isinstance(value, Convolution))
            kind = f"{'dense' if settings.groups == 1 else 'depthwise'} {' x '.join(map(str, settings.kernel))}"
            dilated = "" if set(settings.dilation) == {1} else ", dilated"
            with record_function(f"{part}|{kind}{dilated}"):
                return work(*arguments)

        return run

    before = {name: getattr(engine_module, name) for name in PARTS}
    for name, work in before.items():
        setattr(engine_module, name, named(PARTS[name], work))
    try:
        yield
    finally:
        for name, work in before.items():
            setattr(engine_module, name, work)


def print_profile(case: str, repeats: int) -> Mapping[str, float]:
    """Print and return the share of each part in the time of one pass of the engine."""
    network, images = network_of(case), images_of()
    engine(network, images)
    with named_parts(), profile(activities=[ProfilerActivity.CPU]) as found:
        start = perf_counter()
        for _ in range(repeats):
            engine(network, images)
        whole = perf_counter() - start
    share = {event.key: event.cpu_time_total / 1e6 / whole for event in found.key_averages()}
    parts = {key: value for key, value in share.items() if "|" in key}
    others = {label: sum(share.get(key, 0) for key in keys) for label, keys in OTHERS.items()}
    others["everything else"] = 1 - sum(parts.values()) - sum(others.values())
    kinds = sorted({key.split("|")[1] for key in parts})
    print(f"\n{case}, share of one pass ({whole / repeats:.2f} s under the profiler)")
    print(f"| convolutions | {' | '.join(PARTS.values())} |\n|---|{'---|' * len(PARTS)}")
    for kind in [*kinds, "all"]:
        cells = [
            sum(
                value
                for key, value in parts.items()
                if key == f"{part}|{kind}" or (kind == "all" and key.startswith(part))
            )
            for part in PARTS.values()
        ]
        print(f"| {kind} | " + " | ".join(f"{cell:.1%}" for cell in cells) + " |")
    print("\n| the rest | share |\n|---|---|")
    for label, value in others.items():
        print(f"| {label} | {value:.1%} |", flush=True)
    return parts | others


def peak_megabytes(case: str, way: str, threads: int) -> float:
    """Return by how much one run raises the peak memory of a fresh process."""
    command = [sys.executable, __file__, "--peak", case, way, "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def high_water_mark() -> float:
    """Return the peak memory of this process in MB (what ``getrusage`` says is the parent's, if that was larger)."""
    with open("/proc/self/status") as status:
        return next(float(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def print_peak(case: str, way: str) -> None:
    """Print the peak of this process above its start."""
    network, images = network_of(case), images_of()
    # Libraries take their workspace at the first call.
    genotype, config = space_named("nasbench201").supernet(), NetworkConfig(channels=4, cells=1)
    small = build(genotype, config, in_channels=3, ways=2, variant="scoring")
    WAYS_TO_RUN[way](small, images[:2])
    before = high_water_mark()
    WAYS_TO_RUN[way](network, images)
    print(high_water_mark() - before)


def verdict(value: float, least: float | None = None, most: float | None = None) -> str:
    """Return a ratio with its target and whether it is met."""
    if least is None and most is None:
        return f"{value:.2f}"
    met = (least is None or value >= least) and (most is None or value <= most)
    target = f"≤ {most}" if most is not None else f"≥ {least}"
    return f"{value:.2f} ({target}: {'yes' if met else 'NO'})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small networks only, under a minute")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one; repeatable")
    parser.add_argument("--no-vmap", action="store_true", help="leave out vmap(grad), which takes longest")
    parser.add_argument("--profile", action="store_true", help="where the time of the engine's pass goes")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.peak:
        print_peak(*given.peak)
        return
    cases = given.case or (QUICK if given.quick else CASES)
    if given.profile:
        shares = {case: print_profile(case, given.repeats) for case in cases}
        if given.json:
            with open(given.json, "w") as file:
                json.dump({"torch": torch.__version__, "threads": given.threads, "shares": shares}, file, indent=2)
        return
    ways = ["ordinary", "engine", "per-sample"] if given.quick or given.no_vmap else list(WAYS_TO_RUN)
    results = {}
    clock = "processor time of one thread" if given.threads == 1 else f"wall time of {given.threads} threads"
    setting = f"{clock}, {IMAGES} images of {SIZE} x {SIZE}, medians of {given.repeats}"
    print(f"torch {torch.__version__}, {setting}")
    print(
        "| network | ordinary | engine ÷ ordinary | per-sample ÷ engine | vmap ÷ engine | memory: engine ÷ ordinary |"
    )
    print("|---|---|---|---|---|---|")
    for case in cases:
        times = seconds(case, ways, given.repeats)
        median = {way: statistics.median(values) for way, values in times.items()}
        peak = {way: peak_megabytes(case, way, given.threads) for way in ("ordinary", "engine")}
        results[case] = {"seconds": times, "peak_megabytes": peak}
        memory_target = MOST_MEMORY if case == "DARTS-fewshot supernet, C = 48" else None
        cells = (
            case,
            f"{median['ordinary']:.2f} s, {peak['ordinary']:.0f} MB",
            verdict(median["engine"] / median["ordinary"], most=CASES[case][4]),
            verdict(median["per-sample"] / median["engine"], least=LEAST_OVER_PER_SAMPLE),
            verdict(median["vmap"] / median["engine"]) if "vmap" in median else "-",
            verdict(peak["engine"] / peak["ordinary"], most=memory_target),
        )
        print("| " + " | ".join(cells) + " |", flush=True)
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"torch": torch.__version__, "threads": given.threads, "cases": results}, file, indent=2)


if __name__ == "__main__":
    main()
