"""Packing of functions: their digest counts what decides a metric; readers are read as needed."""

import functools
import linecache
import textwrap
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np
import pytest

from disttune.api.function_digest import functions_digest
from disttune.api.functions import drain, pack

numbers = count()


def written(source: str, **names: Any) -> dict[str, Any]:
    """The names that a piece of user code defines, with its source at hand as that of a file."""
    file = f"<user code {next(numbers)}>"
    source = textwrap.dedent(source)
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    module: dict[str, Any] = {"__name__": "__main__", **names}
    exec(compile(source, file, "exec"), module)
    return module


def digest(source: str, **names: Any) -> str:
    return functions_digest(written(source, **names)["evaluate"])


PLAIN = """
def evaluate(model):
    return 1.0 + model.n
"""


# What does not count


@pytest.mark.parametrize(
    "other",
    [
        "def evaluate(model):\n    # why it is so\n    return 1.0 + model.n",
        "def evaluate(model):\n\n        return (1.0 +\n                model.n)",
        "x = 3\ndef unused(): return x\ndef evaluate(model):\n    return 1.0 + model.n",
    ],
    ids=["comment", "layout", "what it does not use"],
)
def test_comments_layout_and_what_is_not_used_do_not_count(other):
    assert digest(other) == digest(PLAIN)


COUNTING = """
import time
START = {start}
n_calls = {n}
SCALE = {scale}
def evaluate(model):
    global n_calls
    n_calls += 1
    print(time.time() - START)
    return SCALE * model.n
"""


def test_counters_and_times_of_a_script_do_not_count_but_its_settings_do():
    first = digest(COUNTING.format(start="time.time()", n=0, scale=2.0))

    assert digest(COUNTING.format(start="time.time()", n=7, scale=2.0)) == first
    assert digest(COUNTING.format(start="time.time()", n=0, scale=3.0)) != first
    assert digest(COUNTING.format(start="17.0", n=0, scale=2.0)) != first


def test_indented_functions_are_compared_by_syntax_too():
    inside = """
        def make():
            def evaluate(model):
                return model.n{comment}
            return evaluate
        evaluate = make()
    """

    assert digest(inside.format(comment="")) == digest(inside.format(comment="  # all of it"))


def test_the_lines_around_a_lambda_do_not_count():
    one = "first = dict(max_trials=10, eval_fn=lambda model: model.n)\nevaluate = first['eval_fn']"

    assert digest(one) == digest(one.replace("10", "20"))


def test_objects_of_installed_packages_do_not_count():
    source = "def evaluate(model):\n    return session.run(model)"

    assert digest(source, session=object()) == digest(source, session=Path("x"))


# What counts


@pytest.mark.parametrize(
    ("source", "old", "new"),
    [
        (PLAIN, "1.0", "2.0"),
        ("evaluate = lambda model: 1.0 + model.n", "1.0", "2.0"),
        ("evaluate = lambda model: model.n", "model.n", "model.m"),
        ("def inner(model):\n    return 1.0\ndef evaluate(model):\n    return inner(model)", "1.0", "2.0"),
        ("def inner(m): return 1.0\ndef evaluate(model): return [inner(m) for m in model]", "1.0", "2.0"),
        ("class Part:\n    n = 1.0\ndef evaluate(model):\n    return Part.n", "1.0", "2.0"),
        ("SCALE = 1.0\ndef evaluate(model):\n    return SCALE", "1.0", "2.0"),
        ("NAMES = {'a': [1.0, (2, 'x')]}\ndef evaluate(model):\n    return NAMES", "'x'", "'y'"),
        ("NAMES = {'a': 1}\ndef evaluate(model):\n    return NAMES", "'a'", "'b'"),
        ("def evaluate(model, scale=1.0):\n    return scale", "1.0", "2.0"),
        ("def evaluate(model, *, scale=1.0):\n    return scale", "1.0", "2.0"),
        ("def make(scale):\n    return lambda model: scale\nevaluate = make(1.0)", "1.0", "2.0"),
        (
            "class Measure:\n    def __init__(self, n):\n        self.n = n\n    def __call__(self, model):\n"
            "        return self.n\nevaluate = Measure(1.0)",
            "1.0",
            "2.0",
        ),
        (
            "class Measure:\n    def __init__(self, n):\n        self.n = n\n    def run(self, model):\n"
            "        return self.n\nevaluate = Measure(1.0).run",
            "1.0",
            "2.0",
        ),
        (
            "class Options:\n    n = 1.0\n    def __init__(self):\n        self.m = 2\n"
            "options = Options()\ndef evaluate(model):\n    return options.m",
            "self.m = 2",
            "self.m = 3",
        ),
        (
            "import functools\ndef scaled(scale, model):\n    return scale\n"
            "evaluate = functools.partial(scaled, 1.0)",
            "1.0",
            "2.0",
        ),
        (
            "import functools\ndef twice(f):\n    @functools.wraps(f)\n    def wrapper(model):\n"
            "        return 2.0 * f(model)\n    return wrapper\n@twice\ndef evaluate(m):\n    return m.n",
            "2.0",
            "3.0",
        ),
    ],
)  # fmt: skip
def test_code_and_plain_values_that_decide_the_metric_count(source, old, new):
    assert digest(source) == digest(source)
    assert digest(source) != digest(source.replace(old, new))


def test_data_in_arrays_counts_by_type_shape_and_bytes():
    source = "def evaluate(model):\n    return data"
    arrays = [
        np.arange(6.0), np.arange(6.0).reshape(2, 3), np.arange(6.0, dtype=np.float32), np.arange(1.0, 7.0)
    ]  # fmt: skip

    assert len({digest(source, data=a) for a in arrays}) == 4
    assert digest(source, data=arrays[0]) == digest(source, data=arrays[0].copy())


def test_weights_and_names_of_several_functions_count():
    evaluate = written(PLAIN)["evaluate"]

    digests = [
        functions_digest(value)
        for value in (
            evaluate,
            {"eval_fn": evaluate},
            [{"eval_fn": evaluate, "weight": 0.5}],
            [{"eval_fn": evaluate, "weight": 0.6}],
            [{"eval_fn": evaluate, "weight": 0.5}, evaluate],
        )
    ]

    assert len(set(digests)) == len(digests)


def test_what_a_function_collects_in_this_process_does_not_count():
    user = written("seen = []\ndef evaluate(model):\n    seen.append(model)\n    return SCALE", SCALE=1.0)
    before = functions_digest(user["evaluate"], containers=False)

    user["evaluate"](1)
    assert functions_digest(user["evaluate"], containers=False) == before
    user["SCALE"] = 2.0
    assert functions_digest(user["evaluate"], containers=False) != before


def test_the_order_of_a_set_does_not_count():
    source = "def evaluate(model):\n    return model in names"

    assert digest(source, names={f"n{i}" for i in range(50)}) == digest(
        source, names={f"n{i}" for i in reversed(range(50))}
    )


def test_functions_and_containers_that_refer_to_themselves_come_to_an_end():
    loop: list[object] = [1]
    loop.append(loop)
    source = "def evaluate(model):\n    return evaluate(model) if loop else other(model)\n" \
             "def other(model):\n    return evaluate(model)"  # fmt: skip

    assert digest(source, loop=loop) == digest(source, loop=loop)


def test_a_module_of_the_user_counts_and_installed_ones_do_not(tmp_path):
    source = "def evaluate(model):\n    return tools.value() + np.sum(model)"
    digests = []
    for text in ("def value(): return 1", "def value(): return 1  # one", "def value(): return 2"):
        module = ModuleType("tools_of_the_user")
        module.__file__ = str(tmp_path / "tools.py")
        (tmp_path / "tools.py").write_text(text)
        digests.append(_with_module(module, lambda m=module: digest(source, tools=m, np=np)))

    assert digests[0] == digests[1] != digests[2]


def _with_module(module: ModuleType, call: Any) -> str:
    import sys

    sys.modules[module.__name__] = module
    try:
        return call()
    finally:
        del sys.modules[module.__name__]


# Packing


def test_what_is_packed_comes_back_and_works():
    scale = 3.0
    feeds = [{"x": np.ones(2)}]

    packed = pack(
        {"eval_fn": functools.partial(lambda factor, model: factor * scale * model, 2.0), "feeds": feeds}
    )

    handed = cloudpickle.loads(packed.pickled)
    assert handed["eval_fn"](1.0) == 6.0
    assert np.array_equal(handed["feeds"][0]["x"], np.ones(2))
    assert packed.code_digest


def test_in_this_process_nothing_is_pickled_and_the_code_counts_all_the_same():
    evaluate = written(PLAIN)["evaluate"]

    packed = pack({"eval_fn": evaluate}, inline=True)

    assert packed.pickled == b""
    assert packed.code_digest == functions_digest(evaluate, containers=False)


# Readers


def batches(rows: int, n: int = 10) -> list[dict[str, Any]]:
    return [{"x": np.zeros((rows, 2)), "y": np.zeros((rows, 3))} for _ in range(n)]


@pytest.mark.parametrize(
    ("feeds", "n_samples", "n_read"),
    [
        (batches(4), 8, 2),
        (batches(4), 9, 3),
        (batches(1), 7, 7),
        (batches(4), 1000, 10),
        ([{"x": np.zeros((4, 2)), "y": np.zeros(3)}] * 10, 6, 6),  # no row in common: a feed is a sample
        ([{"x": np.zeros(())}] * 10, 3, 3),
        ([{"x": [[1.0, 2.0]]}] * 10, 3, 3),  # a list tells no shape; it costs little
        ([(b, np.zeros(4)) for b in batches(4)], 8, 2),  # with targets
        ([*batches(4, 1), {"x": np.zeros((4, 2)), "y": np.zeros(3)}, *batches(4)], 8, 8),
        (["nonsense"] * 5, 3, 3),  # told later, with its place
    ],
)
def test_a_reader_is_read_until_there_are_enough_samples(feeds, n_samples, n_read):
    assert len(drain(iter(feeds), n_samples)) == n_read


def test_no_reader_is_no_data():
    assert drain(None, 10) is None
