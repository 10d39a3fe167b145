"""A person's module: the address of a factory enters, a value that gives networks leaves.

Whatever a person's code raises, ``SystemExit`` included, becomes an ``InputError``: a sentence, then their own lines.
What it prints goes to standard error.
"""

import hashlib
import importlib
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from metantk_core.candidates import MODEL_SPACE
from metantk_core.errors import InputError, quoted
from metantk_core.networks import BATCH_NORM_TREATMENTS, BatchNormTreatment
from metantk_core.torchvision_import import torchvision_importable

# Of an import statement: no folders, no leading dots.
_ADDRESS = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*)")
_TEXT = re.compile(rf"(?P<address>{_ADDRESS.pattern})( batch_norm=(?P<treatment>{'|'.join(BATCH_NORM_TREATMENTS)}))?")
_OURS = str(Path(__file__).parents[1]) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep
_NO_FILES = ("<frozen ", "<@beartype(")  # as tracebacks name Python's importer, and checks of types around a function
_INSTALLED = (*_NO_FILES, _OURS, *(sysconfig.get_path(kind) + os.sep for kind in ("stdlib", "purelib", "platlib")))
_FRAMES = 8  # of a person's code: the last ones
_LONGEST = 300  # characters of their message


@dataclass(frozen=True)
class OwnModule:
    """What a person's factory returns, as an architecture: records show its address in the place of a genotype.

    Trained models say it in full, with what is done about batch normalisation: see ``text``.

    Attributes:
        address: ``package.module:factory``.
        batch_norm: What is done about batch normalisation in its networks; None leaves it.
        factory: Builds a network from (channels of the images, ways of an episode), at its own initialisation.
    """

    address: str
    batch_norm: BatchNormTreatment | None
    factory: Callable[[int, int], object] = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> "OwnModule":
        """Return the module that a ``text`` names; it is imported when a network is asked for.

        Raises:
            InputError: It is no such text.
        """
        parts = _TEXT.fullmatch(text)
        if parts is None:
            raise _no_address(text)
        address = parts["address"]
        treatment: BatchNormTreatment | None = parts["treatment"]  # type: ignore[assignment] - as the expression says
        return cls(address, treatment, lambda in_channels, ways: _factory(address)(in_channels, ways))

    @property
    def text(self) -> str:
        """The address, and what is done about batch normalisation, as in ``package.module:factory batch_norm=eval``."""
        return self.address if self.batch_norm is None else f"{self.address} batch_norm={self.batch_norm}"

    def file_digest(self) -> str:
        """Return the digest of the file that the address leads to; empty if it is none of Python's.

        Raises:
            InputError: It can't be imported.
        """
        _factory(self.address)
        file = getattr(sys.modules[self.address.partition(":")[0]], "__file__", None)
        if file is None or not file.endswith(".py"):
            return ""
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]

    @property
    def space(self) -> str:
        """What records say in the place of a search space."""
        return MODEL_SPACE

    def __str__(self) -> str:
        return self.address

    def network(self, in_channels: int, ways: int, device: str) -> nn.Module:
        """Return a new network on a device, whose weights its factory draws, as a rule from torch's global generator.

        Raises:
            InputError: The factory fails, or returns no module, or one that is not complete.
        """
        with own_code(f"{self} fails when it is called"):
            network = self.factory(in_channels, ways)
        if not isinstance(network, nn.Module):
            raise InputError(f"expected {self} to return a torch.nn.Module, got {type(network).__name__}")
        with own_code(f"{self} fails when it is asked for its modules or parameters"):
            _refuse_lazy(network, self.address)
        if self.batch_norm is not None:
            network = BATCH_NORM_TREATMENTS[self.batch_norm](network)
        with own_code(f"{self} fails when it is moved to {device}"):
            return network.to(device)


def own_module(address: str, *, batch_norm: BatchNormTreatment | None = None) -> OwnModule:
    """Return the person's module at an address, which is imported.

    The working directory is searched too. The factory (a function or a class) is called with (in_channels, ways) if it
    takes two arguments, otherwise with none.

    Args:
        address: ``package.module:factory``.
        batch_norm: What is done about batch normalisation.

    Raises:
        InputError: No such module, no such name in it, it is not callable, or the module's own code fails.
    """
    return OwnModule(address, batch_norm, _factory(address))


@contextmanager
def own_code(failure: str, *, ours: bool = False) -> Iterator[None]:
    """Turn whatever a person's code raises into one sentence that is followed by their lines of the traceback.

    What it prints goes to standard error.

    Args:
        failure: The start of the sentence.
        ours: Whether code of this package runs as well: an error without a line of the person's is then our own.
    """
    try:
        # Standard output is for results.
        with torchvision_importable(), redirect_stdout(sys.stderr):
            yield
    except (KeyboardInterrupt, InputError):
        raise
    except BaseException as error:
        frames = _own_frames(error)
        if (ours and not frames) or _is_signal(error):
            raise
        if isinstance(error, SystemExit):
            said = f"it ends the program (sys.exit({error.code!r}))"
        else:
            with_type = traceback.format_exception_only(error)
            said = " ".join(with_type[-1].split()) or type(error).__name__
            said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
        lines = "".join(traceback.StackSummary.from_list(frames[-_FRAMES:]).format())
        if isinstance(error, SyntaxError):
            lines += "".join(traceback.format_exception_only(error)[:-1])
        raise InputError(f"{failure}: {said}\n{lines}".rstrip()) from error


def _factory(address: str) -> Callable[[int, int], object]:
    """Return what builds a network from (channels of the images, ways of an episode)."""
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise _no_address(address)
    module_name, name = parts["module"], parts["name"]
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # the module may be younger than this process
    try:
        with own_code(f"the module {module_name} fails when it is imported"):
            try:
                module = importlib.import_module(module_name)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                    raise  # something that the module itself imports
                raise InputError(
                    f"expected an importable module in {address!r} (looked in {here} and among installed packages): "
                    f"{error}"
                ) from error
    finally:
        sys.path.remove(here)
    with own_code(f"the module {module_name} fails when it is asked for {name}"):
        # What every module has, such as __class__, is nothing that a person wrote.
        own = name in vars(module) or "__getattr__" in vars(module)
        factory = getattr(module, name, None) if own else None
    if not callable(factory):
        found = "nothing of that name" if factory is None else f"a {type(factory).__name__}"
        raise InputError(f"expected {name!r} in {module_name} to be a function or a class, got {found}")
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of something written in C
        raise InputError(
            f"expected {address} to take (in_channels, ways) or no argument, but it doesn't say what it takes; write a "
            "function that calls it"
        ) from None
    for arguments in ((1, 1), ()):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return factory if arguments else lambda in_channels, ways: factory()
    raise InputError(f"expected {address} to take (in_channels, ways) or no argument, but its signature is {signature}")


def _no_address(text: str) -> InputError:
    return InputError(
        f"expected a model as package.module:factory, got {quoted(text)}; write the module's name without folders and "
        ".py, as in an import, and name a function or class of it"
    )


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the lines of a traceback from the first one that is a person's, without ours and torch's."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = (number for number, frame in enumerate(frames) if not frame.filename.startswith(_INSTALLED))
    # A person's package may be installed like any other: then it is what we have called.
    called = max((number + 1 for number, frame in enumerate(frames) if frame.filename.startswith(_OURS)), default=0)
    kept = frames[next(theirs, called) :]
    return [frame for frame in kept if not frame.filename.startswith((*_NO_FILES, _OURS, _TORCH, importlib.__file__))]


def _is_signal(error: BaseException) -> bool:
    """Return whether a handler of ours ended the program, wherever a person's code was: that is no error of theirs."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, SystemExit) and bool(frames) and frames[-1].filename.startswith(_OURS)


def _refuse_lazy(network: nn.Module, address: str) -> None:
    lazy = [name for name, parameter in network.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise InputError(
            f"{address} has parameters whose size is not known yet ({', '.join(lazy[:3])}); give them sizes, or let "
            "the factory pass an image through the network"
        )
