"""A config of Auto Search as a candidate of the job: schemes of every op, recipes, weight methods.

What a config does not name stays as in the job's default candidate, granularities always do.

| Quark | here |
| --- | --- |
| MinMax | `minmax`; with CalibMovingAverage `ema:CalibMovingAverageConstant` |
| Percentile, Entropy | `percentile:Percentile`, `entropy` |
| LayerWisePercentile | `mse`: each tensor's clip of least error as well, sought among all, not among three |
| MinMSE, NonOverflow | `pow2_mse`, `pow2_nonoverflow`, of weights too: scales are powers of two |
| include_cle | `cross_layer_equalization` |
| include_sq, SmoothAlpha | `smooth_quant`, `smooth_quant_alpha` |
| FastFinetune | weight method `adaround` or `adaquant` of Conv, ConvTranspose, Gemm and MatMul; its options |
| | are NumIterations, LearningRate, RegParam, BetaRange and WarmStart |

Types of 16 bits take the observed range with every method, so theirs is `minmax`.
"""

from collections.abc import Mapping
from dataclasses import replace

from disttune.config.auto_search_keys import DEFAULT_ALGORITHM, WHERE
from disttune.config.errors import InputError
from disttune.config.recipes import RECIPES, RecipeValue
from disttune.config.schemes import METHODS, OpConfig, Scheme
from disttune.config.weight_methods import weight_options
from disttune.space.candidate import Candidate
from disttune.strategy.auto_search_space import Config
from disttune.strategy.tuning import Tuning

_METHODS = {
    "MinMSE": "pow2_mse",
    "NonOverflow": "pow2_nonoverflow",
    "MinMax": "minmax",
    "Entropy": "entropy",
    "Percentile": "percentile",
    "LayerWisePercentile": "mse",
}
_OF_WEIGHTS_TOO = ("MinMSE", "NonOverflow")
_FINE_TUNED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_OPTIONS = {"NumIterations": "iterations", "LearningRate": "learning_rate"}
_PAIRS = {"NumIterLR": ("iterations", "learning_rate"), "BetaRange": ("beta_start", "beta_end")}
_ROUNDING_OPTIONS = {"RegParam": "reg_param", "WarmStart": "warm_start"}


class ConfigCandidates:
    """Makes candidates of configs.

    Args:
        tuning: has the default candidate and the ops.
    Raises:
        InputError: the job quantizes no op statically.
    """

    def __init__(self, tuning: Tuning):
        self._base = tuning.space.default_candidate()
        self._types = tuning.space.types
        self._static = [op for op in self._base.ops if self._base.config_of(op).approach == "static"]
        if not self._static:
            raise InputError(f'{WHERE}: it calibrates; set quantization.approach = "static"')

    def candidate(self, config: Config) -> Candidate:
        """The candidate that a config stands for."""
        made: dict[tuple[OpConfig, bool], OpConfig] = {}  # ops of one kind have one
        changes = {}
        for op in self._static:
            given, tuned = self._base.config_of(op), self._types[op] in _FINE_TUNED
            if (given, tuned) not in made:
                made[given, tuned] = _op_config(given, config, tuned)
            changes[op] = made[given, tuned]
        return Candidate.of({**self._base.configs(), **changes}, self._recipes(config))

    def _recipes(self, config: Config) -> dict[str, RecipeValue]:
        chosen: dict[str, RecipeValue] = dict(self._base.recipes)
        if "include_cle" in config:
            chosen["cross_layer_equalization"] = config["include_cle"] is True
        if "include_sq" in config:
            chosen["smooth_quant"] = config["include_sq"] is True
            chosen.pop("smooth_quant_alpha", None)
        if "SmoothAlpha" in config:
            chosen["smooth_quant_alpha"] = _number(config, "SmoothAlpha")
        defaults: Mapping[str, RecipeValue | None] = {name: r.default for name, r in RECIPES.items()}
        return {name: value for name, value in chosen.items() if value != defaults.get(name)}


def in_words(config: Config) -> str:
    """A config as users wrote it: "calibrate_method = MinMax, include_cle = true"."""
    texts = (f"{k} = {str(v).lower() if isinstance(v, bool) else v}" for k, v in config.items())
    return ", ".join(texts) or "the job's default"


def _op_config(given: OpConfig, config: Config, tuned: bool) -> OpConfig:
    activation = given.activation and _activation(given.activation, config)
    weight = given.weight and _weight(given.weight, config, tuned)
    return replace(given, activation=activation, weight=weight)


def _activation(given: Scheme, config: Config) -> Scheme:
    scheme = _typed(given, config, "activation_type", "ActivationSymmetric")
    if "calibrate_method" in config:
        method = _METHODS[str(config["calibrate_method"])]
        parameter = METHODS[method]
        if config.get("CalibMovingAverage") is True:
            method = "ema"
            parameter = _number(config, "CalibMovingAverageConstant", METHODS[method])
        elif "Percentile" in config:
            parameter = _number(config, "Percentile")
        scheme = replace(scheme, method=method, parameter=parameter)
    return _without_inert_method(scheme)


def _weight(given: Scheme, config: Config, tuned: bool) -> Scheme:
    scheme = _typed(given, config, "weight_type", "WeightSymmetric")
    if "calibrate_method" in config:
        name = str(config["calibrate_method"])
        method = _METHODS[name] if name in _OF_WEIGHTS_TOO else "minmax"
        scheme = replace(scheme, method=method, parameter=None, options=())
    if tuned and config.get("include_fast_ft") is True:
        method = str(config.get("OptimAlgorithm", DEFAULT_ALGORITHM))
        return replace(scheme, method=method, parameter=None, options=_options(method, config))
    return _without_inert_method(scheme)


def _typed(given: Scheme, config: Config, dtype: str, symmetric: str) -> Scheme:
    return replace(
        given,
        dtype=str(config.get(dtype, given.dtype)),
        symmetric=config.get(symmetric, given.symmetric) is True,
    )


def _without_inert_method(scheme: Scheme) -> Scheme:
    has_sixteen_bits = scheme.dtype.endswith("16")
    return replace(scheme, method="minmax", parameter=None) if has_sixteen_bits else scheme


def _options(method: str, config: Config) -> tuple[tuple[str, bool | int | float | str], ...]:
    keys = _OPTIONS | (_ROUNDING_OPTIONS if method == "adaround" else {})
    given: dict[str, object] = {option: config[key] for key, option in keys.items() if key in config}
    for key, names in (
        ("NumIterLR", ("iterations", "learning_rate")),
        ("BetaRange", ("beta_start", "beta_end")),
    ):
        pair = config.get(key)
        if isinstance(pair, tuple):
            given |= dict(zip(names, pair, strict=True))
    return weight_options(method, given)


def _number(config: Config, key: str, default: float | None = None) -> float:
    value = config.get(key, default)
    assert isinstance(value, int | float), key
    return float(value)
