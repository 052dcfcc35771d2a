"""Tables of recorded runs: random configurations of a space with their whole learning curves.

- `plan`: which configurations and seeds a table has.
- `journal`: runs as they come, in a file that survives a kill.
- `table`: the table in memory; `table_file`: the Parquet file that holds a finished one.
- `pool`: how a proposal is answered by a table that does not have it.
- `statistics`: what a table says about its seed noise, its order and its cost.
"""
