"""The ear of a running cluster: takes orders on its unix socket and carries them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver

from eftchat.cluster.cluster import CannotDo, Cluster
from eftchat.cluster.orders import PATIENCE, Order, Reply, socket_path
from eftchat.ports import CannotStart

LONGEST_PATH = 100
"""Bytes that the path of a unix socket may have, about, on all systems."""


async def obey(cluster: Cluster, order: Order) -> Reply:
    """Does it; what cannot be done is told in the reply."""
    try:
        if order.do == "status":
            return Reply(True, view=await cluster.look())
        return Reply(True, await _act(cluster, order))
    except (CannotDo, CannotStart) as error:
        return Reply(False, str(error))


async def _act(cluster: Cluster, order: Order) -> str:
    kind, which = order.kind, order.which
    if order.do == "kill":
        return f"{await cluster.kill(kind, which)} is dead: kill -9"
    if order.do == "add":
        member = cluster.add_node()
        await cluster.settled(PATIENCE / 2)
        return f"{member.name} serves at {member.recipe.url}"
    if which == "primary":
        raise CannotDo("the primary can be killed; all else needs a number")
    if order.do == "restart":
        return f"{await cluster.restart(kind, which)} serves again"
    if kind == "mongod":
        raise CannotDo("a mongod can be killed and restarted")
    return f"{await cluster.drain(kind, which)} has left: {cluster.member(kind, which).last_words()}"


class _Ear(LineOnlyReceiver):
    delimiter = b"\n"
    transport: Any

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def lineReceived(self, line: bytes) -> None:
        async def answer() -> None:
            try:
                reply = await obey(self._cluster, msgspec.json.decode(line, type=Order))
            except msgspec.MsgspecError as error:
                reply = Reply(False, str(error))
            except Exception:
                Logger("eftchat.cluster").failure("an order failed on our side")
                reply = Reply(False, "this should not happen: see the output of the cluster")
            self.transport.write(msgspec.json.encode(reply) + b"\n")

        Deferred.fromCoroutine(answer())


@define(eq=False)
class Control:
    """The socket in the cluster's folder. It is also what keeps two clusters out of one folder."""

    reactor: Any
    cluster: Cluster
    folder: Path
    _listening: Any = field(default=None, init=False)

    def open(self) -> None:
        """Listens. Raises CannotStart."""
        path = socket_path(self.folder)
        if len(str(path).encode()) > LONGEST_PATH:
            raise CannotStart(f"{path} is too long for a socket: choose a shorter --data")
        factory: Any = Factory.forProtocol(lambda: _Ear(self.cluster))
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._listening = self.reactor.listenUNIX(str(path), factory, mode=0o600, wantPID=True)
        except CannotListenError:
            raise CannotStart(f"A cluster runs in {self.folder} already: choose another --data") from None
        except OSError as error:
            raise CannotStart(f"The folder {self.folder} cannot be written: {error.strerror}") from None

    async def close(self) -> None:
        """No more orders."""
        if self._listening is not None:
            await self._listening.stopListening()
