"""Damaged files are refused, whatever is damaged."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from meta_opt.errors import CheckpointError
from meta_opt.saved.archives import read_archive
from meta_opt.saved.pretrained import pretrained
from meta_opt.saved.recipes import load

GOOD = pretrained()["digits_mlp"].read_bytes()


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_read_is_what_is_there() -> None:
    assert read_archive(pretrained()["digits_mlp"]) == GOOD


@pytest.mark.parametrize("name", sorted(pretrained()))
def test_a_flipped_bit_is_refused_or_changes_nothing(name: str, tmp_path: Path) -> None:
    good, weights = pretrained()[name].read_bytes(), load(pretrained()[name])["state_dict"]
    chosen = random.Random(name)
    # Anywhere, and in what surrounds the entries, which has no checksum: their directory at the end.
    start = zipfile.ZipFile(io.BytesIO(good)).start_dir
    places = [(chosen.randrange(len(good)), chosen.randrange(8)) for _ in range(100)]
    places += [(chosen.randrange(start, len(good)), chosen.randrange(8)) for _ in range(100)]
    num_refused = 0
    for place, bit in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << bit
        path = tmp_path / "x.ckpt"
        path.write_bytes(damaged)
        try:
            found = load(path)["state_dict"]
        except CheckpointError:
            num_refused += 1
        else:
            torch.testing.assert_close(found, weights, rtol=0, atol=0, equal_nan=True)
    assert num_refused > 100


def compressed(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return made.getvalue()


def with_a_name_twice(content: bytes) -> bytes:
    made = io.BytesIO(content)
    with zipfile.ZipFile(made, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("digits_mlp/data.pkl", b"")
    return made.getvalue()


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(100_000_000))
    assert "data.pkl is compressed" in refused(tmp_path / "x.ckpt", made.getvalue())


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "does not begin as one"),
    "text": (lambda _: b"not a checkpoint", "does not begin as one"),
    "half": (lambda good: good[: len(good) // 2], "has no end"),
    "without its last byte": (lambda good: good[:-1], "has no end"),
    "without its beginning": (lambda good: good[64:], "does not begin as one"),
    "twice": (lambda good: good + good, "entries do not follow each other|Corrupt zip64"),
    "before something": (lambda good: good + b"more", "has no end"),
    "behind something": (lambda good: b"more" + good, "does not begin as one"),
    "behind another's beginning": (lambda good: good[:4096] + good, "entries do not follow each other"),
    "compressed": (compressed, "is compressed"),
    "a name twice": (with_a_name_twice, "have the same name"),
    "zeros": (lambda good: good[:5000] + bytes(512) + good[5512:], "Bad CRC-32|checksum|Bad magic"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_not_whole_is_refused(name: str, tmp_path: Path) -> None:
    make, reason = DAMAGED[name]
    message = refused(tmp_path / "x.ckpt", make(GOOD))
    assert any(each in message for each in reason.split("|")), message


def with_pickle(body: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(GOOD)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            pickle = entry.filename.endswith("data.pkl")
            new.writestr(entry.filename, b"\x80\x02" + body if pickle else old.read(entry))
    return made.getvalue()


def doubled(first: bytes) -> bytes:
    """A dictionary whose key is a tuple of twice a tuple of twice a tuple and so on."""
    return b"}" + first + b"q\x00" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(60)) + b"K\x01s."


MULTIPLYING = {
    "a key": (doubled(b"K\x01\x85"), "its tuples are nested beyond reason"),
    "a key of nothing": (doubled(b")"), "its tuples are nested beyond reason"),
    "digits": (
        b"c_codecs\nencode\n" * 41 + b"X\x01\x00\x00\x00aX\x05\x00\x00\x00ascii\x86R"
        b"" + b"X\x03\x00\x00\x00hex\x86R" * 40 + b".",
        "it holds _codecs encode",
    ),
    "bytes": (b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x08\x85R.", "it holds builtins bytearray"),
}


@pytest.mark.parametrize("name", MULTIPLYING)
def test_a_few_bytes_stand_for_few(name: str, tmp_path: Path) -> None:
    body, reason = MULTIPLYING[name]
    assert reason in refused(tmp_path / "x.ckpt", with_pickle(body))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.ckpt", Path("/dev/null"), Path("a\0b")):
        with pytest.raises(CheckpointError, match="there is no checkpoint|cannot be read"):
            load(path)


def test_a_file_of_terabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    with path.open("wb") as file:
        file.write(GOOD)
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="it has 1100 GB"):
        load(path)
