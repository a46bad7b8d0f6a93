"""Rules files, lists, ClassBench filters, nft's listings that work; and how they are spoiled: bytes, tokens, lines."""

from __future__ import annotations

import random
from pathlib import Path

FILES = {
    "wall.rules": (
        'set bad = prefixes "bad.netset"\nset few = 203.0.113.5, 10.0.0.0/8, 2001:db8::/32  # a comment\n'
        "set web = ports 80, 443, 8000-8080\ndefault pass\nmalformed match\non death open\n"
        'include "below/more.rules"\n\ndrop src in bad and not tcp\nlimit 10/s burst 5 per src udp dst port 53\n'
        "pass tcp dst port in web\ndrop tcp[13] & 2 != 0 and (dst port 22 or src net 192.168)\n"
        "drop ip6 and host in few or icmp6\npass udp port 53, 123 and not src portrange 1-1023\ndrop any\n"
    ),
    "below/more.rules": "set more = 192.0.2.1, 192.0.2.0/25\ndrop dst in more\ndrop ip proto 47 || gre\n",
    "bad.netset": "# a list\n192.0.2.0/25\n2001:db8::/32 ; why\n\n198.51.100.7-198.51.100.9\n10.1.1.1\n",
    "filters": (
        "@10.0.0.0/8\t192.0.2.0/24\t0 : 65535\t80 : 80\t0x06/0xFF\t0x1000/0x1000\n"
        "@10.1.0.0/16 0.0.0.0/0 1024 : 65535 0 : 65535 0x11/0xFF 0x0000/0x0000\n"
        "@2001:db8::/32\t::/0\t0 : 65535\t53 : 53\t0x11/0xFF\n"
    ),
    "host.nft": (
        "table inet filter {\n\tset bad {\n\t\ttype ipv4_addr\n\t\tflags interval\n"
        "\t\telements = { 10.66.0.0/16, 192.0.2.1,\n\t\t\t198.51.100.0-198.51.100.9 }\n\t}\n"
        "\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n"
        '\t\tip saddr @bad drop\n\t\ttcp dport { 22, 80, 8000-8080 } accept comment "web"\n'
        "\t\tth dport != 99 ip6 daddr 2001:db8::/32 accept\n\t\tip protocol icmp icmp type echo-request accept\n"
        "\t\ttcp flags syn / fin,syn,rst,ack counter packets 5 bytes 100 drop\n\t}\n}\n"
    ),
}
"""What each file says."""
_TOKENS = [
    *" \t\n\"'#,;:/.-=!&|(){}[]@<>*%\\",
    *("0", "-1", "65536", "4294967296", "9" * 40, "1.2.3.4/33", "::/129", "1-", "0x", "\x00", "\u2028", "\ufeff", "é"),
    "٣",
    *("and", "or", "not", "in", "src", "dst", "host", "net", "port", "any", "set", "include", "default", "limit"),
    *("drop", "pass", "log", "divert", "established", "per", "burst", "prefixes", "ports", "table", "chain"),
    *('include "wall.rules"', 'include "/"', 'prefixes "/dev/null"', "(" * 300, "not " * 300, "accept", "jump x"),
]  # fmt: skip


def written(folder: Path) -> None:
    """Write the files as they are."""
    (folder / "below").mkdir(exist_ok=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)


def spoiled(name: str, chance: random.Random) -> bytes:
    """A file's contents, spoiled somewhere."""
    data = FILES[name].encode()
    for _ in range(chance.choice((1, 1, 1, 2, 6))):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(8)
        if kind == 0:
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[at + chance.choice((1, 2, 7, 40)) :]
        elif kind in (2, 3):
            data = data[:at] + chance.choice(_TOKENS).encode() + data[at + chance.choice((0, 0, 1, 5)) :]
        elif kind == 4:
            # One word in another's place.
            words = data.split(b" ")
            words[chance.randrange(len(words))] = chance.choice(
                (words[chance.randrange(len(words))], b"", b"\n")
            )
            data = b" ".join(words)
        elif kind == 5:
            lines = data.split(b"\n")
            chance.shuffle(lines)
            data = b"\n".join(lines)
        elif kind == 6:
            data = data[:at] + data[: chance.randrange(80)] + data[at:]
        else:
            data = (
                data[:at] + bytes(chance.randrange(256) for _ in range(chance.choice((1, 3, 20)))) + data[at:]
            )
    return data
