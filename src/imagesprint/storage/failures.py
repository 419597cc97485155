"""What a store's answer means to a user: one sentence and a hint for each that a user can meet."""

import os
import re
from dataclasses import dataclass
from typing import Final

from imagesprint.errors import StorageError
from imagesprint.storage.url import Url

_CREDENTIALS: Final = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the AWS_PROFILE of ~/.aws, the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, the machine's service account",
    "az": "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with …_ACCOUNT_KEY or …_SAS_TOKEN",
    "hdfs": "HADOOP_USER_NAME or, with Kerberos, the ticket of `kinit`",
}
NO_CREDENTIALS: Final = "load signing credential"  # what OpenDAL says where it finds none
_CONTAINERS: Final = {"az": "container", "hdfs": "file system"}  # else bucket


@dataclass(frozen=True)
class Failure:
    """Why a call failed, as the end of a sentence that begins with what was to be done; and what to do about it."""

    why: str
    hint: str
    may_pass: bool = False

    def error(self, what: str) -> StorageError:
        """The error of `what`, such as "read s3://bucket/file"."""
        return StorageError(f"cannot {what}: {self.why}", self.hint)


# What an answer says, in the order in which they are looked for; {…} is filled in by `explain`.
_MEANINGS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), why, hint, may_pass)
    for pattern, why, hint, may_pass in (
        (
            r"NoSuchBucket|ContainerNotFound|bucket does not exist",
            "there is no {container} {host}",
            "see to its name, and to the endpoint and account that are set",
            False,
        ),
        (
            r"^NotFound\b|NoSuchKey|BlobNotFound|status: 404\b",
            "there is no such file",
            "look at its name with your store's tool",
            False,
        ),
        (
            r"RequestTimeTooSkewed|RequestExpired|date header .{0,40}(old|expired)",
            "this machine's clock is too far from the store's",
            "set the clock, as `timedatectl set-ntp true` does",
            False,
        ),
        (
            r"ExpiredToken|TokenRefreshRequired|InvalidToken|token .{0,30}expired|invalid_grant",
            "the credentials have expired",
            "get new ones, as `aws sso login` does, and give the same command again",
            False,
        ),
        (
            r"PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint|status: 30[127]\b",
            "the {container} is in another region",
            "set AWS_REGION to that of the bucket",
            False,
        ),
        (
            r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidSecurity|AuthenticationFailed|AuthFailure|status: 401\b",
            "the store does not know these credentials, or they are wrong",
            "looked for were, in this order: {credentials}",
            False,
        ),
        (
            r"GSSAPI|SASL|Kerberos",
            "there is no valid Kerberos ticket",
            "get one by `kinit`, and give the same command again",
            False,
        ),
        (
            r"safe ?mode",
            "the NameNode is in safe mode",
            "wait until it has left it: `hdfs dfsadmin -safemode get` tells",
            True,
        ),
        (
            r"replicated to 0 nodes|All DataNodes failed|Blocks ?Not ?Found",
            "no DataNode answers",
            "see that they run and can be reached from here",
            True,
        ),
        (
            r"QuotaExceeded|InsufficientStorage|status: 507\b",
            "its space or quota is used up",
            "make room in the {container}",
            False,
        ),
        (
            NO_CREDENTIALS,
            "there are no credentials",
            "looked for were, in this order: {credentials}",
            False,
        ),
        (
            r"NotImplemented|Unsupported|status: 405\b|status: 501\b",
            "this store cannot do that",
            "use another store for it",
            False,
        ),
        (
            r"AccessDenied|AccessControlException|PermissionDenied|AuthorizationFailure|AuthorizationPermission"
            r"|Permission denied|status: 403\b",
            "no permission",
            "ask for the right to it, and see to the credentials, in this order: {credentials}",
            False,
        ),
        (
            r"InvalidRange|RangeNotSatisfied|too little data|content range is invalid|status: 416\b",
            "it ends before those bytes",
            "something else wrote it meanwhile; give the same command again",
            False,
        ),
        (
            r"dns error|lookup address|name or service not known|nodename nor servname|UnknownHost",
            "the host {address} is not found",
            "see to its name, in the URL or the endpoint that is set, and to this machine's network",
            True,
        ),
        (
            r"connection refused",
            "{address} refuses connections",
            "see that the store runs, and to the port",
            True,
        ),
        (
            r"certificate|\bTLS\b|handshake",
            "the certificate of {address} is not trusted",
            "set SSL_CERT_FILE to a file with that of its issuer",
            False,
        ),
        (
            r"timeout reached|part timeout|timed out|no route to host|network is unreachable",
            "{address} does not answer",
            "see that the store runs, and to this machine's network; give the same command again",
            True,
        ),
        (
            r"SlowDown|TooManyRequests|RateLimited|ServerBusy|status: (429|503)\b",
            "the store is overloaded",
            "give the same command again later, with fewer machines at once",
            True,
        ),
        (
            r"InternalError|RequestTimeout|OperationTimedOut|status: (408|409|499|5\d\d)\b",
            "the store failed",
            "give the same command again; see to the store if that does not help",
            True,
        ),
    )
)
_PASSES: Final = re.compile(
    r"\(temporary\)|connection (reset|closed|aborted)|incomplete|unexpected eof|broken pipe", re.I
)
_BROKEN: Final = "the connection to {address} broke"
# What is left out before one looks: Java's stack, and what has names and headers in it, which may read like anything.
_ASIDE: Final = re.compile(r"\n\tat [^\n]*|headers: \{[^}]*\}|resource: \"[^\"]*\"|\b(uri|path): [^\n,}]*")
_SECRET_NAMES: Final = re.compile(r"KEY|SECRET|TOKEN|SAS|PASSWORD|CREDENTIAL|CONNECTION_STRING")
_SHOWN = 160  # characters of what is not in the table


def explain(url: Url, address: str, said: str) -> Failure:
    """Return what it means that the client of `url`'s store, which is at `address`, failed and said `said`."""
    words = {
        "container": _CONTAINERS.get(url.scheme, "bucket"),
        "host": url.host,
        "address": address,
        "credentials": _CREDENTIALS.get(url.scheme, "none, this one takes none"),
    }
    said = _ASIDE.sub("", said)
    for pattern, why, hint, may_pass in _MEANINGS:
        if pattern.search(said):
            return Failure(why.format(**words), hint.format(**words), may_pass)
    if _PASSES.search(said):
        return Failure(_BROKEN.format(**words), "see to the network; give the same command again", may_pass=True)
    return Failure(f"its client says: {without_secrets(said)}", "see to the URL and the store")


def without_secrets(said: str) -> str:
    """The message of a client's error on one line: without requests and their queries, and what the environment hides.

    It is what stands after `=>` where OpenDAL wrote it.
    """
    text = " ".join(said.partition("=> ")[2].partition("\n")[0].split() or said.partition("\n")[0].split())
    text = re.sub(r"\?[^\s\"')}]*", "?…", text)
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name) and len(value) > 7:
            text = text.replace(value, "…")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
