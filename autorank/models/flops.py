"""Forward FLOPs of the maps that modules are made of, for one example.

Counted as XLA does: a multiply-add is 2, an elementwise operation 1, exponentials and roots are not counted.
"""


def linear(inputs: int, outputs: int) -> int:
    """A matrix-vector product.

    Examples:
        >>> linear(3, 2)
        12
    """
    return 2 * inputs * outputs


def mix(inputs: int, outputs: int, width: int) -> int:
    """A linear map over the embedding axis."""
    return 2 * inputs * outputs * width


def hidden(inputs: int, depth: int, width: int) -> int:
    """Fully connected layers: product, bias, ReLU."""
    return linear(inputs, width) + (depth - 1) * linear(width, width) + 2 * depth * width


def mlp(inputs: int, outputs: int, depth: int, width: int) -> int:
    """Hidden layers and a linear one with bias."""
    return hidden(inputs, depth, width) + linear(width, outputs) + outputs


def norm(size: int) -> int:
    """Layer norm: mean, centre, square, mean, normalise, scale, shift."""
    return 7 * size
