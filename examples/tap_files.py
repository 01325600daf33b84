#!/usr/bin/env python3
"""tap_files.py IMAGE.tap DIRECTORY: takes the tar archives out of a cartridge's image.
Strips the record framing of the SIMH .tap container (docs/format.md, "The cartridge") and writes each
complete aggregate (proven by a UTL1, its own or a later one) as DIRECTORY/e<epoch>-<sequence>[-<part>].tar. Stops where it is torn."""
import os, struct, sys
image, into, marks, held = open(sys.argv[1], "rb"), sys.argv[2], 0, []
file = open(os.path.join(into, ".part0"), "wb")  # opening labels * data * closing labels * and again
while len(word := image.read(4)) == 4:
    length = struct.unpack("<I", word)[0]
    marks += length == 0
    if length in (0, 0xFFFFFFFE):  # a tape mark, or a gap
        continue
    bad, length = length >> 31, length & 0x7FFFFFFF
    if length >= 1 << 24:
        break
    block = image.read(length + length % 2)[:length]
    if image.read(4) != word:
        break
    if bad:
        print("bad block before offset", image.tell(), file=sys.stderr)
    if marks % 3 == 1:
        file.write(block)
    elif block[:4] in (b"UTL1", b"UTLP"):  # the file before it is complete, or will be with the next UTL1
        part = f"-{n:04d}" if (n := int(block[12:16], 16)) else ""
        held.append((file.name, f"e{int(block[4:12], 16):08x}-{int(block[16:28], 16):012x}{part}.tar"))
        while block[:4] == b"UTL1" and held:
            os.rename(held[0][0], os.path.join(into, held.pop(0)[1]))
        file.close()
        file = open(os.path.join(into, f".part{marks}"), "wb")
[os.remove(part) for part in [file.name] + [part for part, _ in held]]
