"""YAHPO surrogates (slds-lmu/yahpo_data, Apache-2.0), run by onnxruntime: lcbench and nb301 v2.

lcbench: validation cross-entropy of MLPs after 52 epochs on 24 named tasks; the cost is the training time. nb301:
validation error in percent of DARTS cells after 97 epochs, 34 categorical decisions with conditions; the cost is the
run time.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from autorank.benchmarks.base import Benchmark, Values, middle, number
from autorank.space.space import Decision, Space

# OpenML task ids.
LCBENCH_TASKS = (
    *("126026", "126029", "167083", "167104", "167149", "167152", "167168", "167181"),
    *("167184", "167190", "167200", "167201", "168329", "168331", "168335", "168868"),
    *("168908", "189354", "189862", "189866", "189873", "189906", "189908", "3945"),
)
# In the order of the surrogate's inputs, after the epoch.
LCBENCH_INPUTS = ("batch_size", "learning_rate", "momentum", "weight_decay", "num_layers")
LCBENCH_INPUTS += ("max_units", "max_dropout")
LCBENCH_EPOCHS, NB301_EPOCHS = 52, 97
NB301_PREFIX = "NetworkSelectorDatasetInfo_COLON_darts_COLON_"
NB301_INPUTS = (
    *(f"edge_{cell}_{i}" for cell in ("normal", "reduce") for i in range(14)),
    *(f"inputs_node_{cell}_{i}" for cell in ("normal", "reduce") for i in (3, 4, 5)),
)


def lcbench(task: str, folder: Path, *, grid_size: int = 64) -> Benchmark:
    """Validation cross-entropy of one of `LCBENCH_TASKS`; ``folder`` is ``yahpo/lcbench`` of the data.

    Raises:
        ValueError: another task (the others are kept unseen).
        ImportError: onnxruntime is not installed.
    """
    if task not in LCBENCH_TASKS:
        raise ValueError(f"task={task!r} is not one of {', '.join(LCBENCH_TASKS)}")
    ranges = {h["name"]: h for h in _json(folder / "config_space.json")["hyperparameters"]}
    code = _json(folder / "encoding.json")["OpenML_task_id"][task]
    decisions, intervals = [], {}
    for name in LCBENCH_INPUTS:
        h = ranges[name]
        whole = h["type"] == "uniform_int"
        decision, interval = number(
            name, h["lower"], h["upper"], grid_size, log=h["log"], whole=whole
        )
        decisions.append(decision)
        intervals[name] = interval
    run = _session(str(folder / "model.onnx"))

    def after(epoch: int, rows: Sequence[Values]) -> np.ndarray:
        numbers = [[epoch, *(r[n] for n in LCBENCH_INPUTS)] for r in rows]
        x = np.array(numbers, np.float32).reshape(-1, 8)
        return run(np.full((len(x), 1), code, np.int32), x)

    def query(rows: Sequence[Values]) -> np.ndarray:
        out = after(LCBENCH_EPOCHS, rows)
        return np.stack([out[:, 2], np.log(np.maximum(out[:, 0], 1e-3))], axis=1).astype(np.float64)

    def windows(rows: Sequence[Values]) -> np.ndarray:
        epochs = range(1, LCBENCH_EPOCHS + 1)
        return np.stack([after(epoch, rows)[:, 2] for epoch in epochs], axis=1).astype(np.float64)

    space = Space(tuple(decisions), middle(decisions))
    return Benchmark("lcbench", task, space, intervals, query, windows=windows)


def nb301(folder: Path) -> Benchmark:
    """Validation error in percent; ``folder`` is ``yahpo/nb301`` of the data.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    content = _json(folder / "config_space_v2.json")
    codes = {_short(k): v for k, v in _json(folder / "encoding_v2.json").items()}
    choices = {_short(h["name"]): h.get("choices") for h in content["hyperparameters"]}
    parents: dict[str, list[tuple[str, tuple[str, ...]]]] = {n: [] for n in NB301_INPUTS}
    for c in content["conditions"]:
        values = c["values"] if c["type"] == "IN" else [c["value"]]
        parents[_short(c["child"])].append((_short(c["parent"]), tuple(values)))
    decisions = [
        Decision(n, tuple(choices[n]), "categorical", False, tuple(parents[n]))
        for n in NB301_INPUTS
    ]
    run = _session(str(folder / "model_v2.onnx"))

    def query(rows: Sequence[Values]) -> np.ndarray:
        x = [[codes[n][r.get(n, "#na#")] for n in NB301_INPUTS] for r in rows]
        x_cat = np.array(x, np.int32).reshape(-1, len(NB301_INPUTS))
        out = run(x_cat, np.full((len(x_cat), 1), NB301_EPOCHS, np.float32))
        return np.stack(
            [100 * (1 - out[:, 0]), np.log(np.maximum(out[:, 2], 1e-3))], axis=1
        ).astype(np.float64)

    return Benchmark("nb301", "v2", Space(tuple(decisions), middle(decisions)), {}, query)


def _short(name: str) -> str:
    return name.removeprefix(NB301_PREFIX)


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


@runtime_checkable
class _Surrogate(Protocol):
    """Evaluates a surrogate."""

    def __call__(self, x_cat: np.ndarray, x_cont: np.ndarray) -> np.ndarray:
        """Outputs ``[n, q]`` for codes of categories ``[n, a]`` (int32) and numbers ``[n, b]`` (float32)."""
        ...


@cache
def _session(path: str) -> _Surrogate:
    """The surrogate of an ONNX file, on one thread."""
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "YAHPO surrogates need onnxruntime: pip install 'autorank[bench]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(x_cat: np.ndarray, x_cont: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {"x_cat": x_cat, "x_cont": x_cont})[0])

    return run
