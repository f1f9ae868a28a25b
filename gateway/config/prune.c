// Faulty values taken out; see prune.h.
#include "gateway/config/prune.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define KEY_MAX 64 // bytes of a key that the schema knows, and more

// The key that a path goes on with, behind a dot; "" when there is none, or none that the schema knows.
static const char *read_key(const char *path, char key[KEY_MAX]) {
    size_t length = *path == '.' ? strcspn(path + 1, ".[") : 0;
    snprintf(key, KEY_MAX, "%.*s", (int)(length < KEY_MAX ? length : 0), path + (length > 0));
    return path + (length > 0 ? length + 1 : 0);
}

void prune_entry(json_t *array, const char *path) {
    size_t index;
    int end = 0;
    char key[KEY_MAX];
    if (sscanf(path, "[%zu]%n", &index, &end) != 1 || end == 0)
        return;
    read_key(path + end, key);
    json_object_del(json_array_get(array, index), key);
}

// Of several in a list only the one at fault.
static bool prune_url(json_t *mqtt, const char *path) {
    size_t index;
    return sscanf(path, ".url[%zu]", &index) == 1 &&
           json_array_set_new(json_object_get(mqtt, "url"), index, json_string("mqtt://localhost")) == 0;
}

void prune(json_t *json, const char *path) {
    char key[KEY_MAX], inner[KEY_MAX];
    const char *rest = read_key(path + strlen("$"), key);
    json_t *value = json_object_get(json, key);
    bool list = strcmp(key, "channels") == 0 || strcmp(key, "devices") == 0;
    read_key(rest, inner);
    if (list && *rest == '[')
        prune_entry(value, rest);
    else if (strcmp(key, "mqtt") == 0 && prune_url(value, rest))
        return;
    else if (*inner != '\0')
        json_object_del(value, inner);
    else
        json_object_del(json, key);
}
