"""What the files in a run's folder are called; ``checkpoint/names.py`` has the names in ``checkpoints/``."""

CONFIG = "config.yaml"  # as resolved at the last start
LINEAGE = "lineage.jsonl"  # starts, branches, resumes, rewinds and changes
METRICS = "metrics.jsonl"  # a line a step, and one a validation
STATUS = "status.json"  # how the run stands or ended
LOCK = "run.lock"  # who trains in the folder
SKIPPED = "skipped.json"  # blocks that rewinds left out
GROWTH = "growth.json"  # what came of a grown start
TOKENIZER = "tokenizer"  # folder of the run's own copy
LOSS_PICTURE = "loss.png"
FORGETTING_PICTURE = "forgetting.png"
BRANCHES_PICTURE = "branches.png"
