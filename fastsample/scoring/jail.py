"""Walls around a process, from what Linux has and the standard library: namespaces, limits, no privileges.

Inside there is no network, no process but its own, no environment, and of the files only Python's and the system's
libraries, read-only, and an empty /tmp in memory. Everything inside ends with the one who asked for it.

    caller ── warden ── init ── inmate      warden: keeps watch from outside; init: process 1 of the new namespace,
                                            whose end is the end of all inside; inmate: runs what is not trusted
"""

from __future__ import annotations

import ctypes
import os
import platform
import select
import signal
import socket
import sys
from contextlib import suppress

NOBODY = 65534
PROCESSES = 32  # threads count too
TMP_MEGABYTES = 16
LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/share/zoneinfo")

# Of the kernel's headers.
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 1 << 12, 1 << 14, 1 << 18
_NEW = {"mount": 1 << 17, "cgroup": 1 << 25, "uts": 1 << 26, "ipc": 1 << 27, "user": 1 << 28, "pid": 1 << 29}
_NEW_NETWORK = 1 << 30
_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVILEGES = 1, 4, 38
_MOUNT_SETATTR, _KEYCTL = 442, {"x86_64": 250, "aarch64": 219}


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; `parent` is that thread's process.

    Linux alone can; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        _libc().prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)


def limit(seconds: float, megabytes: int, processes: int | None = None) -> None:
    """Processor time, memory, size of a file, open files; what the system does not know is left out."""
    import resource

    values = {"CPU": int(seconds) + 1, "AS": megabytes << 20, "FSIZE": 1 << 20, "CORE": 0, "NOFILE": 64}
    if processes is not None:
        values["NPROC"] = processes
    for name, value in values.items():
        with suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))


def enter(folder: str, keep: int) -> None:
    """Build the walls; returns in the inmate alone. The calling process becomes the warden and ends with the inmate.

    folder: an empty one, where the new root is made; keep: the one descriptor that the inmate keeps
    raises: OSError where the system allows no such walls

    SIGTERM to the warden ends all inside, and then the warden.
    """
    is_root = os.geteuid() == 0
    null = os.open(os.devnull, os.O_RDWR)
    _new_namespaces(is_root)
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")  # of this namespace: no other inside it, where the inmate would have all privileges again
    _new_root(folder)
    socket.sethostname("jail")
    lives, life = os.pipe()
    if init := os.fork():
        os.dup2(null, keep)  # or the other end would not see the inmate's end
        signal.signal(signal.SIGTERM, lambda *_: _kill(init))
        os.waitpid(init, 0)  # returns when all inside have ended
        os._exit(0)
    os.close(life)
    end_with_parent(0)  # from inside, a parent outside is process 0
    if select.select([lives], [], [], 0)[0]:  # the warden ended before the line above
        os._exit(1)
    _libc().prctl(
        _DUMPABLE, 0, 0, 0, 0
    )  # the inmate cannot look into its init, and the kernel keeps it from killing it
    if inmate := os.fork():
        os.dup2(null, keep)
        while os.wait()[0] != inmate:
            pass
        os._exit(0)
    os.setsid()
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.closerange(3, keep)
    os.closerange(keep + 1, 1 << 16)
    _give_up_privileges(is_root)


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):  # it may be ending by itself
        os.kill(process, signal.SIGKILL)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc(), name)(*arguments) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def _new_namespaces(is_root: bool) -> None:
    """Enter new ones; another process, which stays outside, says which users there are inside."""
    ready, go = os.pipe()
    outside = os.fork()
    if not outside:
        try:
            os.read(ready, 1)
            proc, me = f"/proc/{os.getppid()}/", (os.geteuid(), os.getegid())
            # Root becomes nobody inside, for whom the limit of processes holds; others stay who they are.
            maps = ["0 0 1\n65534 65534 1"] * 2 if is_root else [f"{number} {number} 1" for number in me]
            lines = [("uid_map", maps[0]), ("gid_map", maps[1])]
            for name, text in lines if is_root else [("setgroups", "deny"), *lines]:
                with open(proc + name, "w") as file:
                    file.write(text)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
    try:
        _call("unshare", sum(_NEW.values()) | _NEW_NETWORK)
    finally:
        os.write(go, b".")
        status = os.waitstatus_to_exitcode(os.waitpid(outside, 0)[1])
    os.close(ready)
    os.close(go)
    if status:
        raise OSError(status, f"uid_map: {os.strerror(status)}")


def _new_root(folder: str) -> None:
    """A root that holds libraries, /dev/null and /tmp; the old one is let go of."""

    def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
        _call("mount", os.fsencode(source), os.fsencode(target), kind.encode(), flags, options.encode())

    mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    bound: list[str] = []
    for path in sorted({*LIBRARIES, os.path.join(sys.base_prefix, "lib"), *sys.path}):
        is_inside = any(path == b or path.startswith(b + "/") for b in bound)
        if os.path.isabs(path) and path != "/" and os.path.isdir(path) and not is_inside:
            os.makedirs(folder + path)
            mount(path, folder + path, "", _MS_BIND | _MS_REC)
            bound.append(path)
    os.mkdir(folder + "/tmp")
    os.mkdir(folder + "/dev")
    os.close(os.open(folder + "/dev/null", os.O_CREAT | os.O_WRONLY))
    read_only = (ctypes.c_uint64 * 4)(1 | _MS_NOSUID | _MS_NODEV, 0, 0, 0)
    at_fdcwd, recursive = -100, 0x8000
    _call("syscall", _MOUNT_SETATTR, at_fdcwd, os.fsencode(folder), recursive, read_only, ctypes.c_size_t(32))
    mount("/dev/null", folder + "/dev/null", "", _MS_BIND)
    options = f"size={TMP_MEGABYTES}m,nr_inodes=1000,mode=1777"
    mount("tmpfs", folder + "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)
    os.chdir(folder)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", 2)  # MNT_DETACH
    os.chdir("/tmp")


def _give_up_privileges(is_root: bool) -> None:
    if is_root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _call("capset", header, nothing)
    _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if platform.machine() in _KEYCTL:
        _libc().syscall(_KEYCTL[platform.machine()], 1, None)  # a session keyring of its own, empty
