"""Reads constants out of a cubin, which is an ELF file: how its kernels want to be launched."""

import struct

_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMBOL_TABLE, _NO_BITS = 2, 8
_RESERVED_SECTIONS = 0xFF00


def read_constants(elf: bytes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The 32-bit words of each initialised symbol whose name starts with `prefix`, by the rest of the name."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count = struct.unpack_from("<HH", elf, 0x3A)
    sections = [_SECTION_HEADER.unpack_from(elf, table + i * size) for i in range(count)]
    constants: dict[str, tuple[int, ...]] = {}
    for _, kind, _, _, offset, length, link, *_ in sections:
        if kind != _SYMBOL_TABLE:
            continue
        names = sections[link][4]
        for at in range(offset, offset + length, _SYMBOL.size):
            name_at, _, _, section, value, num_bytes = _SYMBOL.unpack_from(elf, at)
            name = elf[names + name_at : elf.index(b"\0", names + name_at)].decode()
            if not name.startswith(prefix) or section >= _RESERVED_SECTIONS:
                continue
            zeros = sections[section][1] == _NO_BITS
            data = bytes(num_bytes) if zeros else elf[sections[section][4] + value :][:num_bytes]
            constants[name.removeprefix(prefix)] = struct.unpack(f"<{num_bytes // 4}I", data)
    return constants
