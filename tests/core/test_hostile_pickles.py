"""Pickles as a border: whatever a file asks for, nothing is run or imported, and memory stays within its bound.

The programs here are the published ways around scanners and lists of allowed names, and inputs that crash or fill the
memory of an unpickler with such a list. That they are armed is tested, too: with pickle itself, in another process.
"""

import ast
import pickle
import pickletools
import struct
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pickle_programs import (
    ARRAY,
    ENCODE,
    FROM_BUFFER,
    INSTRUCTIONS,
    PLAIN_STATE,
    PROGRAMS,
    RECONSTRUCT,
    SCALAR,
    TYPE,
    Original,
    State,
    array,
    call,
    dtype,
    mutated,
    name,
    original,
    program,
)

from metantk_core.datasets import pickles
from metantk_core.datasets.pickles import machine, unpickled
from metantk_core.errors import InputError

HASTE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}


def refusal(data: bytes) -> str:
    """Return the sentence that refuses a pickle."""
    with pytest.raises(InputError) as error:
        unpickled(data, "/data/train.pickle")
    return checked(str(error.value))


def checked(sentence: str) -> str:
    assert sentence.startswith("'/data/train.pickle' ")
    assert sentence.isprintable()
    assert 30 < len(sentence) < 700
    assert sentence.endswith(".")
    return sentence


# Programs


def ways_to_run(canary: Path) -> dict[str, bytes]:
    """Return programs by their names, each of which makes a file when Python's own pickle loads it."""
    touch = f"touch '{canary}'"
    python = f"open({str(canary)!r}, 'w').close()"
    code = _marshalled(python)
    resolved = call(name("pkgutil", "resolve_name"), "os:system")
    os_module = call(name("importlib", "import_module"), "os")
    popen = name("subprocess", "Popen")
    delayed = program((name("os", "system"), touch))
    return {
        "os.system": program(call(name("os", "system"), touch)),
        "posix.system": program(call(name("posix", "system"), touch)),
        "nt.system, which is another name for it on Windows": program(call(name("nt", "system"), touch)),
        "subprocess.Popen": program(call(popen, (["touch", str(canary)]))),
        "subprocess.check_output": program(call(name("subprocess", "check_output"), ["touch", str(canary)])),
        "builtins.eval": program(call(name("builtins", "eval"), python)),
        "builtins.exec": program(call(name("builtins", "exec"), python)),
        "Python 2's __builtin__.eval": program(call(name("__builtin__", "eval"), python)),
        "builtins.getattr": program(call(call(name("builtins", "getattr"), os_module, "system"), touch)),
        "pkgutil.resolve_name": program(call(resolved, touch)),
        "importlib.import_module and operator.attrgetter": program(
            call(call(call(name("operator", "attrgetter"), "system"), os_module), touch)
        ),
        "operator.methodcaller": program(call(call(name("operator", "methodcaller"), "system", touch), os_module)),
        "functools.partial": program(call(call(name("functools", "partial"), name("os", "system"), touch))),
        "asyncio.unix_events._UnixSubprocessTransport": program(
            call(
                name("asyncio.unix_events", "_UnixSubprocessTransport._start"),
                call(name("types", "SimpleNamespace")),
                ["touch", str(canary)],
                False,
                None,
                None,
                None,
                0,
            )
        ),
        "pip.main": program(call(name("pip", "main"), ["download", f"git+file://{canary}"])),
        "uuid": program(call(name("uuid", "_get_command_stdout"), "touch", str(canary))),
        "imaplib": program(call(name("imaplib", "IMAP4_stream"), touch)),
        "_pyrepl.pager": program(call(name("_pyrepl.pager", "pipe_pager"), "", touch)),
        "_osx_support": program(call(name("_osx_support", "_read_output"), touch)),
        "_aix_support": program(call(name("_aix_support", "_read_cmd_output"), touch)),
        "_interpreters.run_string": program(call(name("_interpreters", "run_string"), 0, python)),
        "_interpreters.run_string by BUILD": program(State(name("_interpreters", "run_string"), {"shared": python})),
        "marshal and types": program(
            call(call(name("types", "FunctionType"), call(name("marshal", "loads"), code), {}))
        ),
        "pty.spawn": program(call(name("pty", "spawn"), ["touch", str(canary)])),
        "a pickle in a pickle": program(
            call(name("pickle", "loads"), call(ENCODE, program(call(name("os", "system"), touch)).decode(), "latin1"))
        ),
        "numpy.f2py.crackfortran.getlincoef": program(
            call(name("numpy.f2py.crackfortran", "getlincoef"), f"__import__('os').system({touch!r})", {})
        ),
        "numpy.testing._private.utils.runstring": program(
            call(name("numpy.testing._private.utils", "runstring"), python, {})
        ),
        "numpy.distutils.exec_command": program(call(name("numpy.distutils.exec_command", "exec_command"), touch)),
        "numpy.__builtins__ through poly1d": program(
            call(call(name("numpy", "poly1d.__init__.__globals__.get"), "__builtins__"), python)
        ),
        "numpy.load of objects": program(call(name("numpy", "load"), str(canary), None, True)),
        "a name as STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93" + pickle.dumps((touch,), 2)[2:-1] + b"R.",
        "a name with dots": b"\x80\x04\x8c\x06shutil\x8c\x09os.system\x93" + pickle.dumps((touch,), 2)[2:-1] + b"R.",
        "INST": b"(" + pickle.dumps(touch, 2)[2:-1] + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + pickle.dumps(touch, 2)[2:-1] + b"o.",
        "NEWOBJ": b"cfunctools\npartial\n" + delayed[:-1] + b"\x81)R.",
        "NEWOBJ_EX": b"cfunctools\npartial\n" + delayed[:-1] + b"}\x92)R.",
    }


def _marshalled(source: str) -> bytes:
    """Return compiled code as it stands in a pickle for Python 3."""
    import marshal

    return marshal.dumps(compile(source, "x", "exec"))


NAMES = sorted(ways_to_run(Path("x")))
# Those that this Python, or a machine without Windows, pip's index or a terminal, doesn't have; others do.
UNARMED = {
    "nt.system, which is another name for it on Windows",
    "asyncio.unix_events._UnixSubprocessTransport",
    "pip.main",
    "_pyrepl.pager",
    "_aix_support",
    "_interpreters.run_string",
    "_interpreters.run_string by BUILD",
    "numpy.distutils.exec_command",
    "numpy.__builtins__ through poly1d",
    "numpy.load of objects",
}


@pytest.mark.parametrize("way", NAMES)
def test_no_published_way_to_run_code_runs_any(way, tmp_path):
    canary = tmp_path / "canary"
    data = ways_to_run(canary)[way]
    modules = set(sys.modules)
    sentence = refusal(data)
    assert not canary.exists()
    assert set(sys.modules) == modules
    assert "nothing in it is run" in sentence
    for wrapped in (b"\x80\x02](" + data[:-1] + b"e.", b"\x80\x04}\x8c\x04data" + data[:-1] + b"s."):
        refusal(wrapped)
    assert not canary.exists()


def test_the_programs_are_armed(tmp_path):
    for number, way in enumerate(NAMES):
        (tmp_path / f"{number}.pickle").write_bytes(ways_to_run(tmp_path / f"{number}.ran")[way])
    loading = (
        "import pickle, pathlib, sys\n"
        f"for file in pathlib.Path({str(tmp_path)!r}).glob('*.pickle'):\n"
        "    try: pickle.loads(file.read_bytes(), encoding='bytes')\n"
        "    except BaseException: pass\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", loading], capture_output=True, timeout=60, check=False)
    ran = {way for number, way in enumerate(NAMES) if (tmp_path / f"{number}.ran").exists()}
    assert set(NAMES) - ran <= UNARMED, set(NAMES) - ran - UNARMED


def test_a_name_is_refused_when_it_is_read_wherever_it_stands():
    assert "asks for os.system at byte 2" in refusal(b"\x80\x02cos\nsystem\n.")
    assert "asks for antigravity.x" in refusal(b"\x80\x02}cantigravity\nx\nNs.")
    assert "asks for numpy.core.multiarray.scalar.__init__" in refusal(b"cnumpy.core.multiarray\nscalar.__init__\n.")
    assert "antigravity" not in sys.modules


# What crashes an unpickler that has exactly the right list of names, or fills its memory


OBJECTS = dtype("O8", (3, "|", None, None, None, -1, -1, 0))
CRASHES = {
    "objects whose type says that they are none": (array((1,), b"A" * 8, OBJECTS), "NumPy's type 'O8'"),
    "a plain type turned into one of objects": (dtype("u1", (3, "|", None, None, None, -1, -1, 63)), "'u1' to a state"),
    "a structured type": (dtype("u1", (3, "|", None, ("a",), {"a": (TYPE, 0)}, 8, 1, 16)), "'u1' to a state"),
    "a subarray": (dtype("u1", (3, "|", (TYPE, (9,)), None, None, -1, -1, 0)), "'u1' to a state"),
    "another size of its elements": (dtype("u1", (3, "|", None, None, None, 1 << 30, -1, 0)), "'u1' to a state"),
    "metadata of a type": (dtype("u1", (4, "|", None, None, None, -1, -1, 0, {})), "'u1' to a state"),
    "a byte order that its size can't have": (dtype("i8", PLAIN_STATE), "'i8' to a state"),
    "the slots of a function": (
        State(RECONSTRUCT, (None, {"__defaults__": (1,)})),
        "sets the state of numpy's _reconstruct",
    ),
    "the attributes of a class": (State(ARRAY, {"x": 1}), "sets the state of numpy.ndarray"),
    "the attributes of a list": (State([1], {"x": 1}), "sets the state of something that is no array (list)"),
    "an array of 2 GB out of nothing": (call(RECONSTRUCT, ARRAY, (1 << 31,), b"b"), "calls numpy's _reconstruct"),
    "an array of 1 TB out of one byte": (array((1 << 40,), b"a"), "claims 1,099,511,627,776 bytes"),
    "the same by strides": (call(ARRAY, (1 << 40,), dtype(), b"a", 0, (0,)), "calls numpy.ndarray"),
    "axes whose product overflows": (array((1 << 33, 1 << 33), b""), "claims 73,786,976,294,838,206,464 bytes"),
    "axes that are too long for NumPy": (array((1 << 40, 1 << 40, 0), b""), "impossible lengths"),
    "an axis of negative length": (array((-1,), b"a"), "impossible lengths"),
    "an axis that is true": (array((True,), b"a"), "impossible lengths"),
    "65 axes": (array((1,) * 65, b"a"), "without a shape"),
    "elements that are a number": (array((8,), 8), "elements are no bytes"),
    "elements that are text": (array((3,), "abc"), "elements are no bytes"),
    "elements that are an array": (array((3,), array()), "elements are no bytes"),
    "a subclass of arrays": (call(RECONSTRUCT, TYPE, (0,), b"b"), "calls numpy's _reconstruct"),
    "an array of another kind at first": (call(RECONSTRUCT, ARRAY, (0,), b"O"), "calls numpy's _reconstruct"),
    "an array built twice": (State(array(), (1, (3,), dtype(), False, b"abc")), "that has one already"),
    "a type built twice": (State(dtype(), PLAIN_STATE), "that has one already"),
    "a type that is unfinished": (array((3,), b"abc", call(TYPE, "u1", False, True)), "whose type is unfinished"),
    "an alignment that is asked for": (call(TYPE, "u1", True, True), "calls numpy.dtype"),
    "a type from a list": (call(TYPE, [("a", "u1")], False, True), "no name (list)"),
    "a type from a long name": (call(TYPE, "u1," * 200, False, True), "NumPy's type 'u1,u1"),
    "a codec other than latin1": (call(ENCODE, "text", "rot13"), "calls _codecs.encode"),
    "a codec with a handler": (call(ENCODE, "text", "latin1", "ignore"), "calls _codecs.encode"),
    "bytes of a length": (call(name("__builtin__", "bytes"), 1 << 40), "calls bytes"),
    "bytes by Python 3's name": (call(name("builtins", "bytes"), 1 << 40), "asks for builtins.bytes"),
    "a scalar of objects": (call(SCALAR, OBJECTS, b"A" * 8), "NumPy's type 'O8'"),
    "a scalar larger than its type": (call(SCALAR, dtype(), b"ab"), "claims 1 bytes"),
    "a buffer in an unknown order": (call(FROM_BUFFER, b"ab", dtype(), (2,), "A"), "unknown order"),
    "a buffer with axes that it doesn't have": (call(FROM_BUFFER, b"ab", dtype(), (2,), "K", (7,)), "orders the axes"),
    "a buffer with axes twice": (call(FROM_BUFFER, b"ab", dtype(), (2, 1), "K", (0, 0)), "orders the axes"),
    "an array as a key": ({array(): 1}, "neither text nor a whole number (ArrayToken)"),
    "a tuple as a key": ({(1,): 1}, "neither text nor a whole number (tuple)"),
    "a call of an array": (call(array(), 1), "calls something that is no function (ArrayToken)"),
    "a call of text": (call("os.system", 1), "calls something that is no function (str)"),
    "a type as content": ([dtype()], "holds a type of NumPy's ('u1')"),
    "a function as content": ([RECONSTRUCT], "holds numpy's _reconstruct itself"),
    "an array that was never given its elements": ([call(RECONSTRUCT, ARRAY, (0,), b"b")], "without its elements"),
}  # fmt: skip


@pytest.mark.parametrize("crash", CRASHES)
def test_what_crashes_other_unpicklers_is_refused(crash):
    content, words = CRASHES[crash]
    found = refusal(program(content))
    assert words in found


def test_a_memo_far_beyond_the_file_is_refused():
    assert "keeps a value at position 268,435,455" in refusal(b"Nr\xff\xff\xff\x0f.")


def test_a_million_nested_tuples_are_refused_in_each_place():
    # In a process apart: what other unpicklers do with them is a crash.
    reading = """
from metantk_core.datasets.pickles import machine, unpickled
machine.ALLOWANCE = 10**9
nested = b")" + b"\\x85" * 10**6
name = b"cnumpy.core.multiarray\\n_reconstruct\\n"
less = nested[: 10**5]
for data in (b"}(" + nested + b"Nu.", less + b".", name + less + b"R.", name + less + b"b.", b"(" + less):
    try:
        unpickled(data, "x")
    except ValueError as error:
        print(error)
"""
    found = subprocess.run([sys.executable, "-c", reading], capture_output=True, text=True, timeout=60, check=True)
    key, value, argument, state, cut = found.stdout.splitlines()
    assert "neither text nor a whole number (tuple)" in key
    assert "more than 32 lists, tuples or dictionaries in one another" in value
    assert "calls numpy's _reconstruct in a way" in argument
    assert "sets the state of numpy's _reconstruct" in state
    assert "ends after" in cut


def test_nesting_is_counted_through_values_that_are_shared():
    def chain(length: int) -> bytes:
        """Return a list of lists, each but the first holding the one before, so that the last is the deepest."""
        first = b"](]q\0"
        return first + b"".join(b"](h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(length - 1)) + b"e."

    found = unpickled(chain(31), "x")
    assert isinstance(found, list)
    assert len(found) == 31
    assert "more than 32 lists, tuples or dictionaries in one another" in refusal(chain(32))


def test_lists_that_lie_in_themselves_are_refused():
    assert "lies in itself" in refusal(b"]q\0h\0a.")
    assert "lies in itself" in refusal(b"}q\0U\1ah\0s.")
    assert "lies in itself" in refusal(b"]q\0h\0\x85a.")


def test_few_bytes_that_unfold_into_many_values_are_refused():
    laughs = (
        b"]("
        + b"N" * 16
        + b"eq\0"
        + b"".join(b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 15 + b"eq" + bytes([i + 1]) for i in range(7))
    )
    assert "more than 16,777,216 values" in refusal(b"(" + laughs + b"t.")


# Memory


AMPLIFIERS = {
    "lists": b"(" + b"]" * 10_000 + b"t.",
    "dictionaries": b"(" + b"}" * 10_000 + b"t.",
    "tuples": b"(" + b")\x85" * 10_000 + b"t.",
    "marks": b"(" * 60_000,
    "a memo": b"N" + b"\x94" * 20_000 + b".",
    "numbers": b"](" + b"M\xff\xff" * 20_000 + b"e.",
    "fractions": b"](" + (b"G" + bytes(8)) * 20_000 + b"e.",
    "keys": b"}(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(20_000)) + b"u.",
    "texts": b"](" + b"X\4\0\0\0\xf0\x9f\x98\x80" * 10_000 + b"e.",
    "bytes": b"](" + b"C\1a" * 20_000 + b"e.",
    "views": b"](" + (b"B\0\1\0\0" + bytes(256)) * 10_000 + b"e.",
    "long texts": b"](" + (b"X\1\4\0\0" + bytes(1025)) * 10_000 + b"e.",
    "a value many times": b"](" + b"N" + b"h\0" * 0 + b"N" * 100_000 + b"e.",
    "types": b"](" + (b"cnumpy\ndtype\n" + program(("u1", False, True))[:-1] + b"R") * 3_000 + b"e.",
    "arrays": b"](" + program(array())[:-1] * 3_000 + b"e.",
    "scalars": program(dtype())[:-1] + b"q\0](" + (b"cnumpy.core.multiarray\nscalar\n(h\0C\1atR") * 3_000 + b"e\x86.",
    "truths of one byte string": (
        program(dtype("b1"))[:-1] + b"q\0B" + struct.pack("<I", 10**5) + bytes(10**5) + b"q\1]("
        + (b"cnumpy.core.numeric\n_frombuffer\n(h\1h\0J" + struct.pack("<i", 10**5) + b"\x85C\1CtR") * 300 + b"e\x87."
    ),
    "bytes of one text": (
        b"X" + struct.pack("<I", 10**5) + b"a" * 10**5 + b"q\0]("
        + b"c_codecs\nencode\n(h\0X\6\0\0\0latin1tR" * 300 + b"e\x86."
    ),
}  # fmt: skip


@pytest.mark.parametrize("amplifier", AMPLIFIERS)
def test_memory_stays_within_the_size_of_the_file_and_the_allowance(amplifier, monkeypatch):
    data = AMPLIFIERS[amplifier]
    monkeypatch.setattr(machine, "ALLOWANCE", 3_500_000)
    tracemalloc.start()
    try:
        unpickled(data, "/data/train.pickle")
    except InputError as error:
        checked(str(error))
        del error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < len(data) + 3_500_000


@pytest.mark.parametrize("amplifier", ["dictionaries", "tuples", "truths of one byte string", "bytes of one text"])
def test_what_takes_more_is_refused(amplifier, monkeypatch):
    monkeypatch.setattr(machine, "ALLOWANCE", 3_000_000)
    assert "takes more memory than its own " in refusal(AMPLIFIERS[amplifier])


# Instructions


def test_every_instruction_of_pickle_is_carried_out_or_refused_by_name():
    known = {ord(code.code) for code in pickletools.opcodes}
    carried_out, refused = set(machine._OPERATIONS), set(machine._REFUSED)
    assert carried_out.isdisjoint(refused)
    assert carried_out | refused | {machine._STOP} == known
    for code in pickletools.opcodes:
        if ord(code.code) in refused:
            assert machine._REFUSED[ord(code.code)][0] == code.name
            assert f"({code.name}) at byte 0: " in refusal(code.code.encode("latin-1") + b"\0" * 8)


def test_the_reader_neither_imports_by_name_nor_knows_pickle():
    assert pickles.__file__
    for file in Path(pickles.__file__).parent.glob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                )
                assert not {"pickle", "_pickle", "marshal", "importlib", "pkgutil", "pickletools"} & set(names), file
            if isinstance(node, ast.Name):
                assert node.id not in {"eval", "exec", "compile", "getattr", "setattr", "__import__", "globals"}, file


DAMAGED = {
    b"": "is empty",
    b"\x80": "ends after 1 bytes",
    b"\x80\x02": "ends after 2 bytes",
    b"\x80\x06N.": "is of protocol 6",
    b"\x80\x02N": "ends after 3 bytes",
    b".": "uses a value that it has not given at byte 0",
    b"N(.": "uses a value that it has not given",
    b"NN.": "ends in the middle of a list",
    b"N(N.": "ends in the middle of a list",
    b"N.N.": "goes on for 2 bytes after its end",
    b"a": "uses a value that it has not given",
    b"NNa.": "puts a value into what is no list (NoneType)",
    b"]NNs.": "puts a value into what is no dictionary (list)",
    b"](Ne(Nu.": "has a key without a value|no dictionary",
    b"}(Nu.": "has a key without a value",
    b"}(NNu.": "neither text nor a whole number (NoneType)",
    b"}(\x88Nu.": "neither text nor a whole number (bool)",
    b"}(K\1NK\1Nu.": "has the key 1 twice",
    b"}(C\1aNC\1aNu.": "has the key b'a' twice",
    b"e": "ends a list that it has not begun",
    b"(\x85.": "uses a value that it has not given",
    b"h\0.": "comes back to a value that it has not kept (0)",
    b"j\0\0\1\0.": "comes back to a value that it has not kept (65,536)",
    b"T\xff\xff\xff\xff.": "holds a text of -1 bytes",
    b"T\xff\xff\xff\x7fab": "ends after 7 bytes",
    b"\x8e" + b"\xff" * 8 + b"ab": "ends after 11 bytes",
    b"X\1\0\0\0\xff.": "holds text that is not UTF-8",
    b"X\3\0\0\0\xed\xa0\x80.": "holds text that is not UTF-8",
    b"\x8a\x09" + bytes(9) + b".": "more than 64 bits",
    b"I99999999999999999999\n.": "more than 64 bits",
    b"I0x1\n.": "is no number",
    b"I1_0\n.": "is no number",
    b"L1\n.": "is no number",
    b"L9999999999999999999L\n.": "more than 64 bits",
    b"I" + b"1" * 300: "a line of more than 256 bytes",
    b"cnumpy\nndarray": "a line of more than 256 bytes",
    b"\x95\xff\xff\0\0\0\0\0\0N.": "announces 65,535 more bytes and has 2",
    b"\xffN.": "holds 0xff where an instruction of a pickle is expected",
    b"(dp0\n.": "the text form of pickles, protocol 0 (DICT)",
    b"X" + struct.pack("<I", 2000) + b"a" * 2000 + b".": "holds a text of 2,000 bytes",
    b"c_codecs\nencode\n(X\3\0\0\0\xe2\x82\xacX\6\0\0\0latin1tR.": "characters above 255",
    b"c_codecs\nencode\n(X\0\5\0\0" + b"\xe2\x82\xac" * 426 + b"aaX\6\0\0\0latin1tR.": "characters above 255",
    b"c_codecs\nencode\n(X\0\5\0\0" + b"a" * 1279 + b"\xc3X\6\0\0\0latin1tR.": "not UTF-8",
    b"\x88\x88\x93.": "asks for something by what is no name",
    b"PK\x03\x04...": "is a zip archive",
    b"\x1f\x8b\x08": "is compressed by gzip",
    b"<!DOCTYPE html>": "is a page of the web",
    b"\x93NUMPY\x01\x00": "is a single array",
    b"version https://git-lfs.github.com/spec/v1": "is a pointer of Git LFS",
}


@pytest.mark.parametrize("data", DAMAGED, ids=lambda data: repr(data[:24]))
def test_what_is_damaged_or_something_else_gets_a_sentence_of_its_own(data):
    found = refusal(data)
    assert any(words in found for words in DAMAGED[data].split("|")), found
    assert "damaged" in found or "expected" in found or "only arrays" in found or "again" in found or ":" in found


# What is not hostile


NUMBERS = st.sampled_from(["b1", "u1", "i1", "<i2", ">i4", "<i4", "<i8", ">i8", "<f4", ">f8", "<f8"])


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 100, shape)
    values = values.astype(draw(NUMBERS))  # a number, if there are no axes, stays an array
    layout = draw(st.sampled_from(["C", "F", "turned", "strided"]))
    if layout == "turned" and values.ndim > 2:
        return np.moveaxis(values, 0, 1)
    return (
        values[..., ::2]
        if layout == "strided" and values.ndim
        else np.asarray(values, order="F" if layout == "F" else "C")
    )


INTEGERS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.just("é" * 300)
CONTENT = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats() | TEXTS | st.binary(max_size=300) | arrays()
    | st.builds(lambda kind, value: np.dtype(kind).type(value), NUMBERS, st.integers(0, 1)),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(TEXTS | st.binary(max_size=9) | INTEGERS, inner, max_size=5)
        | inner.map(lambda value: [value, value])
    ),
    max_leaves=12,
)  # fmt: skip


def assert_same(found: object, meant: object) -> None:
    """Compare what was read with what was written: types, byte orders and NaN included."""
    match meant:
        case dict():
            assert type(found) is dict
            assert list(found) == list(meant)
            assert list(map(type, found)) == list(map(type, meant))
            for key in meant:
                assert_same(found[key], meant[key])
        case list() | tuple():
            assert type(found) is type(meant)
            assert len(found) == len(meant)
            for one, other in zip(found, meant, strict=True):
                assert_same(one, other)
        case np.ndarray():
            assert type(found) is np.ndarray
            # Pickle swaps bytes of a foreign order where it copies; a view of the file has the file's order.
            plain = meant.dtype.newbyteorder("=")
            assert (found.dtype.newbyteorder("="), found.shape) == (plain, meant.shape)
            assert found.astype(plain).tobytes() == meant.astype(plain).tobytes()
            assert not found.flags.writeable
        case bytes() if len(meant) > 255:
            assert type(found) is memoryview
            assert bytes(found) == meant
        case _:
            assert type(found) is type(meant)
            assert found == meant or (found != found and meant != meant)


@settings(max_examples=150, **HASTE)
@given(content=CONTENT, protocol=st.integers(1, 5))
def test_what_pickle_writes_is_read_as_pickle_reads_it(content, protocol):
    data = pickle.dumps(content, protocol)
    assert_same(unpickled(data, "x"), pickle.loads(data))


@settings(max_examples=30, **HASTE)
@given(content=arrays())
def test_what_numpy_dumps_is_read(content):
    assert_same(unpickled(content.dumps(), "x"), content)


def test_names_of_numpy_1_and_2_and_of_both_pythons_are_the_same():
    new = pickle.dumps([np.arange(6)[::2], np.int64(3)], 2)
    old = new.replace(b"numpy._core.", b"numpy.core.")
    assert old != new
    assert_same(unpickled(old, "x"), unpickled(new, "x"))
    buffers = pickle.dumps(np.arange(6), 5)
    older = buffers.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
    frame = struct.pack("<Q", len(older) - 11)
    assert_same(unpickled(older[:3] + frame + older[11:], "x"), np.arange(6))


def test_truth_values_are_0_and_1_whatever_the_file_says():
    found = unpickled(program(array((3,), b"\0\1\7", dtype("b1"))), "x")
    assert isinstance(found, np.ndarray)
    assert found.view(np.uint8).tolist() == [0, 1, 1]


# Anything


PYTHON_3 = [
    pickle.dumps(content, protocol)
    for protocol in range(1, 6)
    for content in (
        {"data": np.arange(48, dtype=np.uint8).reshape(2, 4, 2, 3), b"more": ("é" * 600, b"x" * 300, 2.5, True)},
        [np.int64(3), np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)), np.ones(5, bool), {"a": None, 7: []}],
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def originals(few_shot_archives: Path) -> list[Original]:
    """Return the smaller archives as Python 2 wrote them, and others of Python 3's."""
    written = [file.read_bytes() for file in sorted(few_shot_archives.rglob("*.pkl")) if file.stat().st_size < 20_000]
    assert len(written) == 10
    return [original(data) for data in written + PYTHON_3]


def check_anything(data: bytes) -> None:
    modules = set(sys.modules)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            unpickled(data, "/data/train.pickle")
        except InputError as error:
            checked(str(error))
            event("refused")
        else:
            event("read")
    assert set(sys.modules) == modules


@settings(max_examples=150, **HASTE)
@given(data=st.data())
def test_any_change_of_an_archive(originals, data):
    check_anything(data.draw(mutated(originals)))


@settings(max_examples=150, **HASTE)
@given(data=PROGRAMS | INSTRUCTIONS | st.binary(max_size=200))
def test_any_program(data):
    check_anything(data)


@pytest.mark.minutes
@settings(max_examples=4_000, **HASTE)
@given(data=st.data())
def test_any_change_of_an_archive_thoroughly(originals, data):
    check_anything(data.draw(mutated(originals)))


@pytest.mark.minutes
@settings(max_examples=4_000, **HASTE)
@given(data=PROGRAMS | INSTRUCTIONS | st.binary(max_size=200))
def test_any_program_thoroughly(data):
    check_anything(data)
