"""What is compressed is read by whoever reads zstd, and by whichever thread it was compressed."""

import os
from concurrent.futures import ThreadPoolExecutor

from rerankq.contract import wire


def test_each_text_of_many_threads_comes_back_as_it_was() -> None:
    texts = [os.urandom(number * 97) * 5 for number in range(200)]
    with ThreadPoolExecutor(16) as threads:
        packed = list(threads.map(wire.compress, texts))

    assert [wire.decompress(data) for data in packed] == texts
    assert [wire.decompress_bounded(data, 10**6) for data in packed] == texts


def test_a_frame_says_how_long_its_content_is() -> None:
    """Some libraries refuse one that does not."""
    for size in (0, 10, 100_000):
        assert wire.zstd.get_frame_info(wire.compress(b"x" * size)).decompressed_size == size
