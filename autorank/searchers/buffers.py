"""Sizes of the buffers that a model is fitted in, each of which is compiled."""


def buffer_sizes(capacity: int, batch_size: int) -> list[int]:
    """Sizes of the model's buffers, each compiled: 128, 256, ..., and last one for a full history and a batch.

    Examples:
        >>> buffer_sizes(capacity=400, batch_size=10)
        [128, 256, 416]
    """
    most = 16 * -(-(capacity + batch_size) // 16)
    sizes = [s for s in (128 * 2**i for i in range(12)) if 4 * s <= 3 * most]
    return [*sizes, most]
