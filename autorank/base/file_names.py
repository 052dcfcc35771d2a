"""Text as the name of a file or a folder."""

import hashlib
import re

LONGEST = 200  # file systems allow 255 bytes, of which suffixes and partial files need some


def file_name(text: str, also: str = "", longest: int = LONGEST) -> str:
    """The text itself where it is a safe name, else one made of it that ends in a hash of it.

    Safe are ASCII letters, digits and ``-_.+@``, which stand unquoted in a shell and in Hydra's grammar; anything else
    becomes ``_``. Different texts give different names.

    Args:
        text: not empty, and no dot first.
        also: more characters that are kept.
        longest: most characters of the name.

    Examples:
        >>> file_name("steps-50")
        'steps-50'
        >>> file_name("path=a/b", also="=")
        'path=a_b_6e0d4d792c'
    """
    safe = re.sub(rf"[^A-Za-z0-9_.+@{re.escape(also)}-]", "_", text)
    if safe == text and len(text) <= longest:
        return text
    mark = f"_{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    return safe[: longest - len(mark)] + mark
