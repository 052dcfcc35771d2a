"""One contract for all registered data sources."""

import dataclasses

import numpy as np
import pytest

from autorank.data.format.source import validate_columns
from autorank.data.logs.base import SOURCES, DataConfig
from autorank.data.prepare import encoders_file, store
from autorank.data.prepare.encoders import encode


def quiet(message):
    pass


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_made_from_its_settings_or_says_what_it_needs(name):
    entry = SOURCES[name]
    settings = entry.settings()
    assert isinstance(settings, DataConfig) and settings.source == name
    try:
        made = entry.make(settings)
    except (ValueError, FileNotFoundError) as error:
        assert "path" in str(error) or "http" in str(error)
    else:
        assert made.name and made.origin and made.licence
        validate_columns(made.columns)
        hash(settings)


@pytest.mark.parametrize("name", [n for n, e in SOURCES.items() if "num_rows" in e.fields])
def test_a_stream_is_prepared_alike_twice_and_its_encoders_give_the_arrays(name, tmp_path):
    entry = SOURCES[name]
    settings = dataclasses.replace(entry.settings(), **{"num_rows": 600})
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        store.prepare(entry.make(settings), folder, min_count=1, progress=quiet)
        found.append(store.load(folder))
    first, second = found
    assert first.fingerprint() == second.fingerprint() and first.schema.num_rows == 600
    np.testing.assert_array_equal(first.sparse, second.sparse)
    np.testing.assert_array_equal(first.labels, second.labels)
    for chunk in entry.make(settings).chunks(tmp_path, quiet):
        sparse, dense = encode(encoders_file.read_encoders(tmp_path / "a"), chunk.columns)
        np.testing.assert_array_equal(sparse, first.sparse[: len(sparse)])
        np.testing.assert_allclose(dense, first.dense[: len(dense)], rtol=1e-5, atol=1e-6)
        break
