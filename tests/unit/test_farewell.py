"""Clients of a node that leaves: each has its slot, is answered, and is counted as what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from attrs import define, field
from twisted.internet.defer import Deferred

from eftchat.bridge.connection import Conversation
from eftchat.bridge.farewell import LAST_ORDERS, Farewell
from eftchat.domain.errors import Unavailable
from eftchat.domain.messages import Message
from eftchat.drain import Drain, Notice, Pace, Parting, Report
from eftchat.ops.loop import TwistedLoop
from eftchat.ports import Appended
from eftchat.testing.memory import MemoryMessages
from tests.unit.desk import Desk, Talk


@define(eq=False)
class Store(MemoryMessages):
    """Messages that can be held back."""

    away: bool = False

    async def append(self, batch: Sequence[Message]) -> Appended:
        if self.away:
            raise Unavailable("away")
        return await super().append(batch)


@define(eq=False)
class Client:
    """A websocket with a real conversation. How it takes the news is up to the test."""

    house: House
    talk: Talk
    stubborn: bool = False
    """Ignores close frames."""
    closed_at: float | None = None
    aborted: bool = False

    @property
    def conversation(self) -> Conversation:
        return self.talk.conversation

    def write(self, data: bytes) -> None:
        self.talk.socket.write(data)

    def close(self, code: int, reason: str) -> None:
        assert self.closed_at is None
        self.closed_at = self.house.desk.clock.seconds()
        self.talk.socket.close(code, reason)
        if not self.stubborn:
            self.go()

    def abort(self) -> None:
        self.aborted = True
        self.go()

    def go(self) -> None:
        """Its connection ends."""
        del self.house.clients[self]
        self.conversation.lost()

    def moves(self, late: float = 0.0) -> None:
        """Takes its slot, and so much later it is gone."""
        self.house.desk.clock.callLater(self.slot + late, self.go)

    @property
    def slot(self) -> float:
        """Seconds, from the notice."""
        (notice,) = [frame for frame in self.talk.socket.frames if frame.get("method") == "reconnect"]
        return float(notice["params"]["after_ms"]) / 1000


@define(eq=False)
class House:
    """A node's core with its websocket door as far as the drain sees it."""

    pace: Pace = Pace()
    store: Store = field(factory=Store)
    clients: dict[Client, None] = field(factory=dict)
    on_told: Callable[[], object] = lambda: None
    on_leave: Callable[[], object] = lambda: None
    desk: Desk = field(init=False)
    farewell: Farewell = field(init=False)
    drain: Drain = field(init=False)
    reports: list[Report] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.desk = Desk(messages=self.store)
        loop = TwistedLoop(self.desk.clock)
        self.farewell = Farewell(loop, Random(5), lambda: self.clients, self.pace.linger)
        self.drain = Drain(self.desk.rooms, loop, self.pace, [self])

    def v2(self, count: int = 1) -> list[Client]:
        return [self._in(self.desk.v2(room="R", name=f"v2 {len(self.clients)}")) for _ in range(count)]

    def v1(self, count: int = 1) -> list[Client]:
        names = [f"v1 {len(self.clients) + number}" for number in range(count)]
        return [self._in(self.desk.v1(room="R", name=name, user=name)) for name in names]

    def _in(self, talk: Talk) -> Client:
        client = Client(self, talk)
        self.clients[client] = None
        talk.socket.take()
        return client

    def sigterm(self, grace: float = 50.0) -> None:
        """It is asked to leave."""
        Deferred.fromCoroutine(self.drain.leave(grace)).addCallback(self.reports.append)

    def left(self, within: float = 60.0) -> Report:
        """The report, when it is there; and nothing runs any more."""
        for _ in range(round(within / 0.01)):
            if self.reports:
                break
            self.desk.clock.advance(0.01)
        (report,) = self.reports
        self.store.away = False
        self.desk.rooms.feeds.stop()
        self.desk.clock.advance(60)
        assert self.desk.clock.getDelayedCalls() == []
        return report

    # -- the door --------------------------------------------------------------------------------------

    @property
    def inside(self) -> int:
        return len(self.clients)

    async def refuse(self) -> None:
        pass

    async def tell(self, notice: Notice) -> int:
        told = self.farewell.tell(notice)
        self.on_told()
        return told

    async def see_off(self) -> None:
        await self.farewell.see_off()

    async def close(self, seconds: float) -> Parting:
        return await self.farewell.close(seconds)

    async def leave(self) -> None:
        self.on_leave()


# ---- clients -----------------------------------------------------------------------------------------------


def test_v2_clients_are_told_their_slots_and_those_who_move_are_not_closed() -> None:
    house = House(Pace(rate=10.0))
    clients = house.v2(50)
    house.sigterm()
    assert {client.talk.socket.frames[-1]["params"]["reason"] for client in clients} == {
        "this node is leaving"
    }
    slots = sorted(client.slot for client in clients)
    assert [round(slots[number]) for number in (0, -1)] == [0, 5]
    assert [client.slot for client in clients] != slots, "those who came together do not go together"
    for client in clients:
        client.moves(late=0.5)
    report = house.left()
    assert (report.told, report.moved, report.closed) == (50, 50, 0)
    assert 0.5 <= report.slowest <= 0.6
    assert 5.0 <= report.seconds <= 5.6
    assert all(client.closed_at is None for client in clients)


def test_v2_clients_that_stay_are_closed_some_seconds_behind_their_slot() -> None:
    house = House(Pace(rate=10.0, linger=3.0))
    clients = house.v2(20)
    house.sigterm()
    for client in clients[:5]:
        client.moves()
    report = house.left()
    assert (report.told, report.moved, report.closed) == (20, 5, 15)
    for client in clients[5:]:
        assert client.closed_at is not None
        assert 3.0 <= client.closed_at - client.slot <= 3.1
        assert client.talk.socket.closed == (1012, "this node is leaving")


def test_v1_clients_are_told_nothing_and_closed_one_after_another() -> None:
    house = House(Pace(rate=10.0))
    clients = house.v1(40)
    house.sigterm()
    report = house.left()
    assert (report.told, report.moved, report.closed) == (0, 0, 40)
    closed = sorted(client.closed_at for client in clients if client.closed_at is not None)
    for second in range(4):
        assert 8 <= sum(second <= at < second + 1 for at in closed) <= 12
    assert all(client.talk.socket.closed == (1012, "this node is leaving") for client in clients)
    assert all(frame.get("method") == "newUser" for client in clients for frame in client.talk.socket.frames)


def test_both_kinds_share_one_window() -> None:
    house = House(Pace(rate=10.0))
    v1, v2 = house.v1(20), house.v2(20)
    house.sigterm()
    for client in v2:
        client.moves()
    slots = [client.slot for client in v2]
    house.left()
    slots += [client.closed_at for client in v1 if client.closed_at is not None]
    for second in range(4):
        assert 8 <= sum(second <= at < second + 1 for at in slots) <= 12


def test_a_client_that_ignores_its_close_frame_is_cut() -> None:
    house = House()
    (client,) = house.v1()
    client.stubborn = True
    house.sigterm(grace=10.0)
    report = house.left()
    assert client.aborted and report.closed == 1
    assert report.seconds <= 10.0


def test_who_slips_in_behind_the_notice_is_closed_at_once() -> None:
    house = House(Pace(rate=1.0))
    house.v1(4)
    late: list[Client] = []
    house.on_told = lambda: late.extend(house.v2())
    house.sigterm()
    report = house.left()
    assert late[0].closed_at is not None and late[0].closed_at < 0.1
    assert (report.moved, report.closed) == (0, 5)


# ---- messages ----------------------------------------------------------------------------------------------


def post(client: Client, uuid: str) -> None:
    client.talk.call("post", room="R", uuid=uuid, kind="text", body={"text": "hi"})


def test_a_client_that_is_still_here_is_served() -> None:
    house = House(Pace(rate=1.0))
    first, second = house.v2(2)
    house.sigterm()
    slot = {client: client.slot for client in (first, second)}
    later = max(slot, key=lambda client: slot[client])
    house.desk.clock.advance(slot[later])
    answer = later.talk.call("post", room="R", uuid="u1", kind="text", body={"text": "hi"})
    house.desk.clock.advance(0.0)
    answer += later.talk.socket.take()
    assert [frame["result"]["seq"] for frame in answer if "result" in frame] == [1]
    assert house.left().finished == 1


def test_what_a_client_sent_before_its_slot_is_acknowledged_before_it_is_closed() -> None:
    house = House()
    (client,) = house.v1()
    house.store.away = True
    said = {"userId": "v1 0", "roomName": "R", "userName": "v1 0", "text": "hi", "uuid": "u1"}
    client.talk.say({"jsonrpc": "2.0", "method": "textMessage", "params": said, "id": 2})
    house.sigterm()
    house.desk.pass_time(1.0)
    assert client.closed_at is None
    client.talk.say({"jsonrpc": "2.0", "method": "textMessage", "params": {**said, "uuid": "u2"}, "id": 3})
    house.store.away = False
    report = house.left()
    echoes = [frame["params"]["uuid"] for frame in client.talk.socket.frames if "_id" in frame]
    assert echoes == ["u1"], "what came behind last orders is left to its outbox"
    assert (report.finished, report.unfinished) == (1, 0)


def test_a_client_is_not_kept_for_ever_by_what_it_sent() -> None:
    house = House(Pace(linger=0.0))
    (client,) = house.v2()
    house.store.away = True
    post(client, "u1")
    house.sigterm(grace=20.0)
    report = house.left()
    assert client.closed_at is not None and LAST_ORDERS <= client.closed_at <= LAST_ORDERS + 0.2
    assert (report.finished, report.unfinished) == (0, 1)
    assert 10.0 <= report.seconds <= 20.0, "the store has most of the grace to come back"


def test_what_is_accepted_is_finished_though_its_client_has_gone() -> None:
    house = House()
    (client,) = house.v2()
    house.store.away = True
    post(client, "u1")
    house.sigterm()
    client.moves()
    house.desk.pass_time(1.0)
    house.store.away = False
    report = house.left()
    assert (report.moved, report.finished, report.unfinished) == (1, 1, 0)


def test_names_are_let_go_while_others_can_still_be_told() -> None:
    house = House(Pace(linger=0.0))
    house.v2(3)
    told: list[int] = []
    house.on_leave = lambda: told.append(len(house.desk.bus.announced))
    before = len(house.desk.bus.announced)
    house.sigterm()
    house.left()
    assert told == [before + 3]
