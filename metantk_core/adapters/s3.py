"""Artifact store in a bucket: keys are objects below a prefix, every object appears as a whole and is read as a whole.

A request is repeated as long as its trouble may pass, so that a server may restart under a search. Each object carries
the SHA-256 of its bytes, which are compared with it whenever they are read: not every server checks what it sends, and
none can check what a proxy between does.
"""

import base64
import hashlib
import itertools
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from metantk_core.adapters.addresses import shown
from metantk_core.adapters.deadline import OverdueError, within
from metantk_core.adapters.s3_errors import DamagedError, Trouble, code, status, trouble
from metantk_core.errors import InputError
from metantk_core.ports import admit_key

T = TypeVar("T")

ENCRYPTION = "METANTK_S3_SSE"
"""Environment variable that says how the server encrypts objects; unset leaves it to the bucket."""
ENCRYPTION_KEY = "METANTK_S3_SSE_KMS_KEY_ID"
"""Environment variable with the identifier of the encryption key, where that is one of KMS."""

_ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
_SHA256 = "sha256"
_LARGE = 32 * 2**20
_PART = 16 * 2**20
_LONGEST_NAME = 1024
_MOST_LOOKS = 6
_SECONDS_TO_FIRST_ANSWER = 4.0
_SECONDS_TO_GIVE_UP = 9.0
_LONGEST_PAUSE = 5.0
_FAILURES = (ClientError, BotoCoreError, ResponseParserError, DamagedError)

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds.

    Attributes:
        connect: For a connection.
        read: For the next bytes of an answer.
        total: From the first trouble of a request that may pass until it is given up.
    """

    connect: float = 5.0
    read: float = 30.0
    total: float = 120.0


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
    patience: Patience = Patience()
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
            _admit_answer(answer)
            promised = answer["Metadata"].get(_SHA256, "")
            if len(data) != answer["ContentLength"] or (promised and hashlib.sha256(data).hexdigest() != promised):
                if next(looks) == _MOST_LOOKS:
                    raise self._refusal("read", key, trouble(DamagedError()))
                raise DamagedError
            return data

        return self._asked("read", key, ask)

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Store bytes under a key, as a whole; they are as durable as the bucket, whatever is asked for.

        Raises:
            InputError: They can't be written.
        """
        new = {
            **self._where(key),
            **self.encryption,
            "Metadata": {_SHA256: hashlib.sha256(data).hexdigest()},
            "ContentType": "application/octet-stream",
        }
        if len(data) > _LARGE:
            self._write_in_parts(key, data, new)
        else:
            self._asked(
                "write", key, lambda: _admit_answer(self.client.put_object(**new, Body=data, ContentMD5=_md5(data)))
            )

    def exists(self, key: str) -> bool:
        """Return whether something is stored under a key.

        Raises:
            InputError: That can't be found out.
        """
        where = self._where(key)

        def ask() -> bool:
            try:
                _admit_answer(self.client.head_object(**where))
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
        start = f"{self._root}{_quoted(prefix)}"
        found: list[str] = []
        going_on: dict[str, str] = {}
        while True:
            page = self._asked(
                "list",
                prefix,
                lambda going_on=going_on: self.client.list_objects_v2(Bucket=self.bucket, Prefix=start, **going_on),
            )
            found += [item["Key"].removeprefix(self._root) for item in page.get("Contents", [])]
            if not page.get("IsTruncated"):
                break
            going_on = {"ContinuationToken": page["NextContinuationToken"]}
        yield from sorted(key for key in map(_key_of, found) if key is not None)

    def place(self, key: str) -> str:
        """Return the address of a key's object."""
        return f"s3://{self.bucket}/{self._where(key)['Key']}"

    def check(self, troubles: list[Trouble]) -> None:
        """Do nothing for a bucket that this account may list.

        Args:
            troubles: Grows by what went wrong before it went well.

        Raises:
            InputError: It is not there, or access is refused, or nobody answers in seconds.
        """

        def ask() -> None:
            answer = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self._root, MaxKeys=1)
            if answer.get("Name") != self.bucket:  # any server may answer 200 and nothing
                raise ResponseParserError

        self._asked("use", "", ask, _SECONDS_TO_FIRST_ANSWER, troubles)

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

    def _write_in_parts(self, key: str, data: bytes, new: dict[str, Any]) -> None:
        """Store bytes part by part, so that a connection that breaks off costs a part; they appear with the last."""
        where = self._where(key)

        def begin() -> str:
            answer = self.client.create_multipart_upload(**new)
            if "UploadId" not in answer:
                raise ResponseParserError
            return answer["UploadId"]

        def send(number: int, part: bytes) -> dict[str, Any]:
            answer = self.client.upload_part(
                **where, UploadId=upload, PartNumber=number, Body=part, ContentMD5=_md5(part)
            )
            _admit_answer(answer)
            return {"PartNumber": number, "ETag": answer["ETag"]}

        def complete() -> None:
            try:
                _admit_answer(
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
            parts = [
                self._asked("write", key, lambda number=number, start=start: send(number, data[start : start + _PART]))
                for number, start in enumerate(range(0, len(data), _PART), start=1)
            ]
            self._asked("write", key, complete)
        except BaseException:
            with suppress(*_FAILURES):  # what went wrong above is what the caller must hear
                self.client.abort_multipart_upload(**where, UploadId=upload)
            raise

    def _asked(
        self,
        doing: str,
        key: str,
        ask: Callable[[], T],
        seconds: float | None = None,
        troubles: list[Trouble] | None = None,
    ) -> T:
        """Return what a request returns, repeated while its trouble may pass.

        Args:
            doing: What it does to the key, for people.
            key: The key, or a prefix.
            ask: The request; repeating it must do no harm.
            seconds: From the first trouble to the last try; none for the store's patience.
            troubles: Grows by what went wrong.
        """
        limit = self.patience.total if seconds is None else seconds
        until = None
        for attempt in itertools.count():
            try:
                return ask()
            except _FAILURES as error:
                known = trouble(error)
                if troubles is not None:
                    troubles.append(known)
                now = time.monotonic()
                until = now + limit if until is None else until
                pause = random.uniform(0.5, 1) * min(0.1 * 2**attempt, _LONGEST_PAUSE)  # noqa: S311 - spreads load
                if not known.passes or now + pause > until:
                    raise self._refusal(doing, key, known) from error
                if attempt == 3 and seconds is None:
                    _LOG.warning("%s; trying again for up to %.0f s.", self._said(doing, key, known), limit)
            time.sleep(pause)
        raise AssertionError

    def _refusal(self, doing: str, key: str, known: Trouble) -> InputError:
        kept = "; then run the same command again: what is finished is kept" if known.passes else ""
        return InputError(f"{self._said(doing, key, known)}; {known.remedy}{kept}.")

    def _said(self, doing: str, key: str, known: Trouble) -> str:
        return f"Can't {doing} s3://{self.bucket}/{self._root}{_quoted(key)}{_at(self.client)}: {known.cause}"


def connect(bucket: str, prefix: str = "", patience: Patience | None = None) -> S3Store:
    """Return the store in a bucket, after making sure within ten seconds that the bucket answers.

    Server, region and credentials are found as boto3 finds them: in ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``,
    ``AWS_DEFAULT_REGION``, ``AWS_ACCESS_KEY_ID`` and so on, in ``~/.aws``, from the role of a pod or machine.

    Args:
        bucket: The bucket.
        prefix: What the names of objects start with; empty for the whole bucket.
        patience: How long to wait later on.

    Raises:
        InputError: The bucket is not there, access is refused, or nobody answers.
    """
    waiting = patience or Patience()
    address = f"s3://{bucket}/{prefix}"
    encryption = _encryption()
    troubles = [
        Trouble(
            f"no answer within {_SECONDS_TO_GIVE_UP:.0f} seconds",
            "look whether the server is up, AWS_ENDPOINT_URL is its address, and the network lets you through",
        )
    ]

    def opened() -> S3Store:
        store = S3Store(bucket, prefix, _client(waiting), waiting, encryption)
        store.check(troubles)
        return store

    try:
        return within(_SECONDS_TO_GIVE_UP, opened)
    except OverdueError:
        raise InputError(f"Can't use {address}: {troubles[-1].cause}; {troubles[-1].remedy}.") from None
    except BotoCoreError as error:
        known = trouble(error)
        raise InputError(f"Can't use {address}: {known.cause}; {known.remedy}.") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"Can't use {address}: AWS_ENDPOINT_URL or the region is not valid; give the server as http(s)://host:port."
        ) from error


def _client(patience: Patience) -> Any:
    settings = Config(
        connect_timeout=patience.connect,
        read_timeout=patience.read,
        # Paces requests when the server asks to slow down; whether to ask again is the store's decision.
        retries={"mode": "adaptive", "total_max_attempts": 1},
        # Checksums as trailers of a request in chunks are what other servers stumble over; MD5 in a header they know.
        request_checksum_calculation="when_required",
        tcp_keepalive=True,
    )
    # A session of its own: boto3's common one is not made for threads.
    return boto3.Session().client("s3", config=settings)


def _encryption() -> dict[str, str]:
    kind, key = os.environ.get(ENCRYPTION, ""), os.environ.get(ENCRYPTION_KEY, "")
    if kind and kind not in _ENCRYPTIONS:
        raise InputError(f"Expected one of {', '.join(_ENCRYPTIONS)} in {ENCRYPTION}, got another word; correct it.")
    if key and not kind.startswith("aws:kms"):
        raise InputError(f"{ENCRYPTION_KEY} names a key of KMS, which needs {ENCRYPTION}=aws:kms; set that, too.")
    return {**({"ServerSideEncryption": kind} if kind else {}), **({"SSEKMSKeyId": key} if key else {})}


def _is_custom(client: Any) -> bool:
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    return not host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _at(client: Any) -> str:
    return f" at {shown(client.meta.endpoint_url)}" if _is_custom(client) else ""


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


def _admit_answer(answer: dict[str, Any]) -> None:
    """Do nothing for an answer about an object, which S3 gives an ETag; any server may say 200 to anything.

    Raises:
        ResponseParserError: It is another one.
    """
    if not answer.get("ETag"):
        raise ResponseParserError


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
