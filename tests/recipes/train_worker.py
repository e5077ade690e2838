"""Train configurations one after another in one process: a JSON list of [name, overrides] comes in by file name."""

import json
import os
import sys
from pathlib import Path

from padless.config.check import check, ranks_to_check
from padless.config.compose import compose
from padless.train.run import run

if __name__ == "__main__":
    for name, overrides in json.loads(Path(sys.argv[1]).read_text()):
        print(f"== {name}", flush=True)
        config = compose(overrides)
        check(config, ranks_to_check(config, os.environ))
        run(config)
