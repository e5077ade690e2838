"""What a plan knows of the data: blocks and epochs where manifests are on disk, a stated assumption where not."""

import json

import pytest

from padless.config.compose import compose
from padless.errors import DataError
from padless.plan.streams import data_of_phase

MANIFEST = {
    "length_histogram": {"256": 100, "1024": 50},
    "max_document_tokens": 900,
    "tokens": {"train": 50_000, "val": 2_000},
    "blocks": {"512": {"train": {"num_blocks": 40, "fill": 0.98}}},
}


def phase_and_config(folder, manifest):
    for name in ("general", "code", "science"):
        (folder / name).mkdir()
        if manifest is not None:
            (folder / name / "manifest.json").write_text(
                manifest if isinstance(manifest, str) else json.dumps(manifest)
            )
    config = compose([f"data.streams.{name}.local={folder / name}" for name in ("general", "code", "science")])
    return config, config.phases["context"]


def test_manifests_on_disk_give_epochs_fill_and_lengths(tmp_path):
    config, phase = phase_and_config(tmp_path, MANIFEST)
    data = data_of_phase(config, phase, 400)
    assert [(each.needed_blocks, each.num_blocks, each.epochs) for each in data.streams] == [
        (200, 40, 5.0),
        (100, 40, 2.5),
        (100, 40, 2.5),
    ]
    assert (data.fill, data.fill_is_known) == (pytest.approx(0.98), True)
    assert data.segments.says.startswith("from the manifests")
    assert max(data.segments.lengths) == 512


def test_an_assumption_that_is_asked_for_wins(tmp_path):
    config, phase = phase_and_config(tmp_path, MANIFEST)
    assert data_of_phase(config, phase, 400, "full").segments.lengths == (512,)


def test_without_manifests_epochs_are_unknown_and_the_assumption_is_said(tmp_path):
    config, phase = phase_and_config(tmp_path, None)
    data = data_of_phase(config, phase, 400)
    assert all(each.epochs is None and "manifest.json" in (each.why_unknown or "") for each in data.streams)
    assert data.segments.says.startswith("assumed: web-like")
    assert not data.fill_is_known


def test_blocks_of_another_cap_are_not_the_phases(tmp_path):
    config, _ = phase_and_config(tmp_path, MANIFEST)
    data = data_of_phase(config, config.phases["short"], 400)
    assert data.streams[0].why_unknown == f"{tmp_path / 'general'} is prepared for max_seq_len 512, not 64"


@pytest.mark.parametrize(
    "manifest",
    [
        "{",
        "[]",
        "{}",
        {**MANIFEST, "max_document_tokens": "many"},
        {**MANIFEST, "length_histogram": {}},
        {**MANIFEST, "tokens": {"train": None}},
        {**MANIFEST, "length_histogram": {"wide": 3}},
        {**MANIFEST, "blocks": {"512": {"train": {}}}},
        {**MANIFEST, "blocks": {"512": {"train": {"num_blocks": -40, "fill": 0.98}}}},
    ],
)
def test_a_manifest_that_cannot_be_read_is_an_error(tmp_path, manifest):
    config, phase = phase_and_config(tmp_path, manifest)
    with pytest.raises(DataError, match=r"manifest\.json is not a manifest"):
        data_of_phase(config, phase, 400)


@pytest.mark.parametrize(
    "changed",
    [
        {"tokens": {"train": 0, "val": 0}},
        {"length_histogram": {"1": 0}},
        {"blocks": {"512": {"train": {"num_blocks": 0, "fill": 0.98}}}},
    ],
)
def test_a_manifest_without_documents_is_an_error(tmp_path, changed):
    config, phase = phase_and_config(tmp_path, {**MANIFEST, **changed})
    with pytest.raises(DataError, match=r"manifest\.json has no documents to train on at max_seq_len 512"):
        data_of_phase(config, phase, 400)
