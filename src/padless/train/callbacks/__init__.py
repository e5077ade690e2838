"""Thin Composer callbacks: each reads the clock, calls a pure function, and sets or writes one thing."""
