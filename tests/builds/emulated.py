"""Makes a Python of 64-bit Arm that runs on x86-64: Debian's in an emulator, beside the kernel, cross-compiled.

``python -m tests.builds.emulated FOLDER REQUIREMENT…`` leaves ``FOLDER/python``, which has the requirements installed.
It needs Debian's apt-get, g++-aarch64-linux-gnu and qemu-user, and cmake, ninja and nanobind; it changes nothing
outside of the folder.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nanobind

ROOT = Path(__file__).parents[2]
PACKAGES = ("python3-dev", "libstdc++6")  # NumPy's wheel wants the second
# The C library of Debian 12 runs wheels of these.
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_28_aarch64")


def run(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout


def unpack_debian(folder: Path) -> Path:
    """Downloads and unpacks the packages and all that they depend on; returns the root that they lie in."""
    state, cache, root = folder / "state", folder / "cache", folder / "root"
    for made in (state / "lists" / "partial", cache / "archives" / "partial", root):
        made.mkdir(parents=True)
    (state / "status").touch()  # nothing is installed
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": cache,
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    run(*apt, "update")
    run(*apt, "--yes", "--no-install-recommends", "--download-only", "install", *PACKAGES)
    for package in (cache / "archives").glob("*.deb"):
        run("dpkg-deb", "--extract", package, root)
    return root


def write_program(folder: Path, root: Path, site: Path) -> Path:
    """The Python, as one program. ``sys.executable`` is it too: the system cannot run what lies in the root."""
    program = folder / "python"
    interpreter = f"qemu-aarch64 -L {root} {root}/usr/bin/python3"
    program.write_text(f'#!/bin/sh\nPYTHONDONTWRITEBYTECODE=1 PYTHONPATH={site} exec {interpreter} "$@"\n')
    program.chmod(0o755)
    site.mkdir()
    (site / "sitecustomize.py").write_text(f"import sys\n\nsys.executable = {str(program)!r}\n")
    return program


def install(site: Path, version: str, requirements: Sequence[str]) -> None:
    wanted = ["--only-binary=:all:", f"--python-version={version}", *(f"--platform={name}" for name in PLATFORMS)]
    run(sys.executable, "-m", "pip", "install", "--quiet", *wanted, f"--target={site}", *requirements)


def build(folder: Path, root: Path, version: str, site: Path) -> None:
    """The package in the site, with the kernel that the cross-compiler makes."""
    headers = root / "usr" / "include"
    settings = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": "aarch64-linux-gnu-g++",
        "CMAKE_CXX_FLAGS": f"-idirafter {headers}",  # which Debian's pyconfig.h is found from
        "Python_EXECUTABLE": sys.executable,
        "Python_INCLUDE_DIR": headers / f"python{version}",
        "nanobind_DIR": nanobind.cmake_dir(),
    }
    asked = [f"-D{name}={value}" for name, value in settings.items()]
    run("cmake", "-GNinja", "-S", ROOT, "-B", folder / "build", *asked)
    run("cmake", "--build", folder / "build")
    shutil.copytree(ROOT / "src" / "binxent", site / "binxent")
    (module,) = (folder / "build").glob("_native*.so")
    shutil.copy(module, site / "binxent" / "_native.so")  # CMake names it by the Python that runs here


def main(arguments: Sequence[str]) -> None:
    folder, requirements = Path(arguments[0]).absolute(), arguments[1:]
    if folder.exists():
        shutil.rmtree(folder)
    root, site = unpack_debian(folder), folder / "site"
    program = write_program(folder, root, site)
    version = run(program, "-c", "import sys; print(*sys.version_info[:2], sep='.')").strip()
    install(site, version, requirements)
    build(folder, root, version, site)


if __name__ == "__main__":
    main(sys.argv[1:])
