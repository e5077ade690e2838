"""The optimizer: StableAdamW, its schedule and its state."""
