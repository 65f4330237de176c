"""Write what is installed as an SBOM, and ask for known vulnerabilities of what is pinned. `make audit` runs it.

    python deploy/audit.py ENVIRONMENT      # the SBOM is of its packages; run by a Python that has both tools

Exit codes: 0 nothing is known, 1 something is, 69 PyPI's advisory service gave no answer, so nobody knows.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SBOM = ROOT / "build" / "sbom.json"


def main(environment: str) -> int:
    """Both; the exit code."""
    write_sbom(environment)
    pins, why = asked()
    skipped = [pin for pin in pins if "skip_reason" in pin]
    vulnerable = [(pin, found) for pin in pins for found in pin.get("vulns", ())]
    for pin, found in vulnerable:
        mended = ", ".join(found["fix_versions"]) or "no version yet"
        print(f"{pin['name']} {pin['version']}: {found['id']}, mended in {mended}")
    if skipped or not pins:
        why = why or f"it knows nothing of {len(skipped)} of {len(pins)} pins, {skipped[0]['name']} the first"
        print(f"the advisory service of PyPI gave no answer, so nobody knows: {why}", file=sys.stderr)
    if vulnerable:
        return 1
    if skipped or not pins:
        return os.EX_UNAVAILABLE
    print(f"no known vulnerability in {len(pins)} pins of constraints.txt")
    return 0


def write_sbom(environment: str) -> None:
    """All distributions of an environment with their licences, as CycloneDX."""
    SBOM.parent.mkdir(exist_ok=True)
    options = ["--pyproject", ROOT / "pyproject.toml", "--output-reproducible", "--output-file", SBOM]
    command = [sys.executable, "-m", "cyclonedx_py", "environment", *options, environment]
    subprocess.run(command, check=True)  # noqa: S603 - what the Makefile installed
    print(f"wrote {SBOM.relative_to(ROOT)}")


def asked() -> tuple[list[dict[str, Any]], str]:
    """What is known of each pin; or none, and why."""
    options = ["--requirement", ROOT / "constraints.txt", "--no-deps", "--disable-pip"]
    shown = ["--format", "json", "--progress-spinner", "off"]
    command = [sys.executable, "-m", "pip_audit", *options, *shown]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the same
    try:
        return json.loads(done.stdout)["dependencies"], ""
    except ValueError:
        return [], (done.stderr.strip().splitlines() or ["it said nothing"])[-1]


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever read the output may leave
    sys.exit(main(sys.argv[1]))
