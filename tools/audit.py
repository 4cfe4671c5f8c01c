"""Look up every package of an environment in the advisory database: `audit.py SITE_PACKAGES`.

pip-audit calls an environment clean where it could look up nothing; here that is a failure. Exit
codes: 0 all looked up and clean, 1 a known vulnerability, 2 something could not be looked up.
"""

import json
import subprocess
import sys

OWN = "covidxr"


def look_up(site: str) -> list[dict]:
    """pip-audit's entry for each package; none where it could not even start."""
    command = [sys.executable, "-m", "pip_audit", "--path", site, "--format", "json"]
    command += ["--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(done.stderr.strip()[-500:], file=sys.stderr)
        return []


def report(packages: list[dict]) -> int:
    """Print what was found, and return the exit code."""
    packages = [package for package in packages if package["name"] != OWN]
    skipped = [package for package in packages if "vulns" not in package]
    found = [(p, hole) for p in packages for hole in p.get("vulns", [])]
    for package, hole in found:
        fixed = ", ".join(hole["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {hole['id']}, fixed in {fixed}")
    print(f"{len(packages) - len(skipped)} of {len(packages)} packages looked up")
    if found:
        return 1
    if skipped or not packages:
        print("error: the advisory database could not be asked about", end=" ", file=sys.stderr)
        print(", ".join(p["name"] for p in skipped[:5]) or "anything", end=" ", file=sys.stderr)
        print("and others; nothing is known of them: connect to the internet", file=sys.stderr)
        return 2
    print("no known vulnerability")
    return 0


if __name__ == "__main__":
    sys.exit(report(look_up(sys.argv[1])))
