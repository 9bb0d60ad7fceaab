"""Strategies by name: shipped, entry points, the user's own file; every mistake says what is valid."""

import importlib.metadata
import sys
from pathlib import Path

import pytest

from disttune.config.errors import InputError, UserCodeError
from disttune.strategy import Stage, make_strategy, register_strategy, strategy_names
from disttune.strategy.random import Random
from tests.simulated import SimulatedJob, simulate, small_space

MINE = """
from disttune.strategy import Stage

class Mine:
    def __init__(self, n_ops=1):
        self.n_ops = n_ops

    def stages(self, tuning):
        start = tuning.space.default_candidate()
        yield Stage("mine", [start, start.in_float(*start.ops[: self.n_ops])])
"""
SHIPPED = {"default", "exhaustive", "random", "sequential"}


def make(name: str, folder: Path = Path(), **kwargs: object):
    return make_strategy(name, kwargs, folder)


def text_of(error: pytest.ExceptionInfo[Exception]) -> str:
    return str(error.value)


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch):
    """What a test puts on sys.path is gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch):
    """Makes a package look installed: name -> module:attribute."""

    def install(**values: str) -> None:
        found = [
            importlib.metadata.EntryPoint(name, value, "disttune.strategies")
            for name, value in values.items()
        ]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)

    return install


def test_shipped_strategies_are_found_by_name():
    assert set(strategy_names()) >= SHIPPED
    assert strategy_names() == sorted(strategy_names())
    assert isinstance(make("random"), Random)


def test_an_unknown_name_gets_the_nearest_and_all():
    with pytest.raises(InputError) as caught:
        make("exhaustve")
    mistake, _, listed = text_of(caught).partition(" All: ")
    assert mistake == '[tuning] strategy: no strategy "exhaustve". Nearest: "exhaustive".'
    assert set(listed.rstrip(".").split(", ")) >= SHIPPED


def test_a_class_is_registered_by_its_decorator():
    @register_strategy("twice")
    class Twice:
        def stages(self, tuning):
            yield Stage("once", [])

    assert isinstance(make("twice"), Twice)
    assert "twice" in strategy_names()


# Keywords


def test_an_unknown_keyword_gets_the_nearest():
    with pytest.raises(InputError) as caught:
        make("sequential", config=[])
    assert text_of(caught) == (
        '[tuning] strategy_kwargs, strategy sequential: no keyword "config". '
        'Nearest: "configs". All: configs.'
    )


def test_a_missing_keyword_is_named():
    with pytest.raises(InputError, match=r"needs configs: give it in .tuning\.strategy_kwargs."):
        make("sequential")


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        (3, "strategy sequential refuses them: TypeError: 'int' object is not iterable"),
        (["static"], "an algorithm config is a table such as {algorithm = \"static\"}, not 'static'"),
        ([{"algorithm": "statik"}], 'no algorithm "statik". Nearest: "static". All: awq,'),
    ],
)
def test_a_keyword_of_the_wrong_kind_is_the_users_mistake(configs, message):
    with pytest.raises(InputError) as caught:
        make("sequential", configs=configs)
    assert message in text_of(caught)


def test_a_class_that_takes_any_keyword_is_given_all():
    @register_strategy("any")
    class Any:
        def __init__(self, **options):
            self.options = options

        def stages(self, tuning):
            yield Stage("none", [])

    assert make("any", depth=3).options == {"depth": 3}


# file.py:Class


def test_a_strategy_of_the_users_file_is_tuned_with(tmp_path: Path):
    (tmp_path / "mine.py").write_text(MINE)
    strategy = make("mine.py:Mine", tmp_path, n_ops=2)

    simulation = simulate(SimulatedJob(lambda: strategy, small_space(3), lambda c: 0.5, goal=0.9))

    assert [row[1] for row in simulation.table] == ["mine", "mine"]


def test_a_strategy_file_may_import_what_lies_beside_it(tmp_path: Path):
    (tmp_path / "steps_beside_mine.py").write_text("N_OPS = 7\n")
    (tmp_path / "mine.py").write_text(f"from steps_beside_mine import N_OPS\n{MINE.replace('=1', '=N_OPS')}")

    assert make("mine.py:Mine", tmp_path).n_ops == 7


@pytest.mark.parametrize(
    ("reference", "content", "message"),
    [
        ("mne.py:Mine", MINE, "[tuning] strategy: no file {folder}/mne.py; the form is file.py:Class"),
        ("mine.py:Mne", MINE, '{folder}/mine.py: no strategy class "Mne". Nearest: "Mine". All: Mine.'),
        (
            "mine.py:Mine",
            "class Mine: pass",
            "{folder}/mine.py: Mine is no class with a method stages(self, tuning)",
        ),
        (
            "mine.py:Mine",
            "def Mine(): pass",
            "{folder}/mine.py: Mine is no class with a method stages(self, tuning)",
        ),
        (
            "mine.py:Mine",
            "import not_there",
            "{folder}/mine.py cannot be imported: ModuleNotFoundError: No module named 'not_there'",
        ),
        ("mine.py:Mine", "raise SystemExit(3)", "{folder}/mine.py cannot be imported: SystemExit: 3"),
        ("mine.py:", MINE, '{folder}/mine.py: no strategy class "". All: Mine.'),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_cause(reference, content, message, tmp_path: Path):
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UserCodeError) as caught:
        make(reference, tmp_path)
    assert text_of(caught) == message.format(folder=tmp_path)


# Entry points


def test_an_entry_point_is_found_by_its_name(entry_points):
    entry_points(other="disttune.strategy.random:Random")

    assert isinstance(make("other"), Random)
    assert "other" in strategy_names()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nothing_of_that_name:X", "cannot be loaded: ModuleNotFoundError: No module named"),
        ("disttune.strategy.random:Rand", "cannot be loaded: AttributeError"),
        ("pathlib:Path", "it is no class with a method stages(self, tuning)"),
    ],
)
def test_an_entry_point_that_cannot_be_used_is_named(value, message, entry_points):
    entry_points(broken=value)
    with pytest.raises(UserCodeError) as caught:
        make("broken")
    assert text_of(caught).startswith(f'[tuning] strategy: entry point "broken" ({value})')
    assert message in text_of(caught)


def test_a_broken_entry_point_does_not_hinder_others(entry_points):
    entry_points(broken="nothing_of_that_name:X")

    assert isinstance(make("random"), Random)
