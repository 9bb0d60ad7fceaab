import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.errors import InputError
from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.space.candidate import Candidate

OPS = tuple(f"op_{i}" for i in range(6))
SCHEMES = st.builds(
    Scheme,
    dtype=st.sampled_from(["int8", "uint8"]),
    symmetric=st.booleans(),
    granularity=st.sampled_from(["per_tensor", "per_channel"]),
    method=st.just("percentile"),
    parameter=st.sampled_from([None, 99, 99.0, 99.999]),
)
CONFIGS = st.one_of(
    st.just(FLOAT32),
    st.builds(OpConfig, st.sampled_from(["static", "dynamic"]), st.none() | SCHEMES, SCHEMES),
)
CHOICES = st.lists(CONFIGS, min_size=6, max_size=6).map(lambda configs: dict(zip(OPS, configs, strict=True)))
RECIPES = st.dictionaries(st.sampled_from(["dedicated_qdq_pair", "add_qdq_pair_to_weight"]), st.just(True))
CANDIDATES = st.builds(Candidate.of, CHOICES, RECIPES)

INT8 = OpConfig("static", Scheme("int8", True), Scheme("uint8", False))
DYNAMIC = OpConfig("dynamic", Scheme("int8", True), Scheme("uint8", False))


@given(CANDIDATES)
def test_a_candidate_survives_json(candidate: Candidate):
    read = Candidate.from_dict(json.loads(json.dumps(candidate.to_dict())), OPS)
    assert read == candidate
    assert read.digest == candidate.digest
    assert hash(read) == hash(candidate)


@given(CHOICES, RECIPES)
def test_a_candidate_holds_the_configs_it_was_made_of(configs: dict[str, OpConfig], recipes: dict[str, bool]):
    candidate = Candidate.of(configs, recipes)
    assert candidate.configs() == configs
    assert dict(candidate.recipes) == recipes


@given(CANDIDATES, CANDIDATES)
def test_candidates_are_equal_exactly_when_their_digests_are(a: Candidate, b: Candidate):
    same = a.configs() == b.configs() and a.recipes == b.recipes
    assert (a == b) == same
    assert (a.digest == b.digest) == same


@given(CANDIDATES, CHOICES, st.permutations(OPS))
def test_the_way_to_a_candidate_does_not_matter(start: Candidate, end: dict[str, OpConfig], order: list[str]):
    step_by_step = start
    for op in order:
        step_by_step = step_by_step.with_configs({op: end[op]})
    assert step_by_step == Candidate.of(end, dict(start.recipes))


def test_the_default_is_the_most_frequent_config_and_the_first_on_a_tie():
    assert Candidate.of({"a": INT8, "b": FLOAT32, "c": FLOAT32}).default == FLOAT32
    assert Candidate.of({"a": INT8, "b": FLOAT32}).default == INT8
    assert Candidate.of({"a": INT8, "b": FLOAT32}).exceptions == (("b", FLOAT32),)


def test_an_op_outside_the_space_is_told_with_the_nearest():
    candidate = Candidate.of(dict.fromkeys(OPS, INT8))
    with pytest.raises(InputError, match=r'no op "op_9" among the 6 ops of the space\. Nearest: "op_'):
        candidate.in_float("op_1", "op_9")
    with pytest.raises(InputError, match='no op "op_5"'):
        Candidate.from_dict(candidate.in_float("op_5").to_dict(), OPS[:5])


def test_a_candidate_says_in_words_what_it_quantizes():
    candidate = Candidate.of({**dict.fromkeys(OPS, INT8), "op_1": FLOAT32, "op_2": DYNAMIC})
    scheme = "weight int8 symmetric per tensor minmax, activation uint8 asymmetric per tensor minmax"
    assert str(candidate) == f"4 x static: {scheme}; 1 x dynamic: {scheme}; 1 of 6 ops in float"
