"""Reduce an installed vLLM 0.26 to what dense models on a Hopper GPU need: python packaging/reduce_vllm.py SITE

Its Python code and data stay, and the extension modules of KEPT. The version becomes 0.26.0+reduced, so that every
record of versions says so.
"""

import shutil
import sys
from pathlib import Path

VERSION = "0.26.0"
# Operators (imported by the CUDA platform), FlashAttention 3, and two small ones that are imported by name.
KEPT = {"_C_stable_libtorch.abi3.so", "_vllm_fa3_C.abi3.so", "spinloop.abi3.so", "_rust_tool_parser.abi3.so"}
DATA = {".py", ".json", ".jinja", ".typed"}


def reduce(site: Path) -> list[str]:
    """Delete everything else of `site`/vllm and mark its metadata; the names that were kept of KEPT, in order.

    Raises FileNotFoundError if `site` does not hold vLLM of this version.
    """
    metadata = site / f"vllm-{VERSION}.dist-info"
    text = (metadata / "METADATA").read_text(encoding="utf-8")
    for path in sorted((site / "vllm").rglob("*")):
        if path.is_file() and path.suffix not in DATA and path.name not in KEPT:
            path.unlink()
    marked = text.replace(f"\nVersion: {VERSION}\n", f"\nVersion: {VERSION}+reduced\n", 1)
    (metadata / "METADATA").write_text(marked, encoding="utf-8")
    (metadata / "RECORD").unlink()
    shutil.move(metadata, site / f"vllm-{VERSION}+reduced.dist-info")
    return sorted(path.name for path in (site / "vllm").rglob("*.so"))


if __name__ == "__main__":
    print("bundle: of vLLM's extension modules:", ", ".join(reduce(Path(sys.argv[1]))))
