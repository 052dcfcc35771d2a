"""Milliseconds of one core that an optimiser step of the predictor's whole ensemble takes, against a PyTorch loop.

    python -m experiments.speed.predictor --rounds 5

20 members 40-128-128-2, each with its own resample of N configurations, a pairwise loss over all pairs of both tasks
(NE gain and FLOPs), AdamW on all rows at once. "autorank" is the search's `ensemble(...).fit`, initialisation and
z-scores included; the PyTorch loop does the same steps with the same loss, member by member.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.speed.figures import Figure, Target
from experiments.speed.harness import Bench, Ratio, Timer, run

MEMBERS, FEATURES, HIDDEN, TASKS = 20, 40, (128, 128), 2
RATE, DECAY, MARGIN = 1e-3, 1e-4, 0.001
STEPS = {100: 200, 256: 80, 500: 60, 2000: 12}  # measured, by N
ONE_THREAD = {"xla_cpu_multi_thread_eigen": False}
STEP, LONG = "cpu per step", "300 steps"


def rows_of(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Features ``[n, 40]`` and targets ``[n, 2]``; the same for every variant."""
    rng = np.random.default_rng(0)
    features = rng.random((n, FEATURES)).astype(np.float32)
    targets = features @ rng.normal(size=(FEATURES, TASKS)) + 0.5 * rng.normal(size=(n, TASKS))
    return features, targets.astype(np.float32)


def figures(seconds: float, n: int) -> dict[str, Figure]:
    """A step's time; at 500 rows also that of a usual fit."""
    found = {STEP: Figure(1e3 * seconds, "ms")}
    return found | ({LONG: Figure(300 * seconds, "s")} if n == 500 else {})


def ours(n: int, loss: str, quick_compile: bool = False) -> dict[str, Figure]:
    """The search's predictor; ``quick_compile`` takes the compiler's options of a search, which compile faster."""
    import jax
    import jax.numpy as jnp

    from autorank.base.programs import compiler_options
    from autorank.surrogates.predictor import ensemble

    predictor = ensemble(
        FEATURES,
        capacity=n,
        members=MEMBERS,
        hidden=HIDDEN,
        loss=loss,
        steps=STEPS[n],
        rate=RATE,
        weight_decay=DECAY,
        bootstrap=True,
    )
    features, targets = rows_of(n)
    arguments = (
        jax.random.key(0),
        jnp.asarray(features),
        jnp.asarray(targets),
        jnp.ones((n, TASKS), bool),
    )
    began = time.process_time()
    options = compiler_options() if quick_compile else ONE_THREAD
    fit = jax.jit(predictor.fit, compiler_options=options).lower(*arguments).compile()
    compile_seconds = time.process_time() - began
    memory = fit.memory_analysis()
    assert memory is not None
    state = jax.block_until_ready(fit(*arguments))
    with Timer() as timer:
        state = jax.block_until_ready(fit(*arguments))
    assert np.isfinite(np.asarray(state.loss)).all()
    return figures(timer.cpu / STEPS[n], n) | {
        "temporaries": Figure(memory.temp_size_in_bytes / 1e6, "MB"),
        "compile": Figure(compile_seconds, "s"),
    }


def torch_loop(n: int, loss: str) -> dict[str, Figure]:
    """Member by member, the loss of all pairs by autograd."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    torch.set_num_threads(1)
    features, targets = (torch.from_numpy(a) for a in rows_of(n))
    y = targets.T
    members: list[Any] = []
    for _ in range(MEMBERS):
        net = nn.Sequential(
            nn.Linear(FEATURES, HIDDEN[0]),
            nn.ReLU(),
            nn.Linear(*HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN[1], TASKS),
        )
        optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
        counts = torch.bincount(torch.randint(n, (n,)), minlength=n).float()
        pairs = (y[:, :, None] > y[:, None, :]) * (counts[:, None] * counts[None, :])
        members.append((net, optimizer, pairs / pairs.sum(dim=(1, 2), keepdim=True)))

    def step() -> None:
        for net, optimizer, pairs in members:
            scores = net(features).T
            ahead = scores[:, :, None] - scores[:, None, :]
            if loss == "logistic":
                each = nn.functional.softplus(-ahead)
            else:
                each = torch.clamp(MARGIN - ahead, min=0)
            optimizer.zero_grad()
            ((pairs * each).sum() / TASKS).backward()
            optimizer.step()

    step()
    steps = max(3, STEPS[n] // 4)
    with Timer() as timer:
        for _ in range(steps):
            step()
    return figures(timer.cpu / steps, n)


def floor(n: int) -> dict[str, Figure]:
    """Time of the nets' products (forward and both gradients) at the core's measured rate, without the pairs."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((2048, 2048))
    product = jax.jit(lambda a: a @ a)
    best = float("inf")
    for _ in range(6):
        with Timer() as timer:
            product(a).block_until_ready()
        best = min(best, timer.cpu)
    widths = (FEATURES, *HIDDEN, TASKS)
    weights = sum(i * o for i, o in zip(widths, widths[1:], strict=False))
    return figures(MEMBERS * 6 * n * weights / (2 * 2048**3 / best), n)


OURS, QUICK, MARGIN_OURS, TORCH, MARGIN_TORCH, FLOOR = (
    "autorank",
    "autorank, quick to compile",
    "autorank, margin",
    "torch loop",
    "torch loop, margin",
    "floor of the products",
)


def measure(shape: str, variant: str) -> Mapping[str, Figure]:
    """Measures one case."""
    n = int(shape.removeprefix("N="))
    if variant == FLOOR:
        return floor(n)
    loss = "margin" if variant.endswith("margin") else "logistic"
    if variant in (TORCH, MARGIN_TORCH):
        return torch_loop(n, loss)
    return ours(n, loss, quick_compile=variant == QUICK)


GOALS = {100: 4.5, 256: None, 500: 3.5, 2000: 4.5}
BENCH = Bench(
    name="predictor",
    cases=[
        (f"N={n}", v) for n in STEPS for v in (OURS, QUICK, TORCH, MARGIN_OURS, MARGIN_TORCH, FLOOR)
    ],
    measure=measure,
    ratios=[
        *(Ratio(f"N={n}", STEP, TORCH, OURS, goal) for n, goal in GOALS.items()),
        *(Ratio(f"N={n}", STEP, MARGIN_TORCH, MARGIN_OURS) for n in STEPS),
        *(Ratio(f"N={n}", STEP, QUICK, OURS) for n in STEPS),
        *(Ratio(f"N={n}", STEP, OURS, FLOOR) for n in STEPS),
    ],
    bounds={
        ("N=2000", OURS, "temporaries"): Target(50, at_most=True),
        ("N=2000", MARGIN_OURS, "temporaries"): Target(50, at_most=True),
        ("N=500", OURS, LONG): Target(4, at_most=True),
    },
    peers=(TORCH, MARGIN_TORCH),
)

if __name__ == "__main__":
    run(BENCH)
