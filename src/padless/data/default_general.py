"""What a continued run measures forgetting on where the user has no general text: the bundled one.

With ``data.prepare_bundled=true`` beside streams of the user's, the stream ``general`` is prepared from the bundled
general text with the tokenizer of the other streams, if its folder is not there yet. That is enough to validate on and
far too little to train on, so a phase that mixes it in as replay is refused.
"""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from padless.config.branches import with_branches
from padless.config.bundled_streams import GENERAL, STREAMS
from padless.config.schema import Config
from padless.data.bundled import is_bundled, prepare_general
from padless.data.manifest import MANIFEST, read_manifest
from padless.data.tokenise import tokenizer_file
from padless.errors import DataError


def prepare_default_general(config: Config, say: Callable[[str], None]) -> None:
    """Prepare the bundled text as ``general`` if nobody has prepared that stream. Other streams are on disk by now.

    Args:
        config: for which :func:`padless.config.bundled_streams.validates_on_bundled` holds.
        say: prints one line.

    Raises:
        DataError: a phase trains on the stream, or the other streams have no tokenizer to prepare it with.
    """
    stream = config.data.streams[GENERAL]
    if stream.remote is not None:
        return
    folder, cap = Path(stream.local), config.eval.max_seq_len
    is_prepared = (folder / MANIFEST).is_file()
    if is_prepared and not is_bundled(folder):
        return
    _refuse_training(config, folder)
    if is_prepared and str(cap) in read_manifest(folder).blocks:
        return
    other = next(each for name, each in config.data.streams.items() if name not in STREAMS)
    say(f"no general text in {folder}: the bundled one (public-domain books) is prepared as what forgetting is seen on")
    prepare_general(folder, tokenizer_file(other.local), config.data.block_tokens, [cap], Console(quiet=True))


def _refuse_training(config: Config, folder: Path) -> None:
    phases = with_branches(config).phases
    training = [name for name, phase in phases.items() if GENERAL in phase.streams]
    if training:
        without = " ".join(f"~phases.{name}.streams.{GENERAL}" for name in training)
        raise DataError(
            f"phases.{training[0]}.streams mixes in {GENERAL!r} as replay, and there is no general text of yours in "
            f"{folder}; the bundled text would do for validation, not for training",
            f"give data.streams.{GENERAL}.local=<prepared general text>, or train without replay: {without}",
        )
