"""What a MongoDB URI says, in the form in which txmongo can use it, without its secrets where it is shown."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote_plus, urlencode

import msgspec
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from eftchat.ports import CannotStart

DEFAULT_DATABASE = "eftchat"

Host = tuple[str, int]


class StoreUnusable(CannotStart):
    """The URI, or the MongoDB behind it, cannot keep what eftchat promises; the text says why."""


class Address(msgspec.Struct, frozen=True):
    """Where a replica set is and how to enter it. `hosts` are the seeds, in the order of the URI."""

    hosts: tuple[Host, ...]
    database: str
    user: str | None
    password: str | None
    options: dict[str, str]

    def __repr__(self) -> str:
        return f"Address({self})"

    def __str__(self) -> str:
        return ",".join(map(spelled, self.hosts))

    def uri(self, hosts: Iterable[Host]) -> str:
        """A URI for txmongo that names these hosts. It carries the password: not to be shown."""
        entry = f"{quote_plus(self.user)}:{quote_plus(self.password or '')}@" if self.user else ""
        return f"mongodb://{entry}{','.join(map(spelled, hosts))}/{self.database}?{urlencode(self.options)}"


def spelled(host: Host) -> str:
    """`name:port`, with brackets around an IPv6 address."""
    name, port = host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def parse(uri: str) -> Address:
    """The address that `uri` spells; raises StoreUnusable for what txmongo would get wrong in silence."""
    if not uri.startswith("mongodb://"):
        raise StoreUnusable("The MongoDB URI must begin with mongodb:// and list the hosts (no +srv)")
    try:
        parsed = parse_uri(uri)
    except (PyMongoError, ValueError):
        # The parser's own text may quote part of the password.
        raise StoreUnusable(
            "The MongoDB URI cannot be read; are user and password percent-encoded?"
        ) from None
    given = {key.lower(): value for key, value in parsed["options"].items()}
    if given.get("tls") or given.get("ssl"):
        raise StoreUnusable("TLS to MongoDB is not supported: use a network that is protected in another way")
    if given.get("authmechanism", "DEFAULT") not in ("DEFAULT", "SCRAM-SHA-1"):
        raise StoreUnusable(
            "Of MongoDB's ways to log in only SCRAM-SHA-1 is supported (leave authMechanism away)"
        )
    hosts = tuple((name, port) for name, port in parsed["nodelist"])
    options = {"replicaSet": given["replicaset"]} if given.get("replicaset") else {}
    if parsed["username"]:
        options["authSource"] = given.get("authsource") or parsed["database"] or "admin"
    database = parsed["database"] or DEFAULT_DATABASE
    return Address(hosts, database, parsed["username"], parsed["password"], options)
