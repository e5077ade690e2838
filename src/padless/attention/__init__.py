"""Attention over packed segments: one signature, several kernels, all held to :mod:`padless.attention.reference`."""
