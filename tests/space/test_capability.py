import re
import tomllib
from importlib.resources import files

import pytest

from disttune.config.errors import InputError, InternalError
from disttune.space.capability import load_capability, parse_capability, target_names

ALL_METHODS = frozenset({"minmax", "percentile", "entropy", "mse", "distribution"})
GOOD = """
placement = "speed"
float_types = ["float32"]
[[rows]]
op_types = ["Conv"]
approach = "static"
placement = "speed"
weight = { dtype = ["int8"], symmetric = [true], granularity = ["per_tensor"] }
activation = { dtype = ["uint8"], symmetric = [false], method = ["minmax", "percentile:99.9"] }
"""


def test_every_file_in_the_targets_folder_is_a_target_that_loads():
    folder = files("disttune.space") / "targets"
    assert target_names() == sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml"))
    for name in target_names():
        assert load_capability(name).target == name


def test_an_unknown_target_is_told_with_the_nearest_and_all():
    with pytest.raises(InputError, match=r'no target "ort-cpuu"\. Nearest: "ort-cpu"\. All: .*ort-cpu'):
        load_capability("ort-cpuu")


@pytest.mark.parametrize("target", ["../ort-cpu", "ort-cpu.toml", ""])
def test_a_target_is_a_name_and_no_path(target: str):
    with pytest.raises(InputError, match="no target"):
        load_capability(target)


def test_speed_on_ort_cpu_means_what_the_provider_computes_on_integers():
    rows = load_capability("ort-cpu").select(("static",), "speed", ALL_METHODS)
    assert [row.op_types for row in rows] == [("Conv", "MatMul", "Gemm")]
    assert rows[0].activation.dtype == ("uint8",)


def test_rows_of_the_first_approach_come_first():
    rows = load_capability("ort-cpu").select(("dynamic", "static"), "all", ALL_METHODS)
    approaches = [row.approach for row in rows]
    assert approaches == sorted(approaches)
    assert set(approaches) == {"static", "dynamic"}


def test_methods_that_the_engine_lacks_are_removed_and_rows_without_any_as_well():
    capability = load_capability("ort-cpu")
    (row,) = capability.select(("static",), "speed", frozenset({"entropy", "percentile"}))
    assert row.activation.method == ("percentile:99.999", "entropy")
    assert capability.select(("static",), "speed", frozenset()) == ()


def test_dynamic_rows_need_no_method_of_the_engine():
    assert load_capability("ort-cpu").select(("dynamic",), "speed", frozenset())


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('["int8"]', '["int9"]', 'row 1 (static Conv): weight.dtype: no value "int9". Nearest: "int8"'),
        ('["uint8"]', "[]", "activation.dtype: must be a list of at least one str, found []"),
        ('["uint8"]', '"uint8"', "activation.dtype: must be a list of at least one str"),
        ("[true]", "[1]", "weight.symmetric: must be a list of at least one bool, found [1]"),
        ('["minmax", ', '["minmax", "minmax", ', "activation.method: names a value twice"),
        ('"percentile:99.9"', '"kl"', 'activation.method: no method "kl"'),
        ('"percentile:99.9"', '"percentile:x"', '"x" is not a number'),
        ('approach = "static"', 'approach = "statik"', 'approach: no value "statik". Nearest: "static"'),
        ('placement = "speed"\nweight', 'placement = "fast"\nweight', 'placement: no value "fast"'),
        ('op_types = ["Conv"]', "", "op_types missing"),
        ('op_types = ["Conv"]', 'op_type = ["Conv"]', 'no key "op_type". Nearest: "op_types"'),
        ('["per_tensor"]', '["per_group"]', '"per_group" and group_size go together'),
        ("[[rows]]", "[rows]", "rows: must be a list"),
        ('"static"', '"static"\nneeds_weight = 1', 'needs_weight: no value "1"'),
        ("weight = {", "needs_weight = true #", "needs_weight without a weight"),
        ("[[rows]]", "weights_alone = ['int9']\n[[rows]]", 'weights_alone: no value "int9"'),
        (
            "[[rows]]",
            "[recipes]\nquantise_bias = 1\n[[rows]]",
            'no key "quantise_bias". Nearest: "quantize_bias"',
        ),
        ("[[rows]]", "[recipes]\nquantize_bias = 1\n[[rows]]", 'quantize_bias: no value "1"'),
        ('"static"', '"static"\nsearched = 0', 'searched: no value "0"'),
        ("placement", "placement = ", "Invalid"),
    ],
)
def test_a_mistake_in_a_target_file_names_file_row_and_key(old: str, new: str, told: str):
    text = GOOD.replace(old, new, 1)
    with pytest.raises(InternalError, match=r"space/targets/mine\.toml.*" + re.escape(told)):
        parse_capability(text, "mine")


def test_a_good_target_file_is_read_as_written():
    capability = parse_capability(GOOD, "mine")
    data = tomllib.loads(GOOD)["rows"][0]
    (row,) = capability.rows
    assert row.activation.method == tuple(data["activation"]["method"])
    assert row.weight is not None
    assert (row.weight.granularity, row.weight.method, row.weight.group_size) == (
        ("per_tensor",), ("minmax",), (None,),
    )  # fmt: skip


def test_a_row_that_is_not_searched_is_offered_to_no_job():
    text = GOOD.replace('approach = "static"', 'approach = "static"\nsearched = false')
    capability = parse_capability(text, "mine")
    assert len(capability.rows) == 1
    assert capability.select(("static",), "all", ALL_METHODS) == ()
    assert capability.methods("static") == frozenset()


@pytest.mark.parametrize("target", [name for name in target_names() if name != "ort-cpu"])
def test_every_other_target_names_its_sources_and_quantizes_all_by_default(target: str):
    text = (files("disttune.space") / "targets" / f"{target}.toml").read_text(encoding="utf-8")
    assert re.search(r"^# Sources: .*\.(html|py|com|ai|rst)", text, re.MULTILINE)
    assert load_capability(target).placement == "all"
