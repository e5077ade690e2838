"""New terms for a model: python data_prep/extend_tokenizer.py input=docs/ source=<weights> output=... [terms=500]."""

import sys

from padless.data.arguments import run_script
from padless.domain.extend_command import extend_tokenizer

if __name__ == "__main__":
    sys.exit(run_script(extend_tokenizer, sys.argv[1:]))
