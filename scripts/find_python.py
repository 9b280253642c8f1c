"""Prints the Python that `make` builds the environment with: the first on PATH, unless another one there is clearly faster.

Run by any Python 3. The same version can take 1.6 times as long as another build of it (ADR 0017): what is first on PATH is often
one that was built without profile-guided optimisation, and what a build was made with cannot be read off it reliably. So each runs
the same small work, and the least time counts. Only builds of Python 3.11 and later that can make environments take part.
"""

import os
import subprocess
import sys
from pathlib import Path

CLEARLY = 1.2  # chosen: noise of a busy machine stays below it, a build without optimisation does not
VERSIONS = ("python3", *(f"python3.{minor}" for minor in range(11, 20)))
WORK = """
import ensurepip, sys, time, venv
if sys.version_info < (3, 11) or sys.implementation.name != "cpython":
    sys.exit("not for Daybook")
def work():
    rows = {}
    for number in range(20_000):
        key = ("entries", str(number % 500), number % 7)
        rows[key] = (number, number + 1, "x")
        text = "%s\\t%s\\t%s\\n" % rows[key]
times = []
for _ in range(7):
    began = time.process_time()
    work()
    times.append(time.process_time() - began)
print(min(times), sys._base_executable)
"""


def main() -> None:
    """Prints a path; nothing, with a reason on the standard error, where there is no Python for Daybook."""
    found: dict[
        str, tuple[float, str]
    ] = {}  # by the real file, which may have many names: its least time, and its first name
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        for name in VERSIONS:
            if os.access(program := Path(folder, name), os.X_OK):
                done = subprocess.run([program, "-c", WORK], capture_output=True, text=True, check=False)
                if done.returncode == 0:
                    taken, path = done.stdout.strip().split(" ", 1)
                    least, name_of = found.get(os.path.realpath(path), (float("inf"), path))
                    found[os.path.realpath(path)] = min(float(taken), least), name_of
    if not found:
        sys.exit("Daybook needs Python 3.11 or later, with venv: make PYTHON=...")
    first, fastest = next(iter(found.values())), min(found.values())
    print((fastest if first[0] > CLEARLY * fastest[0] else first)[1])


if __name__ == "__main__":
    main()
