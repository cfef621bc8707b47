"""Checkpoint files as bytes that are known to be what was written.

``torch.save`` writes a ZIP archive and notes the CRC-32 of each entry, which ``torch.load`` does not compare. A damaged
file would load as other weights.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from meta_opt.errors import CheckpointError
from meta_opt.saved.pickles import pickle_problem

_FIRST, _LAST = b"PK\x03\x04", b"PK\x05\x06"  # how an entry begins, and the record at the end of an archive
_LAST_SIZE = 22  # bytes of that record, without a comment
_LOCAL_SIZE = 30  # bytes before the name of an entry
_MAX_BYTES = 1 << 32


def read_archive(path: Path) -> bytes:
    """The content of the file at ``path``, an archive as ``torch.save`` writes it, in which nothing is damaged.

    Entries are stored as they are, next to each other and nowhere else, each with its checksum. So the file can't
    unpack to more than its size, and no archive can hide before, behind or in another.

    Raises:
        CheckpointError: If there is no such file, it cannot be read, or it is damaged or something else.
    """
    try:
        if not path.is_file():
            raise CheckpointError(f"there is no checkpoint {path}")
        with path.open("rb") as file:
            first = file.read(len(_FIRST))
            if first != _FIRST:
                raise CheckpointError(f"{path} is damaged or not a checkpoint (it does not begin as one)")
            if (size := path.stat().st_size) > _MAX_BYTES:
                raise CheckpointError(f"{path} is not a checkpoint of meta-opt: it has {size / 1e9:.0f} GB")
            data = first + file.read()
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if problem := _problem(data):
        raise CheckpointError(f"{path} is damaged or not a checkpoint ({problem}); use another copy of it")
    return data


def _problem(data: bytes) -> str | None:
    """What is wrong with an archive, if anything is."""
    if data[-_LAST_SIZE:][: len(_LAST)] != _LAST:
        return "it has no end"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            position = 0
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                    return f"{entry.orig_filename} is compressed"
                if entry.header_offset < position or (position == 0) != (entry.header_offset == 0):
                    return "its entries do not follow each other"
                position = entry.header_offset + _LOCAL_SIZE + len(entry.orig_filename.encode()) + entry.file_size
            if position > archive.start_dir or not entries:
                return "its entries do not follow each other"
            if len({entry.filename for entry in entries}) < len(entries):
                return "two entries have the same name"
            if damaged := archive.testzip():
                return f"the checksum of {damaged} is wrong"
            for entry in entries:
                if entry.filename.lower().endswith(".pkl") and (problem := pickle_problem(archive.read(entry))):
                    return problem
    except Exception as error:  # what zipfile raises for a damaged archive is not specified
        return " ".join(str(error).split()) or type(error).__name__
    return None
