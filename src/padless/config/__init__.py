"""Typed configuration: the dataclasses, the one conversion from Hydra, and every cross-field check. No torch."""
