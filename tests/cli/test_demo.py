"""What the demo asks."""

from rerankq.cli.demo import demo_jobs


def test_the_demo_asks_the_three_jobs_in_their_order() -> None:
    jobs = demo_jobs()

    assert [(len(job.documents), job.top_n) for job in jobs] == [(3, 3), (4, 4), (20, 5)]
    assert jobs[1].query == "中国的首都是哪里？"
