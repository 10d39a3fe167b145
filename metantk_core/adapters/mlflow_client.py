"""MLflow's client with its errors translated in one place: a call enters, an answer or one sentence leaves."""

import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from google.protobuf.json_format import ParseError
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient
from requests.exceptions import (
    ChunkedEncodingError,
    ConnectionError,
    ContentDecodingError,
    HTTPError,
    RequestException,
    RetryError,
    Timeout,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from metantk_core.adapters.addresses import shown
from metantk_core.adapters.deadline import OverdueError, within
from metantk_core.adapters.patience import Patience
from metantk_core.errors import KEPT, InputError
from metantk_core.ports import AwayError
from metantk_core.secrecy import redacted

if TYPE_CHECKING:
    from metantk_core.adapters.s3_errors import Trouble

T = TypeVar("T")

_SECONDS_TO_AN_ANSWER = 180.0
_TRANSFERS = ("log_artifact", "log_artifacts", "log_model_artifacts", "log_model_artifact", "download_artifacts")
_CREATIONS = ("create_run", "create_logged_model", "create_model_version", "log_outputs")
"""Calls that make one thing more each time, or refuse to; all others may be repeated (``test_outages.py`` tries)."""
_MOST_ATTEMPTS_TO_CREATE = 5
_FORBIDDEN = ("PERMISSION_DENIED", "UNAUTHENTICATED")
_UNANSWERED = (ConnectionError, Timeout, ChunkedEncodingError, ContentDecodingError, RetryError)
_PASSING = (408, 429, 500, 502, 503, 504)
"""Statuses that MLflow's own client repeats after, too: a server that starts, a proxy before one that doesn't run."""
_LONGEST_REASON = 200


class MlflowError(InputError):
    """MLflow did not do what it was asked.

    Attributes:
        code: MLflow's own word for the reason, such as ``RESOURCE_ALREADY_EXISTS``; empty if it gave none.
    """

    def __init__(self, sentence: str, code: str = "") -> None:
        super().__init__(sentence)
        self.code = code


class AnswerLostError(Exception):
    """Whether something was created is not known; the server answers again, so it can be asked."""


def found_or_created(find: Callable[[], T | None], create: Callable[[], T]) -> T:
    """Return what is found, or else created once: after a lost answer it is looked for before it is created again.

    Args:
        find: Returns what is there, or none.
        create: Creates it, by a translating client.

    Raises:
        AwayError: The server is away for good, or lost every answer.
    """
    attempts = 0
    while (found := find()) is None:
        try:
            return create()
        except AnswerLostError as error:
            attempts += 1
            if attempts == _MOST_ATTEMPTS_TO_CREATE:
                raise AwayError(
                    "The MLflow server answers questions but loses what it is told to create; look at its log, and run "
                    f"the same command again: {KEPT}"
                ) from error
    return found


def translating(client: MlflowClient, address: str, *, patience: Patience | None) -> MlflowClient:
    """Return a client whose methods raise ``MlflowError`` where MLflow, its database or its files fail.

    A server that does not answer is asked again, and raises ``AwayError`` in the end. That is safe because what a call
    does is the same however often; the few that create something raise ``AnswerLostError`` as soon as the server
    answers again, for ``found_or_created``.

    A wrong argument stays MLflow's own exception: that is a fault of ours.

    Args:
        client: The client.
        address: What it speaks to, without anything secret.
        patience: With a server, no call to which but a transfer of files waits longer than three minutes for its
            answer; none for a database.
    """
    return _Translating(client, address, patience)


class _Translating(MlflowClient):
    """Stands before a client, and is one only for its type: every public name is the other one's."""

    def __init__(self, client: MlflowClient, address: str, patience: Patience | None) -> None:
        self._behind = client
        self._address = address
        self._patience = patience

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        method = getattr(self._behind, name)
        if not callable(method):
            return method

        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            def ask() -> Any:
                return self._once(name, lambda: method(*args, **kwargs), str(args[0]) if args else "")

            if self._patience is None:
                return ask()
            if name not in _CREATIONS:
                return self._patience.insist(ask)
            try:
                return ask()
            except AwayError as error:
                self._patience.insist(self._probe)
                raise AnswerLostError(name) from error

        return call

    def _probe(self) -> None:
        self._once("search_experiments", lambda: self._behind.search_experiments(max_results=1))

    def _once(self, name: str, ask: Callable[[], T], about: str = "") -> T:
        """Return what one attempt of a call, about a run or model, gives."""
        is_server = self._patience is not None
        try:
            return within(_SECONDS_TO_AN_ANSWER, ask) if is_server and name not in _TRANSFERS else ask()
        except MlflowException as error:
            if is_server and _is_away(error):
                raise self._away(error) from error
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise
            raise self._refusal(name, error) from error
        except (RequestException, ParseError, SQLAlchemyError, sqlite3.Error, OverdueError, ValueError) as error:
            if is_server and _is_away(error):
                raise self._away(error) from error
            if isinstance(error, InputError) or (isinstance(error, ValueError) and not is_server):
                raise
            raise self._refusal(name, error) from error
        except OSError as error:
            raise MlflowError(
                f"Can't keep a file of the tracked run in {error.filename or self._address} "
                f"({error.strerror or error}); make room, or the folder writable, and run the same command again."
            ) from error
        except Exception as error:
            found = _trouble_with_a_bucket(error)
            if found is None:
                raise
            sentence = f"Files can't go to {self._files(name, about)}: {found.cause}; {found.remedy}"
            if is_server and found.passes:
                raise AwayError(f"{sentence}, and run the same command again: {KEPT}") from error
            raise MlflowError(f"{sentence}.") from error

    def _files(self, method: str, about: str) -> str:
        """Return where clients take the files of a run or model themselves."""
        with suppress(Exception):  # it is asked for the sake of a sentence about another failure
            if "model" in method:
                return shown(self._behind.get_logged_model(about).artifact_location)
            return shown(self._behind.get_run(about).info.artifact_uri or "")
        return "the bucket of this experiment"

    def _away(self, error: Exception) -> AwayError:
        return AwayError(
            f"The MLflow server {self._address} does not answer ({_absence(error)}); see whether it runs, and run the "
            f"same command again: {KEPT}"
        )

    def _refusal(self, method: str, error: Exception) -> MlflowError:
        is_server = self._patience is not None
        code = error.error_code if isinstance(error, MlflowException) else ""
        if is_server and _is_forbidden(error):
            return MlflowError(
                f"The MLflow server {self._address} does not let this account do '{method}'; ask who runs it for the "
                "right to edit this experiment, or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or "
                f"MLFLOW_TRACKING_TOKEN) of another account, and run the same command again: {KEPT}",
                code,
            )
        kind = "server" if is_server else "database"
        # A code that stands for the status of an answer which is not MLflow's own means nothing.
        meant = code if isinstance(error, RestException) or not is_server else ""
        return MlflowError(
            f"The MLflow {kind} {self._address} failed at '{method}' ({_reason(error)}); look "
            f"{'at its log' if is_server else 'whether the file is whole'}, and run the same command again: "
            f"{KEPT}",
            meant,
        )


def _is_away(error: Exception) -> bool:
    """Return whether an error says that a server doesn't answer for now, and not that it answered no."""
    if isinstance(error, OverdueError):
        return True
    if isinstance(error, RestException):
        return error.error_code == "TEMPORARILY_UNAVAILABLE"
    behind = _behind(error)
    if isinstance(behind, HTTPError):
        return behind.response is not None and behind.response.status_code in _PASSING
    return isinstance(behind, _UNANSWERED)


def _is_forbidden(error: Exception) -> bool:
    """Return whether a server knows what was asked, and this account may not do it (or not any more)."""
    if isinstance(error, MlflowException) and error.error_code in _FORBIDDEN:
        return True
    behind = _behind(error)
    return isinstance(behind, HTTPError) and behind.response is not None and behind.response.status_code in (401, 403)


def _trouble_with_a_bucket(error: Exception) -> "Trouble | None":
    """Return what is wrong with a bucket, where MLflow lets clients go there themselves; none for other errors."""
    if "botocore" not in sys.modules:
        return None
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    from metantk_core.adapters.s3_errors import trouble

    behind = error.__cause__ or error.__context__ if isinstance(error, Boto3Error) else error
    return trouble(behind) if isinstance(behind, BotoCoreError | ClientError) else None


def _behind(error: Exception) -> BaseException | None:
    """Return what the HTTP client raised; MLflow raises an exception of its own while it handles that one."""
    return (error.__cause__ or error.__context__) if isinstance(error, MlflowException) else error


def _absence(error: Exception) -> str:
    """Return in some words how a server doesn't answer; what the HTTP client writes of it is long."""
    behind = _behind(error)
    if isinstance(behind, HTTPError):
        return f"status {behind.response.status_code}"
    if isinstance(behind, RetryError):
        found = re.search(r"too many (\d{3}) error", str(behind))
        return f"status {found[1]}" if found else "too many errors"
    if isinstance(behind, Timeout):
        return "it takes too long"
    if isinstance(behind, ConnectionError):
        return "no connection"
    return _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, OverdueError):
        return f"no whole answer within {_SECONDS_TO_AN_ANSWER:.0f} seconds"
    behind = error.__cause__ if isinstance(error, MlflowException) else error
    if isinstance(behind, DBAPIError):
        error = cast(Exception, behind.orig)
    # After this MLflow quotes what the server sent: pages of HTML, and who knows what else.
    text = str(error).partition("Response body:")[0]
    lines = text.strip().splitlines()
    return redacted(lines[0]).rstrip(". ")[:_LONGEST_REASON] if lines else type(error).__name__
