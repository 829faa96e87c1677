"""Collectives of arrays in GPU memory: the same calls, and the same tables, with kernels for the folds.

From a caller's array to its place on the device (`arrays`); what is asked of CUDA (`runtime`, `cuda`, `kernels`); how
bytes get to another rank (`wire`, `peers`, `nccl`, `host`); which of these a communicator's ranks can use (`links`,
`awareness`), and which one a call takes (`transport`). Nothing here is imported before an array in GPU memory is seen.
"""
