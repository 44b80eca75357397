"""The cluster: its members, what can be done to them, and how they do."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Any, Literal

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from eftchat.cluster.database import Database
from eftchat.cluster.front import Front
from eftchat.cluster.member import Kind, Member, Recipe
from eftchat.cluster.plan import Plan
from eftchat.cluster.view import MemberView, NodeStatus, View
from eftchat.ops.fetch import fetch
from eftchat.ops.secret import secret_file
from eftchat.ports import CannotStart

HOST = "127.0.0.1"
START_WITHIN = 120.0
PROBE = 0.9
LOOK_EVERY = 0.2
SETTLE = 1.5
"""Seconds that a leaving node still takes clients: the balancer, which asks every second, shall know by then."""


class CannotDo(Exception):
    """What was asked for makes no sense at the moment; the text says why."""


@define(eq=False)
class Cluster:
    """Start it once, stop it once; in between break it as you like. Nothing is started again by itself.

    A node or router is known by its number, from 1; the number of one that is gone is not given to another.
    """

    reactor: Any
    plan: Plan
    environment: Mapping[str, str] = field(repr=False)
    rng: Random
    """An unguessable one, for the secrets."""
    nodes: dict[int, Member] = field(factory=dict, init=False)
    routers: dict[int, Member] = field(factory=dict, init=False)
    database: Database | None = field(default=None, init=False)
    uri: str = field(default="", init=False)
    _front: Front = field(init=False)
    _said: dict[Member, NodeStatus] = field(factory=dict, init=False)
    _router_nodes: list[str] = field(factory=list, init=False)
    """Where nodes find the routers."""

    def __attrs_post_init__(self) -> None:
        self._front = Front(self.reactor)

    # -- where it is -----------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Websocket clients, through the balancer."""
        return f"ws://{HOST}:{self._front.port}/chat"

    @property
    def node_urls(self) -> list[str]:
        """Websocket clients, past the balancer; also of nodes that are gone."""
        return [member.recipe.url for member in self.nodes.values()]

    @property
    def router_urls(self) -> list[str]:
        """WAMP clients."""
        return [member.recipe.url for member in self.routers.values()]

    # -- its life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Done when all serve and are connected to each other. Raises CannotStart; then `stop` is still due."""
        data = self.plan.data
        try:
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            for secret in ("ticket", "room-secret"):
                secret_file(data / secret, self.rng)
            (data / "logs").mkdir(exist_ok=True)
        except OSError as error:
            raise CannotStart(f"The folder {data} cannot be written ({error.strerror}): see --data") from None
        self._front.listen(HOST, self.plan.port)
        for number in range(1, self.plan.routers + 1):
            self.routers[number] = self._router(number)
        self.uri = self.plan.mongodb or await self._own_database()
        for _ in range(self.plan.nodes):
            self.add_node()
        await self.settled(START_WITHIN)

    async def stop(self) -> None:
        """Everything ends in good order: nodes, routers, balancer, database. Nothing is left."""
        for members in (self.nodes, self.routers):
            for member in members.values():
                member.leave()
            await gatherResults([member.gone() for member in members.values()])
        await self._front.stop()
        if self.database is not None:
            await self.database.stop()

    async def settled(self, seconds: float) -> None:
        """Done when everyone who lives serves, and is connected to everyone. Raises CannotStart when not so in time,
        or when somebody who was about to serve ends."""
        until = self.reactor.seconds() + seconds
        waiting = [member for member in self._all() if member.state == "starting"]
        while True:
            missing = [seen.line for seen in (await self.look()).members if not seen.settled]
            serving = [member.name for member in self.nodes.values() if member.state == "up"]
            missing += [f"{name}: no clients yet" for name in serving if not self._front.sends_to(name)]
            for member in waiting:
                if member.state == "dead":
                    raise CannotStart(f"{member.name} did not start: {member.detail} (see {member.log})")
            if not missing:
                return
            if self.reactor.seconds() >= until:
                raise CannotStart(f"not all there within {seconds:.0f} s: {', '.join(missing)}")
            await deferLater(self.reactor, LOOK_EVERY)

    # -- what can be done to it ------------------------------------------------------------------------

    def add_node(self) -> Member:
        """One more node, starting; the balancer sends clients there when it is ready."""
        number = len(self.nodes) + 1
        member = self.nodes[number] = self._node(number)
        return member

    async def kill(self, kind: Kind | Literal["mongod"], which: int | Literal["primary"]) -> str:
        """kill -9; what has been killed."""
        if kind == "mongod":
            number = await self._mongod().kill(None if which == "primary" else self._known_mongod(which))
            return f"mongod {number}"
        member = self.member(kind, which)
        if not member.running:
            raise CannotDo(f"{member.name} is {member.state} already")
        member.kill()
        await member.gone()
        return member.name

    async def drain(self, kind: Kind, number: int) -> str:
        """Asks it to leave (SIGTERM), as a scale-down does, and waits until it has."""
        member = self.member(kind, number)
        if not member.running:
            raise CannotDo(f"{member.name} is {member.state} already")
        member.leave()
        await member.gone()
        return member.name

    async def restart(self, kind: Kind | Literal["mongod"], number: int) -> str:
        """Starts it, on the ports it had; if it runs, it is asked to leave before. Done when all serve."""
        if kind == "mongod":
            await self._mongod().restart(self._known_mongod(number))
        else:
            member = self.member(kind, number)
            if member.running:
                await self.drain(kind, number)
            member.start()
        await self.settled(START_WITHIN)
        return f"{kind} {number}"

    def member(self, kind: Kind, number: object) -> Member:
        """A node or router. Raises CannotDo when there is none with that number."""
        members = self.nodes if kind == "node" else self.routers
        if not isinstance(number, int) or number not in members:
            raise CannotDo(f"there is no {kind} {number}: there are {', '.join(map(str, members))}")
        return members[number]

    def _mongod(self) -> Database:
        if self.database is None:
            raise CannotDo("the database is not this cluster's own")
        return self.database

    def _known_mongod(self, number: object) -> int:
        if not isinstance(number, int) or not 1 <= number <= self._mongod().size:
            raise CannotDo(
                f"there is no mongod {number}: there are 1 to {self._mongod().size}, and the primary"
            )
        return number

    # -- how it does -----------------------------------------------------------------------------------

    async def look(self) -> View:
        """Asks everyone how they do."""
        asking = [Deferred.fromCoroutine(self._ask(member)) for member in self._all()]
        await gatherResults(asking)
        members = [self._shown(member) for member in self._all()]
        if self.database is not None:
            for seen in await self.database.seen():
                members.append(MemberView(f"mongod {seen.number}", seen.state, "", seen.pid, seen.port))
        return View(self.url, self.router_urls, "given" if self.plan.mongodb else "own", members)

    async def _ask(self, member: Member) -> None:
        if member.state not in ("starting", "up"):
            return
        answer = await fetch(self.reactor, member.recipe.probe, PROBE)
        if member.state not in ("starting", "up"):
            return  # meanwhile
        if not answer.good:
            if member.state == "up":
                member.tell("up", "does not answer")
        elif member.recipe.kind == "router":
            member.tell("up", "")
        else:
            with suppress(msgspec.MsgspecError):
                self._heard(member, msgspec.json.decode(answer.body, type=NodeStatus))

    def _heard(self, member: Member, said: NodeStatus) -> None:
        self._said[member] = said
        living = {self._router_nodes[n - 1] for n, router in self.routers.items() if router.running}
        away = [url for url in living if said.routers.get(url) != "up"]
        if said.problem is not None:
            member.tell(member.state, f"{said.problem}")
        else:
            member.tell("up", f"not on {len(away)} of {len(living)} routers" if away else "")

    def _shown(self, member: Member) -> MemberView:
        said = self._said.get(member)
        clients = sum(said.clients.values()) if said is not None and member.running else None
        recipe = member.recipe
        return MemberView(
            member.name, member.state, member.detail, member.pid, recipe.port, recipe.url, clients
        )

    def _all(self) -> Iterator[Member]:
        yield from self.nodes.values()
        yield from self.routers.values()

    # -- how its members are made ----------------------------------------------------------------------

    async def _own_database(self) -> str:
        self.database = Database(self.reactor, self.plan.data / "mongodb")
        return await self.database.start()

    def _router(self, number: int) -> Member:
        client_port, node_port = free_port(), free_port()
        self._router_nodes.append(f"ws://{HOST}:{node_port}/")
        options = {
            "--client-host": HOST,
            "--client-port": str(client_port),
            "--node-host": HOST,
            "--node-port": str(node_port),
            "--data": str(self.plan.data / f"router-{number}"),
            "--ticket-file": str(self.plan.data / "ticket"),
            "--grace": str(self.plan.grace),
        }
        url, probe = f"ws://{HOST}:{client_port}/ws", f"http://{HOST}:{client_port}/ws-ready"
        environment = _without_ours(self.environment)
        recipe = Recipe(
            "router",
            number,
            client_port,
            lambda run: _command("router", options),
            environment,
            url,
            probe,
            self.plan.grace,
        )
        return self._started(recipe)

    def _node(self, number: int) -> Member:
        port, data = free_port(), self.plan.data

        def command(run: int) -> Sequence[str]:
            options = {
                # An id of its own for each run: what was killed keeps its id until its lease is over.
                "--id": f"node-{number}-{run}",
                "--host": HOST,
                "--port": str(port),
                "--ticket-file": str(data / "ticket"),
                "--room-secret-file": str(data / "room-secret"),
                "--grace": str(self.plan.grace),
                "--settle": str(SETTLE),
            }
            routers = [word for url in self._router_nodes for word in ("--router", url)]
            return [*_command("node", options), *routers, *self.plan.node_options]

        # By environment: the URI may have a password in it.
        environment = {**_without_ours(self.environment), "EFTCHAT_NODE_MONGODB": self.uri}
        url, probe = f"ws://{HOST}:{port}/chat", f"http://{HOST}:{port}/status"
        member = self._started(
            Recipe("node", number, port, command, environment, url, probe, self.plan.grace)
        )
        self._front.add(member.name, HOST, port)
        return member

    def _started(self, recipe: Recipe) -> Member:
        log = self.plan.data / "logs" / f"{recipe.kind}-{recipe.number}.log"
        member = Member(self.reactor, recipe, log)
        member.start()
        return member


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _command(name: str, options: Mapping[str, str]) -> list[str]:
    words = [word for option in options.items() for word in option]
    return [sys.executable, "-m", "eftchat.cli", name, *words]


def _without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """What is meant for this command shall not reach the others."""
    return {name: text for name, text in environment.items() if not name.startswith("EFTCHAT_")}
