"""Make constraints.txt: one set of versions, for every extra and every Python we support.

Run it as `tox run -e lock`. Versions that are already in the file stay where they still fit;
`tox run -e lock -- --upgrade` takes the newest of all, `-- --upgrade-package NAME` the newest of one.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "constraints.txt"
EXTRAS = ("all", "test", "check", "dev")
HEADER = """\
# The versions of everything that eftchat, its tests and its tools are run with, on Python 3.11 and later.
# Made by `tox run -e lock` (tools/lock.py); do not edit. What we ask for, and why, is in setup.py.
"""
WHY = {
    "eth-abi": "crossbar: <5.2",
    "h2": "crossbar: <4, and so hyperframe, priority",
    "idna": "crossbar: <2.6",
    "numpy": "see setup.py",
    "parsimonious": "crossbar: <0.11",
    "pymongo": "txmongo: its newest tested",
    "yapf": "xbr, which crossbar brings: exactly this",
}


def compiled(options: list[str]) -> str:
    command = ["uv", "pip", "compile", "setup.py", "--universal", "--python-version", "3.11", "--quiet"]
    command += ["--no-header", "--no-annotate", "--output-file", str(TARGET), *options]
    command += [word for extra in EXTRAS for word in ("--extra", extra)]
    subprocess.run(command, check=True, cwd=ROOT)
    return TARGET.read_text("utf-8")


def explained(line: str) -> str:
    name = re.split(r"[=\s;]", line, maxsplit=1)[0]
    return f"{line}  # {WHY[name]}" if name in WHY else line


def main(options: list[str]) -> None:
    pins = [line for line in compiled(options).splitlines() if not line.startswith("#")]
    TARGET.write_text(HEADER + "".join(explained(pin) + "\n" for pin in pins), "utf-8")
    print(f"{TARGET.name}: {len(pins)} pins")


if __name__ == "__main__":
    main(sys.argv[1:])
