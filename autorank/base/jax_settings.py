"""JAX's settings while our code runs, whatever the process around it has set.

JAX has one set of settings for the process, and a sweep shares its process with the user's jobs. Wider numbers, another
generator of random keys or strict promotion would change what a searcher proposes, or stop it. `own_settings` holds
them at the values that everything here is written for and tested with. The user's values return afterwards, and the
user's jobs never see ours. Settings that change no result (where programs are cached, what is logged) stay the user's,
and so do the platform, XLA's flags and the precision of matrix products in training.

A setting that is changed by a context manager holds in the current thread only, so our threads enter it themselves.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

# JAX's own defaults but for the checks in `STRICT`. An option that the installed version lacks has no effect.
OWN: Mapping[str, Any] = {
    # Types and shapes
    "jax_enable_x64": False,
    "jax_explicit_x64_dtypes": "warn",
    "jax_numpy_dtype_promotion": "standard",
    # Broadcasting over a missing axis is refused: it hides more errors than it saves characters.
    "jax_numpy_rank_promotion": "raise",
    "jax_allow_f16_reductions": True,
    # Random numbers
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_enable_custom_prng": False,
    "jax_legacy_prng_key": "allow",
    "jax_high_dynamic_range_gumbel": False,
    "jax_debug_key_reuse": False,
    # How programs are compiled and where they run
    "jax_default_device": None,
    "jax_default_matmul_precision": None,
    "jax_disable_jit": False,
    "jax_softmax_custom_jvp": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
    "jax_memory_fitting_level": "O2",
    "jax_memory_fitting_effort": 0.0,
    "jax_compiler_enable_remat_pass": True,
    "eager_constant_folding": False,
    # Checks that stop a program: a diverged model is a result here
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_check_tracer_leaks": False,
    "jax_enable_checks": False,
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
    "jax_array_garbage_collection_guard": "allow",
    "jax_thread_guard": False,
    "jax_raise_persistent_cache_errors": False,
    "jax_no_tracing": False,
    "jax_no_execution": False,
    # JAX takes every new array, every Python number beside an array and every result that is read for a transfer.
    # Around compiled programs these are refused (`refuse_implicit_transfers`); between devices they always are.
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_device": "disallow",
    "jax_transfer_guard_device_to_host": "allow",
}


# What our own programs set for the whole process.
STRICT = ("jax_numpy_rank_promotion", "jax_transfer_guard_device_to_device")
# What the user may choose for training, on accelerators above all: a searcher's own arithmetic stays ours.
TRAINING = ("jax_default_matmul_precision",)
_OUTSIDE = threading.local()  # the values of TRAINING where this thread entered our settings


@contextmanager
def own_settings(**choices: Any) -> Iterator[None]:
    """Holds JAX's settings at ours in this thread, with ``choices`` in place of some of them.

    Also a decorator, but not of generators: between two results the caller's settings would not hold.

    Examples:
        >>> import jax
        >>> with own_settings():
        ...     jax.config.jax_numpy_rank_promotion
        'raise'
    """
    with ExitStack() as stack:
        if not hasattr(_OUTSIDE, "values"):
            _OUTSIDE.values = training_choices()
            stack.callback(lambda: delattr(_OUTSIDE, "values"))
        for name, value in {**OWN, **choices}.items():
            setting = _context_of(name)
            if setting is not None:
                stack.enter_context(setting(value))
        yield


def training_choices() -> dict[str, Any]:
    """The user's settings that training follows, as they were before this thread entered our own."""
    import jax

    outside = getattr(_OUTSIDE, "values", None)
    return dict(outside or {name: jax.config.values[name] for name in TRAINING})


def refuse_implicit_transfers() -> AbstractContextManager[None]:
    """Refuses to move an argument of a compiled program that is not on its device yet; a context manager.

    An array of NumPy or a Python number that slips into the arguments would be copied on every call. What a program
    needs is put on its device before, by `jax.device_put` or `jax.numpy.asarray`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> double = jax.jit(lambda x: x + x)
        >>> on_device = jnp.ones(2)
        >>> with refuse_implicit_transfers():
        ...     double(on_device).shape
        (2,)
        >>> with refuse_implicit_transfers():  # doctest: +IGNORE_EXCEPTION_DETAIL
        ...     double(1.0)
        Traceback (most recent call last):
        jax.errors.JaxRuntimeError: INVALID_ARGUMENT: Disallowed host-to-device transfer
    """
    import jax

    return jax.transfer_guard("disallow")


def set_strict_settings() -> None:
    """Refuses rank promotion and implicit transfers between devices until the process ends.

    For programs of ours that have their process to themselves. A sweep over a user's jobs must not call it: there,
    `own_settings` holds the same values while our code runs.
    """
    import jax

    for name in STRICT:
        jax.config.update(name, OWN[name])


@contextmanager
def training_settings() -> Iterator[None]:
    """`own_settings` with the user's choices for training."""
    with own_settings(**training_choices()):
        yield


def _context_of(name: str) -> Any:
    """JAX's context manager for an option, or None where this version has none.

    Most are public (``jax.enable_x64``, ...); the others are kept beside their option.
    """
    import jax

    kind = type(jax.enable_x64)
    public = getattr(jax, name.removeprefix("jax_"), None)
    if isinstance(public, kind):
        return public
    found = getattr(jax.config, "_value_holders", {}).get(name)
    return found if isinstance(found, kind) else None
