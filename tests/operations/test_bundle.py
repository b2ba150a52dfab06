"""The bundle: what it carries, how vLLM is reduced, what its installer refuses, and what the self-check says."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
from reduce_vllm import reduce

from swiftkv import provenance
from swiftkv.config import ROOT, load_config
from swiftkv.errors import UserError
from swiftkv.evals import selfcheck

BUNDLE = ROOT / "requirements" / "h200"
PYTHON = "{}.{}".format(*sys.version_info[:2])


def names(path) -> set[str]:
    """Distributions that a requirements file names."""
    return set(re.findall(r"^([a-z0-9][a-z0-9._-]*)", path.read_text(), re.MULTILINE))


def test_lock_holds_what_is_wanted_and_nothing_that_the_machine_has():
    wanted, target, lock = (names(BUNDLE / name) for name in ("wanted.txt", "target.txt", "bundle.lock"))
    assert {"vllm", "lm-eval"} <= lock and wanted <= lock | target
    assert not lock & target and {"torch", "transformers"} <= target


def test_lock_names_no_host_and_no_path():
    assert not re.search(r"https?://|file:|index-url|find-links", (BUNDLE / "bundle.lock").read_text())


@pytest.fixture
def site(tmp_path):
    """An installed vLLM in outline."""
    kept = ["__init__.py", "third_party/pynvml.py", "configs/a.json", "_C_stable_libtorch.abi3.so"]
    dropped = ["vllm-rs", "_moe_C_stable_libtorch.abi3.so", "third_party/deep_gemm/include/a.hpp"]
    for name in kept + dropped:
        path = tmp_path / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    metadata = tmp_path / "vllm-0.26.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.4\nName: vllm\nVersion: 0.26.0\nSummary: x\n")
    (metadata / "RECORD").write_text("")
    return tmp_path, kept


def test_reduced_vllm_keeps_its_python_code_and_says_what_it_is(site):
    from importlib.metadata import distributions

    directory, kept = site
    assert reduce(directory) == ["_C_stable_libtorch.abi3.so"]
    left = {
        path.relative_to(directory / "vllm").as_posix() for path in (directory / "vllm").rglob("*") if path.is_file()
    }
    assert left == set(kept)
    assert [(d.name, d.version) for d in distributions(path=[str(directory)])] == [("vllm", "0.26.0+reduced")]


def test_another_vllm_is_left_alone(site):
    directory, _ = site
    (directory / "vllm-0.26.0.dist-info").rename(directory / "vllm-0.33.0.dist-info")
    with pytest.raises(FileNotFoundError):
        reduce(directory)
    assert (directory / "vllm" / "vllm-rs").exists()


@pytest.fixture
def bundle(tmp_path):
    """A bundle in four parts whose `swiftkv` says its arguments and where it is."""
    import torch

    module = tmp_path / "tree" / "project" / "project" / "swiftkv"
    module.mkdir(parents=True)
    (tmp_path / "tree" / "packages" / "site").mkdir(parents=True)
    (module / "__init__.py").write_text("")
    (module / "cli.py").write_text("import os, sys; print('ran', sys.argv[1:], os.environ['SWIFTKV_MIRROR'])")
    out = tmp_path / "bundle"
    out.mkdir()
    for name in ("packages", "project"):
        with tarfile.open(tmp_path / name, "w:xz") as archive:
            archive.add(tmp_path / "tree" / name, arcname=".")
        data = (tmp_path / name).read_bytes()
        (out / f"{name}-00").write_bytes(data[:100])
        (out / f"{name}-01").write_bytes(data[100:])
    shutil.copy(ROOT / "packaging" / "install.sh", out)
    (out / "bundle.txt").write_text(f"python={PYTHON}\ntorch={torch.__version__.split('+')[0]}\n")
    sign(out)
    return out


def sign(out):
    """Write SHA256SUMS."""
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in out.iterdir() if p.name != "SHA256SUMS"
    ]
    (out / "SHA256SUMS").write_text("".join(lines))


def install(bundle, prefix) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHON": sys.executable}
    command = ["bash", str(bundle / "install.sh"), str(prefix)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_installer_joins_the_parts_under_the_prefix_and_checks_itself(bundle, tmp_path):
    prefix = tmp_path / "a prefix"
    done = install(bundle, prefix)
    assert done.returncode == 0, done.stderr
    assert f"ran ['self-check'] {prefix}/data" in done.stdout
    stamp = (prefix / "project" / "swiftkv" / "cli.py").stat().st_ino
    assert install(bundle, prefix).returncode == 0
    assert (prefix / "project" / "swiftkv" / "cli.py").stat().st_ino == stamp


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: (out / "project-01").write_bytes(b"x"), "missing or damaged"),
        (lambda out: (out / "packages-00").unlink(), "missing or damaged"),
        (lambda out: (out / "bundle.txt").write_text("python=3.1\ntorch=2.11.0\n"), "is for 3.1"),
        (lambda out: (out / "bundle.txt").write_text(f"python={PYTHON}\ntorch=1.0\n"), "is for 1.0"),
    ],
    ids=["damaged", "missing", "python", "torch"],
)
def test_installer_refuses_what_cannot_work(bundle, tmp_path, damage, message):
    damage(bundle)
    if "is for" in message:
        sign(bundle)
    done = install(bundle, tmp_path / "prefix")
    assert done.returncode == 2 and message in done.stderr
    assert not (tmp_path / "prefix" / "project").exists()


def test_installer_and_bundle_leave_a_folder_of_another_hand_alone(bundle, tmp_path):
    prefix = tmp_path / "prefix"
    (prefix / "project").mkdir(parents=True)
    (prefix / "project" / "thesis.tex").write_text("years of work")
    done = install(bundle, prefix)
    assert done.returncode == 2 and "project exists and is no installation" in done.stderr
    command = ["bash", str(ROOT / "packaging" / "bundle.sh"), "h200", "--out", str(prefix)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "holds project, which is no part of a bundle" in done.stderr
    assert [path.name for path in prefix.rglob("*")] == ["project", "thesis.tex"]


def test_archive_says_its_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / provenance.ARCHIVED).write_text("f" * 40 + "\n")
    assert provenance.git_state() == {"sha": "f" * 40, "dirty": None}
    assert "export-subst" in (ROOT / ".gitattributes").read_text()
    assert (ROOT / provenance.ARCHIVED).read_text() == "$Format:%H$\n"


def test_self_check_names_what_cannot_be_imported(monkeypatch, capsys):
    monkeypatch.setattr(selfcheck, "MODULES", ("json", "no_such_module"))
    with pytest.raises(UserError, match="1 of 2 modules cannot be imported: no_such_module"):
        selfcheck.run(load_config())
    assert "import json: ok" in capsys.readouterr().out


@pytest.mark.vllm
def test_self_check_generates_ten_tokens(capsys):
    selfcheck.run(load_config())
    last = capsys.readouterr().out.splitlines()
    assert "LlamaSwiftKVForCausalLM" in last[-3] and "10 tokens as in Transformers" in last[-1]
