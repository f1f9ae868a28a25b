"""Makes from the field dictionary (fields.json) what else says it, so that each field is written down once.

  generate.py header fields.json fields.h         the C enum
  generate.py table  fields.json fields.c         the C table behind field.h
  generate.py schema fields.json message.schema.json
  generate.py texts  SOURCE_DIR FILE... schema_texts.c   the schema files as C strings, by their path
"""

import json
import os
import re
import sys

GENERATED = "Generated from fields.json by generate.py: change that file, not this one."
C_TYPES = {"number": "FIELD_NUMBER", "boolean": "FIELD_BOOLEAN", "string": "FIELD_STRING", "list": "FIELD_LIST"}
KEYS = {"type", "unit", "minimum", "maximum", "indexed", "description", "alarm", "notable", "true", "false", "before", "title",
        "device_class", "icon"}
TEXTS = ["true", "false", "before", "title", "device_class", "icon"]


def telling_faults(field):
    """What is wrong with the keys that say how a value is shown; README.md describes them."""
    is_boolean, is_alarm = field.get("type") == "boolean", field.get("alarm", False)
    faults = [key for key in ("true", "false") if key in field and not is_boolean]
    faults += [key for key in ("title", "device_class", "icon") if key in field and not is_alarm]
    faults += [key for key in TEXTS if not isinstance(field.get(key, "x"), str) or field.get(key) == ""]
    faults += [key for key in ("alarm", "notable") if field.get(key, True) is not True]
    if "before" in field and field.get("type") not in ("string", "number"):
        faults.append("before")
    if is_alarm and not (is_boolean and "true" in field and "title" in field):
        faults.append("alarm, which takes a boolean with true and title")
    if "notable" in field and not any(key in field for key in ("true", "false", "before")):
        faults.append("notable, without words")
    return faults


def c_name(name):
    return "FIELD_" + re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")


def c_string(text):
    return json.dumps(text, ensure_ascii=True) if text.isascii() else '"%s"' % "".join(
        chr(b) if 32 <= b < 127 and chr(b) not in '"\\' else "\\%03o" % b for b in text.encode())


def read_fields(path):
    with open(path, encoding="utf-8") as file:
        fields = json.load(file)
    if list(fields) != sorted(fields):
        sys.exit("fields.json: the names are not in alphabetical order, which is the order of a message's keys")
    for name, field in fields.items():
        faults = [key for key in field if key not in KEYS] + telling_faults(field)
        if field.get("type") not in C_TYPES:
            faults.append("type")
        if field.get("type") == "number" and not field.get("minimum", 0) < field.get("maximum", -1):
            faults.append("minimum and maximum")
        if not field.get("description"):
            faults.append("description")
        if "[]." in name and fields.get(name.split("[].")[0], {}).get("type") != "list":
            faults.append("the list it belongs to")
        if any(other.startswith(name + ".") for other in fields) and field.get("indexed"):
            faults.append("an indexed name that begins another name")
        if faults:
            sys.exit("fields.json: %s: wrong or missing: %s" % (name, ", ".join(faults)))
    return fields


def write_header(fields, out):
    out.write("// %s\n#pragma once\n\nenum field {\n    FIELD_NONE,\n" % GENERATED)
    for name in fields:
        out.write("    %s, // %s\n" % (c_name(name), name))
    out.write("    FIELD_COUNT\n};\n")


def table_telling(field):
    flags = "".join(", .%s = true" % key for key in ("alarm", "notable") if field.get(key))
    names = {"true": "when_true", "false": "when_false"}
    return flags + "".join(", .%s = %s" % (names.get(key, key), c_string(field[key])) for key in TEXTS if key in field)


def write_table(fields, out):
    out.write('// %s\n#include "schema/field.h"\n\nconst struct field_info field_table[FIELD_COUNT] = {\n' % GENERATED)
    for name, field in fields.items():
        owner, _, member = name.rpartition("[].")
        out.write("    [%s] = {.name = %s, .key = %s, .key_length = %d, .type = %s, .unit = %s, .minimum = %d, .maximum = %d, "
                  ".indexed = %s, .list = %s, .description = %s%s},\n" % (
                      c_name(name), c_string(name), c_string(member or name), len(member or name), C_TYPES[field["type"]],
                      c_string(field.get("unit", "")), field.get("minimum", 0), field.get("maximum", 0),
                      "true" if field.get("indexed") else "false", c_name(owner) if owner else "FIELD_NONE",
                      c_string(field["description"]), table_telling(field)))
    out.write("};\n")


def value_schema(name, field, fields):
    schema = {"description": field["description"]}
    if "unit" in field:
        schema["unit"] = field["unit"]
    if field["type"] == "list":
        members = {n.split("[].")[1]: value_schema(n, f, fields) for n, f in fields.items() if n.startswith(name + "[].")}
        schema["type"] = "array"
        schema["items"] = {"type": "object", "properties": members, "additionalProperties": False, "minProperties": 1}
    else:
        schema["type"] = field["type"]
        for key in ("minimum", "maximum"):
            if key in field:
                schema[key] = field[key]
    return schema


def write_schema(fields, out):
    plain = {n: value_schema(n, f, fields) for n, f in fields.items() if "[]." not in n and not f.get("indexed")}
    patterns = {"^%s\\.[0-9A-Za-z]+$" % n.replace(".", "\\."): value_schema(n, f, fields)
                for n, f in fields.items() if f.get("indexed")}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A message of trackbus",
        "description": "A flat object, keys in alphabetical order. channel.id and peer are in every message that the "
                       "gateway publishes; a capture decoded offline has none. unit is an annotation.",
        "type": "object",
        "properties": plain,
        "patternProperties": patterns,
        "additionalProperties": False,
        "required": ["ident", "protocol.id", "server.timestamp", "timestamp"],
    }
    out.write(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")


def write_texts(source_dir, paths, out):
    out.write('// Generated by generate.py from the schema files.\n#include "schema/schemas.h"\n\n')
    out.write("const struct schema_text schema_texts[] = {\n")
    for path in paths:
        inside = os.path.realpath(path).startswith(os.path.realpath(source_dir) + os.sep)
        name = os.path.relpath(path, source_dir) if inside else os.path.basename(path)
        with open(path, encoding="utf-8") as file:
            text = json.dumps(json.load(file), ensure_ascii=False)
        chunks = [text[at:at + 400] for at in range(0, len(text), 400)]
        out.write("    {%s,\n     %s},\n" % (c_string(name), "\n     ".join(c_string(chunk) for chunk in chunks)))
    out.write("    {0},\n};\n")


def main():
    kind, *paths, output = sys.argv[1:]
    with open(output, "w", encoding="utf-8") as out:
        if kind == "texts":
            write_texts(paths[0], paths[1:], out)
        else:
            {"header": write_header, "table": write_table, "schema": write_schema}[kind](read_fields(paths[0]), out)


main()
