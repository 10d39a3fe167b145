"""Requests to a bucket: one enters, its answer or a sentence leaves; what may pass is asked again until it does."""

import itertools
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from metantk_core.adapters.addresses import shown
from metantk_core.adapters.deadline import OverdueError, within
from metantk_core.adapters.s3_errors import DamagedError, Trouble, trouble
from metantk_core.errors import InputError
from metantk_core.ports import DamageError

T = TypeVar("T")

FAILURES = (ClientError, BotoCoreError, ResponseParserError, DamagedError)
"""What a request may raise."""
_SECONDS_TO_FIRST_ANSWER = 4.0
_SECONDS_TO_GIVE_UP = 9.0
_LONGEST_PAUSE = 5.0

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
class Requests:
    """The way to one bucket.

    Attributes:
        bucket: The bucket.
        client: boto3's client.
        patience: How long to wait.
    """

    bucket: str
    client: Any = field(repr=False)
    patience: Patience = Patience()

    def asked(
        self,
        doing: str,
        name: str,
        ask: Callable[[], T],
        seconds: float | None = None,
        troubles: list[Trouble] | None = None,
    ) -> T:
        """Return what a request returns, repeated while its trouble may pass.

        Args:
            doing: What it does, for people.
            name: Name of the object, or what names begin with.
            ask: The request; repeating it must do no harm.
            seconds: From the first trouble to the last try; none for the usual patience.
            troubles: Grows by what went wrong.

        Raises:
            InputError: It goes wrong for good.
        """
        limit = self.patience.total if seconds is None else seconds
        until = None
        for attempt in itertools.count():
            try:
                return ask()
            except FAILURES as error:
                known = trouble(error, doing)
                if troubles is not None:
                    troubles.append(known)
                now = time.monotonic()
                until = now + limit if until is None else until
                pause = random.uniform(0.5, 1) * min(0.1 * 2**attempt, _LONGEST_PAUSE)  # noqa: S311 - spreads load
                if not known.passes or now + pause > until:
                    raise self.refusal(doing, name, known) from error
                if attempt == 3 and seconds is None:
                    _LOG.warning("%s; trying again for up to %.0f s.", self._said(doing, name, known), limit)
            time.sleep(pause)
        raise AssertionError

    def refusal(self, doing: str, name: str, known: Trouble) -> InputError:
        """Return the sentence that says that a request went wrong for good."""
        kept = "; then run the same command again: what is finished is kept" if known.passes else ""
        kind = DamageError if known.damage else InputError
        return kind(f"{self._said(doing, name, known)}; {known.remedy}{kept}.")

    def check(self, prefix: str, troubles: list[Trouble]) -> None:
        """Do nothing for a bucket that this account may list.

        Args:
            prefix: What the names of objects begin with.
            troubles: Grows by what went wrong before it went well.

        Raises:
            InputError: It is not there, or access is refused, or nobody answers in seconds.
        """

        def ask() -> None:
            answer = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, MaxKeys=1)
            if answer.get("Name") != self.bucket:  # any server may answer 200 and nothing
                raise ResponseParserError

        self.asked("use", prefix, ask, _SECONDS_TO_FIRST_ANSWER, troubles)

    def _said(self, doing: str, name: str, known: Trouble) -> str:
        return f"Can't {doing} s3://{self.bucket}/{name}{_at(self.client)}: {known.cause}"


def connected(bucket: str, prefix: str, patience: Patience, connections: int = 10) -> Requests:
    """Return the way to a bucket, after making sure within ten seconds that it answers.

    Server, region and credentials are found as boto3 finds them: in ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``,
    ``AWS_DEFAULT_REGION``, ``AWS_ACCESS_KEY_ID`` and so on, in ``~/.aws``, from the role of a pod or machine.

    Args:
        bucket: The bucket.
        prefix: What the names of objects start with; empty for the whole bucket.
        patience: How long to wait later on.
        connections: How many requests may be made at once.

    Raises:
        InputError: The bucket is not there, access is refused, or nobody answers.
    """
    address = f"s3://{bucket}/{prefix}"
    troubles = [
        Trouble(
            f"no answer within {_SECONDS_TO_GIVE_UP:.0f} seconds",
            "look whether the server is up, AWS_ENDPOINT_URL is its address, and the network lets you through",
        )
    ]

    def opened() -> Requests:
        requests = Requests(bucket, _client(patience, connections), patience)
        requests.check(f"{prefix}/" if prefix else "", troubles)
        return requests

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


def admit_answer(answer: dict[str, Any]) -> None:
    """Do nothing for an answer about an object, which S3 gives an ETag; any server may say 200 to anything.

    Raises:
        ResponseParserError: It is another one.
    """
    if not answer.get("ETag"):
        raise ResponseParserError


def _client(patience: Patience, connections: int) -> Any:
    settings = Config(
        connect_timeout=patience.connect,
        read_timeout=patience.read,
        # Paces requests when the server asks to slow down; whether to ask again is decided above.
        retries={"mode": "adaptive", "total_max_attempts": 1},
        # Checksums as trailers of a request in chunks are what other servers stumble over; MD5 in a header they know.
        request_checksum_calculation="when_required",
        tcp_keepalive=True,
        max_pool_connections=connections,
    )
    # A session of its own: boto3's common one is not made for threads.
    return boto3.Session().client("s3", config=settings)


def _at(client: Any) -> str:
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    custom = not host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    return f" at {shown(client.meta.endpoint_url)}" if custom else ""
