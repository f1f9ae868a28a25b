// The schema files of this folder, as they are inside the program.
#pragma once

#include <jansson.h>
#include <stdint.h>

struct schema_text {
    const char *name; // path in schema/: "config.schema.json", "commands/mictrack.json"
    const char *text;
};

// Ends with an entry of NULLs.
extern const struct schema_text schema_texts[];

// The schema file of that name as jansson reads it, owned here and read once; NULL when there is none.
const json_t *schema_find(const char *name);

// The command schemas of a protocol: an object whose $defs hold, by command name, the schema of its
// properties. NULL when the protocol has none.
const json_t *schema_of_commands(const char *protocol);

// What is known of the model with that device.type.id: {"manufacturer", "model"}; NULL when it is not in the table.
const json_t *schema_of_model(int64_t type_id);

// Frees what schema_find() keeps.
void schema_free_all(void);
