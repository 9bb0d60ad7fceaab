"""A candidate as the model that a trial process has in hand, with what the master wants to know of it."""

from dataclasses import dataclass

from onnx import ModelProto

from disttune.config.errors import TrialError
from disttune.config.job import ModelSection
from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.counts import count_quantized
from disttune.quantize.digest import model_digest
from disttune.quantize.engine import Engine, MakesBlueprints
from disttune.quantize.shared_tensors import SharedTensors
from disttune.quantize.size import model_bytes
from disttune.runtime.job_data import too_new
from disttune.space.candidate import Candidate


@dataclass(frozen=True, eq=False)
class BuiltModel:
    """Built, and not evaluated yet or kept for the export.

    Args:
        digest: of the candidate.
        source: the model.
        model_digest: over the model.
        size_bytes: of the model as a file.
        n_quantized: nodes that compute in low precision.
    """

    digest: str
    source: ModelProto | Blueprint
    model_digest: str
    size_bytes: int
    n_quantized: int


def built_model(
    engine: Engine, candidate: Candidate, digest: str, shared: SharedTensors, limits: ModelSection
) -> BuiltModel:
    """Build a candidate that misses no works.

    Args:
        engine: builds it.
        candidate: as the engine takes it.
        digest: of the candidate as the strategy proposed it.
        shared: what is known of large tensors.
        limits: of opset and IR version.
    Raises:
        TrialError: it cannot be built, or is newer than the limits.
    """
    if isinstance(engine, MakesBlueprints):
        blueprint = engine.blueprint(candidate)
        _check(blueprint.skeleton, limits)
        return BuiltModel(
            digest,
            blueprint,
            shared.digest(blueprint),
            shared.size_bytes(blueprint),
            shared.n_quantized(blueprint),
        )
    model = engine.build(candidate)
    _check(model, limits)
    return BuiltModel(digest, model, model_digest(model), model_bytes(model), count_quantized(model))


def _check(model: ModelProto, limits: ModelSection) -> None:
    if error := too_new(model, limits):
        raise TrialError(f"the quantized model {error}")
