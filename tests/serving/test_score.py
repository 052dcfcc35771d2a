"""Files are scored as the log of the model was read: the same values, rows and rules."""

import functools
import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from autorank.data.format.batches import Dataset
from autorank.data.logs import table
from autorank.data.prepare import encoders_file, pipeline, scoring_files, store
from autorank.score import main, score
from autorank.serving.export import load_model, save_model

SCHEMA = """
name: shop
click: clicked
conversion: bought
time: ts
categorical: [user, item]
dense: [price]
drop: [dwell]
"""
HEADER = ["user", "item", "price", "dwell", "ts", "clicked", "bought"]
ROWS = 90


def predict(params, rows, sparse, dense):
    logits = rows[jnp.asarray(sparse)].sum(axis=(1, 2))
    numbers = dense @ params["dense"][: dense.shape[1]]
    return jax.nn.sigmoid(logits[:, None] + numbers + params["bias"][None])


def save(data: Dataset, folder: Path) -> Path:
    """A model of two heads, any of whose inputs changes both."""
    num_dense = data.dense.shape[1]
    scoring_files.save_scoring_files(data, folder / "model")
    save_model(
        folder / "model",
        predict,
        {
            "dense": jnp.linspace(0.3, 0.7, 2 * num_dense + 2).reshape(-1, 2),
            "bias": jnp.array([0.1, -1.0]),
        },
        jax.random.normal(jax.random.key(0), (data.schema.num_ids, 2)),
        num_fields=data.sparse.shape[1],
        num_dense=num_dense,
        metrics=("ctr", "cvr"),
        example=(data.sparse[:9], data.dense[:9]),
        description={},
    )
    return folder


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    """Loading a model compiles its program, which is tested elsewhere."""
    monkeypatch.setattr("autorank.score.load_model", LOADED)


LOADED = functools.cache(load_model)


class Trained(NamedTuple):
    run: Path
    # [n, 2], the model's own scores of the prepared rows, in the order of time.
    expected: np.ndarray


def trained(source: store.Source, folder: Path, **settings: Any) -> Trained:
    store.prepare(
        source,
        folder / "data",
        progress=lambda line: None,
        **{"min_count": 1, "max_bad_share": 0.5, **settings},
    )
    data = store.load(folder / "data")
    run = save(data, folder / "run")
    return Trained(run, load_model(run / "model").predict(data.sparse, data.dense))


def frame() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "user": rng.integers(1, 9, ROWS),
            "item": [f"i,{k}" for k in rng.integers(0, 7, ROWS)],
            "price": np.round(rng.gamma(2.0, 3.0, ROWS), 3),
            "dwell": np.zeros(ROWS, np.int64),
            "ts": 1_700_000_000 + np.arange(ROWS),
            "clicked": rng.integers(0, 2, ROWS),
            "bought": np.zeros(ROWS, np.int64),
        }
    )


def write_csv(path: Path, rows: pl.DataFrame, **changes: Any) -> Path:
    content = rows.write_csv(None, **changes).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        content = pa.compress(content, codec="zstd", asbytes=True)
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "schema.yaml").write_text(SCHEMA)
    return trained(
        table.source(write_csv(folder / "log.csv", frame()), folder / "schema.yaml"), folder
    )


def scores(run: Path, rows: Path) -> np.ndarray:
    return pl.read_parquet(score(run, rows)).select("p_ctr", "p_cvr").to_numpy()


def as_arrow(path: Path, rows: pl.DataFrame) -> Path:
    with pa.OSFile(str(path), "wb") as sink:
        found = rows.to_arrow()
        with pa.ipc.new_file(sink, found.schema) as writer:
            writer.write_table(found)
    return path


def as_parquet(path: Path, rows: pl.DataFrame) -> Path:
    rows.write_parquet(path, row_group_size=40)
    return path


WAYS: dict[str, Callable[[Path, pl.DataFrame], Path]] = {
    "log.csv": write_csv,
    "LOG.CSV": write_csv,
    "log.csv.gz": write_csv,
    "log.csv.zst": write_csv,
    "log.tsv": lambda path, rows: write_csv(path, rows, separator="\t"),
    "log.txt": lambda path, rows: write_csv(path, rows, separator=";"),
    "crlf.csv": lambda path, rows: write_csv(path, rows, line_terminator="\r\n", include_bom=True),
    "quoted.csv": lambda path, rows: write_csv(path, rows, quote_style="always"),
    "log.parquet": as_parquet,
    "log.arrow": as_arrow,
}


@pytest.mark.parametrize("name", WAYS)
def test_every_form_of_the_log_has_the_models_scores(shop, tmp_path, name):
    rows = frame()
    path = WAYS[name](tmp_path / name, rows)
    np.testing.assert_allclose(scores(shop.run, path), shop.expected, atol=1e-6)
    serving = rows.select("price", "item", "user")  # no labels, no times, another order
    path = WAYS[name](tmp_path / name, serving)
    found = pl.read_parquet(score(shop.run, path))
    np.testing.assert_allclose(found.select("p_ctr", "p_cvr").to_numpy(), shop.expected, atol=1e-6)
    assert found.columns == ["price", "item", "user", "line", "p_ctr", "p_cvr", "reason"]
    first = 1 if name in ("log.parquet", "log.arrow") else 2
    assert found["line"].to_list() == list(range(first, first + ROWS))
    assert found["reason"].null_count() == ROWS and found.height == ROWS


def test_the_logs_own_format_is_used(tmp_path):
    rows = frame().with_columns(item=pl.lit('"') + pl.col("item"))  # a quote that means nothing
    lines = ["|".join(map(str, row)) for row in rows.rows()]
    (tmp_path / "log.txt").write_text("\n".join(lines) + "\n")
    form = f'separator: "|"\nquote: null\ncolumns: {json.dumps(HEADER)}\n'
    (tmp_path / "schema.yaml").write_text(SCHEMA + form)
    bare = trained(table.source(tmp_path / "log.txt", tmp_path / "schema.yaml"), tmp_path)
    np.testing.assert_allclose(scores(bare.run, tmp_path / "log.txt"), bare.expected, atol=1e-6)
    # Labels, time and outcomes may be lacking; how many cells there are says which.
    for dropped in (
        ["clicked", "bought"],
        ["clicked", "bought", "ts"],
        ["clicked", "bought", "ts", "dwell"],
    ):
        kept = rows.drop(dropped)
        lines = ["|".join(map(str, row)) for row in kept.rows()]
        for header in ([], ["|".join(kept.columns)]):
            (tmp_path / "rows.txt").write_text("\n".join([*header, *lines]))
            found = scores(bare.run, tmp_path / "rows.txt")
            np.testing.assert_allclose(
                found, bare.expected, atol=1e-6, err_msg=f"{dropped} {header}"
            )
    (tmp_path / "rows.txt").write_text("1|2\n3|4\n")
    with pytest.raises(ValueError, match="2 cells instead of 7 or 5 or 4 or 3; the log"):
        score(bare.run, tmp_path / "rows.txt")


def test_a_file_without_names_is_not_guessed_at(tmp_path):
    """Four cells may lack the time or the outcome, which lie on either side of a feature."""
    order = ["clicked", "user", "ts", "item", "dwell", "price", "bought"]
    rows = frame().select(order)
    rows.write_csv(tmp_path / "log.csv", include_header=False)
    (tmp_path / "schema.yaml").write_text(SCHEMA + f"columns: {json.dumps(order)}\n")
    bare = trained(table.source(tmp_path / "log.csv", tmp_path / "schema.yaml"), tmp_path)
    path = tmp_path / "rows.csv"
    for dropped in ([], ["clicked", "bought"], ["clicked", "bought", "ts", "dwell"]):
        rows.drop(dropped).write_csv(path, include_header=False)
        np.testing.assert_allclose(scores(bare.run, path), bare.expected, atol=1e-6)
    rows.drop("clicked", "bought", "ts").write_csv(path, include_header=False)
    with pytest.raises(ValueError, match="4 cells per line can be .* or .*; add a header"):
        score(bare.run, path)
    rows.drop("clicked", "bought", "ts").write_csv(path)
    np.testing.assert_allclose(scores(bare.run, path), bare.expected, atol=1e-6)


def test_each_row_has_a_score_or_a_reason(shop, tmp_path):
    rows = frame()
    lines = rows.write_csv(None).split("\n")[:-1]
    lines[3] = lines[3].rsplit(",", 5)[0]  # cut off
    lines[5] = ""  # no row
    lines[8] = lines[8] + ",more"
    lines[9] = lines[9].replace(lines[9].split(",")[-5], "cheap", 1)
    lines[11] = ",,,,,,"
    lines[14] = f'99999,"{rows["item"][0]}",,0,,,'  # an unknown user, no price, no label
    (tmp_path / "log.csv").write_text("\n".join([*lines, "", ""]))
    found = pl.read_parquet(score(shop.run, tmp_path / "log.csv"))
    assert found["line"].to_list() == [line for line in range(2, ROWS + 2) if line != 6]
    reasons = {line: why for line, why in found.select("line", "reason").rows() if why is not None}
    assert set(reasons) == {4, 9, 10, 12}
    assert reasons[9] == "9 fields instead of 7" or reasons[9] == "8 fields instead of 7"
    assert "instead of 7" in reasons[4] and reasons[12] == "every cell is empty"
    assert reasons[10] == "price='cheap' is not a number"
    for line, ctr, cvr in found.select("line", "p_ctr", "p_cvr").rows():
        if line in reasons:
            assert ctr is None and cvr is None
        elif line != 15:
            np.testing.assert_allclose([ctr, cvr], shop.expected[line - 2], atol=1e-6)
    assert found.filter(pl.col("line") == 15)["p_ctr"].is_not_null().all()


def test_prepared_rows_and_scored_rows_are_the_same_ones(tmp_path):
    """A log with broken rows: what is kept has the model's scores, what is not a reason."""
    lines = frame().write_csv(None).split("\n")[:-1]
    lines[7], lines[20], lines[33] = "1,2", "", lines[33].replace(",", "")
    lines[40] = lines[40].replace(lines[40].split(",")[-5], "1e999", 1)
    (tmp_path / "log.csv").write_text("\n".join(lines))
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    model = trained(table.source(tmp_path / "log.csv", tmp_path / "schema.yaml"), tmp_path)
    schema = store.load(tmp_path / "data").schema
    found = pl.read_parquet(score(model.run, tmp_path / "log.csv"))
    assert found.height == schema.num_rows + schema.notes["bad_rows"]["count"] == ROWS - 1
    kept = found.filter(pl.col("reason").is_null()).select("p_ctr", "p_cvr").to_numpy()
    np.testing.assert_allclose(kept, model.expected, atol=1e-6)


USER_FORMS = {
    "float": lambda user: user.cast(pl.Float64),
    "float32": lambda user: user.cast(pl.Float32),
    "int8": lambda user: user.cast(pl.Int8),
    "uint64": lambda user: user.cast(pl.UInt64),
    "text": lambda user: user.cast(pl.String),
    "pandas": lambda user: user.cast(pl.Float64).cast(pl.String),
    "padded": lambda user: pl.concat_str(pl.lit(" "), user.cast(pl.String), pl.lit("  ")).alias(
        "user"
    ),
    "dictionary": lambda user: user.cast(pl.String).cast(pl.Categorical),
    "decimal": lambda user: user.cast(pl.Decimal(10, 2)),
}


@pytest.mark.parametrize("encoding", ["vocabulary", "hash"])
def test_a_whole_number_is_one_value_whatever_its_type(tmp_path, encoding):
    """A model of a log in each form scores all others alike."""
    rows = frame().with_columns(user=pl.when(pl.col("user") != 3).then("user"))
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    prepared = {}
    for name, form in USER_FORMS.items():
        path = as_parquet(tmp_path / f"{name}.parquet", rows.with_columns(form(pl.col("user"))))
        source = table.source(path, tmp_path / "schema.yaml")
        settings = {"min_count": 1, "encoding": encoding, "hash_size": 50}
        store.prepare(source, tmp_path / name, progress=lambda line: None, **settings)
        prepared[name] = store.load(tmp_path / name)
        assert prepared[name].fingerprint() == prepared["float"].fingerprint(), name
    path = write_csv(tmp_path / "pandas.csv", pl.read_parquet(tmp_path / "float.parquet"))
    assert "\n7.0," in path.read_text()
    source = table.source(path, tmp_path / "schema.yaml")
    model = trained(source, tmp_path / "csv", encoding=encoding, hash_size=50)
    assert store.load(tmp_path / "csv" / "data").fingerprint() == prepared["float"].fingerprint()
    for file in (path, *(tmp_path / f"{name}.parquet" for name in USER_FORMS)):
        np.testing.assert_allclose(scores(model.run, file), model.expected, atol=1e-6)


def test_what_is_no_whole_number_stays_apart(tmp_path):
    values = [
        "7",
        "007",
        "7.0",
        "-0.0",
        "0",
        "1e3",
        "1000",
        "1.10",
        "1.1",
        "+7",
        "True",
        "true",
        "1",
        " ",
        "",
        "7.",
    ]
    rows = pl.DataFrame(
        {"user": values * 2, "clicked": [0, 1] * len(values), "x": ["a"] * 2 * len(values)}
    )
    rows.write_csv(tmp_path / "log.csv")
    (tmp_path / "schema.yaml").write_text("name: s\nclick: clicked\ncategorical: [user, x]\n")
    source = table.source(tmp_path / "log.csv", tmp_path / "schema.yaml")
    store.prepare(source, tmp_path / "out", min_count=1, progress=lambda line: None)
    known = encoders_file.read_encoders(tmp_path / "out").fields[0].values
    assert set(known) == {"7", "007", "0", "1e3", "1000", "1.10", "1.1", "+7", "true", "1", "7."}


def test_identifiers_that_floats_cannot_hold_are_warned_of(shop, tmp_path, caplog):
    rows = frame().with_columns(user=pl.col("user").cast(pl.Float64) + 2.0**60)
    path = as_parquet(tmp_path / "log.parquet", rows)
    score(shop.run, path)
    assert f"column user: {ROWS} values are floats too large" in caplog.text
    caplog.clear()
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    source = table.source(path, tmp_path / "schema.yaml")
    store.prepare(source, tmp_path / "out", progress=lambda line: None)
    assert f"column user: {ROWS} values are floats too large" in caplog.text


def test_many_unknown_ids_are_warned_of_with_both_shares(shop, tmp_path, caplog):
    rows = frame()
    path = as_parquet(tmp_path / "a.parquet", rows.with_columns(user=pl.col("user") + 1000))
    score(shop.run, path)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and "field user: 100 % of 90 scored rows" in lines[0]
    assert "0 % of the 18 held-out rows" in lines[0]
    caplog.clear()
    score(shop.run, as_parquet(tmp_path / "b.parquet", rows))
    score(shop.run, as_parquet(tmp_path / "c.parquet", rows.head(2).with_columns(user=pl.lit(99))))
    assert not caplog.records


def test_a_model_of_an_older_version_scores_by_its_own_rules(shop, tmp_path, caplog):
    run = tmp_path / "old"
    shutil.copytree(shop.run, run)
    (run / "model" / "reading.json").unlink()
    path = run / "model" / "encoders.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"format": 1}))
    rows = frame()
    np.testing.assert_allclose(
        scores(run, write_csv(tmp_path / "log.csv", rows)), shop.expected, atol=1e-6
    )
    assert "older version" in caplog.text and "train again" in caplog.text
    floats = rows.with_columns(pl.col("user").cast(pl.Float64))
    old = scores(run, as_parquet(tmp_path / "log.parquet", floats))
    unknown = rows.with_columns(user=pl.lit(1000))
    new = scores(shop.run, as_parquet(tmp_path / "other.parquet", unknown))
    np.testing.assert_allclose(old, new, atol=1e-6)  # 7.0 was not 7
    path.write_text(json.dumps(record | {"format": 9}))
    with pytest.raises(ValueError, match="format 9"):
        score(run, tmp_path / "log.csv")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("none.csv", None, "is not a file"),
        ("empty.csv", b"", "is empty"),
        ("empty.csv.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("page.csv", b"<html><body>not found</body></html>", "HTML"),
        ("noise.csv", bytes(range(1, 256)) * 9, "missing"),
        ("zeros.csv", b"\0" * 999, "NUL"),
        ("rows.xlsx", b"PK\x03\x04" + b"\0" * 99, "ZIP"),
        ("cut.parquet", b"PAR1" + b"\0" * 99, "cut.parquet"),
        ("less.csv", b"user,price\n1,2\n", r"columns \['item'\] are missing"),
        ("twice.csv", b"user,item,price,price\n1,2,3,4\n", "occur twice"),
        ("latin.csv", "user,item,price\n1,\u00e9,2\n".encode("latin-1"), "utf-8"),
    ],
)
def test_what_is_no_table_is_refused_in_one_sentence(
    shop, tmp_path, capsys, name, content, message
):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert main([str(shop.run), str(path)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("autorank.score: ") and told.count("\n") == 1 and name in told
    assert re.search(message, told), told
    assert not list(tmp_path.glob("*scored*")) and not list(tmp_path.glob(".*"))


def test_no_row_and_no_good_row(shop, tmp_path):
    (tmp_path / "names.csv").write_text("user,item,price\n")
    assert main([str(shop.run), str(tmp_path / "names.csv")]) == 0
    assert pl.read_parquet(tmp_path / "names.scored.parquet").height == 0
    (tmp_path / "bad.csv").write_text("user,item,price\n1,2,x\n1,2\n")
    assert main([str(shop.run), str(tmp_path / "bad.csv")]) == 1
    assert pl.read_parquet(tmp_path / "bad.scored.parquet")["reason"].null_count() == 0


def test_where_scores_go(shop, tmp_path, caplog):
    rows = frame().with_columns(line=pl.lit("x"), reason=pl.lit("y"))
    path = write_csv(tmp_path / "log.csv.gz", rows)
    assert score(shop.run, path) == tmp_path / "log.scored.parquet"
    assert "columns ['line', 'reason'] of the file are replaced" in caplog.text
    out = score(shop.run, path, tmp_path / "out.csv")
    np.testing.assert_allclose(
        pl.read_csv(out).select("p_ctr", "p_cvr").to_numpy(), shop.expected, atol=1e-6
    )
    for bad, message in (("out.json", "parquet or .csv"), ("no/out.csv", "not a folder")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            score(shop.run, path, tmp_path / bad)
    with pytest.raises(ValueError, match="file to be scored"):
        score(shop.run, out, out)


def test_a_feature_that_cannot_be_read_is_named(shop, tmp_path):
    rows = frame().with_columns(item=pl.concat_list("item", "item"))
    with pytest.raises(ValueError, match="'item' of type .* cannot be read as categorical"):
        score(shop.run, as_parquet(tmp_path / "log.parquet", rows))
    # What is no feature is handed on, whatever it is.
    rows = frame().with_columns(more=pl.concat_list("item", "item"), dwell=pl.lit(None))
    np.testing.assert_allclose(
        scores(shop.run, as_parquet(tmp_path / "log.parquet", rows)), shop.expected, atol=1e-6
    )


def test_a_cell_that_goes_over_lines_is_one_row_with_the_right_lines(shop, tmp_path):
    lines = frame().write_csv(None).split("\n")[:-1]
    lines[2] = lines[2].replace('"i,', '"i\n\n,', 1)
    lines[4] = "cut"
    path = tmp_path / "log.csv"
    path.write_text("\n".join(lines))
    found = pl.read_parquet(score(shop.run, path))
    assert found["line"].to_list() == [2, 3, *range(6, ROWS + 4)]
    assert found.filter(pl.col("line") == 7)["reason"].to_list() == ["1 fields instead of 7"]
    assert found["reason"].null_count() == ROWS - 1
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    source = table.source(path, tmp_path / "schema.yaml")
    schema = store.prepare(source, tmp_path / "out", max_bad_share=0.5, progress=lambda line: None)
    assert schema.notes["bad_rows"]["first"] == ["log.csv:7: 1 fields instead of 7"]
    assert schema.notes["line_ends_inside_cells"] == 2 and schema.num_rows == ROWS - 1


def test_data_of_an_older_version_is_prepared_again(shop, tmp_path):
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    source = table.source(write_csv(tmp_path / "log.csv", frame()), tmp_path / "schema.yaml")
    store.prepare(source, tmp_path / "out", progress=lambda line: None)
    path = tmp_path / "out" / "schema.json"
    record = json.loads(path.read_text())
    record["notes"]["made_from"]["version"] = 1
    path.write_text(json.dumps(record))
    told: list[str] = []
    store.prepare(source, tmp_path / "out", progress=told.append)
    assert any("prepared from other version; preparing again" in line for line in told)
    assert json.loads(path.read_text())["notes"]["made_from"]["version"] == pipeline.VERSION >= 2
