"""The way into the sandbox: from a fresh interpreter to a zygote without rights.

Puts `namespaces.py`, `landlock.py` and the limits together, in the order in which the kernel
allows them. What the zygote then does is in `zygote.py`, and what each sample loses besides there
too.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Mapping
from typing import Any

from quadriga.codegen.sandbox import landlock, namespaces, system

DESCRIPTORS = 128


def enter_namespaces(control: socket.socket, found: namespaces.Library, settings: dict[str, Any]) -> tuple[int, int]:
    """Returns in the zygote, two processes further down, with its pipes to the ruler."""
    source = found.folder
    scratch = f"size={settings['scratch_bytes']},nr_inodes={settings['scratch_files']},mode=700"
    user = settings["user"]
    if user is not None and os.geteuid() == 0:
        if not namespaces.readable_by([found.folder, found.standard], user):
            source = namespaces.stage(found.folder)
        namespaces.become(user)
    settings["outer_user"] = os.geteuid()
    namespaces.enter(found, source, scratch)
    first = os.fork()
    if first:
        control.close()
        os.waitpid(first, 0)
        os._exit(0)
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
    namespaces.relocate(found)
    orders, answers = os.pipe(), os.pipe()
    zygote = os.fork()
    if zygote:
        control.close()
        os.close(orders[1])
        os.close(answers[0])
        _rule(zygote, orders[0], answers[1], scratch)
    os.close(orders[0])
    os.close(answers[1])
    return answers[0], orders[1]


def _rule(zygote: int, orders: int, answers: int, scratch: str) -> None:
    """The first process inside: replaces the scratch on demand and ends, with all inside, when the zygote does."""
    try:
        while os.read(orders, 1):
            namespaces.renew_scratch(scratch)
            os.write(answers, b"k")
        os.waitpid(zygote, 0)
    finally:
        os._exit(0)


def give_up_rights(found: namespaces.Library, settings: Mapping[str, Any]) -> int:
    """Limits and rights that every sample inherits; returns the version of Landlock in force."""
    inside = settings["tier"] == "namespaces"
    limits = {
        resource.RLIMIT_AS: settings["memory_bytes"],
        resource.RLIMIT_FSIZE: settings["scratch_bytes"],
        resource.RLIMIT_NOFILE: DESCRIPTORS,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        # Counted over all processes of the user where there is no user namespace.
        resource.RLIMIT_NPROC: 256 if inside else 8192,
    }
    for which, value in limits.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    if settings["tier"] == "none":
        return 0
    system.drop_capabilities()
    system.prctl(system.PR_SET_DUMPABLE, 0)
    system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
    if inside:
        if landlock.version() == 0:
            return 0
        return landlock.restrict(["/"], [], namespaces.DEVICES, [namespaces.WRITABLE])
    entries = [entry.path for entry in os.scandir(found.standard) if entry.name not in namespaces.PACKAGES]
    readable = [
        *entries,
        found.extensions,
        *found.shared,
        "/usr/share/zoneinfo",
        "/etc/ld.so.cache",
        *namespaces.DEVICES,
    ]
    version = landlock.restrict(readable, [found.standard], ["/dev/null"], [])
    os.chdir("/")
    return version
