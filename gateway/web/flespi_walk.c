// The list of a large fleet; see flespi_walk.h.
#include "gateway/web/flespi_walk.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"

#define PORTION 16384 // bytes, beyond which a portion has no further device

// The fleet changes between two portions: devices come, go, and change places. So what is walked along are their ids.
struct flespi_walk {
    struct fleet *fleet;
    int64_t *ids;
    size_t count, next; // devices, and which one is to be looked at
    struct selector selector;
    char *condition, *fields; // texts of the selector and of the list
    struct flespi_list list;  // its result is the portion
    size_t sent;              // bytes of the portion
    bool ended;               // the portion is the last one
    int64_t found[FLESPI_DEVICES_MAX + 1];
    size_t found_count;
};

static size_t walks;

struct flespi_walk *flespi_walk_new(struct fleet *fleet, const struct selector *selector,
                                    struct flespi_list *list) {
    if (walks >= FLESPI_WALKS_MAX)
        return NULL;
    struct flespi_walk *walk = must_have(calloc(1, sizeof *walk));
    *walk = (struct flespi_walk){.fleet = fleet, .selector = *selector, .list = *list};
    *list = (struct flespi_list){0};
    if (selector->kind == SELECT_EXPRESSION)
        walk->selector.expression.text = walk->condition =
            must_have(strndup(selector->expression.text, selector->expression.length));
    if (walk->list.fields.text != NULL)
        walk->list.fields.text = walk->fields = must_have(strdup(walk->list.fields.text));
    walk->ids = flespi_ids(fleet, &walk->count);
    walks++;
    return walk;
}

void flespi_walk_free(void *context) {
    struct flespi_walk *walk = context;
    walks--;
    flespi_list_free(&walk->list);
    free(walk->condition);
    free(walk->fields);
    free(walk->ids);
    free(walk);
}

// The next one, when the selector takes it; or NULL.
static const struct fleet_device *look(struct flespi_walk *walk) {
    const struct fleet_device *device = fleet_by_id(walk->fleet, walk->ids[walk->next++]);
    return flespi_device_taken(device, &walk->selector) ? device : NULL;
}

static void look_on(struct flespi_walk *walk) {
    struct text_out *out = &walk->list.result;
    for (size_t looks = 0; looks < FLESPI_LOOKS_MAX && walk->next < walk->count && out->length < PORTION;
         looks++) {
        const struct fleet_device *device = look(walk);
        if (device != NULL)
            flespi_list_device(&walk->list, device);
    }
}

bool flespi_walk_choose(struct flespi_walk *walk) {
    for (size_t looks = 0;
         looks < FLESPI_LOOKS_MAX && walk->next < walk->count && walk->found_count <= FLESPI_DEVICES_MAX;
         looks++) {
        const struct fleet_device *device = look(walk);
        if (device != NULL)
            walk->found[walk->found_count++] = device->id;
    }
    return walk->next == walk->count || walk->found_count > FLESPI_DEVICES_MAX;
}

void flespi_walk_chosen(const struct flespi_walk *walk,
                        bool (*fn)(void *context, const struct fleet_device *device), void *context) {
    bool more = true;
    for (size_t i = 0; i < walk->found_count && more; i++) {
        const struct fleet_device *device = fleet_by_id(walk->fleet, walk->found[i]);
        more = !flespi_is_there(device) || fn(context, device);
    }
}

// A portion without a device has a space, which means nothing in JSON: an empty one would be the end of what can be read.
static void write_portion(struct flespi_walk *walk) {
    struct text_out *out = &walk->list.result;
    out->length = walk->sent = 0;
    look_on(walk);
    walk->ended = walk->next == walk->count;
    if (walk->ended)
        flespi_list_close(&walk->list);
    else if (out->length == 0)
        text_out_bytes(out, " ", 1);
}

ssize_t flespi_walk_read(void *context, char *buffer, size_t max) {
    struct flespi_walk *walk = context;
    const struct text_out *out = &walk->list.result;
    if (walk->sent == out->length) {
        if (walk->ended)
            return -1;
        write_portion(walk);
    }
    size_t rest = out->length - walk->sent, length = rest < max ? rest : max;
    memcpy(buffer, out->text + walk->sent, length);
    walk->sent += length;
    return (ssize_t)length;
}
