"""The file of results."""

import json
import math
import os

import pytest

from meta_opt.errors import MetaOptError, StorageError
from meta_opt.studies.results import FILE, opened, plain, read


def line(key, **more):
    return {"key": key, "point": ["x"], "run": 0, "seconds": {}, "results": more}


def text(key):
    return json.dumps(line(key)) + "\n"


def test_lines_are_there_when_added(tmp_path):
    with opened(tmp_path / "new" / "folder") as results:
        results.add(line("a", value=math.pi))
        assert read(tmp_path / "new" / "folder") == {"a": line("a", value=3.14159)}
        results.add(line("a", value=2.0))  # never a second time
        results.add(line("b", value=math.nan, more=[math.inf, (1, "x")]))
    lines = (tmp_path / "new" / "folder" / FILE).read_text().splitlines()
    assert [json.loads(each) for each in lines] == [
        line("a", value=3.14159),
        line("b", value=None, more=[None, [1, "x"]]),
    ]


def test_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / FILE
    path.write_text(text("a") + '{"key": "b", "val')
    assert list(read(tmp_path)) == ["a"]
    assert path.read_bytes().endswith(b"val")  # to read changes nothing
    with opened(tmp_path) as results:
        assert list(results.lines) == ["a"]
        results.add(line("c"))
    assert path.read_text() == text("a") + text("c")


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
    path = tmp_path / FILE
    path.write_text(text("a") + text("b").rstrip())
    assert list(read(tmp_path)) == ["a", "b"]
    with opened(tmp_path) as results:
        assert list(results.lines) == ["a", "b"]
        results.add(line("c"))
    assert path.read_text() == text("a") + text("b") + text("c")


def test_another_file_is_left_as_it_is(tmp_path):
    (tmp_path / FILE).write_text('{"a": 1}')
    with pytest.raises(MetaOptError, match="line 1 is no result; delete it"), opened(tmp_path):
        pass
    assert (tmp_path / FILE).read_text() == '{"a": 1}'


@pytest.mark.parametrize(
    "wrong",
    [
        *("nothing", "[1]", "{}", "3", '{"key": [1]}', '{"key": "a", "error": "x"}'),
        *(
            json.dumps({**line("a"), **other})
            for other in (
                {"results": 5},
                {"run": None},
                {"seconds": []},
                {"point": 1},
                {"seconds": {"fit": "x"}},
                {"seconds": {"training": [{}]}},
            )
        ),
        *(
            json.dumps({**line("a"), "results": results})
            for results in (
                {"tests": None},
                {"tests": {"t": ""}},
                {"tests": {"t": {"final": True}}},
                {"tests": {"t": {"final": 10**400}}},
                {"tests": {"t": {"final": 1.0, "curve": [-1]}}},
                {"baselines": {"SGD": {"final": -1}}},
                {"tests": {"t": {"final": [1.0]}}},
                {"tests": {"t": {"curve": {}}}},
                {"tests": {"t": {"curve": [[0, [1.0]]]}}},
                {"tests": {"t": {"curve": [[{}, 1.0]]}}},
                {"baselines": {"SGD": {"final": {"value": [1.0], "learning_rate": 0.1}, "sum": {}}}},
                {"training": None},
                {"training": {"updates": [1], "final_loss": [1.0]}},
                {"training": {"updates": [1], "final_loss": [1.0], "loss_sum": []}},
                {"training": {"updates": [[1]], "final_loss": [1.0], "loss_sum": [1.0]}},
                {"meta_gradient_norms": {"all": [["x"]]}},
            )
        ),
        json.dumps({**{name: value for name, value in line("a").items() if name != "results"}, "error": "\ud800"}),
        "[" * 100_000,
    ],
)
def test_another_line_is_an_error(tmp_path, wrong):
    (tmp_path / FILE).write_text(f"{text('x')}{wrong}\n{text('b')}")
    with pytest.raises(MetaOptError, match="line 2 is no result; delete it, and it is made again"):
        read(tmp_path)


def test_two_at_once_are_refused(tmp_path):
    with (
        opened(tmp_path),
        pytest.raises(MetaOptError, match="another study is running in .*; wait for it, or choose another --out"),
        opened(tmp_path),
    ):
        pass
    with opened(tmp_path) as results:
        assert results.lines == {}


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write .*file"), opened(tmp_path / "file"):
        pass
    with opened(tmp_path) as results:
        full = pytest.raises(StorageError, match="cannot write .*: No space left on device")
        with open("/dev/full", "ab", buffering=0) as results._file, full:
            results.add({"key": "a"})
        assert results.lines == {}


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(StorageError, match="it is no file"):
        read(tmp_path)
    with pytest.raises(StorageError, match="it is no file"), opened(tmp_path):
        pass


def test_errors_of_a_study_are_not_blamed_on_the_folder(tmp_path):
    with pytest.raises(ConnectionError, match="^of mine$"), opened(tmp_path):
        raise ConnectionError("of mine")


def test_plain():
    assert plain({"a": (1, 2.0000001, True, None)}) == {"a": [1, 2.0, True, None]}
