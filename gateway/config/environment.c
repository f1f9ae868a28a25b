// Configuration by environment; see environment.h.
#include "gateway/config/environment.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/base/text.h"
#include "schema/schemas.h"

#define PREFIX "TRACKBUS_"

// Older names, of what nearly everybody sets.
static const struct {
    const char *name, *path;
} short_names[] = {
    {"TRACKBUS_MQTT_URL", "$.mqtt.url"},
    {"TRACKBUS_MQTT_USERNAME", "$.mqtt.username"},
    {"TRACKBUS_MQTT_PASSWORD", "$.mqtt.password"},
    {"TRACKBUS_TOPIC_PREFIX", "$.mqtt.topic_prefix"},
    {"TRACKBUS_STORE", "$.store.path"},
};

// Of two keys that exclude each other, one in the environment beats the other in the file.
static const char *const exclusive[][2] = {{"password", "password_file"}, {"password_file", "password"}};

static const char *value_of(const char *name) {
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : NULL;
}

// --- the keys that a schema has, each with the name of its variable ---

typedef void key_fn(void *context, const char *path, const char *name, const json_t *rules);

static void each_key(const json_t *schema, const char *path, const char *name, key_fn *found, void *context) {
    const char *key;
    json_t *rules;
    json_object_foreach(json_object_get(schema, "properties"), key, rules) {
        char *inner_path = text_format("%s.%s", path, key);
        char *inner_name = text_format("%s%s%s", name, strcmp(path, "$") == 0 ? "" : "__", key);
        for (char *letter = inner_name; *letter != '\0'; letter++)
            *letter = (char)toupper((unsigned char)*letter);
        if (json_object_get(rules, "properties") != NULL)
            each_key(rules, inner_path, inner_name, found, context);
        else
            found(context, inner_path, inner_name, rules);
        free(inner_path);
        free(inner_name);
    }
}

static const char *short_name_of(const char *path) {
    for (size_t i = 0; i < sizeof short_names / sizeof short_names[0]; i++)
        if (strcmp(short_names[i].path, path) == 0)
            return short_names[i].name;
    return NULL;
}

// The variable that sets the key, or NULL.
static const char *variable_of(const char *path, const char *name) {
    const char *other = short_name_of(path);
    return value_of(name) != NULL ? name : other != NULL && value_of(other) != NULL ? other : NULL;
}

// --- their values ---

static bool has_entry(const json_t *list, const char *text) {
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry) if (json_is_string(entry) &&
                                           strcmp(json_string_value(entry), text) == 0) return true;
    return false;
}

static bool may_be_text(const json_t *rules, const char *text) {
    const json_t *type = json_object_get(rules, "type"), *choices = json_object_get(rules, "enum");
    if (has_entry(choices, text))
        return true;
    if (json_is_string(type))
        return strcmp(json_string_value(type), "string") == 0;
    // "[" begins a list where there may be one.
    return has_entry(type, "string") && !(has_entry(type, "array") && *text == '[');
}

// What is not JSON is left as text, of which the schema then says what was expected.
static json_t *json_of(const json_t *rules, const char *text) {
    json_t *json =
        may_be_text(rules, text) ? NULL : json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    if (json == NULL)
        json = json_string(text);
    return json != NULL ? json : json_null(); // no UTF-8
}

// The object that has the key, made where there is none; NULL when something else stands there. *path is then what is left:
// the key.
static json_t *object_of(json_t *json, const char **path) {
    const char *dot;
    for (*path += strlen("$."); json != NULL && (dot = strchr(*path, '.')) != NULL; *path = dot + 1) {
        char *section = text_format("%.*s", (int)(dot - *path), *path);
        if (json_object_get(json, section) == NULL)
            json_object_set_new(json, section, json_object());
        json = json_object_get(json, section);
        free(section);
    }
    return json_is_object(json) ? json : NULL;
}

struct applying {
    struct faults *faults;
    json_t *json;
};

static void apply(void *context, const char *path, const char *name, const json_t *rules) {
    struct applying *applying = context;
    const char *variable = variable_of(path, name), *other = short_name_of(path), *key = path;
    if (variable == NULL)
        return;
    if (variable == name && other != NULL && value_of(other) != NULL)
        faults_add(applying->faults, path, "is set by %s and by %s, expected only one of them", other, name);
    json_t *object = object_of(applying->json, &key);
    json_object_set_new(object, key, json_of(rules, value_of(variable)));
    for (size_t i = 0; i < sizeof exclusive / sizeof exclusive[0]; i++)
        if (strcmp(key, exclusive[i][0]) == 0)
            json_object_del(object, exclusive[i][1]);
}

// --- variables that name no key ---

struct search {
    const char *name;
    size_t length;
    bool found;
};

static void compare(void *context, const char *path, const char *name, const json_t *rules) {
    struct search *search = context;
    if (strlen(name) == search->length && strncmp(name, search->name, search->length) == 0)
        search->found = true;
}

// Two underscores are ours; names with less may be another's, as Kubernetes' TRACKBUS_PORT is.
static void find_strangers(struct faults *faults, const json_t *schema) {
    for (char **entry = environ; *entry != NULL; entry++) {
        struct search search = {.name = *entry, .length = strcspn(*entry, "=")};
        const char *underscores = strstr(*entry, "__");
        if (strncmp(*entry, PREFIX, strlen(PREFIX)) != 0 || underscores == NULL ||
            underscores >= *entry + search.length)
            continue;
        each_key(schema, "$", PREFIX, compare, &search);
        if (!search.found)
            faults_add(faults, "$",
                       "the environment's %.*s names no key, expected a name such as TRACKBUS_MQTT__URL, for "
                       "mqtt.url",
                       (int)search.length, *entry);
    }
}

// Kubernetes sets these for a service called trackbus: TRACKBUS_PORT_7700_TCP, TRACKBUS_SERVICE_HOST.
static bool may_be_anothers(const char *name) {
    return strstr(name, "_PORT") != NULL || strstr(name, "_SERVICE_") != NULL;
}

static bool is_short_name(const char *name) {
    for (size_t i = 0; i < sizeof short_names / sizeof short_names[0]; i++)
        if (strcmp(short_names[i].name, name) == 0)
            return true;
    return false;
}

static void note_stranger(const char *name, config_fault_fn *note, void *context) {
    struct search search = {.name = name, .length = strlen(name)};
    if (strncmp(name, PREFIX, strlen(PREFIX)) != 0 || strstr(name, "__") != NULL || value_of(name) == NULL ||
        may_be_anothers(name) || is_short_name(name))
        return;
    each_key(schema_find("config.schema.json"), "$", PREFIX, compare, &search);
    char *text = text_format("the environment's %s names no key and is ignored; TRACKBUS_MQTT__URL would be "
                             "mqtt.url",
                             name);
    if (!search.found)
        note(context, "$", text);
    free(text);
}

void environment_strangers(config_fault_fn *note, void *context) {
    for (char **entry = environ; *entry != NULL; entry++) {
        char *name = text_format("%.*s", (int)strcspn(*entry, "="), *entry);
        note_stranger(name, note, context);
        free(name);
    }
}

void environment_apply(struct faults *faults, json_t *json, const json_t *schema) {
    struct applying applying = {faults, json};
    if (!json_is_object(json))
        return;
    each_key(schema, "$", PREFIX, apply, &applying);
    find_strangers(faults, schema);
}

// --- notes ---

struct noting {
    config_fault_fn *note;
    void *context;
};

static void note_key(void *context, const char *path, const char *name, const json_t *rules) {
    const struct noting *noting = context;
    const char *variable = variable_of(path, name);
    if (variable == NULL)
        return;
    char *text = text_format("is what %s says in the environment", variable);
    noting->note(noting->context, path, text);
    free(text);
}

void environment_notes(config_fault_fn *note, void *context) {
    struct noting noting = {note, context};
    each_key(schema_find("config.schema.json"), "$", PREFIX, note_key, &noting);
}
