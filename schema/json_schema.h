// Checks JSON against the part of JSON Schema 2020-12 that the schema files here use, with errors for people:
// where, what it was, what was expected. Not a general validator: a keyword outside that part is a fault of
// the schema, which json_schema_unknown_keyword() finds and the tests look for.
#pragma once

#include <jansson.h>
#include <stdbool.h>

// path is a JSON path such as "$.mqtt.qos"; problem reads "is 7, expected one of 0, 1". Both live for the
// call only.
typedef void json_schema_fault_fn(void *context, const char *path, const char *problem);

// Checks value, which is called path in errors, against schema (an object; root is the document that local
// $ref point into). Calls fault for each fault and returns how many there were.
unsigned json_schema_check(const json_t *root, const json_t *schema, const json_t *value, const char *path,
                           json_schema_fault_fn *fault, void *context);

// Sets each absent property of value that the schema gives a default for, in depth, items of arrays included;
// a property that is absent and whose schema is an object with defaults inside is made.
void json_schema_fill_defaults(const json_t *schema, json_t *value);

// The number of a value that the type "integer" allows, which may be written as 5 or as 5.0; 0 of others.
json_int_t json_schema_integer(const json_t *value);

// The first keyword anywhere in the schema that json_schema_check() does not know, or NULL.
const char *json_schema_unknown_keyword(const json_t *schema);

// A short text of a value for an error message, at most 80 bytes; for the caller to free.
char *json_schema_brief(const json_t *value);
