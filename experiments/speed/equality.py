"""Does a lane give a trial the NE that its compact program gives it? Random models, paired by configuration and seed.

    python -m experiments.speed.equality                       # 30 models of dhen_small, 3 seeds; 12 minutes on 2 cores
    python -m experiments.speed.equality --precision bfloat16  # a population's activations in bfloat16
    python -m experiments.speed.equality --kuairand FOLDER     # a tenth of KuaiRand-Pure: 38 embeddings of a row
    python -m experiments.speed.equality --small               # the same program at toy size

Rounding differs between the two forms, and training amplifies it: after some steps the parameters differ visibly, in
no direction. So the differences are set beside two others of the same models: between seeds (the noise that a search
lives with), and between compact runs whose initial weights differ by a millionth.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import scipy.stats
from hydra import compose, initialize_config_dir

from autorank.app import build
from autorank.app.composition import settings
from autorank.app.programs import CONFIGS, register
from autorank.app.settings import SearchConfig
from autorank.base.jax_settings import set_strict_settings
from autorank.objectives.training import ObjectiveConfig, training_objective
from autorank.training.compact import Setting
from experiments.machine import RESULTS
from experiments.speed.figures import Findings, Target, write

Decode = Callable[[np.ndarray], Setting]
NUDGE = 1e-6  # relative change of the initial weights


class Size(NamedTuple):
    """How much is trained."""

    rows: int
    models: int
    seeds: int
    batch_size: int
    share: float = 1.0  # of the training rows
    folder: Path | None = None  # of KuaiRand-Pure; None is the synthetic log

    def __str__(self) -> str:
        own = f"{self.models} models of dhen_small, {self.seeds} seeds"
        rows = f"{self.rows} rows" if self.folder is None else f"{self.share:g} of KuaiRand-Pure"
        return f"{own}, {rows}, B={self.batch_size}"

    @property
    def data(self) -> list[str]:
        """Overrides that choose the log."""
        if self.folder is None:
            return ["data=synthetic", f"data.num_rows={self.rows}"]
        return ["data=kuairand", f"data.path={self.folder}"]


FULL, SMALL = Size(8_000, 30, 3, 128), Size(4_000, 3, 2, 50)
KUAIRAND = Size(178_176, 30, 3, 128, 0.1, Path())
MEAN, LARGEST = (
    "mean difference in seed noises, absolute",
    "largest difference of a model in seed noises",
)
BOUNDS = {
    (str(size), f"lanes {precision} / compact", metric): Target(bound, at_most=True)
    for size in (FULL, KUAIRAND)
    for precision in ("float32", "bfloat16")
    for metric, bound in ((MEAN, 0.1), (LARGEST, 1.0))
}


def config_of(size: Size, precision: str, folder: Path) -> SearchConfig:
    """Settings of a search over the log."""
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        composed = compose(
            "search",
            [
                *size.data,
                "space=dhen_small",
                "model.head=ctr",
                f"data.folder={folder}",
                f"training.batch_size={size.batch_size}",
                f"training.precision={precision}",
                "training.num_windows=20",
            ],
        )
    return settings(composed, SearchConfig)


def levels(size: Size, precision: str, folder: Path) -> Iterator[np.ndarray]:
    """Lifetime NE ``[models, seeds]`` of compact programs, of lanes, and of nudged ones; NaN for a failed run."""
    config = config_of(size, precision, folder)
    data = build.dataset(config.data, print)
    space = build.space(config)
    decode = build.decoder(config, space)
    own = build.objective_settings(config, data, space)
    configs = np.asarray(space.sample(jax.random.key(0), 4 * size.models))
    configs = np.unique(configs, axis=0)
    configs = configs[np.random.default_rng(0).permutation(len(configs))[: size.models]]

    def nudged(vector: np.ndarray) -> Setting:
        setting = decode(vector)
        scale = setting.hparams.init_scale * (1 + NUDGE)
        return setting._replace(hparams=setting.hparams._replace(init_scale=scale))

    def trained(name: str, decode: Decode, settings: ObjectiveConfig) -> np.ndarray:
        found = np.full(size.models * size.seeds, np.nan)
        objective = training_objective(data, decode, settings)
        runs = np.repeat(configs, size.seeds, axis=0)
        seeds = list(range(size.seeds)) * size.models
        for done, (i, outcome) in enumerate(objective.evaluate(runs, seeds, size.share), 1):
            found[i] = np.nan if outcome.failed else outcome.ne[0]
            if done % 10 == 0:
                print(f"  {name}: {done} of {len(runs)} runs", flush=True)
        return found.reshape(size.models, size.seeds)

    compact = replace(own, executor="compact")
    yield trained("compact", decode, compact)
    yield trained("lanes", decode, replace(own, executor="population"))
    yield trained("nudged", nudged, compact)


def compare(
    found: Findings, shape: str, variant: str, ne: np.ndarray, reference: np.ndarray
) -> None:
    """NE ``[models, seeds]`` against the reference's, paired, in percent of NE and in units of the seed noise."""
    percent = 100 * (ne / reference - 1)
    known = np.isfinite(percent).all(axis=1)
    of_model = percent[known].mean(axis=1)
    scaled = 100 * reference[known] / reference[known].mean(axis=1, keepdims=True)
    noise = float(np.sqrt(scaled.var(axis=1, ddof=1).mean()))
    count = len(of_model)
    error = of_model.std(ddof=1) / count**0.5
    low, high = of_model.mean() + error * np.array(scipy.stats.t.interval(0.95, count - 1))

    def say(metric: str, unit: str, *values: float) -> None:
        found.say(shape, variant, metric, unit, *values)

    mean = float(of_model.mean())
    say("mean difference of NE, with its 95 % interval", "%", float(low), mean, float(high))
    say("seed noise of NE", "%", noise)
    say(MEAN, "", abs(mean) / noise)
    say(LARGEST, "", float(np.abs(of_model).max()) / noise)
    spread = float(percent[known].std()) / noise
    say("standard deviation of a run's difference in seed noises", "", spread)
    only_one = (np.isnan(ne) != np.isnan(reference)).any(axis=1)
    say("models that failed in one form only", "", int(only_one.sum()))


def main() -> None:
    """Measures and writes ``experiments/results/bench_equality.csv``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--small", action="store_true", help="toy size; nothing is written")
    parser.add_argument("--kuairand", type=Path, metavar="FOLDER", help="KuaiRand-Pure's files")
    parser.add_argument("--folder", type=Path, default=Path("data_cache"), help="prepared rows")
    options = parser.parse_args()
    register()
    set_strict_settings()
    size = SMALL if options.small else FULL
    if options.kuairand:
        size = KUAIRAND._replace(folder=options.kuairand)
        if options.small:
            size = size._replace(models=SMALL.models, seeds=SMALL.seeds, share=0.02)
    found = Findings("equality")
    variants = (
        f"lanes {options.precision} / compact",
        f"compact, initial weights x (1 + {NUDGE:g})",
    )
    trained = levels(size, options.precision, options.folder)
    compact = next(trained)
    for variant, ne in zip(variants, trained, strict=True):
        compare(found, str(size), variant, ne, compact)
        if not options.small:
            # As it comes: a machine may be taken away.
            write(RESULTS / "bench_equality.csv", found.rows)


if __name__ == "__main__":
    main()
