"""Who is assigned to which arm: the same everywhere, as many as was said, and no more moves than there have to be."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudml.models.assignment import PARTS, Assignment, Slots, allot, place, size

PPM = st.integers(0, PARTS)


@st.composite
def shares(draw: st.DrawFn) -> dict[int, int]:
    """Parts of up to four versions that fit on the line."""
    versions = draw(st.lists(st.integers(2, 6), unique=True, max_size=4))
    left, result = PARTS, {}
    for version in versions:
        result[version] = draw(st.integers(0, left))
        left -= result[version]
    return result


def owner(slots: dict[int, Slots], at: int) -> int | None:
    return next((version for version, own in slots.items() if any(a <= at < b for a, b in own)), None)


def test_places_are_those_of_the_definition_in_any_process() -> None:
    keys = [f"customer-{i}" for i in range(50)]
    code = (
        "import hashlib\n"
        "for i in range(50):\n"
        "    d = hashlib.sha256(f's:customer-{i}'.encode()).digest()\n"
        "    print(int.from_bytes(d[:8], 'big') * 1000000 // 2**64)\n"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [place("s", key) for key in keys] == [int(line) for line in other.stdout.split()]


@given(st.lists(shares(), min_size=1, max_size=6))
def test_shares_are_exact_and_nobody_moves_who_need_not(history: list[dict[int, int]]) -> None:
    held: dict[int, Slots] = {}
    for wanted in history:
        before, held = held, allot(held, wanted)
        assert {version: size(slots) for version, slots in held.items()} == wanted
        taken = sorted(slot for slots in held.values() for slot in slots)
        assert all(0 <= a < b <= PARTS for a, b in taken)
        assert all(b <= c for (_, b), (c, _) in pairwise(taken)), "no two hold a place"
        moved = 0
        edges = sorted({0, PARTS, *(e for s in (*before.values(), *held.values()) for slot in s for e in slot)})
        for a, b in pairwise(edges):
            moved += (b - a) * (owner(before, a) != owner(held, a))
        champion = PARTS - sum(wanted.values()), PARTS - sum(size(s) for s in before.values())
        grown = sum(max(0, wanted[v] - size(before.get(v, ()))) for v in wanted) + max(0, champion[0] - champion[1])
        assert moved == grown, "as many as arms grow by"


@given(shares(), st.text(max_size=8), st.lists(st.text(max_size=12), max_size=30))
def test_an_assignment_finds_the_owner(wanted: dict[int, int], salt: str, keys: list[str]) -> None:
    slots = allot({}, wanted)
    versions = list(slots)
    assignment = Assignment(salt, [slots[version] for version in versions])
    for key in keys:
        arm = assignment.arm(key)
        assert (None if arm is None else versions[arm]) == owner(slots, place(salt, key))


@pytest.mark.parametrize("share", [10_000, 50_000, 200_000, 500_000])
def test_the_split_of_100_000_entities_is_within_half_a_percent(share: int) -> None:
    slots = allot({}, {7: share})
    assignment = Assignment("a salt", [slots[7]])
    inside = sum(assignment.arm(f"customer-{i}") == 0 for i in range(100_000))
    assert abs(inside / 100_000 - share / PARTS) < 0.005


def test_raising_a_share_moves_only_those_it_must() -> None:
    keys = [f"customer-{i}" for i in range(20_000)]
    arms = []
    slots: dict[int, Slots] = {}
    for wanted in ({7: 50_000, 8: 50_000}, {7: 200_000, 8: 50_000}, {7: 200_000, 8: 10_000}):
        slots = allot(slots, wanted)
        assignment = Assignment("s", [slots[7], slots[8]])
        arms.append([assignment.arm(key) for key in keys])
    raised = {(a, b) for a, b in zip(arms[0], arms[1], strict=True) if a != b}
    lowered = {(a, b) for a, b in zip(arms[1], arms[2], strict=True) if a != b}
    assert (raised, lowered) == ({(None, 0)}, {(1, None)})


def test_other_salts_are_other_draws() -> None:
    keys = [f"customer-{i}" for i in range(10_000)]
    one, other = (Assignment(salt, [((0, 500_000),)]) for salt in ("one", "other"))
    both = sum(one.arm(key) == other.arm(key) == 0 for key in keys)
    assert 2_300 < both < 2_700, "a quarter is in both halves"
