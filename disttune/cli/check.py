"""`disttune check`: whether a quantized model has the format that a target takes."""

from pathlib import Path
from typing import Annotated

import typer

from disttune.cli.application import command

OUTSIDE = 3  # as for a goal that is not met


@command("check")
def check(
    model: Annotated[Path, typer.Argument(help="Quantized model (.onnx).")],
    target: Annotated[str, typer.Option("--target", help="ort-cpu, tensorrt, qnn, vitis-ai, openvino.")],
) -> int:
    """Hold a quantized model against what a target takes, by format; list every node outside it.

    Ends with 0 when all fit, with 3 when some do not. The model is not run.
    """
    from disttune.quantize.target_check import check_target

    report = check_target(model, target)
    for node in report.outside:
        typer.echo(str(node))
    n_outside = len(report.outside)
    typer.echo(
        str(report) if report.fits else f"target {target}: {n_outside} of {report.n_nodes} nodes are outside"
    )
    return 0 if report.fits else OUTSIDE
