"""Print the alerts as a PrometheusRule, for clusters whose Prometheus is run by its operator.

    python deploy/prometheus_rule.py > deploy/kubernetes/components/monitoring/alerts.yaml

Knows text only: what `alerts.yml` holds stands below `spec` as it is.
"""

import signal
from pathlib import Path
from textwrap import indent

ALERTS = Path(__file__).parent / "prometheus" / "alerts.yml"
HEAD = """\
# Written by `make prometheus-rule` out of deploy/prometheus/alerts.yml: change them there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: rerankq
  namespace: rerankq
spec:
"""


def prometheus_rule() -> str:
    """The whole manifest."""
    _, groups, rules = ALERTS.read_text().partition("groups:\n")
    return HEAD + indent(groups + rules, "  ")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever read the output may leave
    print(prometheus_rule(), end="")
