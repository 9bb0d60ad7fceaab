"""TuningConfig: the search that a script hands to autotune."""

import json

import pytest

from disttune.config.algorithms.dynamic import DynamicQuantConfig
from disttune.config.algorithms.static import StaticQuantConfig
from disttune.config.errors import InputError
from disttune.config.tuning_config import TuningConfig


def test_configs_are_those_of_the_config_set_in_order():
    static, dynamic = StaticQuantConfig(per_channel=[True, False]), DynamicQuantConfig()
    assert TuningConfig(static).configs() == static.expand()
    assert TuningConfig([dynamic, static]).configs() == [dynamic, *static.expand()]


def test_defaults_are_those_of_base_tuning():
    config = TuningConfig(StaticQuantConfig())
    assert (config.timeout, config.max_trials, config.sampler) == (0, 100, "sequential")
    assert config.tolerable_loss == 0.01


@pytest.mark.parametrize(("values", "text"), [
    ({"config_set": []}, "config_set must hold at least one algorithm config; it is empty"),
    ({"config_set": "static"}, "config_set takes configs such as StaticQuantConfig(); 'static' was given"),
    ({"config_set": [None]}, "config_set takes configs such as StaticQuantConfig(); None was given"),
    ({"timeout": -1}, "timeout must be a number of seconds, at least 0; -1 was given"),
    ({"timeout": "1 h"}, "timeout must be a number of seconds, at least 0; '1 h' was given"),
    ({"timeout": float("inf")}, "timeout must be a number of seconds, at least 0; inf was given"),
    ({"timeout": 10**400}, f"timeout must be a number of seconds, at least 0; {10**400} was given"),
    ({"max_trials": 0}, "max_trials must be a whole number of at least 1; 0 was given"),
    ({"max_trials": 2.0}, "max_trials must be a whole number of at least 1; 2.0 was given"),
    ({"sampler": None}, 'sampler must be the name of a strategy ("sequential", "random", "tpe" ...), '
                        "or a class derived from Sampler; None was given"),
    ({"tolerable_loss": 1},
     "tolerable_loss must be more than -1 and less than 1 (0.01 is one percent); 1 was given"),
    ({"tolerable_loss": float("nan")},
     "tolerable_loss must be more than -1 and less than 1 (0.01 is one percent); nan was given"),
])  # fmt: skip
def test_wrong_value_is_told(values, text):
    with pytest.raises(InputError) as caught:
        TuningConfig(**{"config_set": StaticQuantConfig(), **values})
    assert str(caught.value) == f"TuningConfig: {text}"


def test_all_wrong_values_are_told_together():
    with pytest.raises(InputError) as caught:
        TuningConfig([], timeout=-1, max_trials=0)
    assert len(str(caught.value).splitlines()) == 3


def test_config_is_equal_after_json():
    config = TuningConfig([StaticQuantConfig(per_channel=[True, False]), DynamicQuantConfig()], max_trials=7)
    assert TuningConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_key_names_the_nearest():
    with pytest.raises(InputError, match=r'TuningConfig: no key "max_trial". Nearest: "max_trials"'):
        TuningConfig.from_dict({"config_set": [], "max_trial": 3})
