"""Q and DQ nodes of a candidate: around activations, behind the codes of weights and biases.

Placed as onnxruntime's QDQ quantizer does:
1. A tensor with codes goes through Q and DQ behind the node that writes it; every node reads what DQ
   gives, those in float as well. A graph inside a node reads the tensor itself.
2. A graph's output keeps its name: it is what DQ gives. One that is an input as well goes out as it came in.
3. A constant becomes its codes and DQ; with `add_qdq_pair_to_weight` it stays, with Q and DQ behind it.
4. With `dedicated_qdq_pair` every static op that reads a tensor has a pair of its own, if there are
   several; other ops read the tensor itself.
5. A bias gets int32 codes at the scale of data times weight; a weight whose scales are too small for
   that gets larger ones. The second op that reads a bias has a copy of its own. The factor beta of a
   Gemm goes into the codes.
6. What reads a weight whose algorithm scales inputs reads its data divided by that scale.
7. An op whose weight alone has codes of float8 reads the tensor itself: behind DQ onnxruntime would make an
   integer operator of it, which refuses float8.
What onnxruntime's quantizer does otherwise: it makes scales larger for symmetric int8 and int16 weights
only, and clips the bias with others; it loses beta; it fails on a bias that does not fit the weight's
channels (here it stays in float), and waits for ever for parameters that a tensor should share and that
nobody has (here that is an error); with dedicated pairs it writes one more for an op that reads a tensor
twice, which nothing reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from disttune.config.errors import TrialError
from disttune.config.schemes import FLOAT8_DTYPES
from disttune.quantize.builder.constants import ConstantStore, Floats, QuantizedBias, QuantizedConstant
from disttune.quantize.builder.encode import encode, encode_scalar
from disttune.quantize.builder.float_model import FloatModel, FloatNode
from disttune.quantize.builder.ranges import Ranges
from disttune.quantize.builder.tensor_schemes import ConstantScheme, TensorSchemes
from disttune.quantize.builder.writer import ModelWriter
from disttune.quantize.sharing import UNIT_RANGE, Bias, Marks
from disttune.quantize.sources import WEIGHT_INPUTS


@dataclass(frozen=True, slots=True)
class StaticPlan:
    """What is quantized statically in a candidate, and how.

    Args:
        marks: which tensors get codes.
        schemes: of tensors.
        range_sources: tensor whose range an activation takes, or `UNIT_RANGE`.
        domain: of Q and DQ nodes.
        pairs_on_weights: rule 3.
        dedicated_pairs: rule 4.
    """

    marks: Marks
    schemes: TensorSchemes
    range_sources: Mapping[str, str]
    domain: str = ""
    pairs_on_weights: bool = False
    dedicated_pairs: bool = False


@dataclass(frozen=True, slots=True)
class _Parameters:
    """Names of a tensor's parameters in the model, and their values."""

    scale: str
    zero_point: str
    scales: Floats
    axis: int | None = None
    block_size: int = 0


class StaticWriter:
    """Writes the Q and DQ nodes of one candidate, and says what its nodes read and write instead.

    Args:
        writer: of the candidate's model.
        store: quantized constants.
        ranges: of activations.
        plan: of the candidate.
        model: the float model.
    """

    def __init__(
        self,
        writer: ModelWriter,
        store: ConstantStore,
        ranges: Ranges,
        plan: StaticPlan,
        model: FloatModel,
    ):
        self._writer = writer
        self._store = store
        self._ranges = ranges
        self._plan = plan
        self._model = model
        self._schemes = plan.schemes
        self._constants: dict[str, QuantizedConstant] = {}
        self._parameters: dict[str, _Parameters] = {}
        self._reads: dict[str, str] = {}
        self._reads_of: dict[tuple[str, str], str] = {}
        self._written: dict[str, str] = {}
        self._bias_names: set[str] = set()
        self._without_beta: set[str] = set()
        self._input_scales: dict[str, Floats] = {}
        self._quotients: dict[tuple[str, bytes], str] = {}
        self._declare()

    def inputs(self, node: FloatNode) -> list[str]:
        """What a node reads instead of its inputs."""
        reads, of = self._reads, self._reads_of
        inputs = self._schemes.copies.inputs_of(node)
        read = [of.get((node.name, name)) or reads.get(name, name) for name in inputs]
        if self._is_float8_alone(node, inputs):
            read[0] = self._written.get(inputs[0], inputs[0])
        for name in inputs[1:2]:
            if name in self._input_scales:
                read[0] = self._divided(read[0], self._input_scales[name])
        return read

    def divide_inputs(self, weight: str, scale: Floats) -> None:
        """Rule 6 for a weight that is written otherwise."""
        self._input_scales[weight] = scale

    def _is_float8_alone(self, node: FloatNode, inputs: tuple[str, ...]) -> bool:
        """Rule 7."""
        if inputs and node.name in self._plan.marks.readers.get(inputs[0], ()):
            return False
        weights = (self._constants.get(inputs[i]) for i in WEIGHT_INPUTS.get(node.op_type, ()) if i > 0)
        return any(weight is not None and weight.dtype in FLOAT8_DTYPES for weight in weights)

    def outputs(self, node: FloatNode) -> list[str]:
        """What a node writes instead of its outputs."""
        return [self._written.get(name, name) for name in map(self._plan.marks.written, node.outputs)]

    def drops_beta(self, node: FloatNode) -> bool:
        """Whether the factor of a Gemm's bias went into its codes."""
        return node.name in self._without_beta

    def write_pairs(self, node: FloatNode) -> None:
        """Q and DQ behind a node."""
        for name in map(self._plan.marks.written, node.outputs):
            if name in self._plan.marks.tensors:
                for suffix, read in self._pairs(name):
                    self._write_pair(name, suffix, read)

    def _declare(self) -> None:
        """Decide all names, and how tensors are made that are made when they are first read."""
        marks = self._plan.marks
        for name in marks.tensors:
            origin = self._schemes.copies.origin(name)
            if origin in self._model.float_constants:
                self._constants[name] = self._store.quantized(origin, self._constant_scheme(name))
                input_scale = self._store.input_scale(origin, self._constant_scheme(name))
                if input_scale is not None:
                    self._input_scales[name] = input_scale
        for bias in marks.biases.values():
            self._fit_weight(bias)
        for name in marks.tensors:
            if name in self._constants:
                self._declare_constant(name)
            else:
                self._name_activation(name)
        for op, bias in marks.biases.items():
            self._declare_bias(op, bias)

    def _divided(self, tensor: str, scale: Floats) -> str:
        """Rule 6: a tensor over a scale for each of its last axis, made once for all that read it so."""
        key = (tensor, scale.tobytes())
        if key not in self._quotients:
            quotient = self._writer.new_name(f"{tensor}_scaled")
            inverse = encode(np.float32(1) / scale, "float32")

            def make() -> None:
                factor = self._writer.add_tensor(f"{tensor}_scale", inverse)
                self._writer.add_node("Mul", (tensor, factor), (quotient,), f"{quotient}_Mul")

            self._writer.declare(quotient, make)
            self._quotients[key] = quotient
        return self._quotients[key]

    def _constant_scheme(self, name: str) -> ConstantScheme:
        return self._schemes.constants.get(name, self._schemes.default)

    def _fit_weight(self, bias: Bias) -> None:
        """Rule 5: larger scales where a bias needs them."""
        weight = self._constants.get(bias.weight)
        data_scale = self._one_scale(bias.data)
        if weight is None or data_scale is None:
            return
        self._constants[bias.weight] = self._store.for_bias(
            self._schemes.copies.origin(bias.weight),
            self._constant_scheme(bias.weight),
            weight,
            bias.name,
            data_scale,
            bias.beta,
        )

    def _one_scale(self, tensor: str) -> np.float32 | None:
        """Scale of a tensor; None when it has no codes, or several scales."""
        if tensor not in self._plan.marks.tensors:
            return None
        root = self._root(tensor)
        if root in self._constants:
            scales = self._constants[root].scales
            return np.float32(scales.item()) if scales.size == 1 else None
        return self._activation(root)[0]

    def _root(self, tensor: str) -> str:
        """The tensor whose parameters a tensor takes."""
        tensors = self._plan.marks.tensors
        root, n = tensor, 0
        while (source := tensors.get(root, "")) is not None:
            n += 1
            if not source or n > len(tensors):
                raise TrialError(f'tensor "{tensor}" shares the scale of "{root}", which has none')
            root = source
        return root

    def _activation(self, root: str) -> tuple[np.float32, int]:
        source = self._plan.range_sources.get(root)
        if source is None:
            raise TrialError(
                f'tensor "{root}" was not calibrated: it has no statistics. Leave its ops in float32.'
            )
        schemes = self._schemes.activations
        clip = (0.0, 1.0) if source == UNIT_RANGE else self._ranges.of(source, schemes[source])
        return self._ranges.parameters(clip, schemes[root])

    def _parameters_of(self, tensor: str) -> _Parameters:
        root = self._root(tensor)
        if root not in self._parameters:
            self._parameters[root] = self._add_parameters(root)
        return self._parameters[root]

    def _add_parameters(self, root: str) -> _Parameters:
        add = self._writer.add_tensor
        constant = self._constants.get(root)
        if constant is not None:
            return _Parameters(
                add(f"{root}_scale", constant.scale),
                add(f"{root}_zero_point", constant.zero_point),
                constant.scales,
                constant.axis,
                constant.block_size,
            )
        scale, zero_point = self._activation(root)
        dtype = self._schemes.activations[root].dtype
        return _Parameters(
            add(f"{root}_scale", encode_scalar(float(scale), "float32")),
            add(f"{root}_zero_point", encode_scalar(zero_point, dtype)),
            np.asarray(scale),
        )

    def _name_activation(self, name: str) -> None:
        plan = self._plan
        if plan.dedicated_pairs and len(plan.marks.readers.get(name, ())) > 1:
            for i, reader in enumerate(dict.fromkeys(plan.marks.readers[name]), 1):
                read = self._writer.new_name(f"{name}_DequantizeLinear_Output_{i}")
                self._reads_of[reader, name] = read
        elif name in self._model.outputs and name not in self._model.inputs:
            self._written[name] = self._writer.new_name(f"{name}_QuantizeLinear_Input")
            self._reads[name] = name
        else:
            self._reads[name] = self._writer.new_name(f"{name}_DequantizeLinear_Output")
        if name in self._model.inputs:
            for suffix, read in self._pairs(name):
                self._writer.declare(read, partial(self._write_pair, name, suffix, read))

    def _pairs(self, name: str) -> list[tuple[str, str]]:
        """Suffix and result of every pair behind a tensor."""
        if name in self._reads:
            return [("", self._reads[name])]
        readers = dict.fromkeys(self._plan.marks.readers[name])
        return [(f"_{i}", self._reads_of[reader, name]) for i, reader in enumerate(readers, 1)]

    def _write_pair(self, name: str, suffix: str, read: str) -> None:
        parameters = self._parameters_of(name)
        codes = self._writer.new_name(f"{name}_QuantizeLinear_Output{suffix}")
        source, node = self._written.get(name, name), f"{name}_QuantizeLinear{suffix}"
        self._write("QuantizeLinear", source, parameters, codes, node)
        self._write("DequantizeLinear", codes, parameters, read, f"{name}_DequantizeLinear{suffix}")

    def _declare_constant(self, name: str) -> None:
        self._reads[name] = self._writer.new_name(f"{name}_DequantizeLinear_Output")
        self._parameters_of(name)
        self._writer.declare(self._reads[name], partial(self._write_constant, name))

    def _write_constant(self, name: str) -> None:
        parameters = self._parameters_of(name)
        if self._plan.pairs_on_weights:
            codes = self._writer.new_name(f"{name}_QuantizeLinear_Output")
            self._write("QuantizeLinear", name, parameters, codes, f"{name}_QuantizeLinear")
        else:
            codes = self._writer.add_tensor(f"{name}_quantized", self._constants[name].codes)
        self._write("DequantizeLinear", codes, parameters, self._reads[name], f"{name}_DequantizeLinear")

    def _declare_bias(self, op: str, bias: Bias) -> None:
        """Rule 5."""
        name = bias.name
        is_first = name not in self._bias_names
        self._bias_names.add(name)
        data_scale = self._one_scale(bias.data)
        tensors = self._plan.marks.tensors
        if data_scale is None or bias.weight not in tensors or (is_first and name in tensors):
            return  # the bias stays in float, or has codes as data
        weight = self._parameters_of(bias.weight)
        quantized = self._store.bias(name, data_scale, weight.scales, bias.beta)
        if quantized is None:
            return
        self._without_beta.add(op)
        read = name if is_first else self._writer.new_name(name)
        self._reads_of[op, name] = read
        self._writer.declare(read, partial(self._write_bias, name, quantized, read))

    def _write_bias(self, name: str, bias: QuantizedBias, read: str) -> None:
        add = self._writer.add_tensor
        codes = add(f"{name}_quantized", bias.codes)
        parameters = _Parameters(
            add(f"{name}_quantized_scale", bias.scale),
            add(f"{name}_quantized_zero_point", bias.zero_point),
            np.empty(0, np.float32),
            bias.axis,
        )
        self._write("DequantizeLinear", codes, parameters, read, f"{name}_DequantizeLinear")

    def _write(self, op_type: str, source: str, parameters: _Parameters, result: str, wanted: str) -> None:
        attributes: dict[str, int] = {}
        if parameters.axis is not None:
            attributes["axis"] = parameters.axis
        if parameters.block_size:
            attributes["block_size"] = parameters.block_size
        inputs = (source, parameters.scale, parameters.zero_point)
        self._writer.add_node(op_type, inputs, (result,), wanted, attributes, self._plan.domain)
