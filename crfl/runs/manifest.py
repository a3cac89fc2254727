"""manifest.json: the digest of every file of a run. Written last, checked whenever one of the files is read.

It catches damage: a flipped bit, a cut file, files of two runs mixed up. It is no signature: whoever can write to the
folder can write another manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from crfl.errors import DamagedFileError, StoreError
from crfl.files import digest, parse_json, read_bytes, write_atomic

NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The files of a folder by their digests."""

    folder: Path
    digests: Mapping[str, tuple[str, ...]]
    """By path in the folder, with "/": the digests that its file may have. They are two while it is replaced."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else is to be known."""

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            DamagedFileError: if the file is missing, not listed, or not what was written.
            StoreError: if it cannot be read.
        """
        path = self.folder / name
        if name not in self.digests:
            raise DamagedFileError(f"{path}: is not listed in {NAME}: it was not written whole, or not by crfl")
        content = read_bytes(path)
        if digest(content) not in self.digests[name]:
            raise DamagedFileError(f"{path}: is damaged: its content does not match its digest in {NAME}")
        return content

    def under(self, place: str) -> list[str]:
        """The listed files in a folder inside the folder, in order."""
        return sorted(name for name in self.digests if name.startswith(f"{place}/"))

    def problems(self) -> dict[str, StoreError]:
        """What is wrong with which of the files: DamagedFileError, or StoreError if it cannot be read now."""
        found = {}
        for name in sorted(self.digests):
            try:
                self.read(name)
            except StoreError as error:
                found[name] = error
        return found

    def write(self) -> None:
        """Write the manifest."""
        write_atomic(self.folder / NAME, _text(self.digests, self.about))

    def restore(self, files: Mapping[str, str | bytes]) -> None:
        """Write files anew, most of them as they are listed, and list them."""
        new = {name: digest(_bytes(content)) for name, content in files.items()}
        changed = {
            name: (*self.digests.get(name, ()), d) for name, d in new.items() if d not in self.digests.get(name, ())
        }
        if changed:
            self.with_files(changed).write()  # old and new: a writer that is killed now leaves no damage
        self.with_files(_write(self.folder, files)).write()

    def with_files(self, digests: Mapping[str, tuple[str, ...]]) -> Manifest:
        """The manifest with these files listed too."""
        return Manifest(self.folder, {**self.digests, **digests}, self.about)

    def without(self, names: Iterable[str]) -> Manifest:
        """The manifest without some of its files."""
        gone = set(names)
        return Manifest(self.folder, {n: d for n, d in self.digests.items() if n not in gone}, self.about)


def load(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        DamagedFileError: if it is missing or not what was written.
        StoreError: if it cannot be read.
    """
    path = folder / NAME
    text = read_bytes(path)
    about = parse_json(text, path)
    files = about.pop("files", None)
    about.pop("digest", None)
    if not _is_listing(files) or _text(files, about).encode() != text:
        raise DamagedFileError(f"{path}: is damaged: its content does not match its own digest")
    return Manifest(folder, {name: tuple(known) for name, known in files.items()}, about)


def write_files(folder: Path, files: Mapping[str, str | bytes], **about: Any) -> Manifest:
    """Write files, then a manifest of them in place of any other."""
    found = Manifest(folder, _write(folder, files), about)
    found.write()
    return found


def add_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files that belong together into a folder with a manifest: afterwards all of them are listed, or none.

    Files that are listed as they are stay listed while they are written, so that a kill cannot take them away.
    """
    manifest = load(folder)
    same = all(digest(_bytes(content)) in manifest.digests.get(name, ()) for name, content in files.items())
    if not same and manifest.digests.keys() & files.keys():
        manifest = manifest.without(files)
        manifest.write()
    manifest.with_files(_write(folder, files)).write()


def _write(folder: Path, files: Mapping[str, str | bytes]) -> dict[str, tuple[str, ...]]:
    """Write the files; their digests."""
    contents = {name: _bytes(content) for name, content in files.items()}
    for name, content in contents.items():
        write_atomic(folder / name, content)
    return {name: (digest(content),) for name, content in contents.items()}


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _text(digests: Mapping[str, Sequence[str]], about: Mapping[str, Any]) -> str:
    """The one text of a manifest; it begins with a digest of the rest."""
    content = {"files": {name: list(known) for name, known in sorted(digests.items())}, **about}
    return json.dumps({"digest": digest(json.dumps(content).encode()), **content}, indent=1) + "\n"


def _is_listing(files: Any) -> bool:
    """Whether it lists digests by paths that stay in the folder."""
    return isinstance(files, dict) and all(
        isinstance(known, list) and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        for name, known in files.items()
    )
