#!/usr/bin/env python3
"""tap_files.py IMAGE.tap DIRECTORY: takes the tar archives out of a cartridge's image.
Strips the record framing of the SIMH .tap container (docs/format.md, "The cartridge") and writes each
complete aggregate as DIRECTORY/e<epoch>-<sequence>.tar. Stops where the tape is torn."""
import os, struct, sys
image, part = open(sys.argv[1], "rb"), os.path.join(sys.argv[2], ".part")
file, marks = open(part, "wb"), 0  # opening labels * data * closing labels * and again
while len(word := image.read(4)) == 4:
    length = struct.unpack("<I", word)[0]
    if length == 0xFFFFFFFE:  # a gap
        continue
    if length == 0:
        marks += 1
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
    elif block[:4] == b"UTL1":  # the file before it is complete
        file.close()
        name = f"e{int(block[4:12], 16):08x}-{int(block[12:28], 16):012x}.tar"
        os.rename(part, os.path.join(sys.argv[2], name))
        file = open(part, "wb")
os.remove(part)
