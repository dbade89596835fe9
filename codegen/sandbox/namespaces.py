"""A root of its own for a zygote: user, process, network, IPC, host-name and mount namespaces, entered once.

The new root is read-only and holds the standard library, the shared libraries that it needs and
four devices. There is no `/proc`, `/tmp`, `/etc` and `/home`, and no installed package, so neither
a data set nor anybody's file can be read. One small tmpfs, `SCRATCH`, can be written to; it is
replaced whenever a sample has touched it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from quadriga.codegen.sandbox import system

NOBODY = 65534
PYTHON = "/python/lib"
WRITABLE = "/box"  # the parent carries Landlock's rule, for a mount has another inode each time
SCRATCH = "/box/scratch"
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
PACKAGES = ("site-packages", "dist-packages")
MOUNT_POINTS = ("/mnt", "/media", "/srv", "/opt", "/home", "/run", "/var/tmp", "/tmp")
ALL = (
    system.CLONE_NEWUSER
    | system.CLONE_NEWPID
    | system.CLONE_NEWNET
    | system.CLONE_NEWIPC
    | system.CLONE_NEWUTS
    | system.CLONE_NEWNS
)


class Library(NamedTuple):
    """Where Python's standard library is.

    Attributes:
        folder: what is to be seen inside: the standard library itself, or the folder above it where
            shared libraries lie beside it.
        target: its place inside.
        standard: the standard library.
        extensions: its extension modules; inside `standard`, or not.
        shared: folders of shared libraries.
    """

    folder: str
    target: str
    standard: str
    extensions: str
    shared: tuple[str, ...]


def library() -> Library:
    """This interpreter's."""
    standard = os.path.dirname(os.path.abspath(os.__file__))
    extensions = next(
        (path for path in sys.path if path.endswith("lib-dynload")), os.path.join(standard, "lib-dynload")
    )
    above = os.path.dirname(standard)
    with open("/proc/self/maps") as maps:
        loaded = {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if ".so" in line}
    folders = {os.path.dirname(path) for path in loaded if path.startswith("/")}
    shared = sorted(path for path in folders if path != extensions and not path.startswith(standard + "/"))
    beside = above in shared and not above.startswith("/usr")
    folder, target = (above, PYTHON) if beside else (standard, f"{PYTHON}/{os.path.basename(standard)}")
    return Library(folder, target, standard, extensions, tuple(path for path in shared if path != above or not beside))


def readable_by(paths: Iterable[str], uid: int) -> bool:
    """Whether a user without any group could read the folders `paths`; asked by being that user in a child."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os._exit(0 if all(os.access(path, os.R_OK | os.X_OK) for path in paths) else 1)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def become(uid: int) -> None:
    """Gives up root for the user `uid`, who has no group but their own."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    system.prctl(system.PR_SET_DUMPABLE, 1)  # or /proc/self, and with it the user map, would stay root's


def stage(source: str) -> str:
    """As root, shows the folder `source` at a place that every user can reach; returns that place."""
    system.unshare(system.CLONE_NEWNS)
    system.mount("none", "/", flags=system.MS_REC | system.MS_PRIVATE)
    place = _mount_point([source])
    system.mount("tmpfs", place, "tmpfs", system.MS_NOSUID | system.MS_NODEV, "mode=755,size=64k")
    target = f"{place}/python"
    os.mkdir(target)
    system.mount(source, target, flags=system.MS_BIND)
    return target


def enter(found: Library, source: str, scratch: str) -> None:
    """Enters the namespaces and changes to the new root; the next child is the first process inside.

    Args:
        found: the standard library.
        source: where its folder can be reached; another place than `found.folder` if it was staged.
        scratch: options of the tmpfs for samples.

    Raises:
        OSError: something of it is forbidden here; the process is then of no more use.
    """
    uid, gid = os.geteuid(), os.getegid()
    system.unshare(ALL)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    system.mount("none", "/", flags=system.MS_REC | system.MS_PRIVATE)
    shown = [path for path in (*found.shared, "/usr/share/zoneinfo") if os.access(path, os.R_OK | os.X_OK)]
    extensions = [] if found.extensions.startswith(found.folder + "/") else [found.extensions]
    root = _mount_point([source, found.folder, *shown, *extensions, "/dev"])
    system.mount("tmpfs", root, "tmpfs", system.MS_NOSUID | system.MS_NODEV, "mode=755,size=256k")
    _show(source, root + found.target)
    _hide_packages(root + found.target)
    for path in shown:
        _show(path, root + path)
    for path in extensions:
        _show(path, f"{root}/python/extensions")
    for link in ("/lib", "/lib64"):
        if os.path.islink(link) and not os.path.lexists(root + link):
            os.symlink(os.readlink(link), root + link)
    os.mkdir(f"{root}/dev")
    for device in DEVICES:
        os.close(os.open(root + device, os.O_CREAT | os.O_WRONLY, 0o644))
        system.mount(device, root + device, flags=system.MS_BIND)
        # Read-only: they can be written to, but not have their modes or times changed by an owner.
        flags = system.MS_REMOUNT | system.MS_BIND | system.MS_RDONLY | system.MS_NOSUID | system.MS_NOEXEC
        system.mount("none", root + device, flags=flags | system.kept_flags(device))
    os.makedirs(root + SCRATCH)
    mount_scratch(scratch, root)
    os.mkdir(f"{root}/old")
    os.chdir(root)
    system.pivot_root(".", "old")
    os.chdir("/")
    system.unmount("/old")
    os.rmdir("/old")
    flags = system.MS_REMOUNT | system.MS_BIND | system.MS_RDONLY | system.MS_NOSUID | system.MS_NODEV
    system.mount("none", "/", flags=flags)


def mount_scratch(options: str, root: str = "") -> None:
    """An empty tmpfs at `SCRATCH`."""
    flags = system.MS_NOSUID | system.MS_NODEV | system.MS_NOEXEC
    system.mount("tmpfs", root + SCRATCH, "tmpfs", flags, options)


def renew_scratch(options: str) -> None:
    """Puts an empty tmpfs in the place of the old one, which vanishes with all that is in it."""
    system.unmount(SCRATCH)
    mount_scratch(options)


def relocate(found: Library) -> None:
    """Tells the import system that the library has moved to its place inside."""
    moved = found.target + found.standard.removeprefix(found.folder)
    extensions = f"{moved}/lib-dynload" if found.extensions.startswith(found.folder + "/") else "/python/extensions"
    sys.path[:] = [moved, extensions]
    sys.path_importer_cache.clear()
    sys.prefix = sys.base_prefix = sys.exec_prefix = sys.base_exec_prefix = "/python"
    sys.executable = sys._base_executable = ""  # type: ignore[attr-defined]
    for module in list(sys.modules.values()):
        for name in ("__file__", "__cached__"):
            value = getattr(module, name, None)
            if isinstance(value, str):
                setattr(module, name, value.replace(found.standard, moved, 1))
        paths = getattr(module, "__path__", None)
        if isinstance(paths, list):
            paths[:] = [path.replace(found.standard, moved, 1) for path in paths]


def _show(source: str, target: str) -> None:
    os.makedirs(target, exist_ok=True)
    system.mount(source, target, flags=system.MS_BIND | system.MS_REC)
    system.make_read_only(target)


def _hide_packages(folder: str) -> None:
    places = [folder, *(f"{folder}/{name}" for name in os.listdir(folder) if name.startswith("python3"))]
    for place in places:
        for name in PACKAGES:
            if os.path.isdir(f"{place}/{name}"):
                flags = system.MS_RDONLY | system.MS_NOSUID | system.MS_NODEV
                system.mount("tmpfs", f"{place}/{name}", "tmpfs", flags, "mode=755,size=4k")


def _mount_point(sources: Sequence[str]) -> str:
    """A folder that can be covered without covering any of `sources`."""
    for place in MOUNT_POINTS:
        if os.path.isdir(place) and not any(f"{path}/".startswith(f"{place}/") for path in sources):
            return place
    raise OSError("no folder to mount the sandbox's root on")
