"""Artifact store in a bucket: keys are objects below a prefix, every object appears as a whole and is read as a whole.

A request is repeated as long as its trouble may pass, so that a server may restart under a search. Each object carries
the SHA-256 of its bytes, which are compared with it whenever they are read: not every server checks what it sends, and
none can check what a proxy between does.
"""

import base64
import email.utils
import hashlib
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, unquote

from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from metantk_core.adapters.s3_errors import DamagedError, code, status, trouble
from metantk_core.adapters.s3_requests import FAILURES, Patience, Requests, admit_answer, connected
from metantk_core.errors import InputError, full_disk
from metantk_core.files import write_atomically, written_atomically
from metantk_core.ports import Leftovers, Stored, admit_key

T = TypeVar("T")

ENCRYPTION = "METANTK_S3_SSE"
"""Environment variable that says how the server encrypts objects; unset leaves it to the bucket."""
ENCRYPTION_KEY = "METANTK_S3_SSE_KMS_KEY_ID"
"""Environment variable with the identifier of the encryption key, where that is one of KMS."""

_ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
_SHA256 = "sha256"
_LARGE = 32 * 2**20
_PART = 16 * 2**20
_MOST_PARTS = 10_000
_AT_ONCE = 4  # parts in memory
_LONGEST_NAME = 1024
_MOST_LOOKS = 6
_MOST_REMOVED = 1000  # with one request
# How servers say that they can't remove many objects at once.
_ONE_BY_ONE = ("NotImplemented", "MissingContentMD5", "MethodNotAllowed", "501", "405")


@dataclass(frozen=True)
class S3Store:
    """An ``ArtifactStore`` in a bucket.

    Attributes:
        bucket: The bucket.
        prefix: What the names of all objects start with, without the ``/`` after it; empty for the whole bucket.
        client: boto3's client.
        patience: How long to wait.
        encryption: What a new object is encrypted with, as arguments of boto3.
    """

    bucket: str
    prefix: str
    client: Any = field(repr=False)
    patience: Patience = field(default_factory=Patience)
    encryption: dict[str, str] = field(default_factory=dict, repr=False)

    def read(self, key: str) -> bytes | None:
        """Return what is stored under a key, or none.

        Raises:
            InputError: It can't be had, or is not what was written, however often it is asked for.
        """
        where = self._where(key)
        looks = itertools.count(1)

        def ask() -> bytes | None:
            try:
                answer = self.client.get_object(**where)
            except ClientError as error:
                if code(error) in ("NoSuchKey", "404"):
                    return None
                raise
            # boto3 repeats a request, but not the reading of its answer.
            with closing(answer["Body"]) as body:
                data = body.read()
            admit_answer(answer)
            promised = answer["Metadata"].get(_SHA256, "")
            if len(data) != answer["ContentLength"] or (promised and hashlib.sha256(data).hexdigest() != promised):
                if next(looks) == _MOST_LOOKS:
                    raise self._damaged(key)
                raise DamagedError
            return data

        return self._asked("read", key, ask)

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Store bytes under a key, as a whole; they are as durable as the bucket, whatever is asked for.

        Raises:
            InputError: They can't be written.
        """
        new = self._new(key, hashlib.sha256(data).hexdigest())
        if len(data) > _LARGE:
            self._write_in_parts(key, len(data), lambda start, size: data[start : start + size], new)
        else:
            self._asked(
                "write", key, lambda: admit_answer(self.client.put_object(**new, Body=data, ContentMD5=_md5(data)))
            )

    def create(self, key: str, data: bytes) -> bytes:
        """Store bytes under a key unless something is there, and return what is there then.

        A server without conditional writes may let the last one win.

        Raises:
            InputError: They can't be written.
        """
        new = {**self._new(key, hashlib.sha256(data).hexdigest()), "Body": data, "ContentMD5": _md5(data)}

        def ask() -> bool:
            try:
                admit_answer(self.client.put_object(**new, IfNoneMatch="*"))
            except ClientError as error:
                if status(error) == 412:
                    return False
                if code(error) not in ("NotImplemented", "501"):
                    raise
                if not self.exists(key):
                    admit_answer(self.client.put_object(**new))
            return True

        self._asked("write", key, ask)  # refused, too, where an earlier try did it and its answer was lost
        found = self.read(key)
        return data if found is None else found

    def read_into(self, key: str, path: Path, heard: Callable[[int], object] = lambda size: None) -> bool:
        """Put what is stored under a key into a file, part by part, and return whether there was anything.

        Raises:
            InputError: It can't be had, is not what was written, or there is no space for it.
        """
        where = self._where(key)
        for look in itertools.count(1):
            head = self._asked("read", key, lambda: self._head(where))
            if head is None:
                return False
            size, tag, promised = head["ContentLength"], head["ETag"], head["Metadata"].get(_SHA256, "")
            try:
                if size <= _PART:
                    data = self.read(key)
                    if data is None:
                        return False
                    write_atomically(path, data)
                    heard(size)
                    return True
                with written_atomically(path) as file:
                    self._read_parts(key, file.fileno(), size, tag, heard)
                    if promised and _sha256_of(file) != promised:
                        raise DamagedError
                return True
            except DamagedError:
                if look == _MOST_LOOKS:
                    raise self._damaged(key) from None
            except OSError as error:
                raise full_disk(error) or InputError(
                    f"Can't write {path}: {error.strerror}; choose a folder that you may write to."
                ) from error
        raise AssertionError

    def write_file(self, key: str, path: Path, heard: Callable[[int], object] = lambda size: None) -> None:
        """Store a file under a key, part by part.

        Raises:
            InputError: It can't be written, or the file not be read.
        """
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size <= _LARGE:
                    self.write(key, file.read())
                    heard(size)
                    return
                new = self._new(key, hashlib.file_digest(file, "sha256").hexdigest())

                def part(start: int, size: int) -> bytes:
                    return os.pread(file.fileno(), size, start)

                self._write_in_parts(key, size, part, new, heard)
        except OSError as error:
            raise InputError(f"Can't read {path}: {error.strerror}; check who may read it.") from error

    def delete(self, keys: Iterable[str]) -> None:
        """Remove what is stored under some keys, a thousand with one request.

        Raises:
            InputError: They can't be removed.
        """
        names = [self._where(key)["Key"] for key in keys]
        for start in range(0, len(names), _MOST_REMOVED):
            some = names[start : start + _MOST_REMOVED]
            self._asked("remove", unquote(some[0].removeprefix(self._root)), lambda some=some: self._remove(some))

    def exists(self, key: str) -> bool:
        """Return whether something is stored under a key.

        Raises:
            InputError: That can't be found out.
        """
        where = self._where(key)

        def ask() -> bool:
            try:
                admit_answer(self.client.head_object(**where))
            except ClientError as error:
                if status(error) == 404:
                    return False
                if status(error) < 500:  # an answer to HEAD has no body, where the reason would be
                    self.client.get_object(**where)["Body"].close()
                raise
            return True

        return self._asked("look for", key, ask)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Give the keys that start with a prefix, sorted; objects that no key leads to are none.

        Raises:
            InputError: They can't be listed.
        """
        return (stored.key for stored in self.listing(prefix))

    def listing(self, prefix: str = "") -> Iterator[Stored]:
        """Give what is stored under the keys that start with a prefix, sorted.

        Raises:
            InputError: It can't be listed.
        """
        start = f"{self._root}{_quoted(prefix)}"
        found: list[Stored] = []
        going_on: dict[str, str] = {}
        while True:
            page = self._asked(
                "list",
                prefix,
                lambda going_on=going_on: self.client.list_objects_v2(Bucket=self.bucket, Prefix=start, **going_on),
            )
            now = _clock_of(page)
            for item in page.get("Contents", []):
                key = _key_of(item["Key"].removeprefix(self._root))
                if key is not None:
                    found.append(Stored(key, item["Size"], now - item["LastModified"].timestamp()))
            if not page.get("IsTruncated"):
                break
            going_on = {"ContinuationToken": page["NextContinuationToken"]}
        yield from sorted(found, key=lambda stored: stored.key)

    def clear_unfinished(self, seconds: float, *, really: bool = True) -> Leftovers:
        """Remove the parts of large objects that were begun so long ago, which the bucket keeps unseen.

        Raises:
            InputError: They can't be listed or removed.
        """
        count, size = 0, 0
        going_on: dict[str, str] = {}
        while True:
            page = self._asked("look for unfinished objects in", "", lambda going_on=going_on: self._uploads(going_on))
            now = _clock_of(page)
            for upload in page.get("Uploads", []):
                if now - upload["Initiated"].timestamp() >= seconds:
                    count += 1
                    size += self._cleared(upload["Key"], upload["UploadId"], really=really)
            if not page.get("IsTruncated"):
                return Leftovers(count, size)
            going_on = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def place(self, key: str) -> str:
        """Return the address of a key's object."""
        return f"s3://{self.bucket}/{self._where(key)['Key']}"

    @property
    def _root(self) -> str:
        return f"{self.prefix}/" if self.prefix else ""

    def _where(self, key: str) -> dict[str, str]:
        name = f"{self._root}{_quoted(admit_key(key))}"
        if len(name.encode()) > _LONGEST_NAME:
            raise InputError(
                f"Expected a key of at most {_LONGEST_NAME} bytes with the store's prefix before it, as S3 counts, got "
                f"{len(name.encode())}; give a shorter prefix."
            )
        return {"Bucket": self.bucket, "Key": name}

    def _new(self, key: str, sha256: str) -> dict[str, Any]:
        """Return what is said of an object when it is made."""
        described = {"Metadata": {_SHA256: sha256}, "ContentType": "application/octet-stream"}
        return {**self._where(key), **self.encryption, **described}

    def _head(self, where: dict[str, str]) -> dict[str, Any] | None:
        try:
            answer = self.client.head_object(**where)
        except ClientError as error:
            if status(error) == 404:
                return None
            if status(error) < 500:  # an answer to HEAD has no body, where the reason would be
                self.client.get_object(**where)["Body"].close()
            raise
        admit_answer(answer)
        return answer

    def _read_parts(self, key: str, handle: int, size: int, tag: str, heard: Callable[[int], object]) -> None:
        """Write an object into an open file, some parts at once.

        Raises:
            DamagedError: It is replaced meanwhile.
        """
        where = self._where(key)

        def read(start: int, over: threading.Event) -> int:
            stop = min(start + _PART, size)

            def ask() -> bytes:
                _go_on(over)
                answer = self.client.get_object(**where, Range=f"bytes={start}-{stop - 1}")
                with closing(answer["Body"]) as body:
                    data = body.read()
                admit_answer(answer)
                if answer["ETag"] == tag and len(data) != stop - start:
                    raise DamagedError  # which is asked for again
                return data if answer["ETag"] == tag else b""

            data = self._asked("read", key, ask)
            if not data:
                raise DamagedError
            os.pwrite(handle, data, start)
            return len(data)

        for done in _in_threads(read, range(0, size, _PART)):
            heard(done)

    def _write_in_parts(
        self,
        key: str,
        size: int,
        part_at: Callable[[int, int], bytes],
        new: dict[str, Any],
        heard: Callable[[int], object] = lambda size: None,
    ) -> None:
        """Store bytes part by part, so that a connection that breaks off costs a part; they appear with the last.

        Args:
            key: Where.
            size: How many bytes.
            part_at: Gives some of them, from where they start and how many they are.
            new: What is said of the object.
            heard: Told the bytes of each part that is there.
        """
        where = self._where(key)
        length = max(_PART, math.ceil(size / _MOST_PARTS))

        def begin() -> str:
            answer = self.client.create_multipart_upload(**new)
            if "UploadId" not in answer:
                raise ResponseParserError
            return answer["UploadId"]

        def send(number: int, over: threading.Event) -> dict[str, Any]:
            data = part_at((number - 1) * length, length)

            def ask() -> dict[str, Any]:
                _go_on(over)
                answer = self.client.upload_part(
                    **where, UploadId=upload, PartNumber=number, Body=data, ContentMD5=_md5(data)
                )
                admit_answer(answer)
                return {"PartNumber": number, "ETag": answer["ETag"]}

            sent = self._asked("write", key, ask)
            heard(len(data))
            return sent

        def complete() -> None:
            try:
                admit_answer(
                    self.client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
                )
            except ClientError as error:
                if code(error) != "NoSuchUpload":
                    raise
                # An earlier request may have done it, and its answer was lost.
                there = self.client.head_object(**where)["Metadata"].get(_SHA256)
                if there != new["Metadata"][_SHA256]:
                    raise

        upload = self._asked("write", key, begin)
        try:
            parts = list(_in_threads(send, range(1, math.ceil(size / length) + 1)))
            self._asked("write", key, complete)
        except BaseException:
            with suppress(*FAILURES):  # what went wrong above is what the caller must hear
                self.client.abort_multipart_upload(**where, UploadId=upload)
            raise

    def _remove(self, names: Sequence[str]) -> None:
        objects = [{"Key": name} for name in names]
        try:
            answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
        except ClientError as error:
            if code(error) not in _ONE_BY_ONE:
                raise
            for name in names:
                self.client.delete_object(Bucket=self.bucket, Key=name)
            return
        for refused in answer.get("Errors", []):
            number = {"AccessDenied": 403}.get(refused.get("Code", ""), 500)
            raise ClientError({"Error": refused, "ResponseMetadata": {"HTTPStatusCode": number}}, "DeleteObjects")

    def _uploads(self, going_on: dict[str, str]) -> dict[str, Any]:
        try:
            return self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=self._root, **going_on)
        except ClientError as error:
            if code(error) in ("NotImplemented", "501"):
                return {}
            raise

    def _cleared(self, name: str, upload: str, *, really: bool) -> int:
        """Remove the parts of an object that was never finished, and return their size."""
        where = {"Bucket": self.bucket, "Key": name, "UploadId": upload}
        gone = ("NoSuchUpload", "404")

        def look() -> int:
            try:
                return sum(part["Size"] for part in self.client.list_parts(**where).get("Parts", []))
            except ClientError as error:
                if code(error) in gone:
                    return 0
                raise

        def remove() -> None:
            try:
                self.client.abort_multipart_upload(**where)
            except ClientError as error:
                if code(error) not in gone:
                    raise

        key = unquote(name.removeprefix(self._root))
        size = self._asked("look for unfinished objects in", key, look)
        if really:
            self._asked("remove unfinished parts of", key, remove)
        return size

    @property
    def _requests(self) -> Requests:
        return Requests(self.bucket, self.client, self.patience)

    def _damaged(self, key: str) -> InputError:
        return self._requests.refusal("read", f"{self._root}{_quoted(key)}", trouble(DamagedError()))

    def _asked(self, doing: str, key: str, ask: Callable[[], T]) -> T:
        return self._requests.asked(doing, f"{self._root}{_quoted(key)}", ask)


def connect(bucket: str, prefix: str = "", patience: Patience | None = None) -> S3Store:
    """Return the store in a bucket, after making sure within ten seconds that the bucket answers; see ``connected``.

    Args:
        bucket: The bucket.
        prefix: What the names of objects start with; empty for the whole bucket.
        patience: How long to wait later on.

    Raises:
        InputError: The bucket is not there, access is refused, or nobody answers.
    """
    encryption = _encryption()
    requests = connected(bucket, prefix, patience or Patience())
    return S3Store(bucket, prefix, requests.client, requests.patience, encryption)


def _encryption() -> dict[str, str]:
    kind, key = os.environ.get(ENCRYPTION, ""), os.environ.get(ENCRYPTION_KEY, "")
    if kind and kind not in _ENCRYPTIONS:
        raise InputError(f"Expected one of {', '.join(_ENCRYPTIONS)} in {ENCRYPTION}, got another word; correct it.")
    if key and not kind.startswith("aws:kms"):
        raise InputError(f"{ENCRYPTION_KEY} names a key of KMS, which needs {ENCRYPTION}=aws:kms; set that, too.")
    return {**({"ServerSideEncryption": kind} if kind else {}), **({"SSEKMSKeyId": key} if key else {})}


def _quoted(key: str) -> str:
    """Return a key as a name that every server and every list takes: control characters are none that XML can hold."""
    return quote(key, safe="/")


def _key_of(name: str) -> str | None:
    """Return the key that an object's name was made of; none for an object of somebody else."""
    try:
        key = admit_key(unquote(name, errors="strict"))
    except ValueError:
        return None
    return key if _quoted(key) == name else None


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of a file that is being written."""
    with open(file.name, "rb") as written:
        return hashlib.file_digest(written, "sha256").hexdigest()


def _in_threads(work: Callable[[int, threading.Event], T], numbers: Sequence[int]) -> Iterator[T]:
    """Give what work gives for each number, in order, some of them at once.

    After a failure, or a signal, no more is begun, and work finds its event set before each request.
    """
    over = threading.Event()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        try:
            yield from threads.map(lambda number: work(number, over), numbers)
        except BaseException:
            over.set()
            threads.shutdown(wait=True, cancel_futures=True)
            raise


def _go_on(over: threading.Event) -> None:
    """Do nothing as long as work goes on.

    Raises:
        InterruptedError: Others have failed, so that nobody waits for this.
    """
    if over.is_set():
        raise InterruptedError


def _clock_of(answer: dict[str, Any]) -> float:
    """Return the time of the server that answers, in seconds since 1970; ours, if it doesn't say."""
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    with suppress(ValueError, TypeError):
        return email.utils.parsedate_to_datetime(said).timestamp()
    return time.time()
