// Access to the schema files; see schemas.h.
#include "schema/schemas.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SCHEMAS_MAX 256

static json_t *parsed[SCHEMAS_MAX];

const json_t *schema_find(const char *name) {
    for (size_t i = 0; schema_texts[i].name != NULL; i++) {
        if (strcmp(schema_texts[i].name, name) != 0)
            continue;
        assert(i < SCHEMAS_MAX);
        if (parsed[i] == NULL)
            parsed[i] = json_loads(schema_texts[i].text, 0, NULL);
        assert(parsed[i] != NULL);
        return parsed[i];
    }
    return NULL;
}

const json_t *schema_of_commands(const char *protocol) {
    char name[80];
    snprintf(name, sizeof name, "commands/%s.json", protocol);
    return schema_find(name);
}

const json_t *schema_of_model(int64_t type_id) {
    char key[24];
    snprintf(key, sizeof key, "%" PRId64, type_id);
    return json_object_get(json_object_get(schema_find("models.json"), "x-models"), key);
}

void schema_free_all(void) {
    for (size_t i = 0; i < SCHEMAS_MAX; i++) {
        json_decref(parsed[i]);
        parsed[i] = NULL;
    }
}
