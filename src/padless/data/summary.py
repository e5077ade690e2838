"""What a user sees when preparation is done."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from padless.data.manifest import Manifest, SplitBlocks
from padless.units import approximate_tokens

MIN_FILL = 0.98


def print_summary(console: Console, folder: Path, manifest: Manifest) -> None:
    """Print documents, tokens, blocks by max_seq_len, document lengths, and a warning for what is likely a mistake."""
    documents, tokens = manifest.documents, manifest.tokens
    console.print(
        f"{folder}: {documents['train']:,} + {documents['val']:,} documents (train + validation), "
        f"{documents['empty']:,} empty ones skipped; "
        f"{approximate_tokens(tokens['train'])} + {approximate_tokens(tokens['val'])} tokens as {manifest.dtype}; "
        f"longest document {manifest.max_document_tokens:,} tokens",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_blocks_table(manifest))
    console.print(_lengths_table(manifest))
    for warning in warnings(manifest):
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)


def _blocks_table(manifest: Manifest) -> Table:
    table = Table(
        "max_seq_len", "split", "blocks", "segments", "tokens", "fill", title=f"blocks of {manifest.block_tokens}"
    )
    for cap, splits in manifest.blocks.items():
        for name, split in splits.items():
            figures = (f"{split.num_blocks:,}", f"{split.num_segments:,}", approximate_tokens(split.num_real_tokens))
            table.add_row(cap, name, *figures, f"{split.fill:.2%}")
    return table


def _lengths_table(manifest: Manifest) -> Table:
    table = Table("tokens up to", "documents", "", title="document lengths")
    most = max(manifest.length_histogram.values())
    for bound, count in manifest.length_histogram.items():
        table.add_row(f"{int(bound):,}", f"{count:,}", "#" * max(1, round(30 * count / most)))
    return table


def warnings(manifest: Manifest) -> list[str]:
    """Return what is likely a mistake, with its remedy."""
    found = []
    for cap, splits in manifest.blocks.items():
        split = splits["train"]
        if split.fill < MIN_FILL:
            found.append(
                f"blocks at max_seq_len={cap} are filled to {split.fill:.1%} only (under {MIN_FILL:.0%}); "
                f"remedy: {fill_remedy(split)}, or a smaller max_seq_len"
            )
    if manifest.val_fraction > 0 and manifest.documents["val"] == 0:
        found.append(
            f"no document fell into the validation split (val_fraction={manifest.val_fraction}); "
            "remedy: a larger val_fraction or more documents"
        )
    return found


def fill_remedy(split: SplitBlocks) -> str:
    """Return what fills blocks better: where only the last one lacks text, blocks are too large, not too small."""
    only_last_lacks = (1 - split.fill) * split.num_blocks <= 1
    return f"more documents, or a {'smaller' if only_last_lacks else 'larger'} block_tokens"
