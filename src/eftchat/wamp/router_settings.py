"""The router's configuration: a template that ships with the package, and what differs from router to router.

Pure, apart from reading the template. `crossbar/README.md` says why every port, role and limit is as it is.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Mapping
from copy import deepcopy
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import msgspec

from eftchat.ports import CannotStart

TEMPLATE_PACKAGE = "eftchat.routerconf"
TEMPLATE_NAME = "router.json"
LOOPBACK_ORIGINS = ("http://localhost:*", "http://127.0.0.1:*")

_HIGHEST_PORT = 65535
_REALM = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_USUAL_PORTS = {"http": 80, "https": 443}


class RouterUnavailable(CannotStart):
    """The router cannot be started, or did not come up. Its text says why, to whoever started it."""


class RouterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from router to router. ValueError if it cannot work."""

    cbdir: Path
    client_interface: str = "127.0.0.1"
    client_port: int = 8080
    node_interface: str = "127.0.0.1"
    node_port: int = 8081
    realm: str = "eftchat"
    max_connections: int = 20_000
    allowed_origins: tuple[str, ...] = LOOPBACK_ORIGINS
    client_auth: dict[str, Any] | None = None
    """Crossbar's `auth` of the clients' listener; None keeps the template's (anonymous, for development)."""

    def __post_init__(self) -> None:
        for port in (self.client_port, self.node_port):
            if not 1 <= port <= _HIGHEST_PORT:
                raise ValueError(f"{port} is no TCP port")
        if self.client_port == self.node_port:
            raise ValueError(f"clients and nodes need a port each, not both {self.client_port}")
        if not _REALM.fullmatch(self.realm):
            raise ValueError(f"{self.realm!r} is no realm: lower case letters, digits, _ and . only")
        if self.max_connections < 1:
            raise ValueError("max_connections is at least 1")

    @property
    def client_host(self) -> str:
        """The address at which this machine reaches the clients' listener."""
        return _reachable(self.client_interface)

    @property
    def client_url(self) -> str:
        """Where a WAMP client on this machine finds the router."""
        return f"ws://{_in_url(self.client_host)}:{self.client_port}/ws"

    @property
    def node_url(self) -> str:
        """Where a node on this machine finds the router."""
        return f"ws://{_in_url(_reachable(self.node_interface))}:{self.node_port}/"


def load_template(folder: Traversable | None = None) -> dict[str, Any]:
    """`router.json` of `folder`, else the one that ships with the package. RouterUnavailable if not there."""
    try:
        source = importlib.resources.files(TEMPLATE_PACKAGE) if folder is None else folder
        template: dict[str, Any] = json.loads((source / TEMPLATE_NAME).read_text("utf-8"))
    except (ModuleNotFoundError, OSError) as missing:
        raise RouterUnavailable(f"the router's configuration template is missing: {missing}") from missing
    return template


def render(
    settings: RouterSettings, *, template: Mapping[str, Any] | None = None, instance: str = ""
) -> dict[str, Any]:
    """The whole configuration of one router, ready for JSON. The nodes' ticket stays a name in it.

    `template` is read from the package if it is not given. `instance` is what `/ws-ready` shows, so that one
    start of a router can be told from another.
    """
    config = deepcopy(dict(load_template() if template is None else template))
    worker = config["workers"][0]
    worker["realms"][0]["name"] = settings.realm
    transports = {transport["id"]: transport for transport in worker["transports"]}
    nodes, clients = transports["nodes"], transports["clients"]
    nodes["endpoint"].update(_endpoint(settings.node_interface, settings.node_port))
    clients["endpoint"].update(_endpoint(settings.client_interface, settings.client_port))
    clients["max_connections"] = settings.max_connections
    clients["paths"]["ws-ready"]["value"]["instance"] = instance
    door = clients["paths"]["ws"]
    door["options"]["allowed_origins"] = [_origin(origin) for origin in settings.allowed_origins]
    if settings.client_auth is not None:
        door["auth"] = deepcopy(settings.client_auth)
    return config


def _endpoint(interface: str, port: int) -> dict[str, Any]:
    return {"interface": interface, "port": port, "version": 6 if ":" in interface else 4}


def _origin(origin: str) -> str:
    """Crossbar compares with scheme://host:port, the port always there; people leave out the usual ones."""
    scheme, separator, host = origin.partition("://")
    if not separator or scheme not in _USUAL_PORTS or re.search(r":(\d+|\*)$", host):
        return origin
    return f"{origin}:{_USUAL_PORTS[scheme]}"


def _reachable(interface: str) -> str:
    return _EVERY_INTERFACE.get(interface, interface)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
