# ruff: noqa: E501
"""Whatever a person types: exit code 0, 1 or 2, a sentence, no traceback, and a password is nowhere to be read.

All in one process: the commands are called as the program calls them, up to where images would be made.
"""

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metantk_core import __main__, upkeep
from metantk_core.adapters import s3
from metantk_core.adapters.addresses import may_hold_secret, shown
from metantk_core.config import RunConfig, explained, load_config
from metantk_core.errors import InputError
from metantk_core.recipes import RECIPES
from metantk_core.settings_text import parse_json, parse_yaml
from metantk_core.workflow import check_limits
from metantk_core.workspace import Workspace
from pipelines import search_and_meta_train

SECRET = "hunter2"
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"


class _WorkReachedError(Exception):
    """All arguments were accepted."""


def _work(*arguments: object, **more: object) -> None:
    raise _WorkReachedError


def metantk(*arguments: str) -> tuple[int, str]:
    """Call the program as it is, up to the work; return its exit code and all that it printed."""
    said = io.StringIO()
    with (
        patch.object(sys, "argv", ["metantk", *arguments]),
        patch.object(Workspace, "prepare", _work),
        patch.object(Workspace, "dataset", _work),
        patch.object(Workspace, "ui_command", _work),
        patch.object(s3, "connect", _work),
        patch.object(upkeep, "contents", _work),
        patch.object(upkeep, "verify", _work),
        patch.object(upkeep, "prune", _work),
        patch.object(search_and_meta_train, "build", _work),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        try:
            __main__.main()
        except _WorkReachedError:
            return 0, said.getvalue()
        except SystemExit as error:
            return error.code if isinstance(error.code, int) else 0, said.getvalue()
    return 0, said.getvalue()


def assert_contract(code: int, said: str) -> None:
    assert code in (0, 1, 2), said
    assert "Traceback" not in said
    assert SECRET not in said
    if code == 2:
        sentence = said.strip()
        assert sentence
        assert ".." not in re.sub(r"'[^'\s]*'", "", sentence).replace("...", "")  # but in what was typed
        assert len(sentence) < 6000


def many(examples: int) -> list[Any]:
    """Run a property on some examples always, and on twenty times as many on demand."""
    return [examples, pytest.param(20 * examples, marks=pytest.mark.minutes)]


def check(examples: int, test: Callable[..., None]) -> None:
    hypothesis.settings(max_examples=examples, suppress_health_check=[hypothesis.HealthCheck.too_slow])(test)()


def _paths(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")


PATHS = sorted(_paths(json.loads(RECIPES["smoke"].to_json())))
# What people write, and what only programs do; no lone surrogates, which no terminal can pass on.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
odd_words = st.sampled_from(
    ["", "true", "yes", "null", "~", "010", "1:30", "0x10", "1e3", "1e999", ".inf", "-.inf", ".nan", "inf", "-1", "0", "1",
     "3.0", "[]", "{}", "[smoke]", "{a: 1}", "!!python/object:os.system x", "&a [*a]", "*a", "[" * 3000, "a: b: c", "2020-01-01",
     "1_000", "9" * 5000, "1e-400", "'", '"', "%", "|", ">", "?", "- a", "\t", "best", "prune", "evolve", "race", "enumerate",
     "darts", "benchmark", "metantk_cond_ridge1e999", "[params]", "[metantk_cond, metantk_cond]", "x" * 300, "/", "é", "a/b", "a:b"]
)  # fmt: skip
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([10**6, 10**9, 2**53, 2**63, 10**30, -1, 0, 1, 2]))
words = st.one_of(odd_words, text, numbers.map(str))
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, text, odd_words),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(text | st.sampled_from(PATHS), below, max_size=3),
    max_leaves=8,
)
overrides = st.builds("{}={}".format, st.one_of(st.sampled_from(PATHS), text), words)


@st.composite
def secret_addresses(draw: st.DrawFn) -> str:
    """An address with a password that stands where one may stand when somebody typed in a hurry."""
    secret = draw(
        st.sampled_from(
            [SECRET, f"x/{SECRET}", f"{SECRET}/x", f"a?{SECRET}", f"#{SECRET}", f"1/{SECRET}", f"@{SECRET}"]
        )
    )
    scheme = draw(
        st.sampled_from(
            ["", "http://", "https://", "HTTP://", "http:/", "http:", "//", "postgresql://", "ftp://", "s3://"]
        )
    )
    user = draw(st.sampled_from(["bob", "", "b@b", "bob%40corp"]))
    host = draw(st.sampled_from(["host", "127.0.0.1", "127.0.0.1:9", "[::1]:9", "h.example:x", ""]))
    end = draw(st.sampled_from(["", "/", "/mlflow", "/a/b", "?x=1", "#y"]))
    kind = draw(st.sampled_from(["login", "token", "query", "fragment", "parameter"]))
    return {
        "login": f"{scheme}{user}:{secret}@{host}{end}",
        "token": f"{scheme}{host}/token={SECRET}{end}",
        "query": f"{scheme}{host}{'/'.join(['', ''])}?key={SECRET}",
        "fragment": f"{scheme}{host}/#access_token={SECRET}",
        "parameter": f"{scheme}{user}:{SECRET}@{host}/?password={SECRET}",
    }[kind]  # fmt: skip


@pytest.mark.parametrize("examples", many(200))
def test_any_override_is_used_or_refused(examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @given(st.sampled_from(sorted(RECIPES)), st.lists(overrides, min_size=1, max_size=3))
    def property_holds(recipe, changes):
        try:
            config = load_config(recipe, RECIPES, changes)
        except InputError:
            return
        assert RunConfig.from_json(config.to_json()) == config
        assert RunConfig.from_values(parse_yaml(explained(config)), "it") == config
        assert config.digest

    check(examples, property_holds)


@pytest.mark.parametrize("examples", many(150))
def test_any_tree_of_values_is_a_configuration_or_is_refused(examples):
    @given(st.dictionaries(st.sampled_from(sorted(RunConfig.model_fields)) | text, plain, max_size=4))
    def property_holds(values):
        with contextlib.suppress(InputError):
            config = RunConfig.from_values(values, "the file")
            assert RunConfig.from_json(config.to_json()) == config

    check(examples, property_holds)


@pytest.mark.parametrize("examples", many(200))
def test_any_text_is_read_as_yaml_and_json_or_is_refused(examples):
    pieces = st.lists(
        st.one_of(text, odd_words, st.sampled_from(["\n", ": ", "- ", "  ", "{", "}", "[", "]", ",", "#", "'"]))
    )

    @given(pieces.map("".join))
    def property_holds(content):
        for parse in (parse_yaml, parse_json):
            with contextlib.suppress(InputError):
                json.dumps(parse(content)).encode()

    check(examples, property_holds)


@pytest.mark.parametrize("examples", many(100))
def test_what_yaml_writes_is_read_back(examples):
    @given(st.dictionaries(text, plain, max_size=4))
    def property_holds(values):
        with contextlib.suppress(InputError):  # control characters, nesting
            read = parse_json(json.dumps(values, allow_nan=True))
            # PyYAML writes YAML 1.1, where some plain words of 1.2 need no quotes: all strings get them.
            assert repr(
                parse_yaml(json.dumps(read, ensure_ascii=False).replace("NaN", ".nan").replace("Infinity", ".inf"))
            ) == repr(read)

    check(examples, property_holds)


@pytest.mark.parametrize("examples", many(60))
def test_any_file_is_used_or_refused(examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @given(
        st.one_of(st.binary(max_size=60), plain.map(lambda value: yaml.safe_dump(value).encode())),
        st.sampled_from(["yaml", "json"]),
    )
    def property_holds(data, ending):
        Path(f"mine.{ending}").write_bytes(data)
        assert_contract(*metantk("recipes", "--show", f"mine.{ending}"))

    check(examples, property_holds)


OPTIONS = {
    "recipes": ["--show", "--set", "--seed"],
    "score": ["--model", "--set", "--seed", "--workspace"],
    "rank": ["--recipe", "--batch-norm", "--set", "--seed", "--workspace"],
    "search": ["--set", "--seed", "--workspace", "--tracking-uri"],
    "train": ["--role", "--set", "--seed", "--workspace", "--tracking-uri"],
    "evaluate": ["--role", "--set", "--seed", "--workspace", "--tracking-uri"],
    "run": ["--set", "--seed", "--workspace", "--tracking-uri"],
    "ui": ["--workspace", "--port"],
    "store ls": ["--workspace", "--store"],
    "store verify": ["--workspace", "--store"],
    "store prune": ["--workspace", "--store"],
}
WITHOUT_RECIPE = ("recipes", "ui", "store ls", "store verify", "store prune")
arguments = st.one_of(
    words, st.sampled_from([*RECIPES, CELL, "--json", "--explain", "--help", "--version", "-h", "--", "nowhere.yaml"])
)


@pytest.mark.parametrize("examples", many(100))
def test_any_arguments_are_answered(examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @st.composite
    def lines(draw: st.DrawFn) -> list[str]:
        command = draw(st.sampled_from(sorted(OPTIONS)))
        options = draw(st.lists(st.tuples(st.sampled_from(OPTIONS[command]), words | overrides), max_size=3))
        line = [
            *command.split(),
            *draw(st.lists(arguments, max_size=2)),
            *(part for option in options for part in option),
        ]
        return draw(st.permutations(line)) if draw(st.booleans()) else line

    @given(lines())
    def property_holds(line):
        assert_contract(*metantk(*line))

    check(examples, property_holds)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("examples", many(100))
def test_no_command_says_a_password_wherever_it_was_typed(examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @given(st.sampled_from(sorted({*OPTIONS, "compile"})), secret_addresses(), st.data())
    def property_holds(command, address, data):
        options = {
            **OPTIONS,
            "compile": ["--tracking-uri", "--store", "--image", "--accelerator", "--cpu", "--memory", "--set"],
        }
        option = data.draw(st.sampled_from(["", "extra", "unknown", *options[command]]))
        key = data.draw(st.sampled_from(["", *(f"{path}=" for path in PATHS)])) if option == "--set" else ""
        start = [*command.split(), *(["smoke"] if command not in WITHOUT_RECIPE else [])]
        line = {
            "": [*command.split(), address],
            "extra": [*start, address, address],
            "unknown": [*start, f"--{address}"],
        }.get(option, [*start, option, key + address])
        assert_contract(*metantk(*line))
        for path in tmp_path.rglob("*"):
            assert SECRET not in path.read_text()

    check(examples, property_holds)


@pytest.mark.parametrize("command", sorted(OPTIONS))
def test_no_place_of_any_command_repeats_a_password(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address = f"bob:{SECRET}@host"
    start = [*command.split(), *(["smoke"] if command not in WITHOUT_RECIPE else [])]
    for line in (
        [*command.split(), address],
        [*command.split(), address, address],
        [*command.split(), address, "a:b"],
        [*command.split(), "a:b", address],
        [*start, address],
        [*start, f"--{address}"],
        *([*start, option, f"{key}{address}"] for option in OPTIONS[command] for key in ("", "name=", f"{address}=")),
    ):
        assert_contract(*metantk(*line))


@pytest.mark.parametrize("examples", many(300))
def test_no_address_shows_its_password(examples):
    @given(secret_addresses())
    def property_holds(address):
        assert SECRET not in shown(address)
        assert may_hold_secret(address)

    check(examples, property_holds)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "huge", "absent", "unreadable text"])
def test_what_is_no_file_of_settings_is_refused_at_once(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(2**40)
    elif kind == "unreadable text":
        path.write_bytes(b"seed: 1\nname: \xff\n")
    code, said = metantk("run", "mine.yaml")
    assert_contract(code, said)
    assert code == 2
    assert "mine.yaml" in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["score", "smoke"], ["'smoke'", "architecture first"]),
        (["score"], ["Expected an architecture", "--model"]),
        (["score", CELL, "--model", "mine:make"], ["not both"]),
        (["score", CELL, "smoke", "--model", "mine:make"], ["not both"]),
        (["score", "--model", "mine:make", "smoke"], ["mine"]),
        (["score", CELL.replace("nor_conv_1x1", "conv_7x7"), "smoke"], ["conv_7x7"]),
        *((["run", "smoke", "--set", f"registered_model={name}"], ["registered_model"]) for name in ("a/b", "a:b", "' '", "..", "x" * 300)),
        (["train", "smoke", "--role", "worst", "--set", "trained_roles=[best]"], ["(best)", "--role 'worst'"]),
        (["evaluate", "smoke", "--role", "worst", "--set", "trained_roles=[best]"], ["(best)", "--role 'worst'"]),
        (["compile", "smoke", "--accelerators", "4"], ["--accelerator"]),
        (["recipes", "--explain"], ["--show"]),
        (["run", "smoke", "--set", "name=" + "x" * 300], ["name"]),
        (["run", "smoke", "--set", "search.shards=1000000000"], ["search.shards", "256"]),
        (["run", "smoke", "--set", "scoring.tasks=1000", "--set", "scoring.episode.ways=1000"], ["10,000"]),
        *((["run", "smoke", "--set", f"{path}=true"], [path]) for path in ("search.num_candidates", "data.channels", "scoring.ridge", "seed")),
        (["run", "smoke", "--set", "data.seed=1:30"], ["data.seed", "'1:30'"]),
        (["run", "smoke", "--set", "seed=010"], ["seed", "010"]),
        (["run", "smoke", "--set", "training.inner_learning_rate=.inf"], ["inner_learning_rate"]),
    ],
)  # fmt: skip
def test_what_can_be_known_at_the_start_is_told_before_images_are_made(line, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = metantk(*line)
    assert_contract(code, said)
    assert code == 2
    for word in words:
        assert word in said
    assert not list(tmp_path.iterdir())


def test_limits_that_no_candidate_meets_are_told_with_the_least(tmp_path):
    config = load_config("smoke", RECIPES, ["search.constraints.max_params=9"])
    with pytest.raises(InputError, match=r"max_params = 9: the least is 4,737"):
        check_limits(config)
    check_limits(load_config("smoke", RECIPES, ["search.constraints.max_params=4737"]))


def test_a_key_that_stands_twice_is_named_with_its_line():
    with pytest.raises(InputError, match="line 3: the key 'seed'"):
        parse_yaml("seed: 1\nname: a\nseed: 2\n")
    with pytest.raises(InputError, match="the key 'seed' stands there twice"):
        RunConfig.from_json('{"seed": 1, "seed": 2}')
