"""A run on several ranks in which one block spoils the loss of the step it is in, on the rank that has it.

python rewind_worker.py STREAM INDEX [override ...]        under a launcher
"""

import sys

from padless.cli import exit_code_of
from padless.config.compose import compose
from padless.data.loader import StepLoader
from padless.train.composer_model import ComposerMaskedLM


def main() -> int:
    bad = (sys.argv[1], int(sys.argv[2]))
    assemble, forward = StepLoader._assemble, ComposerMaskedLM.forward
    spoilt = []

    def watched_assemble(self, cut, step, mask_rate):
        batches = assemble(self, cut, step, mask_rate)
        spoilt[:] = [bad in [(block.stream, block.index) for blocks in cut for block in blocks]]
        return batches

    def spoilt_forward(self, batch):
        loss = forward(self, batch)
        if spoilt[0]:
            loss = loss * float("nan")
            self.masked_lm.last_cross_entropy *= float("nan")
        return loss

    StepLoader._assemble, ComposerMaskedLM.forward = watched_assemble, spoilt_forward
    from padless.train.run import run

    return exit_code_of(lambda: run(compose(sys.argv[3:])))


if __name__ == "__main__":
    sys.exit(main())
