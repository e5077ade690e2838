"""Documents and weights to a domain model: python data_prep/continue_on.py input=... source=... [key=value ...]."""

import sys

from padless.domain.command import continue_on_script

if __name__ == "__main__":
    sys.exit(continue_on_script(sys.argv[1:]))
