import pytest

from fer_jax.bench.contest import Contender, contest
from fer_jax.errors import UserError

COUNT = Contender("bench.bench_tasks", "count", {"items": 10})


def failing(how):
    return Contender("bench.bench_tasks", "fail", {"how": how}, optional=True)


def test_contenders_take_turns_and_the_warm_up_does_not_count():
    more = COUNT._replace(settings={"items": 1_000_000_000})
    scores, failed = contest({"some": COUNT, "more": more}, rounds=3, warm_up=2)
    assert (list(scores), failed) == (["some", "more"], {})
    turns = sorted(
        (each["begun"], name) for name in scores for each in scores[name].rounds
    )
    assert [name for _, name in turns] == ["some", "more"] * 3
    some = scores["some"]
    assert [each["round"] for each in some.rounds] == [3.0, 4.0, 5.0]
    assert some.figures.keys() == {"round", "memory_mb"}
    assert some.figures["round"] == 4.0 and some.figures["memory_mb"] > 32
    rates = sorted(each["items"] / each["seconds"] for each in some.rounds)
    assert some.per_s == rates[1]
    assert some.spread == pytest.approx((rates[2] - rates[0]) / 2 / rates[1])
    assert scores["more"].per_s > some.per_s
    assert some.info["setup_s"] > some.info["compile_s"] > 0


def test_a_contender_that_fails_is_reported_and_ends_the_contest_unless_optional():
    failures = {how: failing(how) for how in ("set-up", "round", "process")}
    scores, failed = contest({"good": COUNT} | failures, rounds=2)
    assert list(scores) == ["good"] and len(scores["good"].rounds) == 2
    assert failed == {
        "set-up": "the contender set-up failed: ValueError: no such network",
        "round": "the contender round failed: MemoryError: of the device",
        "process": "the contender process failed: its process ended with exit code 3",
    }
    needed = {"needed": failing("set-up")._replace(optional=False)}
    with pytest.raises(UserError, match="the contender needed failed: ValueError"):
        contest(needed, rounds=1)
