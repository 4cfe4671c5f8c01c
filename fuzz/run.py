"""Fuzz the readers of images, metadata and tables for so many minutes each: `run.py 10 [images …]`.

The first inputs are the hostile files of the tests. The corpus grows in fuzz/corpus/, bytes that
crash a reader are kept in fuzz/findings/; neither enters the repository.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import hostile  # noqa: E402

LIMITS = ["-timeout=30", "-rss_limit_mb=2560", "-max_len=65536", "-print_final_stats=1"]
METADATA = {
    "format": 1,
    "classes": ["Normal", "COVID"],
    "image_size": 64,
    "normalisation": "grey",
    "temperature": 1.5,
    "threshold": 0.5,
    "precision": "auto",
    "severity": {"extent": 1.0, "opacity": None},
}
TABLE = b"image_path,patient_id,study_day,view\na.png,1,0,PA\nb.png,1,3.5,AP\n"


def seeds(target: str) -> list[bytes]:
    if target == "images":
        made = (hostile.truncated(), hostile.flipped(), hostile.pictures(), hostile.dicoms())
        contents = [content for files in made for content, _ in files.values()]
        return contents + [hostile.film_bytes(kind) for kind in hostile.KINDS]
    if target == "metadata":
        text = json.dumps(METADATA).encode()
        return [b"\0" + text, b"\xff" + len(b"{}").to_bytes(8, "little") + b"{}"]
    return [b"\0" + TABLE, b"\xff" + TABLE, b"\0## note\n" + TABLE]


def fuzz(target: str, minutes: float) -> int:
    corpus, findings = HERE / "corpus" / target, HERE / "findings"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds(target)):
        (corpus / f"seed-{number:03d}").write_bytes(content)
    command = [sys.executable, str(HERE / "readers.py"), target, str(corpus), *LIMITS]
    command += [f"-max_total_time={int(minutes * 60)}", f"-artifact_prefix={findings}/{target}-"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = subprocess.run(command, env=environment).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{target}: exit code {code}, {spent / 60:.1f} minutes of the processor", flush=True)
    return code


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10
    targets = sys.argv[2:] or ["images", "metadata", "tables"]
    sys.exit(any([fuzz(target, minutes) != 0 for target in targets]))


if __name__ == "__main__":
    main()
