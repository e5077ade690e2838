import datetime
import os
import zipfile

import numpy as np
import pytest
import torch

from padless.checkpoint.archive import outline_of_archive
from padless.checkpoint.outline import Inert, RefusedError
from padless.checkpoint.records import read_tensors

INERT = frozenset({"datetime.timedelta"})


def saved(path, content):
    torch.save(content, path)
    return path


def test_tensors_of_every_kind_come_back_as_they_were_saved(tmp_path):
    kinds = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool)
    tensors = {str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in kinds}
    tensors |= {"turned": torch.arange(6.0).reshape(2, 3).T, "part": torch.arange(9.0)[4:7], "none": torch.zeros(0, 3)}
    tensors |= {"spread": torch.arange(9.0)[::2], "one": torch.tensor(3.0), "tied": tensors["torch.float32"]}
    path = saved(tmp_path / "x.pt", tensors)
    outline = outline_of_archive(path)
    read = read_tensors(path, outline, outline.tree)
    assert list(read) == list(tensors)
    assert all(read[name].dtype == tensors[name].dtype for name in tensors)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert read["tied"].data_ptr() == read["torch.float32"].data_ptr()


def test_names_on_the_list_become_stand_ins_and_plain_values_stay(tmp_path):
    path = saved(
        tmp_path / "x.pt", {"took": datetime.timedelta(seconds=3), "counts": {3: "three"}, "list": [1, (2.5,)]}
    )
    tree = outline_of_archive(path, INERT).tree
    assert tree == {"took": Inert("datetime.timedelta"), "counts": {3: "three"}, "list": [1, (2.5,)]}
    with pytest.raises(RefusedError, match=r"it would call datetime\.timedelta"):
        outline_of_archive(path)


def test_arrays_become_stand_ins(tmp_path):
    names = ("_codecs.encode", "numpy._core.multiarray._reconstruct", "numpy.dtype", "numpy.ndarray")
    path = saved(tmp_path / "x.pt", {"state": np.arange(5, dtype=np.uint32), "after": 7})
    tree = outline_of_archive(path, frozenset(names)).tree
    assert tree == {"state": Inert("numpy._core.multiarray._reconstruct"), "after": 7}


class Touch:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_a_payload_beside_names_on_the_list_is_refused_by_its_name_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "x.pt", {"took": datetime.timedelta(seconds=3), "callbacks": Touch()})
    with pytest.raises(RefusedError, match=r"^it would call posix\.system$"):
        outline_of_archive(path, INERT)
    assert not (tmp_path / "executed").exists()


def rewritten(path, change):
    with zipfile.ZipFile(path) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records:
            if (kept := change(name, data)) is not None:
                archive.writestr(name, kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, data: data[:-4] if name.endswith("data/0") else data, "ends after 12 of 16 bytes"),
        (lambda name, data: None if name.endswith("data/0") else data, "a damaged zip archive .*no item named"),
    ],
)
def test_records_that_change_after_they_were_checked_are_refused(tmp_path, change, message):
    path = saved(tmp_path / "x.pt", {"w": torch.arange(4.0)})
    outline = outline_of_archive(path)
    rewritten(path, change)
    with pytest.raises(RefusedError, match=message):
        read_tensors(path, outline, outline.tree)


def test_a_flipped_bit_is_found(tmp_path):
    path = saved(tmp_path / "x.pt", {"w": torch.full((1000,), 1.5)})
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((8,), 1.5).numpy().tobytes()) + 500] ^= 1
    path.write_bytes(data)
    outline = outline_of_archive(path)
    with pytest.raises(RefusedError, match=r"a damaged zip archive .*CRC"):
        read_tensors(path, outline, outline.tree)
