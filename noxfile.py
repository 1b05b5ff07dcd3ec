"""Every check, each in an environment of its own.

``nox`` runs the tests: one wheel is built, installed beside NumPy alone and beside each framework, and tested there.
``nox -l`` lists the rest. A session's environment is deleted when it ends: together they would fill 12 GB of disk.
``nox -r`` keeps them, for the next time.
"""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import nox

if TYPE_CHECKING:
    from collections.abc import Callable

PYPROJECT = nox.project.load_toml("pyproject.toml")
FRAMEWORKS = [f for f in ("torch", "paddle", "mindspore", "jax") if any(Path("src/binxent").glob(f"{f}*"))]

# Tests that do more where a framework is installed.
EVERYWHERE = ("tests/conformance", "tests/test_formula.py", "tests/test_labels.py")

# Pages whose examples are of NumPy alone.
PAGES = ("README.md", "docs/means.md", "docs/numpy.md")

# Compiling, most of all, which two processes do in half the time.
SIDE_BY_SIDE = ("--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal")

# The oldest NumPy that each Python has a wheel of, and ml_dtypes works with.
OLDEST_NUMPY = {"3.10": "1.23.0", "3.11": "1.23.3", "3.12": "1.26.0", "3.13": "2.1.0"}

# Tests of the NumPy face's values, which hold without the kernel too; the others are of its bits and its memory.
PURE = (
    "every_parameter",
    "every_pair_of_dtypes",
    "the_result_has_the_wider_dtype_of_input_and_target",
    "integer_targets_are_numbers",
    "the_gradient_is_that_of_the_loss",
    "empty_arrays",
    "scalars",
    "infinite_and_nan_logits",
    "probabilities_of_0_and_1",
    "confident_logits_keep_their_loss",
    "foreign_byte_order",
    "in_place",
    "any_byte_but_0_is_true",
    "a_refusal_writes_nothing",
    "classes_keep_parameters",
)

# PyTorch's face, where BINXENT_KERNELS says that its kernel is Triton's.
FACE_ON_TRITON = ("tests/kernels/test_torch_face.py", "tests/conformance/test_derivatives.py")

# Each run tries these tests on compiled code too. Without this list all of them would run, which takes ten minutes.
AS_COMPILED = ("test_ptx", "accuracy", "one_output", "whose_sum", "in_place", "remake", "test_sparse")

nox.needs_version = ">=2025.2.9"

built: dict[object, Path] = {}  # one for each Python, built by the first session that asks


def session(**settings: object) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A nox session in an environment of its own, for as long as it takes."""

    def decorate(steps: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(steps)
        def run(session: nox.Session, **parameters: str) -> None:
            session.create_tmp()  # what its programs leave in $TMPDIR goes with it
            try:
                steps(session, **parameters)
            finally:
                if not session.virtualenv.reuse_existing:
                    shutil.rmtree(session.virtualenv.location)

        return nox.session(**settings)(run)

    return decorate


def group(*names: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, *names))


def extra(name: str) -> list[str]:
    return list(PYPROJECT["project"].get("optional-dependencies", {}).get(name, []))


def install(session: nox.Session, *requirements: str) -> None:
    """The wheel, and what is needed beside it."""
    if session.python not in built:
        folder = session.cache_dir / "wheel" / str(session.python or "default")
        for old in folder.glob("*.whl"):
            old.unlink()
        session.run("pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", ".")
        (built[session.python],) = folder.glob("*.whl")
    wheel = str(built[session.python])
    session.install(wheel, *requirements)
    if session.virtualenv.reuse_existing:  # pip keeps an older wheel of the same version
        session.install("--force-reinstall", "--no-deps", wheel)


def count(report: Path) -> dict[str, int]:
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    number = {
        key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    }
    failed = number["failures"] + number["errors"]
    return {"passed": number["tests"] - failed - number["skipped"], "failed": failed, "skipped": number["skipped"]}


def pytest(
    session: nox.Session, what: str, *arguments: str, program: tuple[str, ...] = ("pytest",), **variables: str
) -> None:
    """pytest, on the wheel and never on the tree. If every test is skipped pytest succeeds; this does not."""
    report = session.cache_dir / "reports" / f"{session.name}-{what}.xml"
    env = {"PYTHONPATH": None, **variables}
    session.run(*program, f"--junitxml={report}", *arguments, env=env, external=len(program) > 1)
    if count(report)["passed"] == 0:
        session.error(f"no test of the {what} was run")


def digests(session: nox.Session) -> dict[str, dict[str, object]]:
    """The digests of what the installed kernel computes, for each instruction set of this processor."""
    found: dict[str, dict[str, object]] = {}
    for name in ("baseline", "avx2", "avx512", "neon"):
        env = {"BINXENT_ISA": name, "PYTHONPATH": None}
        printed = str(session.run("python", "-m", "tests.digests", env=env, silent=True, success_codes=[0, 1]))
        if "this machine or this build" not in printed:
            found[name] = json.loads(printed)
    if not found:
        session.error("the kernel has no instruction set of this processor")
    return found


def no_compiler(session: nox.Session) -> dict[str, str]:
    """A path on which there are the environment's own programs alone."""
    for program in ("cc", "c++", "gcc", "g++", "clang", "clang++", "cmake", "ninja", "make"):
        if found := shutil.which(program, path=session.bin):
            session.error(f"{found} is there; expected no compiler")
    return {"PATH": session.bin, "CC": "", "CXX": ""}


def without(faces: list[str]) -> list[str]:
    """Nor the recipes, the boosters and the builds, which have sessions of their own."""
    apart = [f"--ignore=tests/{folder}" for folder in ("recipes", "boosters", "site", "builds")]
    return [*apart, *(f"--ignore-glob=tests/faces/test_{face}*" for face in faces)]


@session()
def tests(session: nox.Session) -> None:
    """Everything that needs no framework: the formula, the kernel, the options, the NumPy face, the commands."""
    install(session, *group("test", "frames"), *extra("demo"), *extra("cli"))
    pytest(session, "tests", *SIDE_BY_SIDE, *without(FRAMEWORKS), *session.posargs)
    modules = (
        "binxent.numpy",
        "binxent.labels",
        "binxent.label_counts",
        "binxent.correction",
        "binxent.report",
        "binxent.boosting",
    )
    pytest(session, "examples", "--doctest-modules", "--doctest-glob=*.md", "--pyargs", *modules, *PAGES)


def add_session(framework: str) -> None:
    @session(name=framework)
    def face(session: nox.Session) -> None:
        """The face of this framework, beside it alone."""
        install(session, *group("test", framework), "scikit-learn")  # the examples' data
        own = sorted(map(str, Path("tests/faces").glob(f"test_{framework}*")))
        if not own:
            session.error(f"tests/faces has no test_{framework}*")
        pytest(session, "tests", *SIDE_BY_SIDE, f"--face={framework}", *own, *EVERYWHERE, *session.posargs)
        pytest(session, "examples", "--doctest-modules", "--pyargs", f"binxent.{framework}")


for framework in FRAMEWORKS:
    add_session(framework)


@session()
def triton(session: nox.Session) -> None:
    """Triton's kernel without a card: in its interpreter, alone and under the torch face; and compiled for a card, what
    the compiler made, instruction by instruction."""
    install(session, *group("bench", "triton"))
    pytest(session, "tests", *SIDE_BY_SIDE, "tests/kernels", *session.posargs, TRITON_INTERPRET="1")
    pytest(
        session,
        "face",
        *SIDE_BY_SIDE,
        *FACE_ON_TRITON,
        *session.posargs,
        TRITON_INTERPRET="1",
        BINXENT_KERNELS="triton",
    )
    few = f"({' or '.join(AS_COMPILED)}) and not native"  # ``nox -s tritons`` runs all of them
    pytest(session, "compiled", *SIDE_BY_SIDE, "tests/kernels", "-k", few, *session.posargs, TRITON_RUNS_PTX="1")


@session(default=False)
@nox.parametrize("version", ["3.6.0", "3.7.1", "3.8.0", "3.9.0"])
def tritons(session: nox.Session, version: str) -> None:
    """What each version of Triton compiles for a card, and launches through its own launcher."""
    install(session, *group("bench", "triton"))
    session.install("--no-deps", f"triton=={version}")
    session.run("python", "-m", "tests.kernels.compiled", "everything", env={"PYTHONPATH": None})
    # The benchmark's dry run needs the newest interpreter.
    kernel = ("tests/kernels", "--ignore=tests/kernels/test_gpu_benchmark.py", "-k", "not native")
    pytest(session, "kernel", *SIDE_BY_SIDE, *kernel, *session.posargs, TRITON_RUNS_PTX="1")
    pytest(
        session, "face", *SIDE_BY_SIDE, *FACE_ON_TRITON, *session.posargs, TRITON_RUNS_PTX="1", BINXENT_KERNELS="triton"
    )


@session()
def recipes(session: nox.Session) -> None:
    """The programs of docs/recipes.md, beside the libraries that they are for."""
    install(session, *group("test", "recipes"), *extra("demo"))  # an example draws a picture
    pytest(session, "recipes", "tests/recipes", *session.posargs)
    pytest(session, "Keras on JAX", "tests/recipes/test_keras.py", KERAS_BACKEND="jax")


@session()
def boosting(session: nox.Session) -> None:
    """The objectives and metrics inside XGBoost, LightGBM and CatBoost, and the programs of docs/boosting.md."""
    install(session, *group("test", "boosting"))
    pytest(session, "boosters", "tests/boosters", *session.posargs)


@session(python=list(OLDEST_NUMPY), default=False)
@nox.parametrize("numpy", ["oldest", "newest"])
def supported(session: nox.Session, numpy: str) -> None:
    """The NumPy face with every Python, and with the oldest and the newest NumPy there."""
    version = [f"numpy=={OLDEST_NUMPY[str(session.python)]}"] if numpy == "oldest" else []
    install(session, *group("test"), *version)
    # The demo's libraries want newer ones.
    demo = [f"--ignore=tests/test_{name}.py" for name in ("benchmarks", "cli", "demo")]
    pytest(session, "tests", *SIDE_BY_SIDE, *without(FRAMEWORKS), *demo, *session.posargs)


@session(default=False)
@nox.parametrize("compiler", ["g++-11", "clang++-14"])
def compilers(session: nox.Session, compiler: str) -> None:
    """The oldest compilers: their kernel passes the kernel's tests, and has the bits of the default compiler's."""
    if shutil.which(compiler) is None:
        session.skip(f"{compiler} is not installed")
    install(session, *group("test"))
    wanted = digests(session)
    folder = str(session.create_tmp())
    session.run("pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", ".", env={"CXX": compiler})
    session.install("--force-reinstall", "--no-deps", *map(str, Path(folder).glob("*.whl")))
    if digests(session) != wanted:
        session.error(f"the kernel of {compiler} has other bits than the default compiler's")
    pytest(session, compiler, *SIDE_BY_SIDE, "tests/test_kernel.py", *session.posargs)


@session(default=False)
def emulated(session: nox.Session) -> None:
    """The kernel of 64-bit Arm, cross-compiled and run by an emulator: its tests, and the bits of this processor's."""
    if missing := [name for name in ("aarch64-linux-gnu-g++", "qemu-aarch64", "apt-get") if shutil.which(name) is None]:
        session.skip(f"{', '.join(missing)}: not installed; Debian has g++-aarch64-linux-gnu and qemu-user")
    install(session, *group("test", "instructions"))
    wanted = digests(session)
    folder = Path(session.create_tmp()) / "arm64"
    session.run(
        "python", "-m", "tests.builds.emulated", str(folder), *group("test"), *PYPROJECT["project"]["dependencies"]
    )
    python = str(folder / "python")
    found = json.loads(str(session.run(python, "-m", "tests.digests", silent=True, external=True)))
    alike = wanted.keys() - {"baseline"}  # which has no fused multiply-add
    if not alike:
        session.error("this processor has no instruction set whose bits are those of neon")
    for name in alike:
        if wanted[name]["digests"] != found["digests"]:
            session.error(f"the kernel of {found['instruction_set']} has other bits than that of {name}")
    few = "not billion and not two_to_the_31"  # elements: an emulator would take hours
    chosen = (*SIDE_BY_SIDE, "-k", few, "tests/test_kernel.py", *session.posargs)
    pytest(session, "kernel", *chosen, program=(python, "-m", "pytest"))


@session(default=False)
def pure(session: nox.Session) -> None:
    """What BINXENT_PURE=1 installs, built and tested where no compiler is found: the definition on NumPy alone."""
    session.install("pip", *group("test"))
    where = no_compiler(session)
    session.run("pip", "install", "--quiet", "--force-reinstall", "--no-deps", ".", env={**where, "BINXENT_PURE": "1"})
    own = [f"tests/faces/test_numpy.py::test_{name}" for name in PURE]  # pytest fails where one is not there
    pytest(session, "definition", *SIDE_BY_SIDE, "tests/builds/test_pure.py", *own, *session.posargs, **where)


@session(python=list(OLDEST_NUMPY), default=False)
def wheels(session: nox.Session) -> None:
    """The source archive, and from it the wheel of each Python: repaired, checked, and tested where no compiler is
    found. They lie in dist/ then."""
    session.install("pip", *group("test", "wheels"))
    folder = Path(session.create_tmp())
    session.run("python", "-m", "build", f"--outdir={folder}")  # the archive, and the wheel from the archive
    (archive,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    session.run("auditwheel", "repair", "--plat=auto", f"--wheel-dir={folder / 'repaired'}", str(wheel))
    (wheel,) = (folder / "repaired").glob("*.whl")
    if "-abi3-" in wheel.name:
        session.run("abi3audit", "--strict", str(wheel))
    session.run("twine", "check", "--strict", str(archive), str(wheel))
    session.run("check-wheel-contents", str(wheel))
    session.install("--force-reinstall", "--no-deps", str(wheel))
    where = no_compiler(session)
    pytest(session, "metadata", "tests/builds/test_wheel.py", **where)
    # The demo's libraries are not installed.
    demo = [f"--ignore=tests/test_{name}.py" for name in ("benchmarks", "cli", "demo")]
    pytest(session, "wheel", *SIDE_BY_SIDE, *without(FRAMEWORKS), *demo, *session.posargs, **where)
    dist = Path("dist")
    dist.mkdir(exist_ok=True)
    for file in (archive, wheel):
        shutil.copy(file, dist)


@session(default=False)
def builds(session: nox.Session) -> None:
    """What a build refuses. What it makes is tested by ``wheels`` and ``pure``."""
    session.install("pip", "build", *group("test", "instructions"), *PYPROJECT["build-system"]["requires"])
    install(session)
    pytest(session, "builds", "tests/builds/test_compiler.py", *session.posargs, CMAKE_GENERATOR="Ninja")


def of_version(session: nox.Session, framework: str, version: str) -> None:
    """The face's tests beside that version, in the place of the one of the dependency group."""
    beside = [wanted for wanted in group("test", framework) if not wanted.startswith(f"{framework}==")]
    install(session, f"{framework}=={version}", *beside)
    own = sorted(map(str, Path("tests/faces").glob(f"test_{framework}*")))
    pytest(session, "tests", *SIDE_BY_SIDE, *own, *session.posargs)


@session(default=False)
@nox.parametrize("version", ["2.10.0", "2.11.0", "2.12.1", "2.14.1", "2.15.0"])
def torches(session: nox.Session, version: str) -> None:
    """The face of torch beside other versions of torch than the one of the torch session. Each takes 4 GB while it is
    tested, since it brings its CUDA libraries."""
    of_version(session, "torch", version)


@session(python="3.12", default=False)  # which newer versions of JAX want
@nox.parametrize("version", ["0.10.0", "0.11.2", "0.12.0.1"])
def jaxes(session: nox.Session, version: str) -> None:
    """The face of JAX beside other versions of JAX than the one of the jax session."""
    of_version(session, "jax", version)


@session(default=False)
def xla(session: nox.Session) -> None:
    """How many instructions XLA makes of JAX's face for an H100, which need not be there. It takes 3 GB."""
    (jax,) = (wanted for wanted in group("jax") if wanted.startswith("jax=="))
    install(session, jax.replace("jax==", "jax[cuda12]=="))
    session.install("--no-deps", *(wanted for wanted in group("triton") if wanted.startswith("triton")))
    session.run("python", "-m", "benchmarks.instructions.xla", env={"PYTHONPATH": None})


@session(default=False)
def lint(session: nox.Session) -> None:
    """ruff, as linter and as formatter; and who imports whom."""
    session.install(*group("lint"))
    session.run("lint-imports", env={"PYTHONPATH": "src"})
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@session(default=False)
def types(session: nox.Session) -> None:
    """mypy, strict."""
    beside_each_other = [f for f in FRAMEWORKS if f != "mindspore"]  # it wants an older NumPy, and has no types
    libraries = {*PYPROJECT["project"]["dependencies"], *extra("demo"), *extra("cli")}
    session.install(*group("types", *beside_each_other), *sorted(libraries))
    session.run("mypy")


@session(default=False)
def docs(session: nox.Session) -> None:
    """The documentation, into site/. A broken link or reference is an error."""
    session.install(*group("docs"))
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@session(default=False)
def pages(session: nox.Session) -> None:
    """Every page in a headless browser, wide and narrow: nothing is cut or covered. chromium has to be installed."""
    session.install(*group("pages"))
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})
    pytest(session, "pages", "--noconftest", "tests/site/test_layout.py", *session.posargs)


@session(default=False)
def instructions(session: nox.Session) -> None:
    """Instructions per element of the AVX2 kernel, which must not rise; valgrind has to be installed."""
    session.install(*group("instructions"))
    found = session.run(
        "python", "-m", "benchmarks.instructions", env={"CMAKE_GENERATOR": "Ninja"}, silent=True, success_codes=[0, 3]
    )
    session.log(f"\n{found}")
    for line in str(found).splitlines():
        if line.startswith("not checked"):
            session.skip(line)


def is_long(session: nox.Session) -> bool:
    """Whether ``long`` follows --: many more calls, which write the figures of docs/trust.md anew."""
    if session.posargs not in ([], ["long"]):
        session.error(f"expected nothing or long after --, got {session.posargs}")
    return bool(session.posargs)


@session(default=False)
def fuzz(session: nox.Session) -> None:
    """Calls that nobody has thought of, for the NumPy face, torch, Paddle, JAX and the native module."""
    counts = {"numpy": (6000, 500_000), "torch": (400, 256_000), "paddle": (400, 190_000), "jax": (50, 10_000)}
    install(session, *group("test", *(name for name in counts if name != "numpy")))
    long = is_long(session)
    for face, (few, many) in counts.items():
        recorded = ["--record"] if long else []
        # A short run is the same each time. docs/trust.md says which faults are open, that a longer one finds.
        seed, count = ("--seed=3", many) if long else ("--seed=1" if face == "numpy" else "--seed=2", few)
        session.run("python", "-m", "tests.fuzz", face, seed, f"--count={count}", *recorded, env={"PYTHONPATH": None})
    many_calls = ["--count=2000000", "--record"] if long else ["--count=20000"]
    session.run("python", "-m", "tests.fuzz.door", *many_calls, env={"PYTHONPATH": None})


@session(default=False)
def sanitize(session: nox.Session) -> None:
    """The native code under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer; with ``-- long`` under
    libFuzzer too, for which clang has to be installed."""
    install(session, *group("test", "instructions"))  # the counts are recorded beside the wheel's version
    arguments = ["--count=400"]
    if is_long(session):
        arguments = ["address", "thread", "libfuzzer", "--count=20000", "--seconds=1800", "--long", "--record"]
    session.run("python", "-m", "tests.fuzz.sanitize", *arguments)


@session(default=False)
def leaks(session: nox.Session) -> None:
    """Memory over many small calls: that of the NumPy face; with ``-- long`` over a million calls of each face."""
    long = is_long(session)
    faces = [face for face in FRAMEWORKS if face != "mindspore"] if long else []  # it wants an older NumPy
    install(session, *group("test", *faces))
    chosen = [] if long else ["-k", "numpy"]
    steps = {"BINXENT_LEAK_STEPS": "1000000"} if long else {}
    pytest(session, "leaks", "tests/conformance/test_leaks.py", *chosen, **steps)


@session(default=False)
def mutants(session: nox.Session) -> None:
    """A hundred changes of Python modules, each in one place: what their own tests do not notice is printed. What
    follows -- goes to ``python -m tests.mutants``."""
    install(session, *group("test", "frames", "mutants"), *extra("cli"), *extra("demo"))
    session.run("python", "-m", "tests.mutants", *session.posargs, env={"PYTHONPATH": None})


@session(default=False)
def bench(session: nox.Session) -> None:
    """Speed, memory and accuracy beside every framework: the figures, tables and charts, anew. What follows -- goes to
    ``python -m benchmarks``, and then accuracy is left out."""
    # MindSpore needs an older NumPy, so an environment of its own.
    install(session, *group("bench", *(f for f in FRAMEWORKS if f != "mindspore")))
    elsewhere = []
    if "mindspore" in FRAMEWORKS:
        python = Path(session.create_tmp()) / "mindspore" / "bin" / "python"
        session.run("python", "-m", "venv", python.parent.parent)
        wheel = str(built[session.python])
        session.run(python, "-m", "pip", "install", "--quiet", wheel, *group("test", "mindspore"), external=True)
        session.run(python, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", wheel, external=True)
        elsewhere = ["--python", f"mindspore={python.absolute()}"]
    session.run("python", "-m", "benchmarks", *elsewhere, *session.posargs, env={"PYTHONPATH": None})
    if not session.posargs:
        session.run("python", "-m", "benchmarks.accuracy", *elsewhere, env={"PYTHONPATH": None})


@nox.session(default=False, venv_backend="none")
def total(session: nox.Session) -> None:
    """How many tests have passed, failed and been skipped in the sessions that were run."""
    counts = [count(report) for report in (session.cache_dir / "reports").glob("*.xml")]
    print(", ".join(f"{sum(c[result] for c in counts)} {result}" for result in ("passed", "failed", "skipped")))
