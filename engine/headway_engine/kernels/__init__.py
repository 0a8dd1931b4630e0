"""Triton kernels of the CUDA executor; imported only where there is a GPU, since Triton is not installed elsewhere.

Each file has one kernel, or the few that make one operation, and a typed function that launches it. All of them take what
varies from step to step (contexts, block tables, sampling) from device memory, so a captured CUDA graph stays valid.
"""
