"""The sweep over the ratio of synthetic to real examples: on a tiny model, with a teacher on loopback."""

import json
from html.parser import HTMLParser

import pytest
from scripted import json_lines, writer
from teacher_server import completion
from tiny import tiny_model_folder

from toolkit.errors import EdgePLMError
from toolkit.profiles import Example, write_profile
from toolkit.sweep import Arm, Sweep, checked_ratios
from toolkit.sweep.result import choose_ratio
from toolkit.sweep.run import in_fixed_order
from toolkit.tasks import load_task

RATING, REWRITE = load_task("lamp-3"), load_task("rewrite")
THINGS = """barrel candle dresser envelope fiddle gate hammock inkwell jug kite loom mirror needle oar pillow
quilt""".split()  # noqa: SIM905 - a list of one line

pytestmark = pytest.mark.usefixtures("one_thread")


def good(number, body):
    thing = THINGS[(number - 1) % len(THINGS)]
    return completion(
        json_lines((f"Could you carry that {thing} upstairs?", f"oi / {thing} / upstairs / ta"))
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def edgeplm(edgeplm_here, model, tmp_path):
    """Calls `edgeplm augment` on bo, of whom 6 examples train and 2 validate, in an empty folder."""
    write_profile(writer(), tmp_path / "bo.jsonl")

    def call(server, *more):
        changes = {
            "augment.model": "m", "augment.teacher": server.url, "augment.examples_per_request": "1",
            "augment.concurrency": "1", "augment.retries": "0", "augment.shots": "3",
            "augment.hide": "[nothing]", "augment.near_duplicate": "0.95", "augment.select.enabled": "false",
            "finetune.validation": "0.25", "finetune.epochs": "2", "finetune.learning_rate": "0.02",
        }  # fmt: skip
        flags = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
        base = ["augment", "--profile", "bo.jsonl", "--task", "rewrite", "--model", model]
        return edgeplm_here(*base, *flags, *more)

    return call


def test_every_ratio_is_trained_on_nested_sets_and_real_only_is_always_there(serve, edgeplm, tmp_path):
    server = serve(good)
    status, out, _ = edgeplm(server, "--sweep", "2,0.5", "--out", "s", "--json")
    found = json.loads(out)
    assert status == 0
    assert (found["real"], found["validation"], found["queries"]) == (6, 2, 1)
    assert [(arm["ratio"], arm["synthetic"]) for arm in found["arms"]] == [(0, 0), (0.5, 3), (2, 12)]
    assert found["base"]["steps"] == 0
    assert [arm["steps"] for arm in found["arms"]] == [4, 6, 10]  # 2 epochs, batches of 4
    assert all(len(arm["losses"]) == 2 and arm["query_metrics"] == {} for arm in found["arms"])
    assert len({arm["loss"] for arm in [found["base"], *found["arms"]]}) == 4
    assert set(found["arms"][0]["metrics"]) == {"rouge_l", "rouge_1"}
    assert found["arms"][0]["loss_against_real"]["estimate"] == 0
    assert found["chosen"]["ratio"] in (0, 0.5, 2)
    assert (tmp_path / "s" / "report.html").is_file()
    assert len((tmp_path / "s" / "dataset" / "synthetic.jsonl").read_text().splitlines()) == 12


def test_the_teacher_never_sees_the_examples_that_are_compared_on(serve, edgeplm, tmp_path):
    server = serve(good)
    edgeplm(server, "--sweep", "1", "--out", "s")
    said = "".join(json.loads(raw)["messages"][0]["content"] for raw in server.raw)
    shown = [example for example in writer().history if example.input in said]
    assert len(shown) == 6
    assert "ladder" not in said


def test_what_is_done_is_not_done_again_and_no_answer_is_asked_twice(serve, edgeplm, tmp_path, monkeypatch):
    from toolkit.sweep import run

    measured, measure = [], run.measure

    def counted(*arguments, **options):
        if len(measured) == 2 and server.killed:
            raise KeyboardInterrupt
        measured.append(len(arguments[4] or ()))
        return measure(*arguments, **options)

    monkeypatch.setattr(run, "measure", counted)
    server = serve(good)
    server.killed = True
    assert edgeplm(server, "--sweep", "1,2", "--out", "s")[0] == 130
    assert measured == [0, 0]  # the base model and real examples alone
    asked, server.killed = len(server.raw), False
    assert edgeplm(server, "--sweep", "1,2", "--out", "s")[0] == 0
    assert measured[2:] == [6, 12]
    assert len(server.raw) == asked
    # A ratio below the largest trains one adapter more, a fresh run all of them; neither asks a teacher.
    assert edgeplm(server, "--sweep", "0.5,1,2", "--out", "s")[0] == 0
    assert measured[4:] == [3]
    assert edgeplm(server, "--sweep", "1,2", "--out", "s", "--force")[0] == 0
    assert measured[5:] == [0, 0, 6, 12]
    assert len(server.raw) == asked


def test_held_out_queries_have_a_column_of_their_own_and_only_where_asked_for(serve, edgeplm):
    server = serve(good)
    status, out, _ = edgeplm(server, "--sweep", "1", "--out", "s")
    assert status == 0 and "held-out" not in out
    status, out, _ = edgeplm(server, "--sweep", "1", "--out", "s", "--with-queries")
    assert status == 0 and "held-out: rouge_l on the held-out queries" in out.replace("\n", " ")
    assert max(map(len, out.splitlines())) <= 80


def test_too_few_examples_for_a_ratio_are_said_and_what_was_reached_is_measured(serve, edgeplm):
    server = serve(good)
    status, out, err = edgeplm(server, "--sweep", "1,2,4", "--out", "s", "--set", "augment.max_requests=9")
    assert status == 3
    assert "\n1.5" in out and "\n4" not in out
    said = err.replace("\n", " ")
    assert "ratio 2, 4 was not reached: 9 synthetic examples were kept, 1.5 for each real one" in said
    assert "In the recipe: augment.ratio: " in out


def test_the_page_holds_every_ratio_and_loads_nothing(serve, edgeplm, tmp_path):
    edgeplm(serve(good), "--sweep", "1", "--out", "s")
    page = (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    links, tags = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append(tag)
            links.extend(
                value for name, value in attrs if name in ("src", "href") and not value.startswith("#")
            )

    Reader().feed(page)
    assert links == [] and "script" not in tags
    assert page.count("<circle") == 2 and page.count('class="mark"') == 1
    assert "synthetic examples for each real one" in page
    assert "To repeat it" in page and "augment.ratio" in page


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--sweep", "1,x", "--out", "s"), "--sweep '1,x': write it as numbers with commas"),
        (("--sweep", "0", "--out", "s"), "there is nothing to compare with real examples alone"),
        (("--sweep", "-1", "--out", "s"), "-1 is no ratio"),
        (("--sweep", "nan", "--out", "s"), "nan is no ratio"),
        (("--sweep", "1", "--out", "s", "--examples", "4"), "leave out --examples and --ratio"),
        (("--with-queries", "--out", "s"), "--with-queries is for --sweep"),
        (("--sweep", "1"), "Give --out"),
        (("--sweep", "1", "--out", "s", "--set", "finetune.validation=0"), "finetune.validation"),
    ],
)
def test_what_is_refused_before_anything_is_asked(serve, edgeplm, tmp_path, flags, said):
    server = serve(good)
    status, _, err = edgeplm(server, *flags)
    assert status in (1, 2) and said in err
    assert server.raw == [] and not (tmp_path / "s" / "dataset").exists()


def test_a_folder_of_something_else_is_left_alone(serve, edgeplm, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "letter.txt").write_text("mine")
    status, _, err = edgeplm(serve(good), "--sweep", "1", "--out", "s")
    assert status == 1 and "no run folder" in err


def arm(ratio, *losses):
    return Arm(ratio, round(10 * ratio), list(losses), {}, {}, 1, 1)


def test_the_smallest_ratio_within_one_standard_error_of_the_lowest_is_chosen():
    # Every example gains about the same: the difference is certain.
    sure = choose_ratio([arm(0, 1.0, 2.0, 3.0), arm(1, 0.5, 1.52, 2.5), arm(2, 0.47, 1.53, 2.49)])
    assert (sure.ratio, sure.synthetic) == (1, 10)
    assert "smallest within one standard error" in sure.reason
    assert sure.gain.excludes_zero and sure.gain.estimate == pytest.approx(0.4933, abs=1e-3)
    # Half gain and half lose: real examples alone.
    unsure = choose_ratio([arm(0, 1.0, 2.0, 3.0, 4.0), arm(1, 0.0, 2.9, 2.0, 4.8)])
    assert (unsure.ratio, unsure.gain) == (0, None)
    assert "within one standard error" in unsure.reason
    worse = choose_ratio([arm(0, 1.0, 2.0), arm(1, 1.1, 2.1)])
    assert (worse.ratio, worse.reason) == (0, "real examples alone have the lowest loss")
    assert choose_ratio([arm(0, 1.0), arm(1, 0.9)]).ratio == 1


def test_the_advice_says_what_speaks_against_it():
    arms = [Arm(ratio, round(4 * ratio), [loss, loss + 1], {"mae": mae}, {}, 1, 1)
            for ratio, loss, mae in ((0, 1.0, 1.0), (1, 0.7, 0.2), (2, 0.5, 0.4))]  # fmt: skip
    base = Arm(0, 0, [0.1, 0.2], {"mae": 2.0}, {}, 0, None)
    found = Sweep("maud", "lamp-3", "mae", 4, 2, 1, base, tuple(arms), choose_ratio(arms))
    said = " ".join(found.advice(5))
    assert "Take ratio 2: it has the lowest loss." in said
    assert "By mae the best is ratio 1 (0.200)" in said
    assert "It is the largest that was measured" in said
    assert "No adapter is better than the base model here." in said
    assert "augment.ratio: 2 and augment.examples: 8 (its cap is 5)" in said
    assert "cap" not in " ".join(found.advice(8))


def test_the_fixed_order_keeps_the_labels_in_every_part_of_it():
    examples = [Example(f"s{n}", f"text {n}", label) for n, label in enumerate("1" * 10 + "5" * 20)]
    order = in_fixed_order(examples, RATING, 0)
    assert sorted(order, key=lambda each: each.id) == sorted(examples, key=lambda each: each.id)
    for size in (3, 6, 15, 30):
        ones = sum(example.output == "1" for example in order[:size])
        assert ones == size // 3
    assert in_fixed_order(examples, RATING, 0) == order != in_fixed_order(examples, RATING, 1)
    texts = in_fixed_order(list(writer().history), REWRITE, 0)
    assert texts != list(writer().history) and set(texts) == set(writer().history)


def test_ratios_are_in_order_and_0_is_among_them():
    assert checked_ratios([2, 0.5, 2]) == [0, 0.5, 2]
    with pytest.raises(EdgePLMError, match="101 is no ratio"):
        checked_ratios([101])
