"""Images in a bucket: an address enters, a `Place` of seekable files leaves, read many at once and kept on disk.

All names below the prefix are listed once, a thousand a request, so that whether something has changed is known without
reading it. Objects are read in pieces; each piece is one request and lies in the cache by itself. So a file of any size
is read with little memory and any size of cache, and what a killed process has read is not read again.
"""

import hashlib
import io
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from functools import cached_property
from typing import Any, NamedTuple, NoReturn, TypeVar

from botocore.exceptions import ClientError

from metantk_core.adapters.pieces import Pieces, pieces
from metantk_core.adapters.s3_errors import DamagedError, code, status
from metantk_core.adapters.s3_requests import Patience, Requests, admit_answer, connected
from metantk_core.errors import InputError
from metantk_core.files import FILE, FOLDER, Entry, shown

T = TypeVar("T")

_PIECE = 8 * 2**20
_AT_ONCE = 32  # requests
_AHEAD = 96  # small files that are asked for before they are read
_MOST_AHEAD = 64 * 2**20  # bytes of them
_PIECES_AHEAD = 4
_MOST_OBJECTS = 30_000_000
_EQUAL_READINGS = 3
_SSE = "ServerSideEncryption"
_READ, _LIST = "read images from", "list images in"


class _Object(NamedTuple):
    """What the list of a bucket says of an object: its version is its ETag or, from a server without, its time."""

    size: int
    version: str
    has_tag: bool


class BucketPlace:
    """A `Place` in a bucket.

    Args:
        requests: The way to the bucket.
        prefix: What the names of all objects start with, without the ``/`` after it; empty for the whole bucket.
        cache: Keeps what was read; none for nowhere.
    """

    def __init__(self, requests: Requests, prefix: str, cache: Pieces | None) -> None:
        self._requests = requests
        self._prefix = prefix
        self._cache = cache
        self._threads = _Threads(_AT_ONCE)
        self._tags_are_md5 = True

    @property
    def name(self) -> str:
        """Its name for people, without what it lies in."""
        return shown(self._prefix.rpartition("/")[2] or self._requests.bucket)

    def where(self, path: str = "") -> str:
        """Return the address of something in it."""
        return f"s3://{self._requests.bucket}/{self._object_name(path)}".rstrip("/")

    def holds_folder(self, path: str = "") -> bool:
        """Return whether the names of some objects go on below a path.

        Raises:
            InputError: The bucket can't be listed.
        """
        return path in self._folders

    def entries(self, path: str = "", wanted: Callable[[str], bool] = bool) -> Iterator[Entry]:
        """Give what is in a folder, hidden entries left out, in the order of names.

        Raises:
            InputError: The bucket can't be listed.
        """
        inside = self._folders.get(path, {})
        for name in sorted(inside):
            if not name.startswith(".") and wanted(name):
                yield _entry(name, inside[name])

    def entry(self, path: str) -> Entry | None:
        """Return what lies under a path, or none.

        Raises:
            InputError: The bucket can't be listed.
        """
        if not path:
            return Entry(self.name, FOLDER) if self.holds_folder() else None
        above, _, name = path.rpartition("/")
        inside = self._folders.get(above, {})
        return _entry(name, inside[name]) if name in inside else None

    def open(self, path: str) -> io.BufferedIOBase:
        """Open an object to read from any place in it.

        Raises:
            InputError: It can't be had, or has changed since it was listed.
        """
        found = self._found(path)
        if found.size <= _PIECE:
            return io.BytesIO(self._piece(path, found, 0))
        return io.BufferedReader(_Pieced(self, path, found), 2**16)

    def opened(self, paths: Iterable[str]) -> Iterator[io.BufferedIOBase]:
        """Open many objects that are read one after the other; small ones are read ahead, many at once.

        Raises:
            InputError: One can't be had, or has changed since it was listed.
        """
        waiting: deque[tuple[str, int, Future[bytes] | None]] = deque()
        ahead, left = 0, iter(paths)
        done = object()
        following: Any = next(left, done)
        try:
            while following is not done or waiting:
                while following is not done and len(waiting) < _AHEAD and (ahead < _MOST_AHEAD or not waiting):
                    found = self._found(following)
                    far = found.size <= _PIECE and not self._is_kept(following, found)
                    future = self._threads.submit(self._piece, following, found, 0) if far else None
                    waiting.append((following, found.size if far else 0, future))
                    ahead += waiting[-1][1]
                    following = next(left, done)
                path, size, future = waiting.popleft()
                ahead -= size
                yield self.open(path) if future is None else io.BytesIO(future.result())
        finally:
            for _, _, future in waiting:
                if future is not None:
                    future.cancel()

    def forget(self, path: str) -> None:
        """Drop copies of an object that turned out damaged, so that it is read anew next time."""
        found = self._found(path)
        if self._cache is not None:
            for number in range(-(-found.size // _PIECE) or 1):
                self._cache.drop(self._name_of(path, found, number))

    def ahead(self, path: str, found: _Object, number: int) -> "Future[bytes]":
        """Begin to read a piece of an object."""
        return self._threads.submit(self._piece, path, found, number)

    @cached_property
    def _folders(self) -> dict[str, dict[str, _Object | None]]:
        """What is in each folder: objects, and folders, which are none."""
        folders: dict[str, dict[str, _Object | None]] = {}
        for count, (name, found) in enumerate(self._listed()):
            if count >= _MOST_OBJECTS:
                raise InputError(
                    f"There are more than {_MOST_OBJECTS:,} objects below '{shown(self.where())}': expected images "
                    "alone. Check data.path."
                )
            *above, last = name.split("/")
            if "" in above:
                raise InputError(
                    f"The name of '{shown(self.where(name))}' has a part without characters: expected plain names "
                    "with '/' between them. Rename it."
                )
            path = "/".join(above)
            if path not in folders:
                for depth in range(len(above)):
                    folders.setdefault("/".join(above[:depth]), {})[above[depth]] = None
                folders.setdefault(path, {})
            if last:  # a name that ends in / is what programs make that know folders
                folders[path].setdefault(last, found)
        return folders

    def _listed(self) -> Iterator[tuple[str, _Object]]:
        """Give the names of all objects below the prefix, which they begin after."""
        root = self._object_name("")
        going_on: dict[str, str] = {}
        while True:
            page = self._requests.asked(
                _LIST,
                root,
                lambda going_on=going_on: self._requests.client.list_objects_v2(
                    Bucket=self._requests.bucket, Prefix=root, **going_on
                ),
            )
            for item in page.get("Contents", []):
                tag = _tag(item)
                version = tag or item["LastModified"].isoformat()
                yield item["Key"].removeprefix(root), _Object(item["Size"], version, bool(tag))
            if not page.get("IsTruncated"):
                return
            going_on = {"ContinuationToken": page["NextContinuationToken"]}

    def _object_name(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path

    def _found(self, path: str) -> _Object:
        above, _, name = path.rpartition("/")
        found = self._folders.get(above, {}).get(name)
        if found is None:
            raise InputError(f"There is no object '{shown(self.where(path))}'. Check data.path.")
        return found

    def _name_of(self, path: str, found: _Object, number: int) -> str:
        """Return the name of a piece in the cache."""
        server = self._requests.client.meta.endpoint_url
        parts = (server, self._requests.bucket, self._object_name(path), found.version, found.size, _PIECE, number)
        return "\n".join(map(str, parts))

    def _is_kept(self, path: str, found: _Object) -> bool:
        return self._cache is not None and self._cache.holds(self._name_of(path, found, 0))

    def _piece(self, path: str, found: _Object, number: int) -> bytes:
        """Return a piece of an object, from the cache or the bucket."""
        kept = self._name_of(path, found, number)
        piece = self._cache.read(kept) if self._cache else None
        start, stop = number * _PIECE, min((number + 1) * _PIECE, found.size)
        if piece is not None and len(piece) == stop - start:
            return piece
        piece = self._requests.asked(_READ, self._object_name(path), self._reading(path, found, start, stop))
        if self._cache:
            self._cache.write(kept, piece)
        return piece

    def _reading(self, path: str, found: _Object, start: int, stop: int) -> Callable[[], bytes]:
        """Return what asks for a part of an object once."""
        whole = stop - start == found.size
        part = {} if whole else {"Range": f"bytes={start}-{stop - 1}"}
        seen: list[bytes] = []

        def ask() -> bytes:
            try:
                answer = self._requests.client.get_object(
                    Bucket=self._requests.bucket, Key=self._object_name(path), **part
                )
            except ClientError as error:
                if code(error) in ("NoSuchKey", "404") or status(error) == 416:
                    self._refuse_changed(path)
                raise
            with closing(answer["Body"]) as body:
                data = body.read()
            admit_answer(answer)
            same = _tag(answer) == found.version or not found.has_tag
            if not same or (whole and answer["ContentLength"] != found.size):
                self._refuse_changed(path)
            if len(data) != stop - start:
                raise DamagedError
            if whole and self._tags_are_md5 and _is_md5(found.version) and "aws:kms" not in str(answer.get(_SSE)):
                self._compare(data, found.version, seen)
            return data

        return ask

    def _compare(self, data: bytes, tag: str, seen: list[bytes]) -> None:
        """Compare bytes with an ETag, which is their MD5 at most servers, but need not be: then three readings are.

        Raises:
            DamagedError: They are not what the tag says, or it says something else.
        """
        if hashlib.md5(data, usedforsecurity=False).hexdigest() == tag:
            return
        seen.append(data)
        if seen.count(data) < _EQUAL_READINGS:
            raise DamagedError
        self._tags_are_md5 = False

    def _refuse_changed(self, path: str) -> NoReturn:
        raise InputError(
            f"The image s3://{self._requests.bucket}/{self._object_name(path)} was changed or removed while the data "
            "set was read. Run the same command again when nobody writes there any more: what was read is kept."
        )


class _Threads:
    """Threads that do work one after the other, and end with the process, whatever they are waiting for.

    Args:
        count: How many; begun when there is work.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._begun = False

    def submit(self, work: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Have some work done, and return where its result will be."""
        if not self._begun:
            self._begun = True
            weakref.finalize(self, _end, self._queue, self._count)
            for _ in range(self._count):
                threading.Thread(target=_work, args=(self._queue,), name="images", daemon=True).start()
        future: Future[T] = Future()

        def do() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(*arguments))
                except BaseException as error:
                    future.set_exception(error)

        self._queue.put(do)
        return future


def _work(jobs: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # which may hold megabytes


def _end(jobs: "queue.SimpleQueue[Callable[[], None] | None]", count: int) -> None:
    for _ in range(count):
        jobs.put(None)


class _Pieced(io.RawIOBase):
    """A large object as a file; reads ahead once it is read from piece to piece."""

    def __init__(self, place: BucketPlace, path: str, found: _Object) -> None:
        self._place, self._path, self._found = place, path, found
        self._position = 0
        self._number, self._data = -1, b""
        self._ahead: dict[int, Future[bytes]] = {}
        self._lock = threading.Lock()

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._found.size}[whence]
        if start + offset < 0:
            raise ValueError("a position before the beginning of a file")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, from one piece, and return how many bytes."""
        with self._lock:
            if self._position >= self._found.size:
                return 0
            number, start = divmod(self._position, _PIECE)
            self._go_to(number)
            data = self._data[start : start + len(buffer)]
            buffer[: len(data)] = data
            self._position += len(data)
            return len(data)

    def close(self) -> None:
        """Drop what was read ahead."""
        for future in self._ahead.values():
            future.cancel()
        self._ahead.clear()
        self._data = b""
        super().close()

    def _go_to(self, number: int) -> None:
        if number == self._number:
            return
        onwards = number == self._number + 1
        future = self._ahead.pop(number, None) or self._place.ahead(self._path, self._found, number)
        if onwards:
            last = -(-self._found.size // _PIECE)
            for following in range(number + 1, min(number + 1 + _PIECES_AHEAD, last)):
                if following not in self._ahead:
                    self._ahead[following] = self._place.ahead(self._path, self._found, following)
        else:
            for other in self._ahead.values():
                other.cancel()
            self._ahead.clear()
        self._number, self._data = -1, b""  # first let go of the last one
        self._data = future.result()
        self._number = number


def connect_images(bucket: str, prefix: str = "", patience: Patience | None = None) -> BucketPlace:
    """Return the place of images in a bucket, after making sure within ten seconds that it answers.

    Args:
        bucket: The bucket.
        prefix: What the names of objects start with; empty for the whole bucket.
        patience: How long to wait later on.

    Raises:
        InputError: The bucket is not there, access is refused, or nobody answers; the size of the cache is none.
    """
    cache = pieces()
    return BucketPlace(connected(bucket, prefix, patience or Patience(), _AT_ONCE), prefix, cache)


def _entry(name: str, found: _Object | None) -> Entry:
    return Entry(name, FOLDER) if found is None else Entry(name, FILE, found.size, (found.version,))


def _tag(answer: dict[str, Any]) -> str:
    """Return the ETag of an answer without its quotes."""
    return str(answer.get("ETag") or "").removeprefix("W/").strip('"')


def _is_md5(version: str) -> bool:
    return len(version) == 32 and all(c in "0123456789abcdef" for c in version)
