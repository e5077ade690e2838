"""The optimizers: StableAdamW and AdamW, on a CPU and on a GPU, with one saved state."""
