// The broker's registry as the page knows it; see listed.h.
#include "gateway/web/listed.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "gateway/base/memory.h"

struct entry {
    char *ident;
    char *text; // NULL: it is no object, or too long
    UT_hash_handle hh;
};

struct listed {
    struct entry *entries;
};

struct listed *listed_new(void) {
    return must_have(calloc(1, sizeof(struct listed)));
}

static struct entry *find(const struct listed *listed, const char *ident) {
    struct entry *entry;
    HASH_FIND_STR(listed->entries, ident, entry);
    return entry;
}

static void drop(struct listed *listed, struct entry *entry) {
    HASH_DEL(listed->entries, entry);
    free(entry->ident);
    free(entry->text);
    free(entry);
}

void listed_forget_all(struct listed *listed) {
    struct entry *entry, *next;
    HASH_ITER(hh, listed->entries, entry, next) {
        drop(listed, entry);
    }
}

void listed_free(struct listed *listed) {
    listed_forget_all(listed);
    free(listed);
}

// NULL when it is no object.
static char *object_text(const char *payload, size_t length) {
    json_t *json = length <= LISTED_PAYLOAD_MAX ? json_loadb(payload, length, 0, NULL) : NULL;
    char *text = json_is_object(json) ? must_have(json_dumps(json, JSON_COMPACT)) : NULL;
    json_decref(json);
    return text;
}

void listed_set(struct listed *listed, const char *ident, const char *payload, size_t length) {
    struct entry *entry = find(listed, ident);
    if (entry != NULL)
        drop(listed, entry);
    if (length == 0 || HASH_COUNT(listed->entries) >= LISTED_MAX)
        return;
    entry = must_have(calloc(1, sizeof *entry));
    *entry = (struct entry){.ident = must_have(strdup(ident)), .text = object_text(payload, length)};
    HASH_ADD_KEYPTR(hh, listed->entries, entry->ident, strlen(entry->ident), entry);
}

bool listed_has(const struct listed *listed, const char *ident) {
    return find(listed, ident) != NULL;
}

const char *listed_get(const struct listed *listed, const char *ident) {
    const struct entry *entry = find(listed, ident);
    return entry != NULL ? entry->text : NULL;
}
