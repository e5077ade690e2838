"""Checkpoints come back as they were saved, and files from strangers are refused before they do anything."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from padless.checkpoint import Checkpoint, checkpoint_path, load_checkpoint, save_checkpoint
from padless.checkpoint.archive import MAX_PICKLE_BYTES
from padless.errors import CheckpointError


def test_round_trip_and_readable_name(tmp_path, save):
    path = save("short", 1_402_880)
    assert path.name == "short-1_402_880tok.pt"
    loaded = load_checkpoint(path)
    assert (loaded.clock_tokens, loaded.step) == (1_402_880, 14_028)
    assert loaded.model["w"].tolist() == [1_402_880.0] * 4
    assert sorted(each.suffix for each in path.parent.iterdir()) == [".json", ".pt"]


def test_moments_counters_and_facts_come_back_as_they_were(tmp_path, small):
    facts = {"none": None, "yes": True, "big": 2**62, "negative": -3, "rate": 1e-4, "list": [1, [2, {"a": "ü"}]]}
    path = tmp_path / "x.pt"
    saved = small(**facts)
    save_checkpoint(path, saved, "hash")
    loaded = load_checkpoint(path)
    assert loaded.meta == saved.meta
    assert saved.optimizer is not None
    assert loaded.optimizer is not None
    assert torch.equal(loaded.optimizer["moments"]["w"]["exp_avg"], saved.optimizer["moments"]["w"]["exp_avg"])
    assert loaded.optimizer["moments"]["w"]["kahan_comp"] is None
    assert loaded.optimizer["group_steps"] == saved.optimizer["group_steps"]


def test_every_kind_of_tensor_that_a_model_may_have_comes_back(tmp_path, small):
    kinds = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool)
    tensors = {str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in kinds}
    tensors.update(turned=torch.arange(6.0).reshape(2, 3).T, none=torch.zeros(0, 3), one=torch.tensor(3.0))
    tensors["tied"] = tensors["torch.float32"]
    module = torch.nn.Linear(2, 2).state_dict()
    assert isinstance(module, OrderedDict)
    for model in (tensors, module):
        save_checkpoint(tmp_path / "x.pt", Checkpoint(model, None, small().meta), "hash")
        loaded = load_checkpoint(tmp_path / "x.pt").model
        assert list(loaded) == list(model)
        assert all(torch.equal(loaded[name], model[name]) for name in model)


class Touch:
    """Runs code when it is unpickled: makes the file ``executed``."""

    def __reduce__(self):
        return (os.system, ("touch executed",))


@pytest.fixture(autouse=True)
def canary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "executed").exists()


def content(small, **changes):
    saved = small()
    return {"format_version": 1, "model": saved.model, "optimizer": saved.optimizer, "meta": saved.meta, **changes}


def refused(path, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in caught.value.cause
    assert "\n" not in caught.value.cause
    return caught.value


def test_the_canary_sings():
    pickle.loads(pickle.dumps(Touch()))
    assert Path("executed").exists()
    Path("executed").unlink()


@pytest.mark.parametrize("part", ["model", "optimizer", "meta"])
def test_code_in_any_part_is_refused_by_the_name_of_what_it_would_call(tmp_path, small, part):
    path = tmp_path / "evil.pt"
    torch.save(content(small, **{part: {"moments": Touch()}}), path)
    refused(path, r"evil\.pt cannot be read as a checkpoint: it would call posix\.system; nothing in it was run")


def test_code_in_a_newer_pickle_is_named_too(tmp_path, small):
    path = tmp_path / "evil.pt"
    torch.save(content(small, meta=Touch()), path, pickle_protocol=4)
    refused(path, r"it would call .*posix\.system")


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_with_the_name_of_a_checkpoint_is_refused(tmp_path, protocol):
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Touch(), protocol))
    refused(path, r"it is a pickle that would call posix\.system, not the zip archive that torch\.save writes")


def test_a_file_of_the_old_format_is_refused(tmp_path, small):
    path = tmp_path / "old.pt"
    torch.save(content(small, meta=Touch()), path, _use_new_zipfile_serialization=False)
    refused(path, r"it is a pickle that would call .*posix\.system")


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "it is an empty file"), (b"\x7fELF....", "it is neither a zip archive nor a pickle")]
)
def test_other_files_are_refused(tmp_path, data, message):
    (tmp_path / "x.pt").write_bytes(data)
    refused(tmp_path / "x.pt", message)


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path):
    refused(tmp_path / "gone.pt", "No such file")
    refused(tmp_path, "Is a directory")


def test_a_truncated_checkpoint_is_refused(save):
    path = save("short", 900)
    whole = path.read_bytes()
    for size in (3, 30, 98, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path, "truncated or damaged zip archive|neither a zip")


def rewritten(path, change=lambda name, data: data, more=(), **options):
    """Write the archive anew with changed records."""
    with zipfile.ZipFile(path) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in records:
            archive.writestr(name, change(name, data))
        for name, data in more:
            archive.writestr(name, data)
    return path


def test_an_archive_written_anew_is_still_read(save):
    assert load_checkpoint(rewritten(save("short", 900))).clock_tokens == 900


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([("../outside", b"x")], r"it holds '\.\./outside', which torch\.save does not write"),
        ([("/etc/passwd", b"x")], "it holds '/etc/passwd'"),
        ([("short-900tok/../../x", b"x")], "it holds 'short-900tok/../../x'"),
        ([("archive/constants.pkl", b"x")], r"it holds 'archive/constants\.pkl'"),
        ([("archive/DATA.PKL", b"x")], r"it holds 'archive/DATA\.PKL'"),
        ([("other/data/0", b"x")], "it holds 'other/data/0'"),
        ([("archive/data/0", b"x")], "it holds data/0 twice"),
        ([("archive/data/00", b"x" * 99)], None),
    ],
)
def test_records_that_torch_does_not_write_are_refused(save, more, message):
    path = rewritten(save("short", 900), more=more)
    if message is None:
        assert load_checkpoint(path).clock_tokens == 900
    else:
        refused(path, message)


def test_compressed_records_are_refused_before_they_are_unpacked(save):
    path = rewritten(
        save("short", 900),
        lambda name, data: data if not name.endswith("data/0") else b"\0" * 50_000_000,
        compression=zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 200_000
    refused(path, r"its record \S+ is compressed or encrypted")


def test_an_absurdly_large_pickle_is_refused(save):
    path = rewritten(
        save("short", 900), lambda name, data: data + b"\0" * MAX_PICKLE_BYTES if name.endswith(".pkl") else data
    )
    refused(path, r"its record data\.pkl has 4_[\d_]+ bytes, at most 4_194_304 are read")


def test_a_directory_larger_than_the_file_is_refused(save):
    path = save("short", 900)
    data = bytearray(path.read_bytes())
    data[-58:-50] = struct.pack("<Q", 4_000_000_000)
    path.write_bytes(bytes(data))
    refused(path, "its directory claims 4_000_000_000 bytes")
    rewritten(save("short", 900))  # without the second form of the directory's place
    data = bytearray(path.read_bytes())
    data[-10:-6] = struct.pack("<I", 4_000_000_000)
    path.write_bytes(bytes(data))
    refused(path, "its directory claims 4_000_000_000 bytes")


def test_records_that_overlap_are_refused(tmp_path, save):
    path = save("short", 900)
    with zipfile.ZipFile(path) as archive:
        top = archive.infolist()[0].filename.split("/")[0]
    buffer = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        first = archive.getinfo(f"{top}/data/0")
        for number in range(100, 1100):
            copy = zipfile.ZipInfo(f"{top}/data/{number}")
            copy.header_offset, copy.CRC = first.header_offset, first.CRC
            copy.file_size = copy.compress_size = path.stat().st_size // 2
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
        archive._didModify = True
    path.write_bytes(buffer.getvalue())
    refused(path, "its records add up to")


def with_pickle(path, old, new):
    def change(name, data):
        if not name.endswith("data.pkl"):
            return data
        assert old in data
        return data.replace(old, new)

    return rewritten(path, change)


def weights_only(small, path, tensor):
    torch.save(content(small, model={"w": tensor}, optimizer=None), path)
    return path


def test_a_storage_that_claims_more_than_its_record_is_refused(tmp_path, small):
    """torch itself reads past the record's end here."""
    path = weights_only(small, tmp_path / "x.pt", torch.arange(4.0))
    with_pickle(path, b"K\x04t", b"M\x00\x40t")
    if torch.__version__.startswith("2.7."):  # later ones refuse it themselves
        assert torch.load(path, weights_only=True)["model"]["w"].untyped_storage().nbytes() == 65_536
    refused(path, "it says 65_536 bytes for storage '0', whose record has 16")


def test_a_shape_larger_than_its_storage_is_refused(tmp_path, small):
    path = weights_only(small, tmp_path / "x.pt", torch.arange(4.0))
    with_pickle(path, b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")
    refused(path, r"a tensor of shape \(2147483647,\) does not fit its storage of 4 elements")


def test_an_expanded_tensor_of_absurd_size_is_refused(tmp_path, small):
    path = weights_only(small, tmp_path / "x.pt", torch.zeros(1).expand(1 << 20, 1 << 20))
    refused(path, r"a tensor of shape \(1048576, 1048576\) does not fit its storage of 1 elements")


def test_a_storage_without_a_record_is_refused(tmp_path, small):
    path = weights_only(small, tmp_path / "x.pt", torch.arange(4.0))
    with_pickle(path, b"X\x01\x00\x00\x000q", b"X\x01\x00\x00\x007q")
    refused(path, "it lacks the record of storage '7'")


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        (torch.eye(3).to_sparse(), r"torch\._utils\._rebuild_sparse_tensor"),
        (torch.nn.Parameter(torch.ones(2)), r"torch\._utils\._rebuild_parameter"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), r"torch\._utils\._rebuild_qtensor"),
    ],
)
def test_tensors_of_other_kinds_are_refused_although_torch_would_take_them(tmp_path, small, tensor, name):
    refused(weights_only(small, tmp_path / "x.pt", tensor), f"it would call .*{name}")


def test_instructions_that_torch_does_not_write_are_refused(tmp_path, small):
    path = tmp_path / "x.pt"
    torch.save(content(small), path, pickle_protocol=4)
    refused(path, "it would call|its pickle holds the instruction FRAME")
    torch.save(content(small, model={}, optimizer=None), path, pickle_protocol=4)
    refused(path, "its pickle holds the instruction FRAME, which torch.save does not write")


@pytest.mark.parametrize("cut", [1, 40])
def test_a_damaged_pickle_is_refused(save, cut):
    path = save("short", 900)
    rewritten(path, lambda name, data: data[:-cut] if name.endswith("data.pkl") else data)
    refused(path, r"its pickle is damaged \(\w+\)")


def test_a_pickle_nested_to_crash_its_reader_is_refused(save):
    nested = b"\x80\x02}" + b")" + b"\x85" * 500_000 + b"Ns."
    path = rewritten(save("short", 900), lambda name, data: nested if name.endswith("data.pkl") else data)
    refused(path, r"its pickle is damaged \(TypeError\)")


def test_another_format_is_refused(tmp_path):
    torch.save({"format_version": 99}, tmp_path / "new.pt")
    refused(tmp_path / "new.pt", "format 99, this version reads 1")
    torch.save([1, 2], tmp_path / "new.pt")
    refused(tmp_path / "new.pt", "format 'list', this version reads 1")


def moments(**state):
    return {"moments": {"w": state}, "group_steps": {}}


def deep(levels):
    tree = 1
    for _ in range(levels):
        tree = [tree]
    return tree


def wide(levels):
    """A list that is small as a pickle and has 10 ** levels values."""
    tree = [1] * 10
    for _ in range(levels - 1):
        tree = [tree] * 10
    return tree


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surplus": 1}, "it holds format_version, model, optimizer, meta, surplus where"),
        ({"model": [1]}, "its model is a list, not tensors by name"),
        ({"model": {"w": 3}}, r"its model\['w'\] is a int, not a tensor"),
        ({"optimizer": {"moments": {}}}, "its optimizer does not hold moments and group_steps"),
        ({"optimizer": {"moments": [], "group_steps": {}}}, "moments or group_steps are not values by name"),
        ({"optimizer": {"moments": {}, "group_steps": {"0": 3}}}, r"group_steps\['0'\] is not a counter"),
        ({"optimizer": {"moments": {"v": {}}, "group_steps": {}}}, "moments of 'v', which is no tensor of the model"),
        ({"optimizer": moments(exp_avg=torch.ones(5))}, "its optimizer's 'exp_avg' of 'w' is not a moment"),
        ({"optimizer": moments(exp_avg="x")}, "its optimizer's 'exp_avg' of 'w' is not a moment"),
        ({"meta": None}, "its meta is a NoneType, not facts by name"),
        ({"meta": {"clock_tokens": 1, "step": 1}}, "its meta has phase=None, not a name"),
        ({"meta": {"phase": "a", "clock_tokens": True, "step": 1}}, "its meta has clock_tokens=True, not a count"),
        ({"meta": {"phase": "a", "clock_tokens": 1, "step": -1}}, "its meta has step=-1, not a count"),
        ({"meta": {"phase": "a", "clock_tokens": 1, "step": 1, "x": torch.ones(1)}}, "its meta holds a Tensor"),
        ({"meta": {"phase": "a", "clock_tokens": 1, "step": 1, "x": deep(40)}}, "more than 100_000 values or 32 lev"),
        ({"meta": {"phase": "a", "clock_tokens": 1, "step": 1, "x": wide(9)}}, "its meta has more than 100_000 values"),
    ],
)
def test_content_that_is_no_checkpoint_is_refused_when_loaded_and_when_saved(tmp_path, small, changes, message):
    changed = content(small, **changes)
    torch.save(changed, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", message)
    if "surplus" not in changes:
        checkpoint = Checkpoint(changed["model"], changed["optimizer"], changed["meta"])
        with pytest.raises(ValueError, match=f"would be a checkpoint that does not load: .*{message}"):
            save_checkpoint(checkpoint_path(tmp_path, "short", 3), checkpoint, "hash")
        assert not (tmp_path / "checkpoints").exists()


def test_a_fact_with_a_key_that_is_no_name_is_refused(tmp_path, small):
    torch.save(content(small, meta={"phase": "a", 3: 1}), tmp_path / "x.pt")
    refused(tmp_path / "x.pt", r"its pickle is damaged \(TypeError\)")
    with pytest.raises(ValueError, match="its meta has the key 3, which is not a name"):
        save_checkpoint(tmp_path / "y.pt", small(inner={3: 1}), "hash")
    with pytest.raises(ValueError, match="its model has the key 3, which is not a name"):
        save_checkpoint(tmp_path / "y.pt", Checkpoint({3: torch.ones(1)}, None, small().meta), "hash")


def test_weights_that_are_not_dense_are_not_saved(tmp_path, small):
    with pytest.raises(ValueError, match=r"its model\['w'\] is not a dense tensor"):
        save_checkpoint(tmp_path / "y.pt", Checkpoint({"w": torch.eye(2).to_sparse()}, None, small().meta), "hash")
    with pytest.raises(ValueError, match=r"its model\['w'\] claims \(1000,\), 4_000 bytes, and holds 4"):
        save_checkpoint(tmp_path / "y.pt", Checkpoint({"w": torch.ones(1).expand(1000)}, None, small().meta), "hash")
