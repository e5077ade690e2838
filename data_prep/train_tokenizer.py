"""A tokenizer from documents: python data_prep/train_tokenizer.py input=... output=tokenizer.json [key=value ...]."""

import sys

from padless.data.arguments import run_script
from padless.data.tokenizer_training import train_tokenizer

if __name__ == "__main__":
    sys.exit(run_script(train_tokenizer, sys.argv[1:]))
