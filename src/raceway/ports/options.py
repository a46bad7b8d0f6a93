"""The options at the end of a port's name: `@flag`, `@option=value`, `@option:key=value,key=value`.

netmap's own options are known here, with their keys and the largest number of each; every other option is read
by the same grammar and left to the adapter, with its values as text.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from raceway.ports.name_cursor import Cursor

_OPTION_WORD = "(?:[A-Za-z_][A-Za-z0-9_-]*)?"

# netmap's own options: the default key, which is mandatory wherever there is one, and for each key the
# largest number, or None for text. libnetmap.h marks `rings` as conf's default key; the code (NPKEY_DECL in
# nmport.c) gives conf none, and the code is what runs. buffer-size and extra-buffers are raceway's own keys.
_RINGS = dict.fromkeys(
    ["rings", "host_rings", "tx_rings", "rx_rings", "host_tx_rings", "host_rx_rings"], 2**16 - 1
)
_SLOTS = dict.fromkeys(["slots", "tx_slots", "rx_slots"], 2**32 - 1)
_BUFFERS = dict.fromkeys(["buffer_size", "extra_buffers"], 2**32 - 1)
_POOLS = dict.fromkeys(["if_num", "if_size", "ring_num", "ring_size", "buf_num", "buf_size"], 2**32 - 1)
_NETMAP_OPTIONS: dict[str, tuple[str, Mapping[str, int | None]]] = {
    "share": ("port", {"port": None}),
    "extmem": ("file", {"file": None, **_POOLS}),
    "conf": ("", {**_RINGS, **_SLOTS, **_BUFFERS}),
    "offset": ("initial", {"initial": 2**32 - 1, "bits": 2**32 - 1}),
}


def option_text(option: str, keys: Mapping[str, str]) -> str:
    """One option as it stands in a canonical name, its "@" included; `parse_options` reads it back."""
    default, _ = _NETMAP_OPTIONS.get(option, ("", {}))
    if not keys or keys.keys() == {default}:
        return "".join([f"@{option}", *(f"={value}" for value in keys.values())])
    # Only after "=" may a value hold commas, so the nameless default stands by itself.
    alone = f"@{option}={keys['']}" if "" in keys else ""
    return f"{alone}@{option}:" + ",".join(f"{key}={value}" for key, value in keys.items() if key)


def parse_options(cursor: Cursor) -> Mapping[str, Mapping[str, str]]:
    """The options from the cursor to the end of its text: nmreq_options_decode in libnetmap's nmreq.c.

    netmap's own options are held to their keys, and their numbers to numbers (netmap asks atoi, to which
    "many" is 0). Also refused: an empty value or list of keys, which netmap takes as none given, and a key
    given again in a second mention of its option, where netmap lets the later win.
    """
    options: dict[str, dict[str, str]] = {}
    while cursor.skip("@"):
        begin = cursor.at
        option = cursor.take(_OPTION_WORD)
        if not option:
            hint = "a memory id stands before options" if cursor.sees("0123456789") else ""
            raise cursor.fault("the name of an option after '@'", hint)
        default, limits = _NETMAP_OPTIONS.get(option, ("", {}))
        known, keys, given = bool(limits), options.setdefault(option, {}), set[str]()
        mark = cursor.skip(":=")
        if mark == "=" and known and not default:
            hint = f"such as @{option}:{next(iter(limits))}=4"
            raise cursor.fault(f"':' after '{option}'", hint, cursor.at - 1)
        while mark:
            key_at = cursor.at
            key = default if mark == "=" else cursor.take(_OPTION_WORD).replace("-", "_")
            if mark != "=" and (not key or (known and key not in limits)):
                wanted = f"one of the keys {' '.join(limits)}" if known else "a key"
                raise cursor.fault(f"{wanted} of '{option}'", at=key_at)
            if key in keys:
                raise cursor.fault(f"'{option}' to have {key or 'a value'} only once", at=key_at)
            keys[key] = _parse_value(cursor, key, limits, mark)
            given.add(key)
            mark = cursor.skip(",")
        if cursor.more() and not cursor.sees("@"):
            raise cursor.fault("'=' ':' ',' or '@' here, or the end")
        if known and not given:
            raise cursor.fault(f"':' and a key of '{option}'" + (" or '=' and its value" if default else ""))
        if default and default not in given:
            raise cursor.fault(f"the key '{default}', which '{option}' must have", at=begin)
    return MappingProxyType({option: MappingProxyType(keys) for option, keys in options.items()})


def _parse_value(cursor: Cursor, key: str, limits: Mapping[str, int | None], mark: str) -> str:
    """The value at the cursor, which stands behind `mark` if that is "=", and behind `key` otherwise."""
    if mark != "=" and not cursor.skip("="):
        if limits:
            raise cursor.fault(f"'=' and a value for '{key}'")
        return key
    begin = cursor.at
    value = cursor.take("[^@]*" if mark == "=" else "[^,@]*")
    if not value:
        raise cursor.fault("a value after '='")
    limit = limits.get(key)
    if limit is not None:
        digits = value.lstrip("0") or "0"
        if not re.fullmatch("[0-9]{1,10}", digits) or int(digits) > limit:
            raise cursor.fault(f"a number from 0 to {limit} for '{key}'", at=begin)
        return digits
    return value
