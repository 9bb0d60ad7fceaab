"""Options of weight methods: what is refused, and with which words."""

import pytest

from disttune.config.errors import InputError
from disttune.config.schemes import parse_scheme_method
from disttune.config.weight_methods import RULES, WEIGHT_METHODS, weight_options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gptq:percdamp=2", 'percdamp must be a number from 0 to 1; "2" was given'),
        ("gptq:percdamp=nan", "percdamp must be a number from 0 to 1"),
        ("gptq:block_size=0", "block_size must be a whole number of at least 1"),
        ("rtn:accuracy_level=5", "accuracy_level must be 0 (unset), 1, 2, 3 or 4"),
        ("hqq:iterations=1.5", "iterations must be a whole number of at least 0"),
        ("adaround:learning_rate=0", "learning_rate must be a number greater than 0"),
        ("adaround:warm_start=1.5", "warm_start must be a number from 0 to 1"),
        ("seqmse:candidates=0", "candidates must be a whole number of at least 1"),
        ("gptq:block_size=true", "block_size must be a whole number of at least 1"),
    ],
)
def test_values_outside_an_options_range_are_told(text, message):
    with pytest.raises(InputError) as caught:
        parse_scheme_method(text)
    assert message in str(caught.value)
    assert text.partition(":")[0] in str(caught.value)


def test_every_number_has_a_rule_that_its_default_keeps():
    for method in WEIGHT_METHODS.values():
        for name, default in method.options.items():
            if not isinstance(default, bool | str):
                assert RULES[name].holds(default), (method.name, name)


def test_values_within_are_taken_in_their_kind():
    given = {"percdamp": "1", "block_size": "64.0", "accuracy_level": 4}
    assert dict(weight_options("gptq", given)) == {"percdamp": 1.0, "block_size": 64, "accuracy_level": 4}
