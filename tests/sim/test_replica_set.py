"""The model of a replica set, judged itself: what it promises and what it may take back."""

from __future__ import annotations

from attrs import define, field

from eftchat.domain.messages import Message
from eftchat.ports import Appended
from eftchat.testing.plan import StoreFaults
from eftchat.testing.replica_set import Outcome, ReplicaSet
from eftchat.testing.stage import Stage


def message(seq: int, uuid: str = "") -> Message:
    return Message("r", seq, uuid or f"u{seq}", "text", "uA", "Ann", 0, {"text": "hi"})


@define(eq=False)
class Database:
    """A replica set on its clock, and what its callers were told."""

    stage: Stage = field(factory=lambda: Stage(1))
    told: list[Outcome] = field(factory=list)
    replicas: ReplicaSet = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.replicas = ReplicaSet(self.stage, StoreFaults(), 1.0)

    def write(self, *batch: Message, node: str = "n1") -> None:
        self.replicas.receive(node, batch, self.told.append)

    def seqs(self) -> list[int]:
        return [message.seq for message in self.replicas.durable.log("r")]


def test_a_write_is_answered_when_a_majority_has_it() -> None:
    database = Database()
    database.write(message(1), message(2))
    assert database.told == []
    assert database.seqs() == []
    database.stage.clock.advance(5)
    assert database.told == [Appended(2)]
    assert database.seqs() == [1, 2]


def test_a_batch_stops_at_what_the_primary_has_durable_or_not() -> None:
    database = Database()
    database.write(message(1), message(2))
    database.write(message(2, "other"))
    assert database.told == [Appended(0, "seq")]
    database.write(message(3), message(4, "u1"), message(5))
    database.stage.clock.advance(5)
    assert database.told[1:] == [Appended(2), Appended(1, "uuid")]
    assert database.seqs() == [1, 2, 3]


def test_a_killed_primary_takes_back_what_no_secondary_had() -> None:
    database = Database()
    database.write(message(1))
    database.replicas.kill(1.0)
    assert database.told == [None]
    database.stage.clock.advance(5)
    assert database.seqs() == []
    database.write(message(1, "other"))
    database.stage.clock.advance(5)
    assert database.told[1:] == [Appended(1)]


def test_a_primary_that_steps_down_hands_over_what_it_had() -> None:
    database = Database()
    database.write(message(1))
    database.replicas.step_down(1.0)
    database.stage.clock.advance(10)
    assert database.told == [None]
    assert database.seqs() == [1]


def test_a_parted_primary_takes_writes_that_never_are_durable() -> None:
    database = Database()
    database.write(message(1))
    database.stage.clock.advance(5)
    database.replicas.part(["n1"], 10.0)
    database.write(message(2, "fooled"))
    database.stage.clock.advance(4)
    database.write(message(2, "kept"), node="n2")
    database.stage.clock.advance(4)
    assert database.replicas.seen_by("n1") == 1
    assert database.replicas.seen_by("n2") == 2
    assert database.told == [Appended(1), Appended(1)]
    database.stage.clock.advance(5)
    assert database.told[2:] == [None]
    assert [m.uuid for m in database.replicas.durable.log("r")] == ["u1", "kept"]


def test_a_write_waits_for_a_primary() -> None:
    database = Database()
    database.replicas.kill(2.0)
    database.write(message(1))
    database.stage.clock.advance(1)
    assert database.told == []
    database.stage.clock.advance(9)
    assert database.told == [Appended(1)]
