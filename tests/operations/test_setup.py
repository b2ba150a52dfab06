"""packaging/setup.sh with tiny wheels from a server on this machine: where the CPU build of torch is looked for."""

import base64
import hashlib
import http.server
import inspect
import os
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from swiftkv.config import ROOT

TORCH = "torch==2.13.0+cpu"


def write_wheel(directory, name: str, version: str) -> str:
    """Write a wheel without modules into `directory`; its file name."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        record += f"{path},sha256={digest},{len(text)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    filename = f"{name}-{version}-py3-none-any.whl"
    os.makedirs(directory, exist_ok=True)
    with zipfile.ZipFile(os.path.join(directory, filename), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return filename


# The tiny project builds itself, so that no build backend is fetched.
BACKEND = f"""\
import base64, hashlib, os, zipfile

{inspect.getsource(write_wheel)}

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return write_wheel(wheel_directory, "tiny", "1.0")
"""
PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "tiny"
version = "1.0"
dependencies = [
    "torch==2.13.0",
]

[tool.swiftkv]
torch-links = "{links}"
"""


class Site:
    """A web server for `directory`, whose listings are pages of links, and the paths that it was asked for."""

    def __init__(self, directory: Path):
        self.directory, self.asked = directory, asked = directory, []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments):
                super().__init__(*arguments, directory=directory)

            def log_request(self, code="-", size="-"):
                asked.append(self.path)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def site(tmp_path):
    """An index at simple/ with torch's default build and the other package; one at whl/cpu, laid out as PyTorch's, with
    torch's CPU build and the other package in a version that is not locked."""
    site = Site(tmp_path / "site")
    for place, name, version in (
        ("simple", "torch", "2.13.0"),
        ("simple", "other", "1.0"),
        ("whl/cpu", "torch", "2.13.0+cpu"),
        ("whl/cpu", "other", "9.0"),
    ):
        write_wheel(site.directory / place / name, name, version)
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def project(tmp_path, site):
    """A project with the real scripts, whose lock holds torch and the other package."""
    project = tmp_path / "project"
    (project / "packaging").mkdir(parents=True)
    for script in ("setup.sh", "package_sources.sh"):
        shutil.copy(ROOT / "packaging" / script, project / "packaging")
    (project / "backend.py").write_text(BACKEND)
    (project / "pyproject.toml").write_text(PYPROJECT.format(links=f"{site.url}/whl/cpu/torch/"))
    (project / "requirements").mkdir()
    (wheel,) = (site.directory / "simple" / "other").iterdir()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (project / "requirements" / "cpu.lock").write_text(f"other==1.0 \\\n    --hash=sha256:{digest}\n{TORCH}\n")
    return project


def set_up(project: Path, *first_on_path: str, **settings: str) -> subprocess.CompletedProcess:
    """Run packaging/setup.sh with these settings of uv and pip and no others."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "SWIFTKV_"))}
    env["PATH"] = os.pathsep.join([*first_on_path, str(ROOT / ".local" / "uv" / "bin"), env["PATH"]])
    assert shutil.which("uv", path=env["PATH"]), "uv is neither on PATH nor in .local/uv, where `make env` puts it"
    env |= {"UV_NO_CONFIG": "1", "UV_CACHE_DIR": str(project / "cache"), "UV_HTTP_RETRIES": "0"}
    env |= {"PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **settings}
    command = ["bash", "packaging/setup.sh", "cpu"]
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=120)


def installed(project: Path) -> set[str]:
    """What lies in the environment, as name-version."""
    return {
        path.name.removesuffix(".dist-info") for path in project.glob(".venv/lib/python*/site-packages/*.dist-info")
    }


COMPLETE = {"torch-2.13.0+cpu", "other-1.0", "tiny-1.0"}


def test_torch_comes_from_its_page_and_nothing_else_does(project, site):
    done = set_up(project, UV_DEFAULT_INDEX=f"{site.url}/simple")
    assert done.returncode == 0, done.stderr
    assert installed(project) == COMPLETE
    from_host = [path for path in site.asked if path.startswith("/whl/")]
    assert from_host and all(path.startswith("/whl/cpu/torch/") for path in from_host)


def test_another_page_can_be_named(project, site):
    links = f"{site.url}/whl/cpu/torch/"
    (project / "pyproject.toml").write_text(PYPROJECT.format(links=f"{site.url}/gone/"))
    done = set_up(project, UV_DEFAULT_INDEX=f"{site.url}/simple", SWIFTKV_TORCH_LINKS=links)
    assert done.returncode == 0, done.stderr
    assert installed(project) == COMPLETE and not [path for path in site.asked if path.startswith("/gone")]


@pytest.mark.parametrize("source", ["directory", "index"])
def test_page_is_not_asked_where_the_configured_sources_have_torch(project, site, source, tmp_path):
    settings = {"UV_DEFAULT_INDEX": f"{site.url}/simple"}
    if source == "directory":
        settings["PIP_FIND_LINKS"] = str(tmp_path / "wheels")
        write_wheel(tmp_path / "wheels", "torch", "2.13.0+cpu")
    else:
        write_wheel(site.directory / "simple" / "torch", "torch", "2.13.0+cpu")
    done = set_up(project, **settings)
    assert done.returncode == 0, done.stderr
    assert installed(project) == COMPLETE
    assert site.asked and not [path for path in site.asked if path.startswith("/whl/")]


@pytest.mark.parametrize("again", [False, True])
def test_index_of_pips_configuration_counts(project, site, tmp_path, again):
    """Also once .venv, which has no pip, is there and first on PATH, as in every target of the Makefile."""
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {site.url}/simple\n")
    if again:
        uv = shutil.which("uv", path=f"{ROOT / '.local' / 'uv' / 'bin'}{os.pathsep}{os.environ['PATH']}")
        subprocess.run([uv, "venv", "--quiet", "--no-config", "--python", "3.11", project / ".venv"], check=True)
    done = set_up(project, str(project / ".venv" / "bin"), PIP_CONFIG_FILE=str(tmp_path / "pip.conf"))
    assert done.returncode == 0, done.stderr
    assert installed(project) == COMPLETE


@pytest.mark.parametrize("page", ["without it", "unreachable"])
def test_torch_that_is_nowhere_ends_with_the_way_out(project, site, page):
    shutil.rmtree(site.directory / "whl" / "cpu" / "torch")
    if page == "without it":
        write_wheel(site.directory / "whl" / "cpu" / "torch", "torch", "2.12.0+cpu")
    done = set_up(project, UV_DEFAULT_INDEX=f"{site.url}/simple")
    assert done.returncode != 0 and not (project / ".venv" / ".lock-sha256").exists()
    last = done.stderr.splitlines()[-1]
    assert TORCH in last and f"{site.url}/whl/cpu/torch/" in last and "SWIFTKV_TORCH_LINKS" in last
