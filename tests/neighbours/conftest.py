"""`make test` leaves out what needs environments of its own; `make test-neighbours` names it."""

collect_ignore = ["environments"]
