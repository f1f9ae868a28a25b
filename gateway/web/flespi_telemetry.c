// The last values of devices, in flespi's form: {"id":42,"telemetry":{"position.speed":{"ts":…,"value":61},…}}.
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/topic.h"
#include "gateway/web/flespi_asked.h"

#define WAIT 10000000 // microseconds; with very many who look at once, values may not come

struct writing {
    const char *wanted;
    struct text_out *out, position;
    double moved; // when the position was measured
};

static void begin_value(struct text_out *out, const char *name, double timestamp) {
    json_t *time = json_real(timestamp);
    char *text = text_of_value(time);
    text_out_member(out, name);
    if (timestamp > 0)
        text_out_print(out, "{\"ts\":%s,\"value\":", text);
    else
        text_out_bytes(out, "{\"value\":", 9);
    free(text);
    json_decref(time);
}

// All of the position is one value as well.
static void add_to_position(struct writing *writing, const char *name, const char *text, double timestamp) {
    if (writing->position.length == 0)
        text_out_bytes(&writing->position, "{", 1);
    text_out_member(&writing->position, name);
    text_out_bytes(&writing->position, text, strlen(text));
    if (timestamp > writing->moved)
        writing->moved = timestamp;
}

static void write_value(void *context, const char *name, const char *text, double timestamp) {
    struct writing *writing = context;
    const char *part = topic_after(name, "position.");
    if (part != NULL)
        add_to_position(writing, part, text, timestamp);
    if (!selector_wants(writing->wanted, name))
        return;
    begin_value(writing->out, name, timestamp);
    text_out_bytes(writing->out, text, strlen(text));
    text_out_bytes(writing->out, "}", 1);
}

static void write_device(struct flespi_asked *asked, const struct fleet_device *device) {
    struct writing writing = {.wanted = asked->part[1], .out = &asked->list.result};
    if (!flespi_list_next(&asked->list))
        return;
    text_out_print(writing.out, "{\"id\":%lld,\"telemetry\":{", (long long)device->id);
    dossier_each(asked->call->parts->dossiers, device->id, write_value, &writing);
    if (writing.position.length > 0 && selector_wants(writing.wanted, TOPIC_POSITION)) {
        begin_value(writing.out, TOPIC_POSITION, writing.moved);
        text_out_bytes(writing.out, writing.position.text, writing.position.length);
        text_out_bytes(writing.out, "}}", 2);
    }
    text_out_free(&writing.position);
    text_out_bytes(writing.out, "}}", 2);
}

// Asks the broker for what is not known yet. Whether all of it has come.
static bool open_all(const struct api_parts *parts, const struct flespi_devices *devices) {
    bool ready = true;
    for (size_t i = 0; i < devices->count; i++)
        ready = dossier_open(parts->dossiers, devices->device[i]->id, clock_ticks()) && ready;
    return ready || !parts->carrier->is_up(parts->carrier->context);
}

static bool is_late(struct http_request *request) {
    int64_t *begun = http_note(request);
    if (begun == NULL) {
        begun = must_have(malloc(sizeof *begun));
        *begun = clock_ticks();
        http_set_note(request, begun);
    }
    return clock_ticks() - *begun > WAIT;
}

struct http_answer flespi_get_telemetry(struct flespi_asked *asked) {
    const struct api_parts *parts = asked->call->parts;
    struct flespi_devices devices;
    struct http_answer fault;
    if (!flespi_devices_select(&devices, parts->fleet, &asked->selector[0], &asked->list, &fault))
        return fault;
    if (!open_all(parts, &devices))
        return is_late(asked->call->request) ? flespi_fault(503, "too many look at other devices; try again")
                                             : HTTP_LATER;
    for (size_t i = 0; i < devices.count; i++)
        write_device(asked, devices.device[i]);
    return flespi_list_end(&asked->list);
}
