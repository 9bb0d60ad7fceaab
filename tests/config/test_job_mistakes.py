"""Every mistake in a job is told at once: where, what was found, what is valid or nearest."""

import datetime

import pytest

from disttune.config.errors import JobFileError
from disttune.config.job import Job
from disttune.config.job_file import job_from_dict, json_schema
from tests.config.jobs import FOLDER, LEAST, least

SECTIONS = ["accuracy", "calibration", "evaluation", "model", "quantization", "runtime", "tuning"]
KEYS = [(s, k) for s in SECTIONS for k in Job.model_fields[s].annotation.model_fields]  # type: ignore[union-attr]


def lines_of(data, **arguments) -> list[str]:
    with pytest.raises(JobFileError) as caught:
        job_from_dict(data, FOLDER, "job.toml", **arguments)
    return str(caught.value).splitlines()


def line_of(data, **arguments) -> str:
    (line,) = lines_of(data, **arguments)
    return line


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_wrong_kind_of_value_names_section_and_key(section, key):
    lines = lines_of(least(**{section: {key: datetime.date(2024, 1, 31)}}))
    assert any(line.startswith(f"job.toml, [{section}] {key}: must ") for line in lines)


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_misspelt_key_names_the_nearest(section, key):
    assert line_of(least(**{section: {key + "x": 1}})).startswith(
        f'job.toml, [{section}] {key}x: no key "{key}x". Nearest: "{key}". All: '
    )


def _bounds():
    definitions = json_schema()["$defs"]
    for section in SECTIONS:
        for key, schema in definitions[f"{section.capitalize()}Section"]["properties"].items():
            for rule, text in (
                ("minimum", "at least"),
                ("maximum", "at most"),
                ("exclusiveMinimum", "more than"),
            ):
                if rule in schema:
                    wrong = {"minimum": -1, "maximum": 1, "exclusiveMinimum": 0}[rule] + schema[rule]
                    yield section, key, wrong, f"must be {text} {schema[rule]:g}; {wrong} was given"


@pytest.mark.parametrize(("section", "key", "wrong", "text"), list(_bounds()))
def test_number_out_of_its_bounds_is_told_with_the_bound(section, key, wrong, text):
    assert line_of(least(**{section: {key: wrong}})) == f"job.toml, [{section}] {key}: {text}"


@pytest.mark.parametrize(("section", "key", "value", "text"), [
    ("tuning", "max_trials", "many", 'must be a whole number; "many" was given'),
    ("tuning", "max_trials", True, "must be a whole number; true was given"),
    ("tuning", "max_trials", 50.0, "must be a whole number; 50.0 was given"),
    ("tuning", "timeout", "1 h", 'must be a number; "1 h" was given'),
    ("tuning", "timeout", float("nan"), "must be a finite number; nan was given"),
    ("tuning", "timeout", float("inf"), "must be a finite number; inf was given"),
    ("tuning", "strategy", "", 'must not be empty; "" was given'),
    ("tuning", "strategy", 3, "must be text in quotes; 3 was given"),
    ("tuning", "strategy", "mine.py", 'must be of the form "file.py:name"; "mine.py" was given'),
    ("tuning", "quant_level", 2, 'must be 0, 1 or "auto"; 2 was given'),
    ("tuning", "memory_limit", "8 G", 'must be a size such as "8 GiB" or a number of bytes; "8 G" was given. '
     "Units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB."),
    ("tuning", "memory_limit", 0, "must be at least 1; 0 was given"),
    ("tuning", "objective", "sise",
     'no objective "sise". Nearest: "size". All: first, float_ops, latency, size.'),
    ("tuning", "objective", {"sise": 1},
     'no objective "sise". Nearest: "size". All: float_ops, latency, size.'),
    ("tuning", "objective", {"size": -1}, "the weight of size must be a number of at least 0"),
    ("tuning", "objective", {"size": True}, "the weight of size must be a number of at least 0"),
    ("tuning", "objective", {"size": 10**400}, "the weight of size must be a number of at least 0"),
    ("tuning", "objective", {"size": 0}, "at least one weight must be more than 0"),
    ("tuning", "objective", {}, 'must be "first" or another objective, or weights such as '
     "{latency = 0.7, size = 0.3}; {} was given"),
    ("tuning", "stop_at", "gaol", 'no stop_at "gaol". Nearest: "goal". All: budget, goal.'),
    ("accuracy", "criterion", "relativ",
     'no criterion "relativ". Nearest: "relative". All: absolute, relative.'),
    ("accuracy", "tolerable_loss", 5, 'must be more than -1 and less than 1 with criterion "relative" '
     "(0.01 is one percent); 5 was given"),
    ("accuracy", "tolerable_loss", -1.0, 'must be more than -1 and less than 1 with criterion "relative" '
     "(0.01 is one percent); -1 was given"),
    ("runtime", "master_works", 1, "must be true or false; 1 was given"),
    ("runtime", "lost_after", 5, "must be more than heartbeat, which is 5; 5 was given"),
    ("runtime", "master_silent", 1, "must be more than heartbeat, which is 5; 1 was given"),
    ("model", "path", "", "must not be empty"),
    ("model", "path", "a\0b", "must not hold a null character"),
    ("model", "path", 3, "must be a path in quotes; 3 was given"),
    ("model", "providers", [], "must hold at least one value; [] was given"),
    ("calibration", "loader", "eval:calibration",
     'must be of the form "file.py:name"; "eval:calibration" was given'),
    ("calibration", "loader", "eval.py", 'must be of the form "file.py:name"; "eval.py" was given'),
    ("calibration", "loader", "eval.py:a.b", 'must be of the form "file.py:name"; "eval.py:a.b" was given'),
    ("calibration", "samples", [16, 0], "must be at least 1; 0 was given"),
    ("evaluation", "files", "eval.py", 'must be a list; "eval.py" was given'),
    ("evaluation", "baseline", [0.9, 0.8], "needs one number for each evaluator: 2 given for 1"),
    ("quantization", "placement", "fast", 'no placement "fast". All: all, speed.'),
    ("quantization", "op_types", 3, "must be a table; 3 was given"),
])  # fmt: skip
def test_wrong_value_is_told_with_the_rule_it_breaks(section, key, value, text):
    assert line_of(least(**{section: {key: value}})) == f"job.toml, [{section}] {key}: {text}"


@pytest.mark.parametrize(("keys", "place", "text"), [
    ({"weight": {"dtype": "int9"}}, "weight.dtype", 'no dtype "int9". Nearest: "int8". All: bfloat16,'),
    ({"weight": {"dtype": []}}, "weight.dtype", "must hold at least one value; [] was given"),
    ({"weight": {"dtype": ["int8", 8]}}, "weight.dtype", "must be text in quotes; 8 was given"),
    ({"weight": {"symmetric": "yes"}}, "weight.symmetric", 'must be true or false; "yes" was given'),
    ({"weight": {"dtyp": "int8"}}, "weight.dtyp",
     'no key "dtyp". Nearest: "dtype". All: dtype, granularity,'),
    ({"weight": "int8"}, "weight", 'must be a table; "int8" was given'),
    ({"activation": {"method": "percentil"}}, "activation.method",
     'no method "percentil". Nearest: "percentile". All: ada'),
    ({"activation": {"method": "minmax:3"}}, "activation.method",
     'threshold method "minmax" takes no parameter; "minmax:3" was given'),
    ({"activation": {"method": "percentile:x"}}, "activation.method",
     'threshold method "percentile:x": "x" is not a number'),
    ({"activation": {"method": "percentile:200"}}, "activation.method",
     'threshold method "percentile:200": a percentile is more than 0 and at most 100'),
    ({"activation": {"granularity": "channel"}}, "activation.granularity",
     'no granularity "channel". Nearest: "per_channel". All: per_channel,'),
    ({"weight": {"granularity": "per_group"}}, "weight.group_size",
     'is missing: granularity "per_group" needs it, for example group_size = 32'),
    ({"weight": {"group_size": 32}}, "weight.group_size", 'needs granularity = "per_group"'),
    ({"weigth": {}}, "weigth", 'no key "weigth". Nearest: "weight". All: activation, approach,'),
    ({"approach": "dynamc"}, "approach", 'no approach "dynamc". Nearest: "dynamic". All: dynamic, static,'),
    ({"fallback": "float31"}, "fallback", 'no float type "float31". Nearest: "float32". All: bfloat16,'),
])  # fmt: skip
@pytest.mark.parametrize("table", ["op_types.Conv", 'op_names."conv.1"'])
def test_wrong_option_of_an_op_is_told_with_its_whole_key(table, keys, place, text):
    kind, name = ("op_types", "Conv") if table == "op_types.Conv" else ("op_names", "conv.1")
    line = line_of(least(quantization={kind: {name: keys}}))
    assert line.startswith(f"job.toml, [quantization] {table}.{place}: {text}")


def test_number_too_long_to_be_written_is_told():
    line = line_of(least(tuning={"max_trials": -(10**5000)}))
    assert (
        line == "job.toml, [tuning] max_trials: must be at least 1; a number of thousands of digits was given"
    )


def test_name_pattern_that_is_no_regular_expression_is_told():
    line = line_of(least(quantization={"op_names": {"conv(": {}}}))
    assert line.startswith(
        'job.toml, [quantization] op_names."conv(": the name is not a regular expression: missing )'
    )


@pytest.mark.parametrize(("recipes", "place", "text"), [
    ({"first_conv_quantization": True}, "first_conv_quantization",
     'no recipe "first_conv_quantization". Nearest: "first_conv_or_matmul_quantization". All: add_qdq'),
    ({"dedicated_qdq_pair": [True, False]}, "dedicated_qdq_pair",
     "takes one value (false, true): it is no part of the search"),
    ({"dedicated_qdq_pair": 1}, "dedicated_qdq_pair",
     "must be one of false, true, or a list of them; 1 was given"),
    ({"dedicated_qdq_pair": []}, "dedicated_qdq_pair",
     "must be one of false, true, or a list of them; [] was given"),
    ({"gemm_to_matmul": [True, False]}, "gemm_to_matmul",
     "takes one value (false, true): it is no part of the search"),
    ({"graph_optimization_level": "ENABLE_ALL"}, "graph_optimization_level",
     'must be one of "DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", or a list of them; "ENABLE_ALL"'),
    ({"optypes_to_exclude_output_quant": True}, "optypes_to_exclude_output_quant",
     'must be a list of op types such as ["MatMul"]; '),
    ({"optypes_to_exclude_output_quant": ["Conv", 1]}, "optypes_to_exclude_output_quant",
     'must be a list of op types such as ["MatMul"]; '),
    ({"smooth_quant_alpha": 1.5}, "smooth_quant_alpha",
     'must be one of a number from 0 to 1, "auto", or a list of them; 1.5 was given'),
    ({"smooth_quant_alpha": [0.5, True]}, "smooth_quant_alpha",
     'must be one of a number from 0 to 1, "auto", or a list of them; true was given'),
    ({"smooth_quant_alpha": "automatic"}, "smooth_quant_alpha",
     'must be one of a number from 0 to 1, "auto", or a list of them; "automatic" was given'),
])  # fmt: skip
def test_wrong_recipe_is_told(recipes, place, text):
    line = line_of(least(quantization={"recipes": recipes}))
    assert line.startswith(f"job.toml, [quantization] recipes.{place}: {text}")


@pytest.mark.parametrize(("given", "kept"), [
    ([], ""), ("Conv", "Conv"), (["MatMul", "Conv"], "Conv,MatMul"),
    (["Conv, MatMul", "Add"], "Add,Conv,MatMul"),
])  # fmt: skip
def test_a_list_of_op_types_is_one_value_of_a_recipe(given, kept):
    name = "optypes_to_exclude_output_quant"
    job = job_from_dict(least(quantization={"recipes": {name: given}}), FOLDER)
    again = job_from_dict(job.to_dict(), FOLDER)

    assert job.quantization.fixed_recipes == again.quantization.fixed_recipes == {name: kept}


@pytest.mark.parametrize(("evaluation", "line"), [
    ({}, "[evaluation]: does not tell how to measure a model; give function = "
     '"file.py:name", or metric = "top1" with data = "file.npz", or [[evaluation.evaluators]]'),
    ({"metric": "top1"}, '[evaluation]: metric "top1" needs data = "file.npz"'),
    ({"metric": "top1", "data": 3}, "[evaluation] data: must be a path in quotes; 3 was given"),
    ({"evaluators": [{"metric": "top1", "data": 3}]},
     "[evaluation] evaluators entry 1, data: must be a path in quotes; 3 was given"),
    ({"data": "a.npz"}, '[evaluation]: data needs a metric, for example metric = "top1"'),
    ({"function": "e.py:f", "metric": "top1", "data": "a.npz"},
     "[evaluation]: function and metric are both given; keep one of them"),
    ({"function": "e.py:f", "data": "a.npz"},
     "[evaluation]: function and data are both given; keep one of them"),
    ({"function": "e.py:f", "evaluators": [{"function": "e.py:f"}]},
     "[evaluation]: function and evaluators are both given; keep one of them"),
    ({"evaluators": {"function": "e.py:f"}},
     "[evaluation] evaluators: must be a list of tables: head each entry with [[evaluation.evaluators]]; "
     '{function = "e.py:f"} was given'),
    ({"evaluators": ["e.py:f"]}, '[evaluation] evaluators entry 1: must be a table; "e.py:f" was given'),
    ({"evaluators": [{"function": "e.py:f"}, {"metric": "mse"}]},
     '[evaluation] evaluators entry 2: metric "mse" needs data = "file.npz"'),
    ({"evaluators": [{"function": "e.py:f", "wait": 1}]},
     '[evaluation] evaluators entry 1, wait: no key "wait". Nearest: "weight". All: data, function, '
     "higher_is_better, metric, name, weight."),
    ({"evaluators": [{"function": "e.py:f"}, {"function": "g.py:f"}]},
     '[evaluation] evaluators: two entries are named "f": give each its own name = "..."'),
    ({"evaluators": [{"function": "e.py:f"}, {"function": "e.py:g", "weight": 1.0}]},
     "[evaluation] evaluators: some entries have a weight and some have none: give it to all or to none"),
    ({"evaluators": [{"function": "e.py:f", "weight": 1.0},
                     {"function": "e.py:g", "weight": 1.0, "higher_is_better": False}]},
     "[evaluation] evaluators: with weights the metrics are one sum, so all need the same higher_is_better: "
     "give a weight below 0 to the ones that count the other way"),
    ({"evaluators": [{"function": "e.py:f"}], "higher_is_better": False},
     "[evaluation] higher_is_better: belongs into each entry of evaluators"),
    ({"evaluators": [{"function": "e.py:f"}, {"function": "e.py:g"}], "baseline": 0.9},
     "[evaluation] baseline: needs one number for each evaluator: 1 given for 2"),
])  # fmt: skip
def test_ways_to_measure_a_model_exclude_one_another(evaluation, line):
    assert line_of({**LEAST, "evaluation": evaluation}) == f"job.toml, {line}"


@pytest.mark.parametrize("objective", ["latency", {"latency": 0.5, "size": 1}])
def test_objective_latency_needs_feeds(objective):
    without = {**least(quantization={"approach": "dynamic"}), "tuning": {"objective": objective}}
    without.pop("calibration", None)
    assert line_of(without) == (
        "job.toml, [tuning]: objective: latency is measured on calibration feeds, and there are none: give "
        'calibration.loader = "file.py:name" or calibration.data = "file.npz"'
    )
    assert job_from_dict({**without, "tuning": {"objective": {"latency": 0, "size": 1}}}, FOLDER)


def test_calibration_needs_data_unless_the_approach_is_dynamic():
    without = {k: v for k, v in LEAST.items() if k != "calibration"}
    assert line_of(without) == (
        'job.toml, [calibration]: quantization.approach "static" needs data: give loader = "file.py:name" '
        'or data = "file.npz" (approach "dynamic" needs none)'
    )
    assert not job_from_dict({**without, "quantization": {"approach": "dynamic"}}, FOLDER).calibration.given


def test_calibration_takes_one_source():
    line = line_of(least(calibration={"data": "c.npz"}))
    assert line == "job.toml, [calibration]: loader and data are both given; keep one of them"


@pytest.mark.parametrize("find_n", [2, 10])
def test_several_models_cannot_be_found_when_the_first_stops_the_search(find_n):
    assert line_of(least(tuning={"find_n": find_n, "stop_at": "goal"})) == (
        f'job.toml, [tuning] find_n: {find_n} cannot be reached with stop_at = "goal", which stops at the '
        'first; leave stop_at out or use "budget"'
    )


@pytest.mark.parametrize(("tuning", "strategy"), [
    ({"quant_level": 0}, "conservative"), ({"quant_level": 1}, "basic"), ({"quant_level": "auto"}, "auto"),
    ({"quant_level": 1, "strategy": "random"}, "random"),
    ({"quant_level": 0, "strategy": "conservative"}, "conservative"), ({}, "auto"),
])  # fmt: skip
def test_quant_level_stands_for_a_strategy(tuning, strategy):
    job = job_from_dict(least(tuning=tuning), FOLDER)
    assert job.tuning.strategy == strategy
    assert job == job_from_dict(least(tuning={"strategy": strategy}), FOLDER)


@pytest.mark.parametrize(
    ("level", "shown", "expected"), [(0, "0", "conservative"), ("auto", '"auto"', "auto")]
)
def test_quant_level_that_contradicts_the_strategy_is_told(level, shown, expected):
    assert line_of(least(tuning={"quant_level": level, "strategy": "random"})) == (
        f'job.toml, [tuning] quant_level: {shown} stands for strategy "{expected}", but strategy = "random"; '
        "keep one of them"
    )


@pytest.mark.parametrize(("tuning", "expected"), [
    ({}, "goal"), ({"timeout": 60}, "budget"), ({"objective": "size"}, "budget"), ({"find_n": 1}, "budget"),
    ({"patience": 5}, "budget"), ({"timeout": 60, "stop_at": "goal"}, "goal"),
    ({"stop_at": "budget"}, "budget"),
    ({"find_n": 1, "stop_at": "goal"}, "goal"), ({"objective": {"size": 1}}, "budget"),
])  # fmt: skip
def test_search_stops_at_the_goal_unless_something_asks_for_more(tuning, expected):
    assert job_from_dict(least(tuning=tuning), FOLDER).tuning.effective_stop_at == expected


@pytest.mark.parametrize(
    "value", [None, float("nan"), [float("inf")], {"a": None}, datetime.date(2024, 1, 31)]
)
def test_strategy_keyword_that_no_file_can_hold_is_told(value):
    (line,) = lines_of(least(tuning={"strategy_kwargs": {"fine": 1, "bad": value}}))
    assert line == (
        "job.toml, [tuning] strategy_kwargs.bad: must be text, a finite number, a bool, a list or a table"
    )


def test_section_that_is_no_table_is_explained():
    line, *_ = lines_of({**LEAST, "model": "x.onnx"})
    assert line == (
        'job.toml, [model]: is a section: write [model] with keys such as path below it; "x.onnx" was given'
    )


def test_unknown_section_names_the_nearest():
    assert line_of({**LEAST, "tunning": {}}) == (
        'job.toml, tunning: no section "tunning". Nearest: "tuning". All: accuracy, calibration, evaluation, '
        "folder, model, quantization, runtime, tuning."
    )


def test_key_in_the_wrong_section_is_sent_to_its_own():
    assert line_of({**LEAST, "max_trials": 3}) == (
        'job.toml, max_trials: no key "max_trials" here; it belongs into [tuning]'
    )
    assert line_of(least(tuning={"tolerable_loss": 0.1})) == (
        'job.toml, [tuning] tolerable_loss: no key "tolerable_loss" here; it belongs into [accuracy]'
    )


def test_missing_model_is_told_with_what_it_is():
    without = {k: v for k, v in LEAST.items() if k != "model"}
    assert line_of(without) == "job.toml, [model] path: is missing. The float model, an .onnx file."


def test_all_mistakes_of_a_job_are_told_each_on_its_line():
    data = {
        "model": {"target": 3},
        "calibration": {"samples": 0},
        "tuning": {"max_trial": 1, "find_n": 2, "stop_at": "goal", "seed": -1},
        "runtime": {"heartbeat": 50, "memory": "sharde"},
        "tunning": {},
    }
    places = [line.split(": ")[0] for line in lines_of(data)]
    assert sorted(places) == sorted(f"job.toml, {p}" for p in (
        "[model] path", "[model] target", "[calibration] samples", "[evaluation]", "[tuning] max_trial",
        "[tuning] find_n", "[tuning] seed", "[runtime] lost_after", "[runtime] memory", "tunning",
    ))  # fmt: skip


def test_mistakes_of_a_script_s_dictionary_name_tune_config():
    with pytest.raises(
        JobFileError, match=r"^tune_config, \[tuning\] seed: must be at least 0; -1 was given$"
    ):
        job_from_dict(least(tuning={"seed": -1}), FOLDER)
