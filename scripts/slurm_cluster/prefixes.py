"""Other versions of Slurm than the distribution's, each in a directory of its own.

The packages come from a later suite of the Debian mirror that this machine uses, and none of them is installed. Slurm's
programs get the loader and the libraries of that suite written into them: LD_LIBRARY_PATH would reach the jobs, too.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import CannotInstall, WrongUse, say
from .processes import CLIENTS, DAEMONS

__all__ = ["SUITES", "cache_directory", "ensure_prefix"]

# The suites of Debian that have a version.
SUITES = {"24.11": "trixie", "26.05": "sid"}

PACKAGES = [
    "patchelf",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "slurm-wlm-mysql-plugin",
    "slurmctld",
    "slurmd",
    "slurmdbd",
]

TEMPORARY = ".new-"

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def cache_directory(given: str | None) -> Path:
    """Return where the versions are kept. Root's own cache cannot be entered by the users whose jobs it runs.

    Raises:
        WrongUse: Slurm cannot be kept there.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    default = "/var/cache" if os.geteuid() == 0 else home
    directory = Path(given or f"{default}/asyncflow-slurm").resolve()
    if not re.fullmatch(r"[\w/.+-]+", str(directory), re.ASCII):
        raise WrongUse(f"{directory} has characters that slurm.conf cannot hold: choose another --cache")
    return directory


def ensure_prefix(version: str, cache: Path) -> Path:
    """Return the directory of a version of Slurm: bin, lib and lib/slurm-wlm. Make it first if it is not there.

    Args:
        version: one of SUITES.
        cache: holds the directories of all versions.

    Raises:
        CannotInstall: this machine cannot get it.
    """
    prefix = cache / version
    if prefix.is_dir():
        return prefix
    for name in ("apt-get", "dpkg"):
        if shutil.which(name) is None:
            raise CannotInstall(f"Slurm {version} comes from packages of Debian, and there is no {name} here")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with only_one_at_a_time(cache):
            if not prefix.is_dir():
                # A run that was killed leaves these behind.
                for left in cache.glob(f"{TEMPORARY}*"):
                    shutil.rmtree(left)
                say(f"making {prefix} from Debian's packages: some 30 MB to download")
                with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=cache) as temporary:
                    make(version, Path(temporary), prefix)
    except OSError as error:
        raise CannotInstall(f"Slurm {version} cannot be made in {cache}: {error}. Choose another --cache") from error
    return prefix


@contextmanager
def only_one_at_a_time(cache: Path) -> Iterator[None]:
    descriptor = os.open(cache, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make(version: str, temporary: Path, prefix: Path) -> None:
    """Put a prefix together elsewhere, and give it its name when it is complete."""
    root, new = temporary / "root", temporary / "prefix"
    for archive in download(SUITES[version], temporary / "apt"):
        run(["dpkg", "-x", str(archive), str(root)])
    loader = only(root.glob("usr/lib/*/ld-linux*.so.*"), "dynamic loader")
    libraries = loader.parent
    new.mkdir()
    (new / "bin").mkdir()
    shutil.copytree(libraries, new / "lib", symlinks=True, ignore=all_but_libraries(libraries))
    patchelf = [str(loader), "--library-path", str(libraries), str(root / "usr/bin/patchelf")]
    patchelf += ["--set-interpreter", str(prefix / "lib" / loader.name)]
    patchelf += ["--force-rpath", "--set-rpath", f"{prefix}/lib:{prefix}/lib/slurm-wlm"]
    for name in (*CLIENTS, *DAEMONS):
        # An alternative of Debian's has a suffix.
        source = only((p for p in root.glob(f"usr/*bin/{name}*") if p.name in (name, f"{name}-wlm")), name)
        shutil.copy(source, new / "bin" / name)
        run([*patchelf, str(new / "bin" / name)])
    path = f"{libraries}:{libraries}/slurm-wlm"
    found = run([str(loader), "--library-path", path, str(new / "bin" / "slurmctld"), "-V"]).split()[-1]
    if not f"{found}.".startswith(f"{version}."):
        raise CannotInstall(f"Debian's suite {SUITES[version]} has Slurm {found} now, and no longer {version}")
    new.chmod(0o755)
    new.rename(prefix)


def all_but_libraries(libraries: Path) -> Callable[[str, list[str]], list[str]]:
    def ignored(place: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(place) == libraries and ".so" not in name and name != "slurm-wlm"]

    return ignored


def only(found: Iterable[Path], what: str) -> Path:
    for path in found:
        return path
    raise CannotInstall(f"Debian's packages of Slurm hold no {what}: their layout has changed")


def download(suite: str, place: Path) -> list[Path]:
    """Return the archives of the packages and of all that they need, downloaded by an apt that knows of no other."""
    for name in ("lists/partial", "cache/archives/partial"):
        (place / name).mkdir(parents=True)
    (place / "status").touch()
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    (place / "sources.list").write_text(f"deb {signed}{mirror()} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": place / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": place / "lists",
        "Dir::State::status": place / "status",
        "Dir::Cache": place / "cache",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        # Its own user could not write to the private directory, and nobody else uses that.
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "1",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    run([*apt, "update"])
    run([*apt, "install", "-y", "--no-install-recommends", "--download-only", *PACKAGES])
    return sorted((place / "cache/archives").glob("*.deb"))


def mirror() -> str:
    """Return the address of the Debian mirror among this machine's sources of packages."""
    listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    for address in listed.splitlines():
        if address.rstrip("/").endswith("/debian"):
            return address
    raise CannotInstall("other versions of Slurm come from a mirror of Debian, and apt's sources here name none")


def run(argv: list[str]) -> str:
    environment = os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        raise CannotInstall(f"{' '.join(argv[:2])} ... failed: {(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout
