"""The order that a model answered, in whichever form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.backends.chat.permutation import read_permutation
from rerank_plugins.backends.chat.sliding_window import count_windows, slide

ANSWERS = {
    "as asked": ("[2] > [3] > [1]", [1, 2, 0]),
    "without spaces": ("[2]>[3]>[1]", [1, 2, 0]),
    "without brackets": ("2 > 3 > 1", [1, 2, 0]),
    "with commas": ("2, 3, 1", [1, 2, 0]),
    "a JSON list": ("[2, 3, 1]", [1, 2, 0]),
    "a JSON list of strings": ('```json\n["2", "3", "1"]\n```', [1, 2, 0]),
    "over several lines": ("[2] >\n[3] >\n[1]", [1, 2, 0]),
    "a numbered list": ("1. [2]\n2. [3]\n3. [1]", [1, 2, 0]),
    "a numbered list of words": ("1. Document 2\n2. Document 3\n3. Document 1", [1, 2, 0]),
    "a number a line": ("2\n3\n1\n", [1, 2, 0]),
    "words in the chain": ("Document 2 > Document 3 > Document 1", [1, 2, 0]),
    "bold": ("**[2]** > **[3]** > **[1]**", [1, 2, 0]),
    "Chinese signs": ("【2】＞【3】＞【1】", [1, 2, 0]),
    "Chinese commas": ("排序结果:2、3、1", [1, 2, 0]),
    "after prose": ("Passage [1] is vague, so the order is: [2] > [3] > [1].", [1, 2, 0]),
    "before prose": ("[2] > [3] > [1]\nBecause 2 names the panda and [1] says hi.", [1, 2, 0]),
    "after thoughts": ("<think>[1] > [2]? No.</think>\n[2] > [3] > [1]", [1, 2, 0]),
    "a document missing": ("[2] > [3]", [1, 2]),
    "a document alone": ("[2]", [1]),
    "a number alone": ("2", [1]),
    "a document repeated": ("[2] > [3] > [2] > [1] > [3]", [1, 2, 0]),
    "documents invented": ("[9] > [2] > [0] > [3] > [123456] > [1]", [1, 2, 0]),
    "cut in a number": ("[2] > [3] > [1", [1, 2]),
    "cut in a bracket": ("[2] > [3] > [", [1, 2]),
    "negative": ("[-2]", []),
    "thoughts alone": ("<think>First, [2] > [3]", []),
    "a refusal": ("I'm sorry, but I can't help with that.", []),
    "a refusal with a year": ("My knowledge ends in 2024.", []),
    "prose without an order": ("All 3 documents are equally relevant.", []),
    "empty": ("", []),
    "blank": (" \n\t", []),
    "signs alone": ("> > >", []),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_is_read_as_it_is_meant(case):
    answer, positions = ANSWERS[case]

    assert positions == read_permutation(answer, 3)


@given(
    st.text(alphabet="[]0123456789 >,;\n.#documentpasg<>/think", max_size=200), st.integers(0, 9)
)
def test_any_answer_gives_different_positions_of_documents(answer, count):
    positions = read_permutation(answer, count)

    assert len({*positions}) == len(positions)
    assert {*positions} <= {*range(count)}


@given(st.permutations(range(20)))
def test_a_whole_order_comes_back(order):
    answer = " > ".join(f"[{position + 1}]" for position in order)

    assert order == read_permutation(answer, 20)


LONG = [" ", "\n", "[", "[ ", "1", "1 ", "1,", "doc ", "document #", "> ", "【"]


@pytest.mark.parametrize("unit", LONG)
def test_a_very_long_answer_is_read_in_linear_time(unit):
    """In quadratic time it would not end within the limit of a test."""
    long = unit * (1_000_000 // len(unit))

    assert [1, 0] == read_permutation(f"{long}</think>[2] > [1]", 20)
    assert read_permutation(long, 20) in ([], [0])


def ranked(count, *, window, step, value):
    windows = slide(count, window=window, step=step)
    asked = []
    try:
        positions = next(windows)
        while True:
            asked.append(positions)
            positions = windows.send(sorted(positions, key=value))
    except StopIteration as end:
        return end.value, asked


def test_windows_go_from_the_end_to_the_beginning_and_overlap():
    order, asked = ranked(10, window=4, step=2, value=lambda position: -position)

    assert [6, 7, 8, 9] == asked[0]
    assert [4, 5, 9, 8] == asked[1]
    assert [2, 3, 9, 8] == asked[2]
    assert [9, 8, 7, 6, 5, 4, 3, 2, 1, 0][:2] == order[:2]
    assert count_windows(10, window=4, step=2) == len(asked)


@given(count=st.integers(0, 60), window=st.integers(2, 12), data=st.data(), seed=st.randoms())
def test_the_best_documents_reach_the_front_in_a_known_number_of_requests(
    count, window, data, seed
):
    step = data.draw(st.integers(1, window))
    values = seed.sample(range(1000), count)
    order, asked = ranked(count, window=window, step=step, value=values.__getitem__)

    assert sorted(order) == list(range(count))
    assert len(asked) <= count_windows(count, window=window, step=step)
    assert all(1 < len(positions) <= window for positions in asked)
    best = sorted(range(count), key=values.__getitem__)
    sure = window - step if count > window else count
    assert best[:sure] == order[:sure]
