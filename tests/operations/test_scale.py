"""packaging/scale.sh: which configuration `make reproduce` runs on which machine."""

import os
import subprocess

import pytest

from swiftkv.config import ROOT


def chosen(folder, sizes: str | None, *arguments: str) -> subprocess.CompletedProcess:
    """What the script says where nvidia-smi prints `sizes`, or fails."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{sizes}'\n" if sizes is not None else "#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    return subprocess.run(
        [ROOT / "packaging" / "scale.sh", *arguments],
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("sizes", "arguments", "file", "why"),
    [
        (None, [], "config.yaml", "nvidia-smi finds no GPU"),
        ("", [], "config.yaml", "nvidia-smi finds no GPU"),
        ("81559", [], "gpu.yaml", "a GPU of 81559 MiB"),
        ("24564\n11264", [], "config.yaml", "the smallest GPU has 11264 MiB"),
        ("81559", ["", "cpu"], "config.yaml", "FLAVOUR=cpu"),
        ("81559", ["cpu"], "config.yaml", "as asked"),
        (None, ["smollm2"], "smollm2.yaml", "as asked"),
    ],
)
def test_the_machine_decides_unless_asked(tmp_path, sizes, arguments, file, why):
    done = chosen(tmp_path, sizes, *arguments)
    assert (done.returncode, done.stdout) == (0, f"config/{file}\n") and why in done.stderr


def test_an_unknown_scale_is_one_line(tmp_path):
    done = chosen(tmp_path, None, "huge")
    assert done.returncode == 2 and "no config/huge.yaml" in done.stderr and not done.stdout
