// The gateways on the broker; see gateways.h.
#include "gateway/web/gateways.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "gateway/base/memory.h"
#include "gateway/broker/topic.h"

#define PAYLOAD_MAX 65536 // bytes

struct part {
    char *name;
    json_t *state, *metrics;
    bool holds; // what it says has come on this connection
    bool own;   // the gateway of this process
    UT_hash_handle hh;
};

struct gateways {
    struct part *instances, *channels;
};

struct gateways *gateways_new(void) {
    return must_have(calloc(1, sizeof(struct gateways)));
}

static void drop(struct part **table, struct part *part) {
    HASH_DEL(*table, part);
    free(part->name);
    json_decref(part->state);
    json_decref(part->metrics);
    free(part);
}

void gateways_free(struct gateways *gateways) {
    while (gateways->instances != NULL)
        drop(&gateways->instances, gateways->instances);
    while (gateways->channels != NULL)
        drop(&gateways->channels, gateways->channels);
    free(gateways);
}

// NULL when there is none and no place for one.
static struct part *find_or_make(struct part **table, const char *name, size_t length) {
    struct part *part;
    HASH_FIND(hh, *table, name, length, part);
    if (part != NULL || HASH_COUNT(*table) >= GATEWAYS_MAX)
        return part;
    part = must_have(calloc(1, sizeof *part));
    part->name = must_have(strndup(name, length));
    HASH_ADD_KEYPTR(hh, *table, part->name, length, part);
    return part;
}

static json_t *read_object(const struct mqtt_received *received) {
    json_t *json = NULL;
    if (received->length > 0 && received->length <= PAYLOAD_MAX)
        json = json_loadb(received->payload, received->length, 0, NULL);
    if (json_is_object(json))
        return json;
    json_decref(json);
    return NULL;
}

static void replace(json_t **place, json_t *json) {
    json_decref(*place);
    *place = json;
}

static bool says_online(const json_t *state) {
    const char *text = json_string_value(json_object_get(state, "state"));
    return text != NULL && strcmp(text, "online") == 0;
}

// The broker takes the gateway of this process for offline when it loses it, and knows no more of it then.
static void take_state(struct part *part, json_t *state) {
    if (part->own && !says_online(state))
        json_decref(state);
    else
        replace(&part->state, state);
}

// name ends where length says; rest is what follows it in the topic.
static bool take(struct part **table, const char *name, size_t length, const char *rest,
                 const struct mqtt_received *received) {
    bool state = *rest == '\0', metrics = strcmp(rest, "/metrics") == 0;
    struct part *part = state || metrics ? find_or_make(table, name, length) : NULL;
    if (part == NULL)
        return false;
    part->holds = true;
    if (state)
        take_state(part, read_object(received));
    else
        replace(&part->metrics, read_object(received));
    if (part->state == NULL && part->metrics == NULL && !part->own)
        drop(table, part);
    return true;
}

bool gateways_take(struct gateways *gateways, const char *topic, const struct mqtt_received *received) {
    const char *instance = topic_after(topic, TOPIC_INSTANCES), *channel = topic_after(topic, TOPIC_CHANNELS);
    const char *name = instance != NULL ? instance : channel;
    if (name == NULL)
        return false;
    size_t length = strcspn(name, "/");
    return take(instance != NULL ? &gateways->instances : &gateways->channels, name, length, name + length,
                received);
}

void gateways_take_own(struct gateways *gateways, const char *instance, json_t *metrics) {
    struct part *part = find_or_make(&gateways->instances, instance, strlen(instance));
    if (part == NULL) {
        json_decref(metrics);
        return;
    }
    part->own = true;
    replace(&part->metrics, metrics);
    if (!says_online(part->state))
        replace(&part->state, json_pack("{s:s, s:s, s:O?}", "state", "online", "version", TRACKBUS_VERSION,
                                        "started", json_object_get(metrics, "started")));
}

const json_t *gateways_own(const struct gateways *gateways) {
    for (const struct part *part = gateways->instances; part != NULL; part = part->hh.next)
        if (part->own)
            return part->metrics;
    return NULL;
}

void gateways_lost(struct gateways *gateways) {
    for (struct part *part = gateways->instances; part != NULL; part = part->hh.next)
        part->holds = false;
}

static bool is_online(const struct part *part) {
    return part->own || (part->holds && says_online(part->state));
}

size_t gateways_online(const struct gateways *gateways) {
    size_t count = 0;
    for (const struct part *part = gateways->instances; part != NULL; part = part->hh.next)
        count += is_online(part);
    return count;
}

static json_t *part_json(const struct part *part) {
    return json_pack("{s:s, s:b, s:O?, s:O?}", "instance", part->name, "online", is_online(part), "state",
                     part->state, "metrics", part->metrics);
}

static int by_name(const struct part *a, const struct part *b) {
    return strcmp(a->name, b->name);
}

json_t *gateways_json(struct gateways *gateways) {
    json_t *list = must_have(json_array());
    HASH_SORT(gateways->instances, by_name);
    for (const struct part *part = gateways->instances; part != NULL; part = part->hh.next)
        json_array_append_new(list, part_json(part));
    return list;
}

json_t *gateways_channels_json(const struct gateways *gateways) {
    json_t *list = must_have(json_array());
    for (const struct part *part = gateways->channels; part != NULL; part = part->hh.next)
        if (part->state != NULL)
            json_array_append(list, part->state);
    return list;
}

json_t *gateways_one(const struct gateways *gateways, const char *instance) {
    struct part *part;
    HASH_FIND_STR(gateways->instances, instance, part);
    return part != NULL ? part_json(part) : NULL;
}

void gateways_each(const struct gateways *gateways, gateways_fn *fn, void *context) {
    for (const struct part *part = gateways->instances; part != NULL; part = part->hh.next)
        fn(context, part->name, is_online(part), part->state, part->metrics);
}
