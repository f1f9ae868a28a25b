// What the last run has announced to Home Assistant; see former.h.
#include "gateway/state/former.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"

#define ANNOUNCED (-1) // number of a row in the store's table of devices that is none of the broker's

static const char *const kinds[] = {"entities", "device"};

struct former {
    const struct config *config;
    struct store *store;
    json_t *then; // what the store says; NULL: nothing was announced
    json_t *now;
};

static const char *text_of(const json_t *announced, const char *key) {
    return json_string_value(json_object_get(announced, key));
}

static void take(void *context, int64_t number, const char *entry) {
    struct former *former = context;
    if (number != ANNOUNCED)
        return;
    json_t *row = json_loads(entry, 0, NULL);
    json_t *then = json_object_get(row, "announced");
    json_decref(former->then);
    former->then =
        text_of(then, "prefix") != NULL && text_of(then, "node") != NULL ? json_incref(then) : NULL;
    json_decref(row);
}

struct former *former_new(const struct config *config, const char *node, struct store *store) {
    struct former *former = must_have(calloc(1, sizeof *former));
    former->config = config;
    former->store = store;
    if (store != NULL)
        store_each_device(store, take, former);
    if (config->home_assistant.enabled && !config->hand_over)
        former->now =
            must_have(json_pack("{s:s, s:s, s:s}", "prefix", config->home_assistant.prefix, "discovery",
                                kinds[config->home_assistant.discovery], "node", node));
    return former;
}

void former_free(struct former *former) {
    json_decref(former->then);
    json_decref(former->now);
    free(former);
}

static struct discovery_place place_then(const struct former *former) {
    const char *kind = text_of(former->then, "discovery");
    bool whole = kind != NULL && strcmp(kind, kinds[DISCOVERY_DEVICE]) == 0;
    return (struct discovery_place){text_of(former->then, "prefix"),
                                    whole ? DISCOVERY_DEVICE : DISCOVERY_ENTITIES};
}

static bool is_same(const struct former *former, const char *key) {
    return json_equal(json_object_get(former->then, key), json_object_get(former->now, key));
}

struct discovery_place former_of_trackers(const struct former *former) {
    bool left = former->then != NULL && !is_same(former, "prefix") && !former->config->hand_over;
    return left ? place_then(former) : (struct discovery_place){0};
}

struct discovery_place former_of_gateway(const struct former *former, const char **node) {
    bool left = former->then != NULL && !(is_same(former, "prefix") && is_same(former, "node"));
    *node = text_of(former->then, "node");
    return left ? place_then(former) : (struct discovery_place){0};
}

bool former_differs(const struct former *former) {
    return former->store != NULL && !json_equal(former->then, former->now) &&
           (former->then != NULL || former->now != NULL);
}

void former_remember(struct former *former) {
    json_t *row = former->now != NULL ? must_have(json_pack("{s:O}", "announced", former->now)) : NULL;
    char *text = row != NULL ? must_have(json_dumps(row, JSON_COMPACT)) : NULL;
    if (text != NULL)
        store_put_device(former->store, ANNOUNCED, text);
    else
        store_delete_device(former->store, ANNOUNCED);
    free(text);
    json_decref(row);
    json_decref(former->then);
    former->then = json_incref(former->now);
}
