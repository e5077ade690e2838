"""The streams of the bundled sample corpus, and when its general text stands in for general text of the user's."""

from padless.config.schema import Config

STREAMS = ("general", "code", "science")
GENERAL = "general"


def validates_on_bundled(config: Config) -> bool:
    """Return whether a run beside streams of the user's may validate on the bundled general text.

    It does where the stream ``general`` has not been prepared; ``data.prepare_bundled=false`` says that it will be.
    """
    names = set(config.data.streams)
    return config.data.prepare_bundled and GENERAL in names and not names <= set(STREAMS)
