#!/usr/bin/env python3
"""Writes what the fuzz targets begin with: make_corpus.py DIRECTORY

DIRECTORY/TARGET/ gets one file a seed, made of the vectors, of the examples in the schemas, and of the committed
corpus (tests/fuzz/corpus/TARGET/). DIRECTORY/TARGET.dict gets the words of the protocol. TARGET is stream-CODEC,
command-CODEC or config."""

import hashlib
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Where JSON goes wrong.
JSON_WORDS = [b"\\", b"\xc3\xa9", b"\xee\x9f\x9f", b"\\u0000", b"\\ud800", b"1.0", b"1e400", b"-0"]

# How the bytes of a vector arrive: see fuzz_stream.c.
HEADS = [
    bytes(8),  # whole
    bytes([0]) + bytes([1]) * 7,  # byte by byte
    bytes([0]) + bytes([0x80 | 40]) * 7,  # 40 bytes and a silence
    bytes([0, 3, 70, 0x85, 17, 66, 0xFF, 1]),
    bytes([1]) + bytes(7),  # a datagram
]


def unescape(text):
    """Undoes \\r \\n \\t \\\\ \\xHH in text of a byte a character."""
    plain = {"r": "\r", "n": "\n", "t": "\t"}

    def one(match):
        escape = match.group(1)
        return chr(int(escape[1:], 16)) if escape[0] == "x" else plain.get(escape, escape)

    return re.sub(r"\\(x[0-9A-Fa-f]{2}|.)", one, text).encode("latin-1")


class Corpus:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)

    def add(self, target, content):
        folder = self.directory / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.sha1(content).hexdigest()).write_bytes(content)

    def words(self, target, words):
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = []
        for word in sorted(set(words)):
            escaped = "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\' else f"\\x{b:02x}" for b in word)
            if 0 < len(word) <= 60:
                lines.append(f'"{escaped}"\n')
        (self.directory / f"{target}.dict").write_text("".join(lines))


def read_vector(path):
    """The bytes up, and the commands."""
    up, commands = b"", []
    for line in path.read_text(encoding="latin-1").split("\n"):  # a byte a character
        line = line.rstrip(" \t\r\v\f")
        key, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if key == "up":
            up += unescape(value)
        elif key == "up-hex":
            up += bytes.fromhex(value)
        elif key == "command":
            commands.append(unescape(value))
    return up, commands


def words_of(value):
    """All the names and texts of a JSON value, as they stand in JSON."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield json.dumps(name).encode()
            yield from words_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from words_of(inner)
    elif not isinstance(value, float):
        yield json.dumps(value).encode()


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def dump(value):
    return json.dumps(value, separators=(",", ":")).encode()


def make_streams(corpus, codec):
    words = []
    for path in sorted((ROOT / "tests" / "vectors" / codec).glob("*.vector")):
        up, _ = read_vector(path)
        for head in HEADS:
            corpus.add(f"stream-{codec}", head + up)
        for times in [500, 2000]:  # near the longest line and the longest frame
            middle = len(up) // 2
            corpus.add(f"stream-{codec}", HEADS[3] + up[:middle] + up[middle : middle + 1] * times + up[middle:] + up)
        words += re.findall(rb"[0-9A-Za-z_]{2,20}[;=$,!?]?", up)
    words = [word for word in words if re.search(rb"[A-Za-z]", word)]
    if codec == "mictrack":
        words += [b"MT;6;866425031361423;", b"867035041390699", b"+", b"$", b"!", b"=Success!", b"\r\n"]
    if codec == "magicyo":
        words += [b"\x55\x55", b"\xaa\xaa", b"\xaa\xaa\x55\x55"]
    corpus.words(f"stream-{codec}", words)


def make_commands(corpus, codec):
    target = f"command-{codec}"
    envelope = read_json(ROOT / "schema" / "command.schema.json")
    catalogue = read_json(ROOT / "schema" / "commands" / f"{codec}.json")
    for path in sorted((ROOT / "tests" / "vectors" / codec).glob("*.vector")):
        for command in read_vector(path)[1]:
            corpus.add(target, command)
    for example in envelope["examples"]:
        corpus.add(target, dump(example))
    for name, schema in catalogue.get("$defs", {}).items():
        for example in schema.get("examples", [{}]):
            corpus.add(target, dump({"name": name, "properties": example}))
    corpus.add(target, b"where?")
    words = list(words_of([envelope["properties"], catalogue.get("$defs", {})]))
    corpus.words(target, JSON_WORDS + words)


def defaults_of(schema):
    """A value with all that the schema has a default for."""
    if "default" in schema:
        return schema["default"]
    return {name: defaults_of(inner) for name, inner in schema.get("properties", {}).items()}


def make_config(corpus):
    schema = read_json(ROOT / "schema" / "config.schema.json")
    whole = defaults_of(schema)
    whole["devices"] = [{"ident": "867035041390699", "id": 1, "name": "a", "type_id": 2}, {"ident": "b", "id": 2}]
    whole["channels"] = [
        {"id": 1, "protocol": "mictrack", "tcp": "[::]:7700", "udp": "0.0.0.0:7700", "udp_ack": "{seq}"},
        {"id": 2, "name": "x", "protocol": "mictrack", "tcp": "127.0.0.1:0"},
    ]
    corpus.add("config", dump(whole))
    corpus.add("config", b"{}")
    for name, inner in whole.items():
        corpus.add("config", dump({name: inner}))
    for url in ["mqtts://[::1]:8883/", "mqtt://broker.example", "mqtt://10.0.0.1:1"]:
        corpus.add("config", dump({"mqtt": {"url": url, "username": "u", "password": "p"}}))
    corpus.words("config", JSON_WORDS + list(words_of(schema["properties"])) + list(words_of(whole)))


def codec_names():
    text = (ROOT / "codecs" / "meson.build").read_text(encoding="utf-8")
    return re.findall(r"'(\w+)'", re.search(r"codec_names = \[(.*?)\]", text, re.S).group(1)) + ["template"]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    corpus = Corpus(sys.argv[1])
    for codec in codec_names():
        make_streams(corpus, codec)
        make_commands(corpus, codec)
    make_config(corpus)
    for path in sorted((HERE / "corpus").glob("*/*")):
        corpus.add(path.parent.name, path.read_bytes())


if __name__ == "__main__":
    main()
