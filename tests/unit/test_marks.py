"""The registry of historical markings."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.marks import MarkBook, Marks

ENDS = st.tuples(st.integers(0, 6), st.integers(0, 6))


def test_the_same_change_gets_the_same_mark() -> None:
    book = MarkBook()
    assert book.edge(0, 1) == book.edge(0, 1) == 2
    assert book.node(0, 1) == book.node(0, 1) == 3
    assert book.edge(1, 0) == 4


def test_a_genome_that_splits_one_place_twice_gets_two_marks_and_others_the_same_two() -> None:
    book = MarkBook()
    first = book.node(0, 1)
    second = book.node(0, 1, taken={first})
    assert second != first
    assert book.node(0, 1, taken={second}) == first
    assert book.node(0, 1, taken={first}) == second


def test_open_leaves_the_value_and_close_makes_another() -> None:
    book = MarkBook()
    book.edge(0, 1)
    value = book.close()
    book.edge(0, 5)
    value.open().node(0, 1)
    assert value == Marks(3, {(0, 1): 2}, {})


def test_living_forgets_dead_nodes_with_all_their_edges_and_never_reuses_a_number() -> None:
    book = MarkBook()
    base, node = book.edge(0, 1), book.node(0, 1)
    book.edge(0, node)
    book.edge(node, 1)
    kept = book.close().living({0, 1})
    assert kept == Marks(6, {(0, 1): base}, {})
    again = kept.open()
    assert again.node(0, 1) == 6 and again.edge(0, 6) == 7


def test_living_keeps_what_lives() -> None:
    book = MarkBook()
    node = book.node(0, 1)
    book.edge(0, node)
    assert book.close().living({0, 1, node}) == book.close()


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), ENDS, st.sets(st.integers(0, 30)))))
def test_numbers_are_unique_and_survive_json(calls: list[tuple[bool, tuple[int, int], set[int]]]) -> None:
    book = MarkBook()
    for is_node, ends, taken in calls:
        taken = {mark for mark in taken if mark < book.free}
        mark = book.node(*ends, taken) if is_node else book.edge(*ends)
        assert 2 <= mark < book.free and not (is_node and mark in taken)
    value = book.close()
    given_out = [*value.edges.values(), *[mark for marks in value.nodes.values() for mark in marks]]
    assert len(given_out) == len(set(given_out)) == value.next - 2
    assert Marks.from_json(value.to_json()) == value


def test_reserved_marks_are_never_handed_out() -> None:
    book = MarkBook()
    book.reserve(7)
    assert (book.edge(0, 6), book.node(0, 6), book.free) == (7, 8, 9)
    book.reserve(4)
    assert book.free == 9 and MarkBook(book.close()).edge(1, 6) == 9
