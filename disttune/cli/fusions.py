"""`disttune fusions`: what onnxruntime makes of a quantized model, node by node."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from disttune.cli.application import command


@command("fusions")
def fusions(
    model: Annotated[Path, typer.Argument(help="Quantized model (.onnx).")],
    provider: Annotated[
        str, typer.Option("--provider", help="onnxruntime execution provider.")
    ] = "CPUExecutionProvider",
) -> int:
    """Show which nodes of a quantized model onnxruntime computes on codes, and which in float.

    A node in float between DequantizeLinear and QuantizeLinear is slower than before it was quantized.
    """
    from disttune.evaluate.model import check_providers
    from disttune.quantize.builder.fused import fused_nodes
    from disttune.quantize.model_file import read_onnx

    check_providers((provider,))
    proto = read_onnx(model)
    report = fused_nodes(proto, provider)
    types = {node.name: node.op_type for node in proto.graph.node}
    table = Table("node", "type", "becomes", "computed")
    for names, where in ((report.on_codes, "on codes"), (report.in_float, "in float")):
        for name in names:
            table.add_row(name, types[name], report.kernels[name], where)
    for name in report.absorbed:
        table.add_row(name, types[name], "", "part of another node")
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(table)
    console.print(str(report))
    return 0
