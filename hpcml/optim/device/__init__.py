"""Optimizers of parameters in GPU memory: the rules as kernels, and the messages in which gradients travel."""
