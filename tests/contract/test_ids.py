"""What `ports.Members.enlist` promises, held against every adapter: one id, one node at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest_twisted
from twisted.internet.defer import Deferred, DeferredList

LONG = 60_000
SHORT = 100

Until = Callable[..., Any]


@pytest_twisted.ensureDeferred
async def test_an_id_belongs_to_one_node_at_a_time(store: Any) -> None:
    assert await store.members.enlist("web 1", "$n.1", LONG) is True
    assert await store.other_members.enlist("web 1", "n2", LONG) is False
    assert await store.other_members.enlist("web 2", "n2", LONG) is True
    assert await store.members.enlist("web 1", "$n.1", LONG) is True


@pytest_twisted.ensureDeferred
async def test_an_id_whose_time_ran_out_is_the_next_ones(store: Any, until: Until) -> None:
    await store.members.enlist("web 1", "n1", SHORT)
    await until(lambda: store.other_members.enlist("web 1", "n2", LONG))
    assert await store.members.enlist("web 1", "n1", LONG) is False


@pytest_twisted.ensureDeferred
async def test_an_id_that_is_kept_does_not_run_out(store: Any, until: Until) -> None:
    await store.members.enlist("web 1", "n1", SHORT)
    await store.members.enlist("web 1", "n1", LONG)
    await store.members.enlist("other", "n1", SHORT)
    await until(lambda: store.other_members.enlist("other", "n2", LONG))
    assert await store.other_members.enlist("web 1", "n2", LONG) is False


@pytest_twisted.ensureDeferred
async def test_a_refused_node_takes_no_time_from_the_owner(store: Any, until: Until) -> None:
    await store.members.enlist("web 1", "n1", LONG)
    assert await store.other_members.enlist("web 1", "n2", 1) is False
    await store.members.enlist("other", "n2", SHORT)
    await until(lambda: store.other_members.enlist("other", "n3", LONG))
    assert await store.other_members.enlist("web 1", "n3", LONG) is False


@pytest_twisted.ensureDeferred
async def test_a_node_that_is_forgotten_frees_its_id_and_no_other(store: Any) -> None:
    await store.members.enlist("web 1", "n1", LONG)
    await store.members.forget("n2")
    assert await store.other_members.enlist("web 1", "n2", LONG) is False
    await store.members.forget("n1")
    assert await store.other_members.enlist("web 1", "n2", LONG) is True


@pytest_twisted.ensureDeferred
async def test_of_nodes_that_race_for_an_id_one_gets_it(store: Any) -> None:
    views = [store.members, store.other_members] * 4
    racing = [Deferred.fromCoroutine(view.enlist("web 1", f"n{n}", LONG)) for n, view in enumerate(views)]
    answers = [answer for _, answer in await DeferredList(racing, fireOnOneErrback=True)]
    assert answers.count(True) == 1
