"""Renew the pins of the recipes: the digests of images, and the locked Python packages.

Run it from the root of the repository, review the diff, test, commit:

    python examples/deploy/refresh.py images      # needs docker with buildx
    python examples/deploy/refresh.py packages    # needs uv
"""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

DEPLOY = Path(__file__).parent
PINNED = re.compile(r"(?P<image>[\w./-]+:[\w.-]+)@(?P<digest>sha256:[0-9a-f]{64})")
FILES = ("Dockerfile", "*.yaml")
LOCKS = {
    "requirements-cpu.txt": ("server", "redis", "onnx"),
    "requirements-cuda.txt": ("server", "redis", "local"),
}


def digest(image: str) -> str:
    """Return the current digest of a tag's image index, which covers all platforms."""
    command = ["docker", "buildx", "imagetools", "inspect", image]
    command += ["--format", "{{.Manifest.Digest}}"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", printed):
        raise SystemExit(f"docker gave no digest of {image}, but {printed!r}")
    return printed


def refresh_images(folder: Path = DEPLOY) -> None:
    """Replace the digest of each pinned tag with the current one."""
    known: dict[str, str] = {}
    for pattern in FILES:
        for file in sorted(folder.rglob(pattern)):
            text = file.read_text(encoding="utf-8")
            for image in {match["image"] for match in PINNED.finditer(text)} - known.keys():
                known[image] = digest(image)
            new = PINNED.sub(lambda match: f"{match['image']}@{known[match['image']]}", text)
            if new != text:
                file.write_text(new, encoding="utf-8")
                print(f"renewed: {file.relative_to(folder)}")


def refresh_packages(folder: Path = DEPLOY / "docker") -> None:
    """Lock the packages of each image with the hashes of their files."""
    common = ["uv", "pip", "compile", "--quiet", "--upgrade", "--generate-hashes", "--no-annotate"]
    common += ["--universal", "--python-version", "3.11", "--no-header", "--no-emit-index-url"]
    for name, extras in LOCKS.items():
        wanted = [part for extra in extras for part in ("--extra", extra)]
        command = [*common, "pyproject.toml", *wanted, "--output-file", str(folder / name)]
        subprocess.run(command, check=True)
    build = ["-", "--output-file", str(folder / "requirements-build.txt")]
    subprocess.run([*common, *build], check=True, input="hatchling>=1.26\n", text=True)


def main() -> None:
    """Renew the pins that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("images", "packages"))
    {"images": refresh_images, "packages": refresh_packages}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
