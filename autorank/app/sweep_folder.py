"""Names of the folders of a sweep's jobs: what a job overrides, so that a longer list of values finds those there are.

A number would name another job as soon as the list changes. Of Hydra's ``override_dirname`` this differs in three ways:
whole groups of keys are left out, no value makes an unsafe or overlong name, and the name may be written on a command
line without quotes. A sweep's plug-in registers the resolver too, as processes of some launchers import nothing else.
"""

from collections.abc import Sequence

from omegaconf import OmegaConf

from autorank.base.file_names import file_name

RESOLVER = "overridden"
# Where a run lies and how it is watched. Other keys that change no outcome (search.executor, training.devices) stay:
# who sweeps over them compares them.
LEFT_OUT = ("runs", "name", "fresh", "data.folder", "search.workers", "tracking", "backend")


def overridden(overrides: Sequence[str]) -> str:
    """A folder's name from the overrides of a job, whatever their order.

    Examples:
        >>> overridden(["searcher=paper", "predictor.members=3", "name=sizes", "tracking.mode=offline"])
        'predictor.members-3+searcher-paper'
        >>> overridden(["name=sizes"])
        'defaults'
    """
    kept = []
    for text in overrides:
        key, _, value = text.partition("=")
        bare = key.lstrip("+~").partition("@")[0]
        if not any(bare == left or bare.startswith(f"{left}.") for left in LEFT_OUT):
            kept.append(f"{key.lstrip('+')}-{value}")
    return file_name("+".join(sorted(kept)) or "defaults")


def register_resolver() -> None:
    """Makes ``${overridden:${hydra.overrides.task}}`` known to OmegaConf; again is harmless."""
    OmegaConf.register_new_resolver(RESOLVER, overridden, replace=True)
