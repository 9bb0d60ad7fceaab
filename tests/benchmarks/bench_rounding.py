"""Weight methods on the layers of real models: output error over that of plain rounding, and seconds.

python -m tests.benchmarks.bench_rounding [FOLDER ...]

Folders are those of bench_engine; without one: the examples of the package. Every Conv, MatMul and Gemm with
a constant weight, inputs of 128 samples of the float model. The error of a model is the geometric mean over
its layers, seconds are the sum over them (and of measuring the inputs, once). OMP_NUM_THREADS=1 gives the
time of one core.
"""

import sys
import time
from pathlib import Path

import numpy as np
from onnx import numpy_helper

import disttune.examples
from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.layer import LayerProblem
from disttune.quantize.algorithms.layout import layout_of
from disttune.quantize.algorithms.registry import find_layer_algorithm
from disttune.quantize.sources import WEIGHT_INPUTS
from disttune.quantize.statistics.layer_inputs import measure_layer_inputs
from tests.benchmarks.bench_engine import TYPES, Subject, read

METHODS = ("gptq", "flip", "seqmse", "adaquant", "adaround")
SCHEMES = (
    Scheme("int4", True, "per_channel"),
    Scheme("uint4", False, "per_group", 32),
    Scheme("int8", True, "per_channel"),
    Scheme("int8", True, "per_tensor"),
)


def problems(subject: Subject) -> list[LayerProblem]:
    """Layers without a scheme of their own yet."""
    constants = {each.name: each for each in subject.prepared.graph.initializer}
    nodes = [
        node
        for node in subject.prepared.graph.node
        if node.op_type in TYPES and node.input[WEIGHT_INPUTS[node.op_type][-1]] in constants
    ]
    inputs = measure_layer_inputs(subject.prepared, [node.name for node in nodes], subject.feeds)
    found = []
    for node in nodes:
        weight = numpy_helper.to_array(constants[node.input[WEIGHT_INPUTS[node.op_type][-1]]])
        layout = layout_of(node, weight.shape)
        found.append(LayerProblem(node.name, layout.weight(weight), SCHEMES[0], inputs[node.name]))
    return found


def ratio_and_seconds(problem: LayerProblem, scheme: Scheme) -> tuple[float, float]:
    started = time.perf_counter()
    solution = find_layer_algorithm(scheme.method).solve(
        LayerProblem(problem.name, problem.weight, scheme, problem.inputs)
    )
    spent = time.perf_counter() - started
    return solution.report["loss"] / (solution.report["loss_rtn"] or 1.0), spent


def table(layers: list[LayerProblem]) -> None:
    print("| weights | " + " | ".join(f"{method}, error | seconds" for method in METHODS) + " |")
    print("|" + " --- |" * (1 + 2 * len(METHODS)))
    for scheme in SCHEMES:
        cells = []
        for method in METHODS:
            wanted = Scheme(scheme.dtype, scheme.symmetric, scheme.granularity, scheme.group_size, method)
            ratios, spent = zip(*(ratio_and_seconds(layer, wanted) for layer in layers), strict=True)
            cells += [f"{np.exp(np.mean(np.log(np.maximum(ratios, 1e-6)))):.3f}", f"{sum(spent):.2f}"]
        group = f", groups of {scheme.group_size}" if scheme.group_size else ""
        print(f"| {scheme.dtype} {scheme.granularity}{group} | " + " | ".join(cells) + " |", flush=True)


def main(arguments: list[str]) -> None:
    examples = Path(next(iter(disttune.examples.__path__)))
    folders = [Path(a) for a in arguments] or [examples / "digits_cnn", examples / "digits_transformer"]
    for folder in folders:
        subject = read(folder)
        started = time.perf_counter()
        layers = problems(subject)
        spent = time.perf_counter() - started
        n_weights = sum(layer.weight.size for layer in layers)
        print(f"\n{subject.name}: {len(layers)} layers, {n_weights:,} weights; inputs in {spent:.2f} s\n")
        table(layers)


if __name__ == "__main__":
    main(sys.argv[1:])
