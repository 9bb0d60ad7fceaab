"""Threshold methods by name."""

import pytest

from disttune.config.errors import InputError
from disttune.config.schemes import METHODS, Scheme
from disttune.quantize.thresholds.registry import activation_range, threshold_names
from tests.quantize.plain_statistics import statistics_of


def test_every_method_that_users_may_name_is_there():
    assert threshold_names() == sorted(METHODS)


def test_unknown_method_is_told():
    with pytest.raises(
        InputError, match=r'no threshold method "entrpy". Nearest: "entropy". All: distribution, '
    ):
        activation_range(statistics_of([1.0]), Scheme("int8", True, method="entrpy"))


def test_missing_parameter_is_the_default():
    statistics = statistics_of([[1.0], [2.0], [3.0]], 3)
    default = activation_range(statistics, Scheme("uint8", False, method="ema"))
    assert default == activation_range(statistics, Scheme("uint8", False, method="ema", parameter=0.01))
    assert default != activation_range(statistics, Scheme("uint8", False, method="ema", parameter=0.5))
