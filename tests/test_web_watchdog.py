"""The watchdog bites: a test that lets a raw identifier escape fails, whatever else it finds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LEAKS = {
    "log": """
def test_leak(a_request):
    import logging
    logging.getLogger("anything").debug("saw %s", a_request()["member"]["id"])
""",
    "exception": """
def test_leak(a_request):
    import logging
    try:
        raise KeyError(a_request()["member"]["email"])
    except KeyError:
        logging.getLogger("anything").exception("it broke")
""",
    "file": """
def test_leak(a_request, tmp_path):
    (tmp_path / "notes.bin").write_bytes(b"\\0" * 99 + a_request()["device"]["id"].encode())
""",
    "hole": """
def test_leak(a_request, tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 36)
        file.seek(1 << 35)
        file.write(a_request()["location"]["ip"].encode())
""",
    "problem": """
def test_leak(a_request, app, client):
    from flask import Response
    value = a_request()["transaction"]["order_id"]
    app.add_url_rule("/leak", "leak", lambda: Response(value, 400))
    client().get("/leak")
""",
    "home": """
def test_leak(a_request, parts):
    from sectionfour.privacy.merkle import leaf_hash
    from sectionfour.domain import Leaf
    value = a_request()["member"]["id"].encode()
    with parts.ledger.transaction() as connection:
        parts.ledger.log(connection, Leaf("x", "y", value))
""",
}
SOUND = """
def test_sound(a_request, a_consent, notice, client):
    client("consent").post("/v1/consents", json=a_consent())
    assert client("checkout").post("/v1/assessments", json=a_request()).status_code == 200
"""


def test_a_leak_of_any_kind_fails_its_test_and_nothing_else_does(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("watched") / "tests"
    folder.mkdir()
    for name in ("conftest.py", "redis_server.py"):
        shutil.copy(Path(__file__).with_name(name), folder)
    for name, text in LEAKS.items():
        (folder / f"test_{name}.py").write_text(text)
    (folder / "test_sound.py").write_text(SOUND)
    command = [sys.executable, "-m", "pytest", str(folder), "-q", "-p", "no:cacheprovider"]
    command += [
        "-c",
        "/dev/null",
        "--rootdir",
        str(folder.parent),
        "--import-mode=importlib",
        "-rA",
    ]
    command += ["--basetemp", str(folder / "temporary")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    summary = done.stdout[done.stdout.index("short test summary") :]
    for name in LEAKS:
        lines = [line for line in summary.splitlines() if f"test_{name}.py" in line]
        bitten = [line for line in lines if line.startswith(("ERROR", "FAILED"))]
        assert len(bitten) == 1, (name, summary)
        assert "watchdog" in bitten[0]
    sound = [line for line in summary.splitlines() if "test_sound" in line]
    assert len(sound) == 1
    assert sound[0].startswith("PASSED")
