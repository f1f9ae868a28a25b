// Captures as the gateways tell of them; see captured.h.
#include "gateway/web/captured.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"

// What makes one: who asked which gateway for what.
static const char *const keys[] = {"instance", "by", "device", "channel", "address"};

struct running {
    json_t *entry; // that announced it
    struct running *prev, *next;
};

struct captured {
    struct running *list;
    size_t count;
};

struct captured *captured_new(void) {
    return must_have(calloc(1, sizeof(struct captured)));
}

static void drop(struct captured *captured, struct running *running) {
    DL_DELETE(captured->list, running);
    captured->count--;
    json_decref(running->entry);
    free(running);
}

void captured_free(struct captured *captured) {
    while (captured->list != NULL)
        drop(captured, captured->list);
    free(captured);
}

static const char *text_at(const json_t *entry, const char *key) {
    const char *text = json_string_value(json_object_get(entry, key));
    return text != NULL ? text : "";
}

static bool is_same(const json_t *one, const json_t *other) {
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (strcmp(text_at(one, keys[i]), text_at(other, keys[i])) != 0)
            return false;
    return true;
}

static bool forget(struct captured *captured, const json_t *entry) {
    struct running *running;
    DL_FOREACH(captured->list, running) {
        if (is_same(running->entry, entry)) {
            drop(captured, running);
            return true;
        }
    }
    return false;
}

bool captured_take(struct captured *captured, const char *word, const json_t *entry) {
    bool started = strcmp(word, "started") == 0;
    if (!started && strcmp(word, "ended") != 0)
        return false;
    bool known = forget(captured, entry);
    if (!started)
        return known;
    if (captured->count == CAPTURED_MAX)
        drop(captured, captured->list);
    struct running *running = must_have(calloc(1, sizeof *running));
    running->entry = json_incref((json_t *)entry);
    DL_APPEND(captured->list, running);
    captured->count++;
    return true;
}

static bool names(const json_t *entry, const struct fleet_device *device) {
    const char *text = text_at(entry, "device");
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)device->id);
    return *text != '\0' && (strcmp(text, device->ident) == 0 || strcmp(text, device->name) == 0 ||
                             (device->id >= 0 && strcmp(text, id) == 0));
}

static bool holds(const json_t *entry, const struct gateways *gateways) {
    json_t *gateway = gateways_one(gateways, text_at(entry, "instance"));
    const json_t *started = json_object_get(json_object_get(gateway, "state"), "started");
    bool held = json_is_true(json_object_get(gateway, "online")) &&
                json_number_value(started) <= json_number_value(json_object_get(entry, "timestamp"));
    json_decref(gateway);
    return held;
}

json_t *captured_json(const struct captured *captured, const struct gateways *gateways,
                      const struct fleet_device *device) {
    json_t *list = must_have(json_array());
    const struct running *running;
    DL_FOREACH(captured->list, running) {
        if ((device == NULL || names(running->entry, device)) && holds(running->entry, gateways))
            json_array_append(list, running->entry);
    }
    return list;
}
