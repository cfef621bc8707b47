"""Standard output and error that are closed, full, or cannot show our letters."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from meta_opt import cli
from meta_opt.cli.output import Output, safe_output

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


def shell(command: str) -> subprocess.CompletedProcess[str]:
    command = command.replace("meta-opt", f"{sys.executable} -m meta_opt.cli")
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


@needs_full
@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["--version"]], ids=" ".join)
def test_a_full_disk_is_no_success(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    with FULL.open("w") as stream, io.StringIO() as errors:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", errors)
        status = cli.main(arguments)
        assert sys.stdout is stream
        assert status == 1
        message = "standard output could not be written: No space left on device"
        assert errors.getvalue() == f"meta-opt: error: {message}\n"


@needs_full
def test_what_does_not_fit_in_the_buffer_is_no_traceback() -> None:
    with FULL.open("w") as stream:
        output = Output(stream)
        for _ in range(3):
            assert output.write("x" * 100_000) == 100_000
        output.release()
        assert output.lost == "No space left on device"


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("meta-opt list >&-", 1, "meta-opt: error: standard output could not be written: it is closed\n"),
        ("meta-opt list > /dev/full", 1, "meta-opt: error: standard output could not be written: No space left on dev"),
        ("meta-opt list 2>&- > /dev/full", 1, ""),
        ("meta-opt nonsense 2>&-", 2, ""),
        ("meta-opt nonsense 2> /dev/full", 2, ""),
        ("meta-opt nonsense >&-", 2, "meta-opt: error: no command is called 'nonsense'"),
    ],
)
def test_streams_of_a_process(command: str, status: int, message: str) -> None:
    done = shell(command)
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == (message != "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_an_encoding_lacks_are_replaced(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["list"]) == 0
    assert stream.errors == "strict"
    shown = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert ("‖Wθ - y‖²" in shown) == (encoding == "utf-8")
    assert "quadratic" in shown


def test_a_name_that_is_no_text_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stderr", stream)
    assert cli.main(["\udcff"]) == 2
    assert b"no command is called" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_reader_who_has_enough_ends_the_command() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Gone(), Gone()
    try:
        with safe_output(), pytest.raises(BrokenPipeError):
            print("x")
    finally:
        sys.stdout, sys.stderr = streams
