"""MLflow's client with its errors translated in one place: a call enters, an answer or one sentence leaves."""

import sqlite3
from functools import wraps
from typing import Any, cast

from google.protobuf.json_format import ParseError
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient
from requests.exceptions import RequestException
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from metantk_core.adapters.deadline import OverdueError, within
from metantk_core.errors import InputError

_SECONDS_TO_AN_ANSWER = 180.0
_TRANSFERS = ("log_artifact", "log_artifacts", "log_model_artifacts", "log_model_artifact", "download_artifacts")
_LONGEST_REASON = 200


class MlflowError(InputError):
    """MLflow did not do what it was asked.

    Attributes:
        code: MLflow's own word for the reason, such as ``RESOURCE_ALREADY_EXISTS``; empty if it gave none.
    """

    def __init__(self, sentence: str, code: str = "") -> None:
        super().__init__(sentence)
        self.code = code


def translating(client: MlflowClient, address: str, *, is_server: bool) -> MlflowClient:
    """Return a client whose methods raise ``MlflowError`` where MLflow, its database or its files fail.

    A wrong argument stays MLflow's own exception: that is a fault of ours.

    Args:
        client: The client.
        address: What it speaks to, without anything secret.
        is_server: Whether that is a server; then no call but a transfer of files waits longer than three minutes.
    """
    return _Translating(client, address, is_server)


class _Translating(MlflowClient):
    """Stands before a client, and is one only for its type: every public name is the other one's."""

    def __init__(self, client: MlflowClient, address: str, is_server: bool) -> None:
        self._behind = client
        self._address = address
        self._is_server = is_server

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        method = getattr(self._behind, name)
        if not callable(method):
            return method

        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                if self._is_server and name not in _TRANSFERS:
                    return within(_SECONDS_TO_AN_ANSWER, lambda: method(*args, **kwargs))
                return method(*args, **kwargs)
            except MlflowException as error:
                if error.error_code == "INVALID_PARAMETER_VALUE":
                    raise
                raise self._refusal(name, error) from error
            except (RequestException, ParseError, SQLAlchemyError, sqlite3.Error, OverdueError, ValueError) as error:
                if isinstance(error, InputError) or (isinstance(error, ValueError) and not self._is_server):
                    raise
                raise self._refusal(name, error) from error
            except OSError as error:
                raise MlflowError(
                    f"Can't keep a file of the tracked run in {error.filename or self._address} "
                    f"({error.strerror or error}); make room, or the folder writable, and run the same command again."
                ) from error

        return call

    def _refusal(self, method: str, error: Exception) -> MlflowError:
        code = error.error_code if isinstance(error, MlflowException) else ""
        kind = "server" if self._is_server else "database"
        # A code that stands for the status of an answer which is not MLflow's own means nothing.
        meant = code if isinstance(error, RestException) or not self._is_server else ""
        return MlflowError(
            f"The MLflow {kind} {self._address} failed at '{method}' ({_reason(error)}); look "
            f"{'at its log' if self._is_server else 'whether the file is whole'}, and run the same command again: "
            "what is finished is kept.",
            meant,
        )


def _reason(error: Exception) -> str:
    if isinstance(error, OverdueError):
        return f"no whole answer within {_SECONDS_TO_AN_ANSWER:.0f} seconds"
    behind = error.__cause__ if isinstance(error, MlflowException) else error
    if isinstance(behind, DBAPIError):
        error = cast(Exception, behind.orig)
    # After this MLflow quotes what the server sent: pages of HTML, and who knows what else.
    text = str(error).partition("Response body:")[0]
    lines = text.strip().splitlines()
    return lines[0].rstrip(". ")[:_LONGEST_REASON] if lines else type(error).__name__
