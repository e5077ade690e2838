"""``padless diff RUN_A RUN_B``: where two runs differ in settings, provenance and losses. Needs no torch."""
