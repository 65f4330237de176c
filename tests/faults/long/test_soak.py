"""A few seconds of even load leave nothing behind. The long form is `make soak`."""

from benchmarks import soak


def test_after_an_even_load_nothing_is_left_but_what_expires() -> None:
    figures = soak.run(seconds=8)

    assert figures["answered"] > 20
    assert figures["keys_without_ttl"] == []
    assert (figures["answer_channels"], figures["held"]) == (0, 0)
    first, last = figures["connections"]
    assert last <= first + 2
