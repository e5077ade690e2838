"""Documents to packed blocks, and packed blocks to batches. Only ``mds.py`` imports Streaming."""
