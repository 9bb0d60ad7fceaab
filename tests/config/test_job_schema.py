"""The JSON Schema for editors accepts what the loader accepts and describes every key."""

import json
import math
import re
import tomllib
from typing import Any

import pytest

from disttune.config.job import Job
from disttune.config.job_file import json_schema
from tests.config.jobs import FULL_TOML

SCHEMA = json_schema()


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """The part of JSON Schema that ours uses."""
    if "$ref" in schema:
        return fits(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")])
    if "anyOf" in schema:
        return any(fits(value, s) for s in schema["anyOf"])
    if "enum" in schema and not any(type(v) is type(value) and v == value for v in schema["enum"]):
        return False
    kinds = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return False
    if isinstance(value, list):
        return len(value) >= schema.get("minItems", 0) and all(
            fits(v, schema.get("items", {})) for v in value
        )
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        if set(schema.get("required", ())) - value.keys():
            return False
        return all(
            fits(v, known[k])
            if k in known
            else others is not False and fits(v, {} if others is True else others)
            for k, v in value.items()
        )
    if isinstance(value, str):
        return len(value) >= schema.get("minLength", 0)
    inside = schema.get("minimum", value) <= value <= schema.get("maximum", value)
    return inside and value > schema.get("exclusiveMinimum", -math.inf)


def full() -> dict[str, Any]:
    return tomllib.loads(FULL_TOML)


def test_full_example_fits():
    assert fits(full(), SCHEMA)


@pytest.mark.parametrize("change", [
    {"tuning": {"max_trial": 1}}, {"tuning": {"max_trials": 0}}, {"tuning": {"max_trials": "1"}},
    {"tunning": {}}, {"tuning": {"strategy": ""}}, {"runtime": {"heartbeat": 0}},
    {"accuracy": {"criterion": "relativ"}}, {"model": {}}, {"quantization": {"accuracy_level": 5}},
    {"quantization": {"op_types": {"Conv": {"weight": {"dtype": ["int9"]}}}}},
    {"quantization": {"recipes": {"first": True}}}, {"quantization": {"recipes": {"dedicated_qdq_pair": 1}}},
    {"quantization": {"recipes": {"smooth_quant_alpha": -0.1}}},
    {"quantization": {"recipes": {"smooth_quant_alpha": ["auto", "off"]}}},
    {"calibration": {"samples": []}}, {"tuning": {"objective": "sise"}},
    {"tuning": {"objective": {"sise": 1}}},
])  # fmt: skip
def test_example_with_a_mistake_does_not_fit(change):
    assert not fits({**full(), **change}, SCHEMA)


def test_schema_names_its_dialect_and_title_and_is_json():
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["title"] == "disttune job file"
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_no_table_takes_unknown_keys():
    assert SCHEMA["additionalProperties"] is False
    assert all(d["additionalProperties"] is False for d in SCHEMA["$defs"].values())


def test_only_the_model_is_required():
    assert SCHEMA["required"] == ["model"]
    assert {n: d["required"] for n, d in SCHEMA["$defs"].items() if "required" in d} == {
        "ModelSection": ["path"]
    }


def test_every_key_of_every_table_is_described():
    for name, definition in SCHEMA["$defs"].items():
        assert definition["description"]
        for key, schema in definition["properties"].items():
            assert re.fullmatch(r".+[.]", schema["description"]), (name, key)


def test_every_key_of_the_job_is_in_the_schema():
    for section, field in Job.model_fields.items():
        if section != "folder":
            definition = SCHEMA["$defs"][f"{section.capitalize()}Section"]
            assert definition["properties"].keys() == field.annotation.model_fields.keys()
