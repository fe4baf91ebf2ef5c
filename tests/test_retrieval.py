import logging

import pytest

from toolkit.profiles import Example
from toolkit.retrieval import retrieve, retrieve_for
from toolkit.tasks import load_task

HISTORY = [
    Example("1", "The kettle boils slowly and the lid rattles.", "2"),
    Example("2", "A garden fork with a wooden handle.", "5"),
    Example("3", "The kettle is quiet.", "4"),
    Example("4", "A novel about herring.", "1"),
]


def ids(examples):
    return [example.id for example in examples]


def test_the_most_similar_come_first():
    assert ids(retrieve("Does the wooden fork fit the garden?", HISTORY, 1)) == ["2"]
    assert set(ids(retrieve("kettle", HISTORY, 2))) == {"1", "3"}
    assert ids(retrieve("KETTLE lid", HISTORY, 2)) == ["1", "3"]


def test_equals_come_most_recent_first():
    twins = [Example(str(number), "the same review", "3") for number in range(5)]
    assert ids(retrieve("same", twins, 3)) == ["4", "3", "2"]


@pytest.mark.parametrize("query", ["", "?!", "zeppelin"])
def test_a_query_without_a_shared_word_gets_the_latest(query):
    assert ids(retrieve(query, HISTORY, 2)) == ["4", "3"]


def test_a_history_without_words_gets_the_latest():
    assert ids(retrieve("kettle", [Example("1", "...", "1"), Example("2", "!", "2")], 1)) == ["2"]


@pytest.mark.parametrize(("k", "count"), [(-1, 0), (0, 0), (3, 3), (10, 4)])
def test_k_is_an_upper_bound(k, count):
    assert len(retrieve("kettle", HISTORY, k)) == count


def test_an_empty_history_gives_nothing():
    assert retrieve("kettle", [], 3) == []


def test_other_scripts_are_searched_too():
    history = [Example("1", "Чайник кипит медленно", "2"), Example("2", "Роман о сельди", "1")]
    assert ids(retrieve("чайник", history, 1)) == ["1"]


def test_a_task_says_what_is_searched():
    tweets = [Example("1", "", "rain again in Leeds"), Example("2", "", "new shoes"), Example("3", "", "bus")]
    assert ids(retrieve_for(load_task("lamp-7"), "It is raining. Rain, rain.", tweets, 1)) == ["1"]


def test_lamp_1_is_searched_for_both_candidates_and_not_for_the_instruction():
    papers = [
        Example("1", "Which reference is related", "Without further explanation of the title of a paper."),
        Example("2", "Tides", "How limpets keep time."),
        Example("3", "Glass", "Annealing."),
    ]
    query = (
        'For an author who has written the paper with the title "Shores", which reference is related? Just '
        'answer with [1] or [2] without further explanation. [1]: "Limpets" [2]: "Annealing of glass"'
    )
    assert ids(retrieve_for(load_task("lamp-1"), query, papers, 2)) == ["3", "2"]


def test_searching_logs_nothing(caplog):
    with caplog.at_level(logging.DEBUG):
        retrieve("kettle", HISTORY, 1)
    assert not caplog.records
