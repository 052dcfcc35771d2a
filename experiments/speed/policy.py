"""Milliseconds of one core that a step of the policy takes against a fitted predictor, and against a PyTorch loop.

    python -m experiments.speed.policy --rounds 5

12 decisions of 8 choices, reward from the mean of 20 MLPs 96-64-64-2 (NE gain and FLOPs), REINFORCE with Adam on the
logits. "autorank" is the search's `run_policy` on its `ensemble`, one scan; the PyTorch loop does the same, one step at
a time.
"""

import time
from collections.abc import Mapping
from typing import Any

from experiments.speed.figures import Figure, Target
from experiments.speed.harness import Bench, Ratio, Timer, run

DECISIONS, CHOICES, MEMBERS, HIDDEN, ALPHA, RATE = 12, 8, 20, (64, 64), 0.1, 0.1
STEPS = {64: 400, 256: 150, 1024: 40}  # measured, by batch
STEP, LONG = "cpu per step", "2000 steps"


def figures(seconds: float, batch: int) -> dict[str, Figure]:
    """A step's time; at a batch of 256 also that of a usual search."""
    found = {STEP: Figure(1e3 * seconds, "ms")}
    return found | ({LONG: Figure(2000 * seconds, "s")} if batch == 256 else {})


def ours(batch: int) -> dict[str, Figure]:
    """The search's policy; the predictor is fitted for one step, as its weights do not matter here."""
    import jax
    import jax.numpy as jnp

    from autorank.base.programs import compiler_options
    from autorank.searchers.policy_search import run_policy
    from autorank.searchers.rewards import Line, reward_of
    from autorank.space.space import Decision, Space
    from autorank.surrogates.base import Data
    from autorank.surrogates.ensemble_surrogate import EnsembleSurrogate
    from autorank.surrogates.predictor import ensemble

    decisions = (Decision(f"d{i}", tuple(range(CHOICES))) for i in range(DECISIONS))
    space = Space(tuple(decisions), (0,) * DECISIONS)
    predictor = ensemble(space.num_features, capacity=64, members=MEMBERS, hidden=HIDDEN, steps=1)
    configs = space.sample(jax.random.key(1), 64)
    targets = jax.random.normal(jax.random.key(2), (64, 2))
    surrogate = EnsembleSurrogate(space, predictor)
    data = Data(configs, targets, jnp.ones((64, 2), bool))
    fitted = jax.jit(surrogate.fit)(jax.random.key(0), data)
    line = Line(jnp.ones(2), jnp.zeros(2))

    def search(key: Any, fitted: Any) -> Any:
        return run_policy(
            key,
            space,
            lambda configs: surrogate.predict(fitted, configs).mean,
            lambda scores: reward_of("alpha", jnp.float32(ALPHA), line, scores),
            steps=STEPS[batch],
            samples=batch,
            rate=RATE,
            entropy_coef=0.0,
        )

    began = time.process_time()
    compiled = (
        jax.jit(search, compiler_options=compiler_options())
        .lower(jax.random.key(0), fitted)
        .compile()
    )
    compile_seconds = time.process_time() - began
    jax.block_until_ready(compiled(jax.random.key(0), fitted))
    with Timer() as timer:
        jax.block_until_ready(compiled(jax.random.key(0), fitted))
    return figures(timer.cpu / STEPS[batch], batch) | {"compile": Figure(compile_seconds, "s")}


def torch_loop(batch: int) -> dict[str, Figure]:
    """One step at a time, members one by one."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    torch.set_num_threads(1)
    size = DECISIONS * CHOICES
    nets = [
        nn.Sequential(
            nn.Linear(size, HIDDEN[0]),
            nn.ReLU(),
            nn.Linear(*HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN[1], 2),
        )
        for _ in range(MEMBERS)
    ]
    logits = torch.zeros(DECISIONS, CHOICES, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=RATE)
    baseline = torch.zeros(())

    def step() -> None:
        nonlocal baseline
        log_p = torch.log_softmax(logits, dim=1)
        with torch.no_grad():
            noise = -torch.log(-torch.log(torch.rand(batch, DECISIONS, CHOICES)))
            configs = (log_p + noise).argmax(dim=2)
            features = nn.functional.one_hot(configs, CHOICES).float().flatten(1)
            scores: Any = sum((net(features) for net in nets[1:]), nets[0](features)) / MEMBERS
            rewards = -(1 - ALPHA) * scores[:, 0] - ALPHA * scores[:, 1]
            advantage = rewards - baseline
            baseline = 0.95 * baseline + 0.05 * rewards.mean()
        taken = log_p[torch.arange(DECISIONS), configs].sum(dim=1)
        optimizer.zero_grad()
        (-(advantage * taken).mean()).backward()
        optimizer.step()

    for _ in range(3):
        step()
    with Timer() as timer:
        for _ in range(STEPS[batch]):
            step()
    return figures(timer.cpu / STEPS[batch], batch)


OURS, TORCH = "autorank", "torch loop"


def measure(shape: str, variant: str) -> Mapping[str, Figure]:
    """Measures one case."""
    batch = int(shape.removeprefix("batch "))
    return ours(batch) if variant == OURS else torch_loop(batch)


BENCH = Bench(
    name="policy",
    cases=[(f"batch {batch}", v) for batch in STEPS for v in (OURS, TORCH)],
    measure=measure,
    ratios=[
        Ratio(f"batch {batch}", STEP, TORCH, OURS, goal)
        for batch, goal in {64: 3, 256: 3, 1024: 2}.items()
    ],
    bounds={("batch 256", OURS, LONG): Target(3, at_most=True)},
    peers=(TORCH,),
)

if __name__ == "__main__":
    run(BENCH)
