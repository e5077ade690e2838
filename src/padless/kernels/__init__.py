"""Our own Triton kernels, and the one place where it is decided whether they run."""
