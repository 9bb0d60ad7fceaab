"""Auto Search's configs: counts and filters against listing every combination, order, unions."""

import math
from collections import Counter
from itertools import islice, pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.auto_search_keys import DEFAULT_SPACE, read_search_space
from disttune.config.errors import InputError
from disttune.strategy.auto_search_space import ConfigSpace, ConfigSpaces, setting_cost

LISTS = {
    "calibrate_method": ["MinMax", "Percentile", "Entropy"],
    "include_cle": [True, False],
    "include_sq": [True, False],
    "include_fast_ft": [False, True],
    "CalibMovingAverage": [True, False],
    "CalibMovingAverageConstant": [0.01, 0.1],
    "Percentile": [99.9, 99.99],
    "SmoothAlpha": [0.5, 0.6],
    "OptimAlgorithm": ["adaquant", "adaround"],
    "NumIterations": [10, 20],
    "RegParam": [0.5, 1.0],
}


def config_space(space) -> ConfigSpace:
    return ConfigSpace.of(read_search_space(space, "space"))


def nested(flat):
    """A flat table in the form of users."""
    tuning = {k: v for k, v in flat.items() if k in ("OptimAlgorithm", "NumIterations", "RegParam")}
    extra = {k: v for k, v in flat.items() if k[0].isupper() and k not in tuning}
    whole = {k: v for k, v in flat.items() if k[0].islower()}
    return {**whole, "extra_options": {**extra, "FastFinetune": tuning}}


def plain_distinct(flat) -> set[frozenset]:
    """Every combination listed, without what has no effect in it: the slow oracle."""
    found = set()
    for values in product(*flat.values()):
        c = dict(zip(flat, values, strict=True))
        if c.get("calibrate_method") != "MinMax":
            c.pop("CalibMovingAverage", None)
        if c.get("CalibMovingAverage") is not True:
            c.pop("CalibMovingAverageConstant", None)
        if c.get("calibrate_method") != "Percentile":
            c.pop("Percentile", None)
        if c.get("include_sq") is not True:
            c.pop("SmoothAlpha", None)
        if c.get("include_fast_ft") is not True:
            for key in ("OptimAlgorithm", "NumIterations", "RegParam"):
                c.pop(key, None)
        if c.get("OptimAlgorithm", "adaround") != "adaround":
            c.pop("RegParam", None)
        found.add(frozenset(c.items()))
    return found


@st.composite
def flat_spaces(draw):
    names = draw(st.lists(st.sampled_from(sorted(LISTS)), unique=True, max_size=6))
    return {k: draw(st.lists(st.sampled_from(LISTS[k]), min_size=1, max_size=3)) for k in names}


def test_the_default_space_has_589_824_combinations_43_200_of_them_distinct():
    space = config_space(DEFAULT_SPACE)
    assert (space.raw, space.size) == (589_824, 43_200)
    assert space.raw - sum(space.removed.values()) == space.size


@settings(deadline=None, max_examples=60)
@given(flat_spaces())
def test_counts_and_configs_are_those_of_listing_every_combination(flat):
    space = config_space(nested(flat))
    configs = [frozenset(space[i].items()) for i in range(space.size)]

    assert set(configs) == plain_distinct(flat)
    assert len(configs) == len(set(configs))
    assert space.raw == math.prod(map(len, flat.values()))
    assert space.raw - sum(space.removed.values()) == space.size


@settings(deadline=None, max_examples=40)
@given(st.lists(flat_spaces(), min_size=2, max_size=3))
def test_a_union_counts_and_lists_a_config_of_several_spaces_once(flats):
    spaces = ConfigSpaces(tuple(config_space(nested(flat)) for flat in flats))
    expected = set().union(*map(plain_distinct, flats))

    assert spaces.size == len(expected)
    for order in (spaces.cheapest_first(), spaces.in_random_order(3)):
        configs = [frozenset(c.items()) for c in order]
        assert len(configs) == len(expected)
        assert set(configs) == expected


def test_each_filtered_combination_has_its_reason():
    space = config_space(
        {
            "calibrate_method": ["MinMax", "Percentile"],
            "include_sq": [False, False],
            "extra_options": {"Percentile": [99.9, 99.99], "SmoothAlpha": [0.5, 0.6]},
        }
    )
    # methods x percentiles: MinMax with the second is a repeat; then 3 kept x 4 of smoothing, of them 1 kept
    assert space.removed == Counter(
        {
            "Percentile without calibrate_method = Percentile": 4,
            "a value is given twice": 6,
            "SmoothAlpha without include_sq = true": 3,
        }
    )
    assert space.size == 3


def test_types_that_do_not_go_together_are_filtered():
    space = config_space(
        {"activation_type": ["int8", "uint8"], "weight_type": ["uint8", "int8"], "include_cle": [True, False]}
    )
    assert space.size == 6
    assert space.removed == {"activation_type int8 with weight_type uint8: onnxruntime does not do that": 2}
    assert not any(
        (c["activation_type"], c["weight_type"]) == ("int8", "uint8") for _, c in space.cheapest_first()
    )


def test_the_cheapest_configs_come_first_and_ties_as_listed():
    configs = list(config_space(DEFAULT_SPACE).cheapest_first())
    costs = [cost for cost, _ in configs]
    assert all(a <= b for a, b in pairwise(costs))
    assert len(configs) == 43_200
    first = [c["calibrate_method"] for _, c in islice(configs, 9)]
    assert first == ["NonOverflow"] * 8 + ["MinMax"]


def test_more_iterations_are_expected_to_take_longer():
    few, many = ((("include_fast_ft", True), ("NumIterations", n)) for n in (100, 1000))
    assert setting_cost(few) < setting_cost(many)


def test_pairs_of_iterations_and_rate_stay_together():
    space = config_space(
        {"include_fast_ft": True, "extra_options": {"FastFinetune": {"NumIterLR": [[100, 0.1], [200, 0.01]]}}}
    )
    assert [space[i]["NumIterLR"] for i in range(space.size)] == [(100, 0.1), (200, 0.01)]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"include_cl": True}, 'space: no key "include_cl". Nearest: "include_cle".'),
        (
            {"extra_options": {"Percentil": 99}},
            'space.extra_options: no key "Percentil". Nearest: "Percentile"',
        ),
        (
            {"extra_options": {"FastFinetune": {"NumIteration": 9}}},
            'space.extra_options.FastFinetune: no key "NumIteration". Nearest: "NumIterations"',
        ),
        ({"Percentile": 99.9}, 'It belongs into "extra_options".'),
        ({"calibrate_method": ["MinMaxx"]}, 'space.calibrate_method: no value "MinMaxx". Nearest: "MinMax"'),
        ({"activation_type": ["int4"]}, 'space.activation_type: no value "int4"'),
        ({"include_cle": [1]}, "space.include_cle: must be true or false; 1 was given"),
        ({"include_cle": []}, "space.include_cle: holds no value"),
        ({"extra_options": {"Percentile": [101]}}, "must be a number of more than 0 and at most 100; 101"),
        ({"extra_options": 3}, "space.extra_options: must be a table; 3 was given"),
        (
            {"extra_options": {"FastFinetune": {"NumIterLR": [[1, 0.1]], "LearningRate": 0.1}}},
            "NumIterLR gives LearningRate in pairs; keep one of them",
        ),
        (
            {"extra_options": {"FastFinetune": {"NumIterLR": [[1, 2, 3]]}}},
            "must be a pair; [1, 2, 3] was given",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_is_valid(space, message):
    with pytest.raises(InputError) as caught:
        read_search_space(space, "space")
    assert message in str(caught.value)


def test_quarks_enum_names_are_taken():
    flat = read_search_space(
        {"calibrate_method": "PowerOfTwoMethod.MinMSE", "activation_type": ["QInt8", "QuantType.QUInt16"]}, ""
    )
    assert flat == {"calibrate_method": ("MinMSE",), "activation_type": ("int8", "uint16")}
