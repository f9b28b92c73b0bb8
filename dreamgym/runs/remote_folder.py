"""A folder anywhere that Arrow or fsspec reaches, and bundles of files in it that are there whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from dreamgym.errors import ConfigError, DataError
from dreamgym.runs.log import parse_object

MARKER = "whole.json"
"""Written last and removed first: a bundle counts where it stands, and has the files and sizes that it tells."""
CHUNK = 8 * 2**20


class RemoteFolder:
    """A folder by its URL, as Arrow has it (`s3`, `gs`, `abfs`, `hdfs`, `file`), else as fsspec has it.

    A bundle is a folder in it, by its path there; its files keep the paths that they have in a local folder.
    """

    def __init__(self, uri: str, field: str) -> None:
        """`field` is the setting that holds the URL.

        Raises:
            ConfigError: the URL is none, its scheme is unknown, or nothing can be written there.
        """
        self._name = f"{field}={uri}"
        try:
            self._files, path = _resolve(uri)
        except (OSError, ValueError, TypeError, ImportError) as error:
            raise ConfigError(
                f"{self._name}: no place that Arrow or fsspec knows ({_first_line(error)}); give a URL such as "
                "s3://bucket/folder, or install what that scheme needs."
            ) from None
        self._root = path.rstrip("/")
        try:
            self._write("probe", b"")
            self._files.delete_file(self._at("probe"))
        except (OSError, pa.ArrowException, NotImplementedError) as error:
            raise ConfigError(
                f"{self._name}: cannot be written ({_first_line(error)}); correct the URL or the credentials."
            ) from None

    def folders(self, parent: str) -> list[str]:
        """The names of the folders in one, sorted; none where that does not exist."""
        with self._mended("cannot be listed"):
            found = self._files.get_file_info(FileSelector(self._at(parent), allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == FileType.Directory)

    def is_whole(self, bundle: str) -> bool:
        """Whether a bundle was put to its end."""
        return self._marker(bundle) is not None

    def read(self, path: str) -> bytes | None:
        """A small file; None where there is none."""
        with self._mended("cannot be read"):
            if self._files.get_file_info(self._at(path)).type != FileType.File:
                return None
            with self._files.open_input_stream(self._at(path)) as stream:
                return bytes(stream.read())

    def put(self, bundle: str, root: Path, entries: Sequence[str]) -> None:
        """Copy files and folders of `root`, those that exist, in place of what the bundle was.

        Raises:
            DataError: it failed half-way; there is no such bundle then.
        """
        self.remove(bundle)
        there = [entry for entry in entries if (root / entry).exists()]
        with self._mended("cannot be written"):
            for entry in there:
                target = self._at(bundle, entry)
                self._files.create_dir(target if (root / entry).is_dir() else target.rpartition("/")[0])
                copy_files(str(root / entry), target, LocalFileSystem(), self._files, chunk_size=CHUNK)
            sizes = {name: size for entry in there for name, size in _sizes(root, root / entry).items()}
            self._write(f"{bundle}/{MARKER}", json.dumps({"files": sizes}, indent=1).encode())

    def get(self, bundle: str, target: Path) -> None:
        """Copy a bundle into a folder, in place of what that held.

        Raises:
            DataError: it is not whole, or it failed half-way.
        """
        shutil.rmtree(target, ignore_errors=True)
        marker = self._marker(bundle)
        with self._mended("cannot be read"):
            target.mkdir(parents=True)
            copy_files(self._at(bundle), str(target), self._files, LocalFileSystem(), chunk_size=CHUNK)
            (target / MARKER).unlink()
            found = _sizes(target, target)
        if marker is None or found != marker["files"]:
            raise DataError(f"{self._name}: files of {bundle} are missing or cut off; remove that folder there.")

    def remove(self, bundle: str) -> None:
        """Remove a bundle, or what there is of it; killed in between, it is no longer whole."""
        with self._mended("cannot be cleared"):
            for path in (self._at(bundle, MARKER), self._at(bundle)):
                kind = self._files.get_file_info(path).type
                if kind == FileType.File:
                    self._files.delete_file(path)
                elif kind == FileType.Directory:
                    self._files.delete_dir(path)

    def _marker(self, bundle: str) -> dict[str, dict[str, int]] | None:
        marker = parse_object(self.read(f"{bundle}/{MARKER}") or b"")
        return marker if marker is not None and isinstance(marker.get("files"), dict) else None

    def _write(self, path: str, content: bytes) -> None:
        self._files.create_dir(self._at(path).rpartition("/")[0])
        with self._files.open_output_stream(self._at(path)) as stream:
            stream.write(content)

    def _at(self, *path: str) -> str:
        return "/".join((self._root, *path))

    @contextmanager
    def _mended(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{self._name}: {what} ({_first_line(error)}); see to it, and run the same command again."
            ) from error


def _resolve(uri: str) -> tuple[FileSystem, str]:
    try:
        return FileSystem.from_uri(uri)
    except pa.ArrowInvalid:
        if "://" not in uri or uri.startswith("file:"):
            raise
        return FileSystem.from_uri(f"fsspec+{uri}")


def _sizes(root: Path, entry: Path) -> dict[str, int]:
    """The files of an entry (a file, or a folder with all in it), by their paths below `root`, with their sizes."""
    files = [entry] if entry.is_file() else [path for path in entry.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in files}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
