"""Ops that quantize their activations at each run, written as onnxruntime's `quantize_dynamic` writes them.

1. The data of MatMul, Gemm, Conv and Attention goes through DynamicQuantizeLinear, each tensor once.
2. MatMul becomes MatMulInteger, Cast, and Mul with the product of both scales; Gemm (without alpha, beta or
   transA) a MatMul and an Add; Conv becomes ConvInteger, its bias is reshaped and added.
3. LSTM becomes DynamicQuantizeLSTM, Attention QAttention.
4. Gather of a table gives codes; ops of the same weight scheme read them, all others behind DequantizeLinear.
5. Ops that are not in the space and read a weight that became codes read it behind DequantizeLinear.
What onnxruntime's quantizer does otherwise: it fails on a weight that a static op reads as data too.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from onnx import TensorProto

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.builder.constants import ConstantStore, QuantizedConstant
from disttune.quantize.builder.encode import encode
from disttune.quantize.builder.float_model import FloatModel, FloatNode
from disttune.quantize.builder.tensor_schemes import ConstantScheme, WeightCopies
from disttune.quantize.builder.writer import MS_DOMAIN, ModelWriter
from disttune.quantize.dynamic_forms import check_dynamic_form
from disttune.quantize.sources import WEIGHT_INPUTS
from disttune.quantize.summary import int_attribute

_BIAS = 2


def check_dynamic(node: FloatNode, config: OpConfig) -> None:
    """Check that an op has a dynamic form with its config.

    Raises:
        TrialError: it has none.
    """
    positions = WEIGHT_INPUTS.get(node.op_type, ())
    check_dynamic_form(
        node.name,
        node.op_type,
        config,
        has_constant_weight=all(i in node.float_constants for i in positions),
    )
    if node.op_type == "Gemm" and (
        int_attribute(node.message, "transA", 0)
        or any(a.f != 1.0 for a in node.message.attribute if a.name in ("alpha", "beta"))
    ):
        raise TrialError(f"op {node.name}: a Gemm with transA, alpha or beta has no dynamic form")


def stays_in_float(node: FloatNode) -> bool:
    """Whether onnxruntime has no kernel for this very op, though it has for its type."""
    return node.op_type == "Attention" and any(a.name == "qkv_hidden_sizes" for a in node.message.attribute)


@dataclass(frozen=True, slots=True)
class _Codes:
    """Names of codes and their parameters in the model."""

    codes: str
    scale: str
    zero_point: str


class DynamicWriter:
    """Writes the dynamic ops of one candidate.

    Args:
        writer: of the candidate's model.
        store: quantized constants.
        model: the float model.
        configs: of the dynamic ops, by node name; checked.
        copies: of shared weights.
    """

    def __init__(
        self,
        writer: ModelWriter,
        store: ConstantStore,
        model: FloatModel,
        configs: Mapping[str, OpConfig],
        copies: WeightCopies,
    ):
        self._writer = writer
        self._store = store
        self._model = model
        self._configs = configs
        self._copies = copies
        self._data: dict[str, _Codes] = {}
        self._tables: dict[tuple[str, Scheme], _Codes] = {}
        self._weights: dict[tuple[str, bool], _Codes] = {}

    def prepare(self, static: Collection[str]) -> None:
        """Rule 5: say how the float values of weights are made that become codes.

        Args:
            static: tensors that have static codes.
        """
        for node in self._model.nodes:
            if node.name not in self._configs or node.op_type in ("Gemm", "LSTM"):
                continue
            name = self._copies.inputs_of(node)[WEIGHT_INPUTS[node.op_type][0]]
            if name not in static:
                self._writer.declare(name, partial(self._write_float_weight, node, name))

    def write(self, node: FloatNode, reads: list[str], outputs: list[str]) -> None:
        """Write one op.

        Args:
            reads: what it reads instead of its inputs; of weights that does not count.
            outputs: what it writes.
        """
        inputs = self._copies.inputs_of(node)
        match node.op_type:
            case "MatMul":
                self._matmul(node, reads[0], self._weight(node, inputs[1]), outputs[0])
            case "Gemm":
                self._gemm(node, inputs[1], reads, outputs[0])
            case "Conv":
                self._conv(node, inputs[1], reads, outputs[0])
            case "Attention":
                self._attention(node, inputs[1], reads, outputs)
            case "LSTM":
                self._lstm(node, inputs, reads, outputs)
            case "Gather":
                self._gather(node, inputs[0], reads, outputs[0])

    def _scheme(self, node: FloatNode) -> Scheme:
        weight = self._configs[node.name].weight
        assert weight is not None
        return weight

    def _weight(self, node: FloatNode, name: str, transposed: bool = False) -> _Codes:
        key = (name, transposed)
        if key not in self._weights:
            scheme = self._scheme(node)
            origin = self._copies.origin(name)
            if transposed:
                constant = self._store.transposed(origin, scheme)
            else:
                axis = self._model.rank(origin) - 1 if scheme.granularity == "per_channel" else None
                constant = self._store.quantized(origin, ConstantScheme(scheme, axis))
            self._weights[key] = self._add(name, constant)
        return self._weights[key]

    def _add(self, name: str, constant: QuantizedConstant) -> _Codes:
        add = self._writer.add_tensor
        return _Codes(
            add(f"{name}_quantized", constant.codes),
            add(f"{name}_scale", constant.scale),
            add(f"{name}_zero_point", constant.zero_point),
        )

    def _quantized_data(self, node: FloatNode, name: str) -> _Codes:
        """Rules 1 and 4."""
        scheme = self._scheme(node)
        kind = Scheme(scheme.dtype, scheme.symmetric, scheme.granularity)
        if (name, kind) in self._tables:
            return self._tables[name, kind]
        if name not in self._data:
            new = self._writer.new_name
            codes = _Codes(new(f"{name}_quantized"), new(f"{name}_scale"), new(f"{name}_zero_point"))
            self._writer.add_node(
                "DynamicQuantizeLinear",
                (name,),
                (codes.codes, codes.scale, codes.zero_point),
                f"{name}_QuantizeLinear",
            )
            self._data[name] = codes
        return self._data[name]

    def _matmul(self, node: FloatNode, data: str, weight: _Codes, output: str) -> None:
        codes = self._quantized_data(node, data)
        self._integer(node, "MatMulInteger", codes, weight, output)

    def _integer(self, node: FloatNode, op_type: str, data: _Codes, weight: _Codes, output: str) -> None:
        """The integer op, a Cast of its sums, and a Mul with both scales."""
        write, new = self._writer.add_node, self._writer.new_name
        sums, floats = new(f"{output}_output_quantized"), new(f"{output}_output_quantized_cast_output")
        scale = new(f"{node.name}_quant_scales_mul:0")
        attributes = node.message.attribute if node.op_type == "Conv" else ()
        inputs = (data.codes, weight.codes, data.zero_point, weight.zero_point)
        write(op_type, inputs, (sums,), f"{node.name}_quant", attributes)
        write("Cast", (sums,), (floats,), f"{sums}_cast", {"to": TensorProto.FLOAT})
        write("Mul", (data.scale, weight.scale), (scale,), f"{node.name}_quant_scales_mul")
        write("Mul", (floats, scale), (output,), f"{node.name}_quant_output_scale_mul")

    def _gemm(self, node: FloatNode, weight: str, reads: list[str], output: str) -> None:
        transposed = bool(int_attribute(node.message, "transB", 0))
        has_bias = len(reads) > _BIAS and bool(reads[_BIAS])
        result = self._writer.new_name(f"{output}_MatMul") if has_bias else output
        self._matmul(node, reads[0], self._weight(node, weight, transposed), result)
        if has_bias:
            self._writer.add_node("Add", (result, reads[_BIAS]), (output,), f"{node.name}_Add")

    def _conv(self, node: FloatNode, weight: str, reads: list[str], output: str) -> None:
        write, new = self._writer.add_node, self._writer.new_name
        has_bias = len(reads) > _BIAS and bool(reads[_BIAS])
        result = new(f"{output}quant_scaled_output") if has_bias else output
        data = self._quantized_data(node, reads[0])
        self._integer(node, "ConvInteger", data, self._weight(node, weight), result)
        if has_bias:
            rank = self._model.rank(node.inputs[1])
            shape = np.array([1, -1] + [1] * (rank - 2), np.int64)
            reshaped = new(f"{output}_bias_reshape_output")
            shape_name = self._writer.add_tensor(f"{output}_bias_reshape_shape", encode(shape, "int64"))
            write("Reshape", (reads[_BIAS], shape_name), (reshaped,), f"{output}_bias_reshape")
            write("Add", (result, reshaped), (output,), f"{output}_bias_add")

    def _attention(self, node: FloatNode, name: str, reads: list[str], outputs: list[str]) -> None:
        data, weight = self._quantized_data(node, reads[0]), self._weight(node, name)
        bias, mask, past = (*reads[2:5], "", "", "")[:3]
        inputs = (
            *(data.codes, weight.codes, bias),
            *(data.scale, weight.scale, mask),
            *(data.zero_point, weight.zero_point, past),
        )
        self._writer.add_node(
            "QAttention", inputs, outputs, f"{node.name}_quant", node.message.attribute, MS_DOMAIN
        )

    def _lstm(self, node: FloatNode, inputs: tuple[str, ...], reads: list[str], outputs: list[str]) -> None:
        weights = [self._recurrent_weight(node, inputs[i]) for i in WEIGHT_INPUTS["LSTM"]]
        rest = (*reads[3:8], "", "", "", "", "")[:5]
        parameters = [name for w in weights for name in (w.scale, w.zero_point)]
        self._writer.add_node(
            "DynamicQuantizeLSTM",
            (reads[0], *(w.codes for w in weights), *rest, *parameters),
            outputs,
            f"{node.name}_quant",
            [a for a in node.message.attribute if a.name != "layout"],
            MS_DOMAIN,
        )

    def _recurrent_weight(self, node: FloatNode, name: str) -> _Codes:
        key = (name, True)
        if key not in self._weights:
            constant = self._store.recurrent(self._copies.origin(name), self._scheme(node))
            self._weights[key] = self._add(name, constant)
        return self._weights[key]

    def _gather(self, node: FloatNode, name: str, reads: list[str], output: str) -> None:
        """Rule 4."""
        table, scheme = self._weight(node, name), self._scheme(node)
        codes = self._writer.new_name(f"{output}_quantized")
        self._writer.copy_node(node, [table.codes, *reads[1:]], [codes])
        kind = Scheme(scheme.dtype, scheme.symmetric, scheme.granularity)
        rows = _Codes(codes, table.scale, table.zero_point)
        self._tables[output, kind] = rows
        self._writer.declare(output, partial(self._dequantize, rows, output, {}))

    def _write_float_weight(self, node: FloatNode, name: str) -> None:
        weight = self._weight(node, name)
        scheme = self._scheme(node)
        axis = {"axis": -1} if scheme.granularity == "per_channel" else {}
        self._dequantize(weight, name, axis)

    def _dequantize(self, values: _Codes, output: str, attributes: Mapping[str, int]) -> None:
        inputs = (values.codes, values.scale, values.zero_point)
        self._writer.add_node("DequantizeLinear", inputs, (output,), f"{output}_DequantizeLinear", attributes)
