// The devices that somebody looks at; see dossier.h.
#include "gateway/web/dossier.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/topic.h"

#define WAIT       1000000  // microseconds for what is retained to come
#define IDLE       60000000 // microseconds
#define VALUES_MAX 1000     // of a device
#define VALUE_MAX  16384    // bytes
#define NAME_MAX_  128      // bytes of a field's name

struct value {
    char *name, *text;
    double timestamp;
    UT_hash_handle hh;
};

struct dossier {
    int64_t id;
    int64_t asked, looked; // by clock_ticks()
    bool ready, told;      // all that is retained has come, or may have; it has
    struct value *values;
    UT_hash_handle hh;
};

struct dossiers {
    struct dossier_handlers handlers;
    struct dossier *table; // the one opened first comes first
};

struct dossiers *dossiers_new(const struct dossier_handlers *handlers) {
    struct dossiers *dossiers = must_have(calloc(1, sizeof *dossiers));
    dossiers->handlers = *handlers;
    return dossiers;
}

static void drop_value(struct dossier *dossier, struct value *value) {
    HASH_DEL(dossier->values, value);
    free(value->name);
    free(value->text);
    free(value);
}

static void drop(struct dossiers *dossiers, struct dossier *dossier) {
    while (dossier->values != NULL)
        drop_value(dossier, dossier->values);
    HASH_DEL(dossiers->table, dossier);
    free(dossier);
}

void dossiers_free(struct dossiers *dossiers) {
    while (dossiers->table != NULL)
        drop(dossiers, dossiers->table);
    free(dossiers);
}

static void name_topics(int64_t id, char values[64], char last[64]) {
    snprintf(values, 64, "%lld" TOPIC_TELEMETRY "+", (long long)id);
    snprintf(last, 64, "%lld" TOPIC_CONNECTED, (long long)id);
}

// A broker tells what it retains in the order in which it is asked: what comes last ends the values.
static void ask(struct dossiers *dossiers, const struct dossier *dossier) {
    char values[64], last[64];
    name_topics(dossier->id, values, last);
    dossiers->handlers.ask(dossiers->handlers.context, values);
    dossiers->handlers.ask(dossiers->handlers.context, last);
}

static void leave(struct dossiers *dossiers, struct dossier *dossier) {
    char values[64], last[64];
    name_topics(dossier->id, values, last);
    dossiers->handlers.leave(dossiers->handlers.context, values);
    dossiers->handlers.leave(dossiers->handlers.context, last);
    drop(dossiers, dossier);
}

static struct dossier *find(const struct dossiers *dossiers, int64_t id) {
    struct dossier *dossier;
    HASH_FIND(hh, dossiers->table, &id, sizeof id, dossier);
    return dossier;
}

static struct dossier *longest_unseen(const struct dossiers *dossiers) {
    struct dossier *oldest = dossiers->table;
    for (struct dossier *dossier = oldest; dossier != NULL; dossier = dossier->hh.next)
        if (dossier->looked < oldest->looked)
            oldest = dossier;
    return oldest;
}

static struct dossier *make(struct dossiers *dossiers, int64_t id, int64_t now) {
    if (HASH_COUNT(dossiers->table) >= DOSSIERS_MAX)
        leave(dossiers, longest_unseen(dossiers));
    struct dossier *dossier = must_have(calloc(1, sizeof *dossier));
    dossier->id = id;
    dossier->asked = now;
    HASH_ADD(hh, dossiers->table, id, sizeof dossier->id, dossier);
    ask(dossiers, dossier);
    return dossier;
}

bool dossier_open(struct dossiers *dossiers, int64_t id, int64_t now) {
    struct dossier *dossier = find(dossiers, id);
    if (dossier == NULL)
        dossier = make(dossiers, id, now);
    dossier->looked = now;
    dossier->ready = dossier->ready || now - dossier->asked > WAIT;
    return dossier->ready;
}

bool dossier_is_known(const struct dossiers *dossiers, int64_t id) {
    const struct dossier *dossier = find(dossiers, id);
    return dossier != NULL && (dossier->told || dossier->values != NULL);
}

void dossiers_tidy(struct dossiers *dossiers, int64_t now) {
    struct dossier *dossier, *next;
    HASH_ITER(hh, dossiers->table, dossier, next)
    if (now - dossier->looked > IDLE)
        leave(dossiers, dossier);
}

void dossiers_connected(struct dossiers *dossiers) {
    for (struct dossier *dossier = dossiers->table; dossier != NULL; dossier = dossier->hh.next)
        ask(dossiers, dossier);
}

static bool is_name(const char *name) {
    size_t length = strlen(name);
    return length > 0 && length < NAME_MAX_ && strpbrk(name, "\"\\/") == NULL;
}

// The payload as JSON on one line, for the caller to free; NULL when it is none.
static char *normal(const char *payload, size_t length) {
    json_t *json = length <= VALUE_MAX ? json_loadb(payload, length, JSON_DECODE_ANY, NULL) : NULL;
    char *text = json != NULL ? text_of_value(json) : NULL;
    json_decref(json);
    return text;
}

static bool put(struct dossier *dossier, const char *name, char *text, double timestamp) {
    struct value *value;
    HASH_FIND_STR(dossier->values, name, value);
    if (value == NULL && HASH_COUNT(dossier->values) >= VALUES_MAX) {
        free(text);
        return false;
    }
    if (value == NULL) {
        value = must_have(calloc(1, sizeof *value));
        value->name = must_have(strdup(name));
        HASH_ADD_KEYPTR(hh, dossier->values, value->name, strlen(value->name), value);
    }
    bool changed = value->text == NULL || strcmp(value->text, text) != 0;
    free(value->text);
    value->text = text;
    if (timestamp > 0)
        value->timestamp = timestamp;
    return changed;
}

static bool remove_value(struct dossier *dossier, const char *name) {
    struct value *value;
    HASH_FIND_STR(dossier->values, name, value);
    if (value != NULL)
        drop_value(dossier, value);
    return value != NULL;
}

bool dossier_take(struct dossiers *dossiers, int64_t id, const char *rest, const char *payload, size_t length,
                  double timestamp) {
    struct dossier *dossier = find(dossiers, id);
    const char *name = topic_after(rest, TOPIC_TELEMETRY);
    if (dossier == NULL)
        return false;
    if (strcmp(rest, TOPIC_CONNECTED) == 0)
        dossier->ready = dossier->told = true;
    if (name == NULL || !is_name(name) || strcmp(name, TOPIC_POSITION) == 0)
        return false;
    if (length == 0)
        return remove_value(dossier, name);
    char *text = normal(payload, length);
    return text != NULL && put(dossier, name, text, timestamp);
}

static double timestamp_of(const struct dossier *dossier, const char *name) {
    const struct value *value;
    HASH_FIND_STR(dossier->values, name, value);
    return value != NULL ? value->timestamp : 0;
}

void dossier_message(struct dossiers *dossiers, int64_t id, const json_t *message, double timestamp) {
    struct dossier *dossier = find(dossiers, id);
    const char *name;
    json_t *value;
    if (dossier == NULL)
        return;
    json_object_foreach((json_t *)message, name, value) {
        if (is_name(name) && timestamp >= timestamp_of(dossier, name))
            put(dossier, name, text_of_value(value), timestamp);
    }
}

bool dossier_has(const struct dossiers *dossiers, int64_t id) {
    return find(dossiers, id) != NULL;
}

static int by_name(const struct value *a, const struct value *b) {
    return strcmp(a->name, b->name);
}

void dossier_each(const struct dossiers *dossiers, int64_t id,
                  void (*fn)(void *context, const char *name, const char *text, double timestamp),
                  void *context) {
    struct dossier *dossier = find(dossiers, id);
    if (dossier == NULL)
        return;
    HASH_SORT(dossier->values, by_name);
    for (const struct value *value = dossier->values; value != NULL; value = value->hh.next)
        fn(context, value->name, value->text, value->timestamp);
}

static void write_value(void *context, const char *name, const char *text, double timestamp) {
    struct text_out *out = context;
    text_out_member(out, name);
    text_out_print(out, "{\"value\":%s", text);
    if (timestamp > 0)
        text_out_print(out, ",\"timestamp\":%.3f", timestamp);
    text_out_bytes(out, "}", 1);
}

void dossier_write(const struct dossiers *dossiers, int64_t id, struct text_out *out) {
    dossier_each(dossiers, id, write_value, out);
}
