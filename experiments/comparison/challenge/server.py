"""Evaluates Bayesmark's problems in the environment that the challenge had (Python 3.7, scikit-learn 0.20.2).

A program for that environment's Python: it imports nothing of this project and has no syntax later than 3.7. One JSON
object a line on standard input, one answer each; a problem is named MODEL_DATA_METRIC.

    {"versions": true}                                             versions by package
    {"space": NAME}                                                its configuration space, as Bayesmark states it
    {"signature": NAME}                                            its five signature values, as Bayesmark draws them
    {"suggest": {"problem": NAME, "seed": 0, "n": 100}}            Bayesmark's own random search
    {"evaluate": {"problem": NAME, "rows": [...], "seeds": [...]}} losses (null = failed), and CPU seconds of each

An error is an answer too: ``{"error": ...}``, with its trace on standard error.
"""

# pyright: reportMissingImports=false
import contextlib
import json
import os
import platform
import sys
import time
import traceback

# The seed under which Bayesmark computes the signatures that it compares (`bayesmark.experiment`).
SIGNATURE_SEED = "7e9f2cabb0dd4f44bc10cf18e440b427"


class Bayesmark:
    """The problems of the installed package."""

    def __init__(self):
        self._problems = {}

    def versions(self):
        """Versions of what decides a result."""
        import bayesmark
        import numpy
        import scipy
        import sklearn

        modules = {"scikit-learn": sklearn, "numpy": numpy, "scipy": scipy, "bayesmark": bayesmark}
        found = {k: getattr(m, "__version__", "") for k, m in modules.items()}
        return {"python": platform.python_version(), **{k: v for k, v in found.items() if v}}

    def space(self, name):
        """By hyperparameter its type, range and scale."""
        return self._problem(name).get_api_config()

    def signature(self, name):
        """Losses at the five configurations that Bayesmark draws to tell problems apart."""
        from bayesmark.experiment import _setup_seeds, get_objective_signature

        _setup_seeds(SIGNATURE_SEED)
        return [float(y) for y in get_objective_signature(*name.split("_"))[1]]

    def suggest(self, name, seed, n):
        """Configurations of Bayesmark's random search."""
        import numpy
        from bayesmark.random_search import suggest_dict

        stream = numpy.random.RandomState(seed)  # noqa: NPY002
        return suggest_dict([], [], self.space(name), n_suggestions=n, random=stream)

    def evaluate(self, name, row, seed):
        """The loss that an optimiser sees: the mean over five folds, negated.

        `SklearnModel.evaluate` gives it with the error on held-out rows, which the challenge did not score; that costs
        a sixth fit, which is left out. Models without a seed of their own draw from NumPy's, as there.
        """
        import numpy
        from bayesmark.sklearn_funcs import CV_SPLITS
        from sklearn.model_selection import cross_val_score

        problem = self._problem(name)
        numpy.random.seed(seed)  # noqa: NPY002
        model = problem.base_model(**dict(row, **problem.fixed_params))
        scores = cross_val_score(
            model, problem.data_X, problem.data_y, scoring=problem.scorer, cv=CV_SPLITS
        )
        return -float(numpy.mean(scores))

    def _problem(self, name):
        from bayesmark.sklearn_funcs import SklearnModel

        if name not in self._problems:
            self._problems[name] = SklearnModel(*name.split("_"))
        return self._problems[name]


def answer(problems, message):
    """The answer to one message."""
    if "versions" in message:
        return {"versions": problems.versions()}
    if "space" in message:
        return {"space": plain(problems.space(message["space"]))}
    if "signature" in message:
        return {"signature": problems.signature(message["signature"])}
    if "suggest" in message:
        asked = message["suggest"]
        return {"rows": plain(problems.suggest(asked["problem"], asked["seed"], asked["n"]))}
    asked = message["evaluate"]
    losses, seconds = [], []
    for row, seed in zip(asked["rows"], asked["seeds"]):  # noqa: B905
        begun = time.process_time()
        losses.append(finite(problems, asked["problem"], row, seed))
        seconds.append(round(time.process_time() - begun, 6))
    return {"losses": losses, "seconds": seconds}


def finite(problems, name, row, seed):
    """A loss; None where the evaluation fails, which the challenge takes for infinity."""
    try:
        loss = problems.evaluate(name, row, seed)
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        return None
    return loss if abs(loss) < float("inf") else None  # a comparison with NaN is false


def plain(value):
    """What JSON can write: NumPy's numbers as Python's."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value.item() if hasattr(value, "item") else value


def serve(problems, lines, answers):
    """Answers each line until they end."""
    for line in lines:
        try:
            found = answer(problems, json.loads(line))
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(found) + "\n")
        answers.flush()


def main():
    """Answers standard input; what libraries print goes nowhere, as they warn at every fit."""
    import warnings

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    with contextlib.suppress(BrokenPipeError):
        serve(Bayesmark(), sys.stdin, answers)


if __name__ == "__main__":
    main()
