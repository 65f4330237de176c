"""The Redis transport that loses nothing, for connections of ours (`LeasedConnection`) and nobody else's.

The life of a message:

1. `PUSH`: onto the list of its lane, and a ring on the bell (`<lane>.bell`) that idle workers wait on. The job of a
   message that names its record is open from now on (`<lane>.open`). Our clients' `SUBMIT` records the job as well.
2. `FETCH`: off the list and into `rerankq:held` under a lease of 15 s (`rerankq:leases`), in one script. The
   worker's main process renews the lease every 5 s, whatever the job is doing: a long job is not a dead one.
3. `ACK`: out of `rerankq:held`, its payload and its open job with it. A worker that was silent for longer than its
   lease finds the message gone, deletes nothing, and says so in its log.
4. Or `PUT_BACK`: every worker sweeps every 2 s for leases that ran out. The header `x-deliveries` is raised
   and the message goes back to the front of its list, the second time after a pause in `rerankq:delayed`. A
   worker that stops in good order puts back what it holds without raising the count.
5. Or it vanishes: purged, deleted, evicted, renamed away. A sweep finds its open job, and the worker ends that.
"""
