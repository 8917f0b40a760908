"""The lease ledger: budget, one lease a range, one outcome a lease, order under pressure, counters."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kv_ttl.errors import DuplicateLease, RetentionError, UnknownLease
from kv_ttl.ledger import Lease, LeaseLedger, Outcome, Tier
from tests.kv_ttl.strategies import fixed

POOL = {Tier.DEVICE: 1000, Tier.HOST: 2000}


def ledger(device: float = 0.5, host: float = 0.25) -> LeaseLedger:
    return LeaseLedger(POOL, {Tier.DEVICE: device, Tier.HOST: host})


def opened(
    book: LeaseLedger,
    program: str = "p",
    index: int = 0,
    nbytes: int = 100,
    now: float = 0.0,
    *,
    until: float = 10.0,
    remaining_s: float = 5.0,
    recompute_s: float = 1.0,
) -> Lease:
    lease = book.open(
        program, index, Tier.DEVICE, nbytes, now, until=until, remaining_s=remaining_s, recompute_s=recompute_s
    )
    assert lease is not None
    return lease


def test_a_lease_beyond_the_budget_is_refused() -> None:
    book = ledger()
    opened(book, "a", nbytes=400)
    assert book.open("b", 0, Tier.DEVICE, 101, 0.0, until=9, remaining_s=1, recompute_s=1) is None
    opened(book, "b", nbytes=100)
    assert book.free_bytes(Tier.DEVICE) == 0
    assert book.counters(0.0).refused == 1
    book.check()


def test_a_program_holds_one_lease_a_range() -> None:
    book = ledger()
    first = opened(book)
    with pytest.raises(DuplicateLease, match=f"'p' already holds lease {first.id} on range 0"):
        opened(book)
    opened(book, index=1)
    book.close(first.id, Outcome.HANDOFF, 1.0)
    opened(book, now=1.0)
    book.check()


def test_the_first_outcome_stands() -> None:
    book = ledger()
    lease = opened(book)
    assert book.close(lease.id, Outcome.PRESSURE, 2.0) is not None
    assert book.close(lease.id, Outcome.HANDOFF, 3.0) is None
    assert book.extend(lease.id, 3.0, until=9.0, remaining_s=1.0) is None
    assert book.demote(lease.id, 3.0, until=9.0) is None
    ended = book.counters(3.0).ended
    assert (ended[Outcome.PRESSURE], sum(ended.values())) == (1, 1)
    with pytest.raises(UnknownLease):
        book.close(lease.id + 1, Outcome.HANDOFF, 3.0)


def test_byte_seconds_are_counted_by_tier_and_wasted_unless_handed_off() -> None:
    book = ledger()
    used, lost = opened(book, "used", nbytes=100), opened(book, "lost", nbytes=50)
    assert book.demote(lost.id, 4.0, until=30.0) is not None
    book.close(used.id, Outcome.HANDOFF, 10.0)
    assert book.counters(10.0).byte_seconds == {Tier.DEVICE: 1000 + 200, Tier.HOST: 300}
    book.close(lost.id, Outcome.EXPIRED, 24.0)
    totals = book.counters(24.0)
    assert totals.byte_seconds == {Tier.DEVICE: 1200, Tier.HOST: 1000}
    assert totals.wasted_byte_seconds == {Tier.DEVICE: 200, Tier.HOST: 1000}
    assert (totals.opened, totals.demoted) == (2, 1)


def test_demotion_needs_room_on_the_host() -> None:
    book = ledger(device=1.0, host=0.1)
    first, second = opened(book, "a", nbytes=150), opened(book, "b", nbytes=100)
    assert book.demote(first.id, 1.0, until=50.0) is not None
    assert book.demote(second.id, 1.0, until=50.0) is None
    assert book.held("b")[0].tier is Tier.DEVICE
    with pytest.raises(RetentionError, match="on the host already"):
        book.demote(first.id, 2.0, until=50.0)
    book.check()


def test_leases_run_out_in_order_and_can_be_extended() -> None:
    book = ledger()
    late, early = opened(book, "late", until=9.0), opened(book, "early", until=4.0)
    assert book.next_expiry() == 4.0
    assert book.expired(3.9) == []
    assert [one.id for one in book.expired(20.0)] == [early.id, late.id]
    book.extend(early.id, 20.0, until=30.0, remaining_s=1.0)
    assert [one.id for one in book.expired(20.0)] == [late.id]
    book.close(late.id, Outcome.EXPIRED, 20.0)
    assert book.next_expiry() == 30.0
    book.close(early.id, Outcome.FINAL, 20.0)
    assert math.isinf(book.next_expiry())


def test_a_returned_call_keeps_its_lease_while_it_waits_in_the_queue() -> None:
    book = ledger()
    opened(book, index=0, until=4.0)
    opened(book, index=1, until=4.0)
    assert [one.returned for one in book.returned("p", 3.0)] == [True, True]
    assert book.expired(100.0) == []
    assert math.isinf(book.next_expiry())
    assert [one.index for one in book.close_program("p", Outcome.HANDOFF, 100.0)] == [0, 1]
    assert len(book) == 0
    book.check()


def test_under_pressure_the_longest_and_cheapest_to_remake_goes_first() -> None:
    book = ledger(device=1.0)
    opened(book, "dear", remaining_s=10.0, recompute_s=50.0)
    opened(book, "soon", remaining_s=0.1)
    opened(book, "long", remaining_s=60.0)
    opened(book, "big", nbytes=300, remaining_s=60.0)
    opened(book, "back", remaining_s=500.0)
    book.returned("back", 1.0)
    assert [one.program for one in book.victims(Tier.DEVICE, 350)] == ["big", "long"]
    assert [one.program for one in book.victims(Tier.DEVICE, 10**6)] == ["big", "long", "dear", "soon", "back"]
    assert book.victims(Tier.HOST, 1) == []
    book.check()


def test_a_tip_is_given_up_before_its_root() -> None:
    book = ledger(device=1.0)
    opened(book, index=0, nbytes=300, remaining_s=60.0, recompute_s=0.1)
    opened(book, index=1, remaining_s=60.0, recompute_s=10.0)
    assert [one.index for one in book.victims(Tier.DEVICE, 50)] == [1]
    assert [one.index for one in book.victims(Tier.DEVICE, 101)] == [1, 0]


def test_bad_values_are_refused_and_harm_nothing() -> None:
    book = ledger()
    lease = opened(book, now=5.0)
    for bad in (
        lambda: opened(book, "q", now=6.0, until=5.0),
        lambda: opened(book, "q", now=6.0, remaining_s=-1.0),
        lambda: opened(book, "q", now=6.0, recompute_s=math.inf),
        lambda: opened(book, "q", nbytes=-1, now=6.0),
        lambda: opened(book, "q", index=-1, now=6.0),
        lambda: book.close(lease.id, Outcome.HANDOFF, 4.0),
        lambda: book.extend(lease.id, 4.0, until=9.0, remaining_s=1.0),
        lambda: book.expired(math.nan),
    ):
        with pytest.raises(RetentionError):
            bad()
        book.check()
    assert book.held("p") == [lease]
    with pytest.raises(RetentionError, match="budget share"):
        LeaseLedger(POOL, {Tier.DEVICE: 1.5})
    with pytest.raises(RetentionError, match="pool"):
        LeaseLedger({Tier.DEVICE: -1}, {})


class Leases(RuleBasedStateMachine):
    """Any order of operations against a list that is searched by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.book = ledger()
        self.now = 0.0
        self.live: dict[int, Lease] = {}
        self.outcomes: list[Outcome] = []
        self.used = self.wasted = 0.0
        self.entered: dict[int, float] = {}

    programs = st.sampled_from("abcde")
    seconds = st.integers(0, 20).map(float)

    @rule(by=st.integers(0, 5))
    def wait(self, by: int) -> None:
        self.now += by

    @rule(program=programs, index=st.integers(0, 2), nbytes=st.integers(0, 300), seconds=seconds, pause=seconds)
    def open(self, program: str, index: int, nbytes: int, seconds: float, pause: float) -> None:
        taken = any((one.program, one.index) == (program, index) for one in self.live.values())
        room = sum(one.nbytes for one in self.live.values() if one.tier is Tier.DEVICE) + nbytes <= 500
        try:
            lease = self.book.open(
                program,
                index,
                Tier.DEVICE,
                nbytes,
                self.now,
                until=self.now + seconds,
                remaining_s=pause,
                recompute_s=1.0,
            )
        except DuplicateLease:
            assert taken
            return
        assert not taken
        assert (lease is not None) == room
        if lease is not None:
            self.live[lease.id] = lease
            self.entered[lease.id] = self.now

    @precondition(lambda self: self.live)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def close(self, data: st.DataObject, outcome: Outcome) -> None:
        lease_id = data.draw(st.sampled_from(sorted(self.live)))
        assert self.book.close(lease_id, outcome, self.now) == self.live[lease_id]
        self.end(lease_id, outcome)
        assert self.book.close(lease_id, Outcome.CANCELLED, self.now) is None

    @rule(program=programs, outcome=st.sampled_from(Outcome))
    def close_program(self, program: str, outcome: Outcome) -> None:
        held = sorted((one for one in self.live.values() if one.program == program), key=lambda one: one.index)
        assert self.book.close_program(program, outcome, self.now) == held
        for one in held:
            self.end(one.id, outcome)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), seconds=seconds)
    def extend(self, data: st.DataObject, seconds: float) -> None:
        lease_id = data.draw(st.sampled_from(sorted(self.live)))
        lease = self.book.extend(lease_id, self.now, until=self.now + seconds, remaining_s=seconds)
        assert lease is not None
        self.live[lease_id] = lease

    @precondition(lambda self: any(one.tier is Tier.DEVICE for one in self.live.values()))
    @rule(data=st.data())
    def demote(self, data: st.DataObject) -> None:
        lease_id = data.draw(st.sampled_from(sorted(i for i, one in self.live.items() if one.tier is Tier.DEVICE)))
        lease = self.book.demote(lease_id, self.now, until=self.now + 5)
        hosted = sum(one.nbytes for one in self.live.values() if one.tier is Tier.HOST)
        assert (lease is not None) == (hosted + self.live[lease_id].nbytes <= 500)
        if lease is not None:
            self.live[lease_id] = lease

    @rule(program=programs)
    def call_returned(self, program: str) -> None:
        for one in self.book.returned(program, self.now):
            self.live[one.id] = one

    @rule()
    def look(self) -> None:
        due = sorted((one.until, one.id) for one in self.live.values() if not one.returned and one.until <= self.now)
        assert [one.id for one in self.book.expired(self.now)] == [lease_id for _, lease_id in due]
        ends = [one.until for one in self.live.values() if not one.returned]
        assert self.book.next_expiry() == min(ends, default=math.inf)

    @rule(nbytes=st.integers(1, 600))
    def squeeze(self, nbytes: int) -> None:
        held = [one for one in self.live.values() if one.tier is Tier.DEVICE]
        victims = self.book.victims(Tier.DEVICE, nbytes)
        freed = sum(one.nbytes for one in victims)
        assert freed >= min(nbytes, sum(one.nbytes for one in held))
        assert len({one.id for one in victims}) == len(victims)
        if victims:
            assert freed - victims[-1].nbytes < nbytes
        for one in victims:
            deeper = {other.id for other in held if other.program == one.program and other.index > one.index}
            assert deeper <= {other.id for other in victims}
        spared = [one for one in held if one not in victims and not one.returned]
        assert not spared or not any(one.returned for one in victims)

    def end(self, lease_id: int, outcome: Outcome) -> None:
        lease = self.live.pop(lease_id)
        spent = lease.nbytes * (self.now - self.entered.pop(lease_id))
        self.used += spent
        self.wasted += spent * (outcome is not Outcome.HANDOFF)
        self.outcomes.append(outcome)

    @invariant()
    def sound(self) -> None:
        self.book.check()
        totals = self.book.counters(self.now)
        assert {outcome: self.outcomes.count(outcome) for outcome in Outcome} == totals.ended
        running = sum(one.nbytes * (self.now - self.entered[one.id]) for one in self.live.values())
        assert sum(totals.byte_seconds.values()) == pytest.approx(self.used + running)
        assert sum(totals.wasted_byte_seconds.values()) == pytest.approx(self.wasted)
        assert len(self.book) == len(self.live)


TestLeases = Leases.TestCase
TestLeases.settings = settings(fixed, max_examples=40, stateful_step_count=40)
