#!/usr/bin/env python3
"""Take half a gigabyte out of torch's libraries that a CPU engine never reads, without moving anything in memory.

1. The GPU code. `cpu_torch.py` overwrote the 321 MB section `.nv_fatbin` of libtorch_cuda.so with zeros. Zeros still cost: in
   every copy of the image, when it is unpacked, in the page cache. The loader can make them itself, for a segment whose
   size in memory exceeds its size in the file is filled up with zero pages. So the segment is split in two:

       before   |rodata|zeros zeros zeros zeros|eh_frame|        one segment, all of it in the file
       after    |rodata|            ...        |eh_frame|        two segments; the first one grows in memory only

   The second one's program header takes the place of the build id's, which nothing reads at run time.
2. The symbol tables for debuggers (`.symtab`, `.strtab`), 170 MB of C++ names. No segment holds them; the dynamic linker
   uses `.dynsym`, which stays.

Whole pages are cut, and every later file offset moves down by as many. Addresses stay.

Usage: shrink_torch.py SITE_PACKAGES   (after cpu_torch.py; running it twice is harmless)
"""

import struct
import sys
from dataclasses import dataclass, replace
from pathlib import Path

_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_PT_LOAD, _PT_NOTE, _SHT_NULL, _SHT_NOBITS = 1, 4, 0, 8
_LIBRARIES = ("libtorch_cuda.so", "libtorch_cpu.so", "libtorch_python.so")


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header of ELF-64."""

    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    file_size: int
    memory_size: int
    alignment: int


@dataclass(frozen=True, slots=True)
class Section:
    """A section header of ELF-64."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


@dataclass(frozen=True, slots=True)
class Cut:
    """The bytes of the file that go: whole pages, from `start` up to `end`."""

    start: int
    end: int

    def moved(self, offset: int) -> int:
        """Where a byte of the old file is in the new one."""
        return offset - (self.end - self.start) if offset >= self.end else offset


@dataclass(frozen=True, slots=True)
class Elf:
    """A shared library: its bytes, and its tables as records. `write` puts the tables back into the bytes."""

    data: bytes
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]

    @classmethod
    def read(cls, data: bytes) -> "Elf":
        """Parses the tables."""
        header = _FILE_HEADER.unpack_from(data)
        programs = (_PROGRAM_HEADER.unpack_from(data, header[5] + i * _PROGRAM_HEADER.size) for i in range(header[10]))
        sections = (_SECTION_HEADER.unpack_from(data, header[6] + i * _SECTION_HEADER.size) for i in range(header[12]))
        return cls(data, tuple(Segment(*fields) for fields in programs), tuple(Section(*fields) for fields in sections))

    def find(self, name: str) -> Section | None:
        """The section of this name, unless an earlier run emptied it."""
        names = self.sections[_FILE_HEADER.unpack_from(self.data)[13]].offset
        wanted = name.encode() + b"\0"
        found = next((s for s in self.sections if self.data.startswith(wanted, names + s.name)), None)
        return None if found is None or found.kind in (_SHT_NULL, _SHT_NOBITS) else found

    def pages(self, start: int, end: int) -> Cut:
        """The whole pages inside a range of the file."""
        page = max(segment.alignment for segment in self.segments if segment.kind == _PT_LOAD)
        first = -(-start // page) * page
        return Cut(first, max(first, end // page * page))

    def without(self, cut: Cut, segments: tuple[Segment, ...], emptied: dict[Section, int]) -> "Elf":
        """The library without the cut; `emptied` maps sections to what they become."""
        header = list(_FILE_HEADER.unpack_from(self.data))
        header[6] = cut.moved(header[6])
        data = bytearray(self.data[: cut.start] + self.data[cut.end :])
        _FILE_HEADER.pack_into(data, 0, *header)
        sections = tuple(
            replace(section, kind=emptied.get(section, section.kind), offset=cut.moved(section.offset))
            for section in self.sections
        )
        for i, s in enumerate(segments):
            fields = (s.kind, s.flags, s.offset, s.address, s.physical, s.file_size, s.memory_size, s.alignment)
            _PROGRAM_HEADER.pack_into(data, header[5] + i * _PROGRAM_HEADER.size, *fields)
        for i, t in enumerate(sections):
            place = (t.name, t.kind, t.flags, t.address, t.offset, t.size)
            _SECTION_HEADER.pack_into(
                data, header[6] + i * _SECTION_HEADER.size, *place, t.link, t.info, t.alignment, t.entry_size
            )
        return Elf(bytes(data), segments, sections)


def without_gpu_code(elf: Elf) -> Elf:
    """Splits the segment around the zeroed GPU code.

    Raises:
        ValueError: the code is still there, no segment holds it, or there is no program header to spare.
    """
    code = elf.find(".nv_fatbin")
    if code is None:
        return elf
    cut = elf.pages(code.offset, code.offset + code.size)
    if cut.start == cut.end:
        return elf
    if any(elf.data[cut.start : cut.end]):
        raise ValueError("the GPU code is still there: run cpu_torch.py first")
    return elf.without(cut, split(elf.segments, cut), {code: _SHT_NOBITS})


def without_symbols(elf: Elf) -> Elf:
    """Drops the debuggers' symbol tables where they lie side by side and outside of what is loaded."""
    symbols, names = elf.find(".symtab"), elf.find(".strtab")
    if symbols is None or names is None or not 0 <= names.offset - (symbols.offset + symbols.size) < 4096:
        return elf
    cut = elf.pages(symbols.offset, names.offset + names.size)
    if cut.start == cut.end or any(s.offset < cut.end and cut.start < s.offset + s.file_size for s in elf.segments):
        return elf
    moved = tuple(replace(segment, offset=cut.moved(segment.offset)) for segment in elf.segments)
    return elf.without(cut, moved, {symbols: _SHT_NULL, names: _SHT_NULL})


def split(segments: tuple[Segment, ...], cut: Cut) -> tuple[Segment, ...]:
    """The program headers of the file without the cut, which one loadable segment holds."""
    loadable = (s for s in segments if s.kind == _PT_LOAD)
    holder = next((s for s in loadable if s.offset <= cut.start and cut.end <= s.offset + s.file_size), None)
    spare = next((s for s in segments if s.kind == _PT_NOTE), None)
    if holder is None or spare is None:
        raise ValueError("no loadable segment holds the GPU code" if holder is None else "no program header to spare")
    distance = cut.end - holder.offset
    grown = replace(holder, file_size=cut.start - holder.offset, memory_size=distance)
    rest = replace(
        holder,
        offset=cut.moved(cut.end),
        address=holder.address + distance,
        physical=holder.physical + distance,
        file_size=holder.file_size - distance,
        memory_size=holder.memory_size - distance,
    )
    result: list[Segment] = []
    for segment in segments:
        if segment is holder:
            result += [grown, rest]
        elif segment is not spare:
            result.append(replace(segment, offset=cut.moved(segment.offset)))
    return tuple(result)


def shrink(library: Path) -> int:
    """Rewrites one library; returns how many bytes it lost."""
    before = Elf.read(library.read_bytes())
    after = without_symbols(without_gpu_code(before))
    if after is not before:
        # A new file, never in place: the wheel cache may share the old one by hard link.
        copy = library.with_suffix(".headway")
        copy.write_bytes(after.data)
        copy.chmod(0o755)
        copy.replace(library)
    return len(before.data) - len(after.data)


def main(site: Path) -> int:
    """Shrinks torch's libraries under `site`; returns the exit code."""
    for name in _LIBRARIES:
        library = site / "torch" / "lib" / name
        try:
            print(f"shrink_torch: {name} is {shrink(library) >> 20} MiB smaller")
        except (OSError, ValueError, struct.error) as error:
            print(f"shrink_torch: {library}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(Path(sys.argv[1])))
