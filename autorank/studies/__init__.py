"""Studies of the method on recorded results: records, repeated splits, arms, and paired differences with intervals."""
