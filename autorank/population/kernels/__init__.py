"""The layers of all lanes in a few kernels a layer, whatever their architectures are (Pallas, its Triton form).

A library runs a layer of small models as hundreds of kernels, and starting them takes longer than the arithmetic. Here
the architecture is read by the kernels: each program looks up in a table (`slot_table`) what its slot holds, and how
large that is, and runs the formulas of that module (`row_formulas`) or a tile of its matrix products (`products`).
Kernels of rows have lists of the slots that they serve (`work_lists`).
"""
