"""Jobs for tests of the job file: the least one, a full one, and random ones."""

import copy
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from disttune.config.recipes import RECIPES

FOLDER = Path("/jobs/digits")
LEAST: dict[str, Any] = {
    "model": {"path": "model.onnx"},
    "calibration": {"loader": "eval.py:calibration"},
    "evaluation": {"function": "eval.py:evaluate"},
}
FULL_TOML = """
[model]
path = "model.onnx"
target = "ort-cpu"
providers = ["CPUExecutionProvider"]
max_opset = 21
max_ir_version = 10

[calibration]
data = "calib.npz"
samples = [64, 128]
block_samples = 8

[[evaluation.evaluators]]
function = "code/eval.py:evaluate"
weight = 0.7

[[evaluation.evaluators]]
metric = "top1"
data = "eval.npz"
weight = 0.3
name = "accuracy"

[accuracy]
criterion = "absolute"
tolerable_loss = 2.5

[tuning]
strategy = "mine.py:Fallback"
strategy_kwargs = {max_ops = 20, "odd key" = [1, 2.5, {deep = true}]}
max_trials = 50
timeout = 3600
objective = {latency = 0.7, size = 0.3}
memory_limit = "8 GiB"
trial_timeout = 30
seed = 7

[quantization]
approach = "auto"
placement = "all"
recipes.first_conv_or_matmul_quantization = [true, false]
recipes.dedicated_qdq_pair = true

[quantization.op_types.Conv]
weight = {dtype = "int8", granularity = ["per_tensor", "per_channel"]}
activation = {dtype = ["uint8", "float32"], symmetric = false, method = ["minmax", "percentile:99.99"]}
approach = "static"
fallback = "float32"

[quantization.op_types.MatMul]
weight = {dtype = "int4", granularity = "per_group", group_size = [32, 64]}

[quantization.op_names."layers\\\\.0\\\\..*"]
weight.dtype = "float32"

[runtime]
master_works = false
memory = "shared"
"""


def least(**sections: dict[str, Any]) -> dict[str, Any]:
    """The least job with keys of some sections added."""
    data = copy.deepcopy(LEAST)
    for name, keys in sections.items():
        data[name] = {**data.get(name, {}), **keys}
    return data


def _table(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


def _one_or_more(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(values, st.lists(values, min_size=1, max_size=3))


_texts = st.text(min_size=1, max_size=8)
_paths = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
_functions = _paths.map(lambda p: f"{p}.py:evaluate")
_finite = st.floats(allow_nan=False, allow_infinity=False)
_seconds = st.floats(0, 1e300)
_plain = st.recursive(
    st.one_of(st.booleans(), st.integers(), _finite, st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_dtypes = _one_or_more(st.sampled_from(["int8", "uint8", "int4", "float32", "float8e4m3fn"]))
_scheme = _table(
    dtype=_dtypes,
    symmetric=_one_or_more(st.booleans()),
    granularity=_one_or_more(st.sampled_from(["per_tensor", "per_channel"])),
    method=_one_or_more(st.sampled_from(["minmax", "entropy", "percentile:99.9"])),
) | st.builds(
    lambda sizes: {"granularity": "per_group", "group_size": sizes}, _one_or_more(st.integers(1, 10**20))
)
_options = _table(
    weight=_scheme,
    activation=_scheme,
    approach=_one_or_more(st.sampled_from(["static", "dynamic", "weight_only"])),
    fallback=st.sampled_from(["float32", "float16", "bfloat16"]),
)


def _values(recipe):
    if recipe.names_op_types:
        return st.lists(st.sampled_from(["Conv", "MatMul", "Add"]), max_size=3)
    return st.sampled_from(recipe.values) | (st.floats(*recipe.span) if recipe.span else st.nothing())


_recipes = _table(**{r.name: _one_or_more(_values(r)) if r.tunable else _values(r) for r in RECIPES.values()})
_evaluation = st.one_of(
    st.builds(lambda f, b, h: {"function": f, "baseline": b, "higher_is_better": h}, _functions, _finite,
     st.booleans()),
    st.builds(lambda m, d, f: {"metric": m, "data": d, "files": f}, _texts, _paths,
     st.lists(_paths, max_size=2)),
    st.lists(_texts, min_size=1, max_size=3, unique=True).map(
        lambda names: {"evaluators": [{"function": "eval.py:f", "name": n, "weight": 0.1} for n in names]}
    ),
)  # fmt: skip


def _can_be_built(quantization):
    return quantization.get("format") != "qoperator" or quantization.get("approach") == "dynamic"


random_jobs = st.fixed_dictionaries(
    {
        "model": st.builds(lambda p, more: {"path": p, **more}, _paths, _table(
            target=_texts, providers=_one_or_more(_texts), max_opset=st.integers(1),
            max_ir_version=st.integers(1),
        )),
        "calibration": st.builds(lambda source, more: {**source, **more}, st.one_of(
            _functions.map(lambda f: {"loader": f}), _paths.map(lambda p: {"data": p}),
        ), _table(samples=_one_or_more(st.integers(1)), block_samples=st.integers(1))),
        "evaluation": _evaluation,
    },
    optional={
        "accuracy": _table(criterion=st.just("relative"), tolerable_loss=st.floats(-0.99, 0.99))
        | st.fixed_dictionaries({"criterion": st.just("absolute"), "tolerable_loss": _finite}),
        "tuning": _table(
            strategy=st.sampled_from(["default", "random", "mine.py:Mine"]),
            strategy_kwargs=st.dictionaries(st.text(max_size=5), _plain, max_size=3),
            max_trials=st.integers(1), timeout=_seconds, stop_at=st.just("budget"),
            objective=st.sampled_from(["first", "size", {"latency": 0.1, "size": 1}]),
            find_n=st.integers(1), patience=st.integers(1), max_repeats=st.integers(1),
            max_probes=st.integers(0), trial_timeout=_seconds,
            memory_limit=st.integers(1) | st.sampled_from(["8 GiB", "1.5MB"]),
            seed=st.integers(0), batch_size=st.integers(1),
        ),
        "quantization": _table(
            approach=st.sampled_from(["static", "dynamic", "auto", "weight_only"]), engine=_texts,
            placement=st.sampled_from(["speed", "all"]), format=st.sampled_from(["qdq", "qoperator"]),
            accuracy_level=st.integers(0, 4), recipes=_recipes,
            op_types=st.dictionaries(_texts, _options, max_size=2),
            op_names=st.dictionaries(st.sampled_from(["conv.*", 'a"b', "layer\\.0", "é.\n"]), _options,
             max_size=2),
        ).filter(_can_be_built),
        "runtime": _table(
            master_works=st.booleans(), memory=st.sampled_from(["private", "shared"]),
            isolation=st.sampled_from(["process", "none"]), split_trials=st.booleans(),
            lost_after=st.floats(5.5, 1e9),
        ),
    },
)  # fmt: skip
