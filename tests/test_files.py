from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from paddlevid.files import check_writable, read_metadata, whole_folder, write_whole


def test_a_text_is_written_whole_or_the_old_one_stays(tmp_path):
    file = tmp_path / "名字.txt"
    write_whole(file, "第一\n")
    assert file.read_text(encoding="utf-8") == "第一\n"
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "half\udcff")
    assert file.read_text(encoding="utf-8") == "第一\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_written_whole_or_the_old_one_stays(tmp_path):
    folder = tmp_path / "new" / "out"
    for content in ("first", "second"):
        with whole_folder(folder) as partial:
            assert list(partial.iterdir()) == []
            (partial / content).write_text(content)
        assert [file.name for file in folder.iterdir()] == [content]
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as partial:
        (partial / "third").write_text("half")
        raise KeyboardInterrupt
    assert [file.name for file in folder.iterdir()] == ["second"]
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write to")
def test_errors_name_what_was_to_be_written_and_not_what_comes_before_it():
    with pytest.raises(OSError, match=r"No such file or directory: '/proc/page\.html'"):
        write_whole(Path("/proc/page.html"), "")
    for action in (check_writable, lambda folder: whole_folder(folder / "out").__enter__()):
        with pytest.raises(OSError, match=r"no file can be written there \(.*\): '/proc'"):
            action(Path("/proc"))


def test_the_texts_of_a_safetensors_are_read(tmp_path):
    save_file({"w": np.ones(2)}, tmp_path / "a", {"classes": "走路"})
    save_file({"w": np.ones(2)}, tmp_path / "b")
    assert read_metadata(tmp_path / "a") == {"classes": "走路"}
    assert read_metadata(tmp_path / "b") == {}


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"\xff" * 30])
def test_a_file_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="a is damaged or no .safetensors: ."):
        read_metadata(tmp_path / "a")
