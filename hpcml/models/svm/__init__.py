"""Kernel machines on the rows of all ranks: kernels, their columns, the quadratic programme and its solver."""
