"""Documents to packed blocks: python data_prep/prepare.py input=... output=... tokenizer=... [key=value ...]."""

import sys

from padless.data.arguments import run_script
from padless.data.prepare import prepare

if __name__ == "__main__":
    sys.exit(run_script(prepare, sys.argv[1:]))
