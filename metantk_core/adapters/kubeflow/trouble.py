"""What went wrong with Kubeflow: an exception of KFP's client enters, one sentence that says what to do leaves."""

import json
import ssl
from collections.abc import Iterator

import urllib3.exceptions as http
from kfp_server_api.exceptions import ApiException

from metantk_core.adapters.deadline import OverdueError
from metantk_core.adapters.kubeflow.access import AUTHORITY, COOKIE, TOKEN, TOKEN_FILE, Access
from metantk_core.errors import InputError, without_addresses
from metantk_core.files import shown
from metantk_core.ports import AwayError

_LONGEST_REASON = 240
_ADDRESS = "look whether it is up and --host (or METANTK_KUBEFLOW) is its address"
_CREDENTIALS = f"put a valid token into {TOKEN} or a file for {TOKEN_FILE}, or a session's cookie into {COOKIE}"


class KubeflowError(InputError):
    """Kubeflow refused what it was asked.

    Attributes:
        status: The HTTP status, such as 404; 0 if there was none.
    """

    def __init__(self, sentence: str, status: int = 0) -> None:
        super().__init__(sentence)
        self.status = status


def complaint(error: Exception, access: Access, doing: str, seconds: float) -> InputError:
    """Return what to tell a person about a request that failed.

    Args:
        error: What KFP's client, urllib3 or the deadline raised.
        access: Where Kubeflow is and as whom it was asked.
        doing: What the request does, such as "list runs".
        seconds: How long an answer was waited for.
    """
    at = access.shown
    if isinstance(error, ApiException) and error.status:
        return _answered(error, access, doing)
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return KubeflowError(_untrusted(cause, at))
    if any(isinstance(cause, ssl.SSLError | http.SSLError) for cause in causes):
        return KubeflowError(
            f"No TLS connection to Kubeflow at {at} comes about; give an http:// address if it speaks no TLS there."
        )
    if any(isinstance(cause, http.NameResolutionError) for cause in causes):
        return AwayError(f"The host of {at} is not known here; correct --host (or METANTK_KUBEFLOW).")
    if any(isinstance(cause, OverdueError | http.ReadTimeoutError) for cause in causes):
        return AwayError(
            f"Kubeflow at {at} did not answer within {seconds:g} seconds when asked to {doing}; {_ADDRESS}, and at its "
            "load."
        )
    if any(isinstance(cause, http.HTTPError | OSError) for cause in causes):
        return AwayError(f"No Kubeflow answers at {at}; {_ADDRESS}.")
    return no_kubeflow(access)  # what came can't be read


def no_kubeflow(access: Access) -> KubeflowError:
    """Return what to tell a person where something else answers."""
    return KubeflowError(
        f"What answers at {access.shown} is no Kubeflow Pipelines; check the address, which often ends in /pipeline. "
        f"If it is a page to sign in, {_CREDENTIALS}."
    )


def _answered(error: ApiException, access: Access, doing: str) -> InputError:
    status, at = int(error.status or 0), access.shown
    if 300 <= status < 400:
        return KubeflowError(
            f"Kubeflow at {at} wants a sign-in first ({status}); {_CREDENTIALS}, copied from a browser that has signed "
            "in.",
            status,
        )
    if status == 401:
        shown_to_it = f"does not accept {access.credential}" if access.credential else "asks who you are"
        return KubeflowError(f"Kubeflow at {at} {shown_to_it} (401); {_CREDENTIALS}.", status)
    reason = _reason(error, access)
    if status == 403:
        where = f" in the namespace {access.namespace}" if access.namespace else ""
        exists = " (of a namespace that does not exist it says the same)" if where else ""
        return KubeflowError(
            f"Kubeflow at {at} does not let this account {doing}{where} (403){exists}; ask for a role such as "
            "kubeflow-edit there.",
            status,
        )
    if status == 404 and not _speaks_kubeflow(error):
        return no_kubeflow(access)
    if status == 404:
        return KubeflowError(f"Kubeflow at {at} knows nothing of the kind when asked to {doing} (404){reason}.", status)
    if status == 409:
        return KubeflowError(f"Kubeflow at {at} can't {doing}: it is there already (409){reason}.", status)
    if status == 413:
        return KubeflowError(f"What Kubeflow at {at} was sent to {doing} is too large (413){reason}.", status)
    if status in (408, 429) or status >= 500:
        return AwayError(
            f"Kubeflow at {at} failed when asked to {doing} ({status}){reason}; look at the log of ml-pipeline there, "
            "and try again."
        )
    return KubeflowError(f"Kubeflow at {at} refuses to {doing} ({status}){reason}.", status)


def _untrusted(error: ssl.SSLCertVerificationError, at: str) -> str:
    why = error.verify_message or ""
    if "mismatch" in why or "doesn't match" in why:
        return f"The certificate of Kubeflow at {at} is for another host name; give the name that it is for in --host."
    if "expired" in why:
        return f"The certificate of Kubeflow at {at} has expired; its administrator has to renew it."
    return (
        f"The certificate of Kubeflow at {at} can't be trusted; name the file with the certificate of its authority in "
        f"--ca (or {AUTHORITY})."
    )


def _reason(error: ApiException, access: Access) -> str:
    """Return KFP's own words, to be put behind a sentence, without anything secret; empty if there are none."""
    said = _body(error)
    words = said.get("message") or said.get("error_message") or said.get("error") or ""
    if not isinstance(words, str) or not words.strip():
        return ""
    plain = without_addresses(access.hidden(" ".join(words.split())))
    return f": {shown(plain)[:_LONGEST_REASON].rstrip('. ')}"


def _speaks_kubeflow(error: ApiException) -> bool:
    return bool(_body(error))


def _body(error: ApiException) -> dict[str, object]:
    try:
        said = json.loads(error.body or "")
    except ValueError:
        return {}
    return said if isinstance(said, dict) and {"message", "error", "error_message", "code"} & set(said) else {}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an exception and all that it was raised because of."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        cause = waiting.pop(0)
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
