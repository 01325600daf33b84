#!/usr/bin/env python3
"""Work on a mount whose server is killed again and again: five kinds of it at once.

usage: take_over.py SOURCE.tar DIRECTORY SECONDS-FILE

Runs until SECONDS-FILE exists, finishing what it had begun. Prints, for each kind, how many rounds
it did and its longest single wait, and every error; exits 1 if there was any.
"""
import filecmp
import mmap
import os
import subprocess
import sys
import tarfile
import threading
import time

source, place, stop = sys.argv[1:4]
errors, rounds, longest = [], {}, {}
lock = threading.Lock()


def stopping():
    return os.path.exists(stop)


def failed(kind, what):
    with lock:
        errors.append(f"{kind}: {what}")


def timed(kind, work):
    begun = time.monotonic()
    result = work()
    took = time.monotonic() - begun
    with lock:
        longest[kind] = max(longest.get(kind, 0), took)
    return result


def run(kind, *command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode or done.stderr:
        failed(kind, f"{command[0]} ended with {done.returncode}: {done.stderr[:2000]}{done.stdout[:500]}")


def again(kind, work):
    def loop():
        rounds[kind] = 0
        while not stopping() and not errors:
            try:
                work(rounds[kind])
            except Exception as error:  # noqa: BLE001: whatever a program would meet counts
                failed(kind, repr(error))
            rounds[kind] += 1

    thread = threading.Thread(target=loop, name=kind)
    thread.start()
    return thread


original = os.path.join(os.path.dirname(source), "unpacked")
os.makedirs(original, exist_ok=True)
with tarfile.open(source) as archive:
    # Older Pythons know no filters, and newer ones ask for a word.
    trusted = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
    archive.extractall(original, **trusted)
still = os.path.join(place, "still")
run("begin", "cp", "-a", original, still)


def unpack_and_remove(turn):
    tree = os.path.join(place, f"tree{turn % 2}")
    os.mkdir(tree)
    run("untar", "tar", "-xf", source, "-C", tree)
    run("untar", "diff", "-r", "--no-dereference", original, tree)
    run("untar", "rm", "-r", tree)
    if os.path.lexists(tree):
        failed("untar", "rm -r left something")


def compare(_):
    run("diff", "diff", "-r", "--no-dereference", original, still)


def build(turn):
    """What a build does: many short-lived files, appended, renamed into place, linked, stat'ed."""
    tree = os.path.join(place, "build")
    os.makedirs(tree)
    for number in range(60):
        part = os.path.join(tree, f"{number}.part")
        whole = os.path.join(tree, f"{number}.o")
        data = bytes([number]) * (number * 311)

        def one():
            fd = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            os.write(fd, data[: len(data) // 2])
            os.fsync(fd)
            os.write(fd, data[len(data) // 2 :])
            os.close(fd)
            os.rename(part, whole)
            os.link(whole, whole + ".link")

        timed("build", one)
    with open(os.path.join(tree, "all"), "ab") as out:
        for number in range(60):
            with open(os.path.join(tree, f"{number}.o"), "rb") as part:
                out.write(part.read())
    wanted = b"".join(bytes([number]) * (number * 311) for number in range(60))
    with open(os.path.join(tree, "all"), "rb") as whole:
        if whole.read() != wanted:
            failed("build", f"round {turn}: other bytes")
    names = sorted(os.listdir(tree))
    if len(names) != 121:
        failed("build", f"round {turn}: {len(names)} names instead of 121")
    for name in names:
        timed("build", lambda: os.unlink(os.path.join(tree, name)))
    timed("build", lambda: os.rmdir(tree))


mapped = os.path.join(place, "mapped")
pattern = os.urandom(1 << 20)
with open(mapped, "wb") as file:
    for _ in range(8):
        file.write(pattern)
mapped_file = open(mapped, "r+b")
mapping = mmap.mmap(mapped_file.fileno(), 8 << 20)


def read_mapping(turn):
    """Through one mapping, begun before the first death, and stores that all see."""
    at = (turn * 4096 * 37) % (7 << 20)
    if mapping[at : at + 4096] != (pattern + pattern)[at % (1 << 20) :][:4096]:
        failed("mmap", f"other bytes at {at}")
    mapping[(7 << 20) + turn % (1 << 20)] = turn % 256
    if os.pread(mapped_file.fileno(), 1, (7 << 20) + turn % (1 << 20)) != bytes([turn % 256]):
        failed("mmap", "a store is not seen")
    if turn % 97 == 0:
        with open(mapped, "rb") as other:
            timed("mmap", lambda: other.read(4096))


def unlinked(turn):
    """A file that has no name, over deaths."""
    name = os.path.join(place, "nameless")
    fd = timed("nameless", lambda: os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    timed("nameless", lambda: os.unlink(name))
    for part in range(20):
        os.pwrite(fd, bytes([part]) * 4096, part * 4096)
        time.sleep(0.02)
        if timed("nameless", lambda: os.fstat(fd)).st_nlink != 0:
            failed("nameless", "it has a name")
    for part in range(20):
        if os.pread(fd, 4096, part * 4096) != bytes([part]) * 4096:
            failed("nameless", f"round {turn}: other bytes")
    os.close(fd)


threads = [
    again("untar", unpack_and_remove),
    again("diff", compare),
    again("build", build),
    again("mmap", read_mapping),
    again("nameless", unlinked),
]
pause, begun = 0.0, time.monotonic()
while not stopping() and not errors:
    # A name that nobody has looked up: this must go to the server, so it measures the pause.
    before = time.monotonic()
    os.path.lexists(os.path.join(place, f"nobody-{before}"))
    pause = max(pause, time.monotonic() - before)
    time.sleep(0.005)
for thread in threads:
    thread.join()
for kind in rounds:
    print(f"{kind:10} {rounds[kind]:8} rounds, longest single wait {longest.get(kind, 0):6.2f} s")
print(f"{'lookups':10} longest pause {pause:.2f} s in {time.monotonic() - begun:.0f} s")
print(f"{'errors':10} {len(errors)}")
for error in errors:
    print(error)
sys.exit(1 if errors else 0)
