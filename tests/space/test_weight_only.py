"""The space of jobs that quantize weights alone."""

from dataclasses import replace

from disttune.config.quantization_section import QuantizationSection
from disttune.config.schemes import OpConfig, Scheme
from disttune.space.build import build_space
from disttune.space.capability import load_capability
from disttune.space.space import Space
from disttune.space.summary import WeightSummary
from tests.builders import chain, model, op


def space(*types: str, methods: frozenset[str] | None = None, **op_types: object) -> Space:
    """Of a chain of ops, named <type>_<position>; keywords are sections of op types."""
    section = QuantizationSection(approach="weight_only", op_types=op_types)
    known = {} if methods is None else {"methods": methods}
    return build_space(chain(*types), load_capability("ort-cpu"), section, **known)


def weights_of(s: Space, name: str) -> list[Scheme]:
    return [o.weight for o in s.options[name] if o.weight]


def test_weights_alone_are_matrices_in_groups_with_4_bits_first():
    s = space("Conv", "MatMul", "Relu")
    assert s.ops == ("MatMul_1",)
    first = s.default_candidate().config_of("MatMul_1")
    assert first == OpConfig("weight_only", Scheme("uint4", False, "per_group", 32, "rtn"))
    found = weights_of(s, "MatMul_1")
    assert {(w.dtype, w.symmetric) for w in found} == {("uint4", False), ("int4", True), ("int8", True)}
    assert [w.method for w in found if w.dtype == "int8"] == ["rtn"]
    assert (("flip", True),) in {w.options for w in found if w.method == "gptq"}
    assert not s.presets


def test_a_weight_that_is_no_matrix_has_methods_without_layers_and_those_on_request():
    batched = WeightSummary("b", 1, (2, 32, 8), 8, 2048)
    matrix = WeightSummary("m", 1, (32, 8), 8, 1024)
    ops = [op("MatMul", "batched"), op("MatMul", "plain")]
    summary = model(*(replace(o, weight=w) for o, w in zip(ops, (batched, matrix), strict=True)))

    def options(**sections: object) -> Space:
        section = QuantizationSection(approach="weight_only", op_types=sections)
        return build_space(summary, load_capability("ort-cpu"), section)

    assert options().ops == ("plain",)
    asked = options(
        MatMul={"weight": {"dtype": "int8", "method": ["rtn", "minmax"], "granularity": "per_channel"}}
    )
    assert {w.method for w in weights_of(asked, "batched")} == {"minmax"}
    assert {w.method for w in weights_of(asked, "plain")} == {"rtn", "minmax"}


def test_other_weights_alone_are_there_on_request():
    asked = {"weight": {"dtype": ["uint3", "uint4"], "granularity": "per_group", "group_size": 64}}
    found = weights_of(space("MatMul", MatMul=asked), "MatMul_0")
    assert {(w.dtype, w.symmetric) for w in found} == {("uint3", False), ("uint4", False)}
    assert {w.group_size for w in found} == {64}
    assert [w.method for w in found if w.dtype == "uint3"] == ["rtn", "gptq", "awq", "hqq", "k_quant"]


def test_embeddings_are_there_on_request():
    summary = model(op("Gather", "table", ("x",), channels=8), op("MatMul", "fc", ("table.out",)))
    plain, asked = (
        build_space(
            summary,
            load_capability("ort-cpu"),
            QuantizationSection(approach="weight_only", op_types=sections),
        )
        for sections in ({}, {"Gather": {"weight": {"dtype": "uint8"}}})
    )
    assert plain.ops == ("fc",)
    assert weights_of(asked, "table") == [Scheme("uint8", False, "per_channel")]


def test_methods_of_weights_take_options():
    s = space("MatMul", MatMul={"weight": {"method": ["gptq:percdamp=0.05,act_order=true", "rtn"]}})
    chosen = (("act_order", True), ("percdamp", 0.05))
    assert {(w.method, w.options) for w in weights_of(s, "MatMul_0")} == {("gptq", chosen), ("rtn", ())}


def test_methods_that_the_engine_lacks_leave_the_others():
    s = space("MatMul", methods=frozenset({"rtn", "hqq"}))
    assert {w.method for w in weights_of(s, "MatMul_0")} == {"rtn", "hqq"}


def test_weights_that_stay_in_float_are_told():
    (sentence,) = space("Conv", "MatMul", "Relu").warnings
    assert "weights of Conv_0 (Conv) stay in float" in sentence
    assert not space("MatMul", "Relu").warnings
