"""Run one program under limits; started by ``run_code`` as ``python -I -S -B run_code_child.py PROGRAM SECONDS``.

Before the program starts the process gives up, for good, everything but computing and reading: network, further
processes, signals, and every call that creates, changes or removes a file (a seccomp filter; Linux alone has it). Time
and memory have limits. Only the standard library is imported, since little else can be in an isolated process.
"""

import ctypes
import os
import platform
import resource
import runpy
import struct
import sys

BYTES = 1 << 30  # of memory
NO_LIMITS = 97  # the exit code of a process that could not limit itself
# Calls that are refused, by their numbers on x86_64 and aarch64 (None: not there).
REFUSED = {
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "sendto": (44, 206), "sendmsg": (46, 211),
    "bind": (49, 200), "listen": (50, 201), "socketpair": (53, 199), "accept4": (288, 242), "sendmmsg": (307, 269),
    "io_uring_setup": (425, 425), "bpf": (321, 280),
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "clone3": (435, 435),
    "execve": (59, 221), "execveat": (322, 281), "unshare": (272, 97), "setns": (308, 268),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138), "ptrace": (101, 117), "process_vm_writev": (311, 271), "prlimit64": (302, 261),
    "setrlimit": (160, 164),
    "creat": (85, None), "openat2": (437, 437), "truncate": (76, 45), "ftruncate": (77, 46),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "mount": (165, 40), "umount2": (166, 39), "chroot": (161, 51), "pivot_root": (155, 41),
}  # fmt: skip
OPEN = {"open": (2, None, 1), "openat": (257, 56, 2)}  # numbers, and which argument holds the flags
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
LOAD, JUMP_EQUAL, JUMP_FROM, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of the filter's machine
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # refused calls fail with "not permitted"


def instructions() -> bytes:
    """The filter for this machine's processor: one instruction after another, each 8 bytes."""
    column, architecture = ARCHITECTURES[platform.machine()]
    program = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    program += [(JUMP_FROM, 0, 1, 0x40000000), (RETURN, 0, 0, REFUSE)]  # the numbers of another calling convention
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            program += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    for entry in OPEN.values():
        if (number := entry[column]) is not None:
            program += [(JUMP_EQUAL, 0, 4, number), (LOAD, 0, 0, 16 + 8 * entry[2]), (JUMP_ANY_BIT, 0, 1, WRITING)]
            program += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    program.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def install(filter_bytes: bytes) -> None:
    """Make the kernel apply the filter to this process from now on; OSError where it will not."""
    code = ctypes.create_string_buffer(filter_bytes, len(filter_bytes))
    described = struct.pack("HxxxxxxP", len(filter_bytes) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.create_string_buffer(described, len(described)), 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp filter")


def main() -> None:
    program, seconds = sys.argv[1], int(sys.argv[2])
    word = sys.stdin.readline().strip()  # said at the end, so that leaving early is not taken for passing
    said = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    try:
        for limit, most in (
            (resource.RLIMIT_CPU, seconds),
            (resource.RLIMIT_AS, BYTES),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, 32),
        ):
            resource.setrlimit(limit, (most, most))
        install(instructions())
    except (OSError, ValueError, KeyError, AttributeError):
        os._exit(NO_LIMITS)
    del sys.argv[1:]
    runpy.run_path(program, run_name="program")
    said.write(word)
    said.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
