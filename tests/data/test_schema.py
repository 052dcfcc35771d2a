import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autorank.data.format.schema import Field, Schema, from_json, to_json


def schema(sizes=(4, 3), **changes) -> Schema:
    fields, offset = [], 0
    for j, size in enumerate(sizes):
        fields.append(Field(f"f{j}", size, offset))
        offset += size
    whole = Schema(
        name="toy",
        fields=tuple(fields),
        dense=("price",),
        labels=("click", "conversion"),
        num_rows=10,
        num_train=8,
        label_names=("clicked", "bought"),
        source="made up",
        licence="none",
        sha256={"sparse.npy": "ab"},
        notes={"bad_rows": {"count": 0, "first": []}},
    )
    return whole._replace(**changes)


@given(st.lists(st.integers(2, 1000), min_size=1, max_size=8), st.integers(1, 10))
def test_json_gives_the_same_schema_back(sizes, num_train):
    before = schema(tuple(sizes), num_train=num_train)
    after = from_json(json.loads(json.dumps(to_json(before))))
    assert after == before
    assert after.fingerprint() == before.fingerprint()
    assert after.num_ids == sum(sizes) == after.fields[-1].offset + after.fields[-1].size


def test_fingerprint_sees_what_training_sees():
    base = schema().fingerprint()
    assert schema(notes={"other": 1}, source="elsewhere", licence="mine").fingerprint() == base
    for change in ({"num_train": 7}, {"sha256": {"sparse.npy": "cd"}}, {"sizes": (4, 4)}):
        assert schema(**change).fingerprint() != base


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda r: r | {"colour": 1}, "unknown keys \\['colour'\\]"),
        (lambda r: {k: v for k, v in r.items() if k != "dense"}, "missing keys \\['dense'\\]"),
        (lambda r: r | {"format": 99}, "format 99"),
        (lambda r: r | {"fields": [{"name": "a", "size": 3, "offset": 1}]}, "field a has offset 1"),
        (lambda r: r | {"fields": [{"name": "a", "size": 1, "offset": 0}]}, "size 1"),
        (lambda r: r | {"fields": [{"name": "a", "size": 3, "start": 0}]}, "unknown keys"),
        (lambda r: r | {"labels": ["conversion"]}, "must be click"),
        (lambda r: r | {"label_names": ["clicked"]}, "label_names"),
        (lambda r: r | {"num_train": 11}, "num_train=11"),
    ],
)
def test_a_wrong_schema_is_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        from_json(spoil(to_json(schema())))
