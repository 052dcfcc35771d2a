"""Which rows of a log are one user's: what GAUC and nDCG are measured within."""

import numpy as np

from autorank.data.format.schema import NUM_RESERVED, Schema

# Names that logs give to the field of users, by preference.
USER_FIELDS = ("user_id", "user", "userid", "uid", "household", "household_id", "visitor_id")


def user_field(schema: Schema) -> str:
    """The name of the field of users; empty if no field is named as one of `USER_FIELDS`, in any case."""
    names = {field.name.lower(): field.name for field in schema.fields}
    return next((names[name] for name in USER_FIELDS if name in names), "")


def users_of(schema: Schema, sparse: np.ndarray) -> np.ndarray | None:
    """The user of each row ``[n]`` from ids ``[n, fields]``; None without a field of users.

    Negative where the user is unknown: rows of all unknown users share an id, and are no group.

    Examples:
        >>> from autorank.data.format.schema import Field
        >>> fields = Field("item", 9, 0), Field("user", 9, 9)
        >>> schema = Schema("toy", fields, (), ("click",), 3, 2, ("clicked",), "", "", {}, {})
        >>> users_of(schema, np.array([[2, 11], [3, 12], [4, 10]])).tolist()
        [2, 3, -1]
    """
    name = user_field(schema)
    if not name:
        return None
    column = [field.name for field in schema.fields].index(name)
    own = np.asarray(sparse[:, column], np.int64) - schema.fields[column].offset
    return np.where(own < NUM_RESERVED, -1, own)
