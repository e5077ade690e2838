"""The run: phases on Composer, hand-over, checkpoints, callbacks. The only package that imports Composer."""
