"""Call a job off: for its caller, and for an operator's `celery control revoke`."""

from redis import Redis

from rerankq.contract import keys
from rerankq.contract.transport.scripts import Script

# KEYS: the cancel key, the job's record; ARGV: seconds to live. A job that is answered stays so, and may come again.
# Its first write frees memory, so that a full Redis, which this relieves, does not refuse it.
CALL_OFF = Script("""
if redis.call('HEXISTS', KEYS[2], 'answered') == 1 then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], 1, 'EX', ARGV[1])
return 1
""")


def call_off(broker: "Redis", job_id: str) -> None:
    """Note that nobody wants this job any more; the note goes with its answer."""
    CALL_OFF(broker, [keys.cancel(job_id), keys.job(job_id)], [keys.JOB_TTL_SECONDS])
