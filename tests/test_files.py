import pytest

from paddlevid.files import write_whole


def test_a_text_is_written_whole_or_the_old_one_stays(tmp_path):
    file = tmp_path / "名字.txt"
    write_whole(file, "第一\n")
    assert file.read_text(encoding="utf-8") == "第一\n"
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "half\udcff")
    assert file.read_text(encoding="utf-8") == "第一\n"
    assert list(tmp_path.iterdir()) == [file]
