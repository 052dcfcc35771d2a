"""The way to the projects of a W&B server, without a prompt."""

from typing import Any

from autorank.app.tracking_settings import logged_in, own_settings


def open_api() -> Any:
    """A `wandb.Api` with the login of this machine.

    Raises:
        ValueError: there is no login.
    """
    import wandb

    own = own_settings()
    if not logged_in(own=own):
        raise ValueError(
            f"there is no login for {own.base_url}: write wandb login, set WANDB_API_KEY, or name run folders or "
            "W&B's offline folders (runs/NAME/wandb), which need none"
        )
    return wandb.Api(timeout=60)
