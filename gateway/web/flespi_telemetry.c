// The last values of devices, in flespi's form: {"id":42,"telemetry":{"position.speed":{"ts":…,"value":61},…}}.
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/topic.h"
#include "gateway/web/flespi_choice.h"

#define WAIT 10000000 // microseconds; with very many who look at once, values may not come

// A request that waits.
struct looking {
    enum flespi_note note; // FLESPI_WAITS
    int64_t begun;         // by clock_ticks()
    size_t count;
    int64_t ids[FLESPI_DEVICES_MAX]; // of the devices that were selected
};

struct writing {
    struct fields *wanted;
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
    if (!fields_want(writing->wanted, name))
        return;
    begin_value(writing->out, name, timestamp);
    text_out_bytes(writing->out, text, strlen(text));
    text_out_bytes(writing->out, "}", 1);
}

static void write_device(struct flespi_asked *asked, const struct fleet_device *device,
                         struct fields *wanted) {
    struct writing writing = {.wanted = wanted, .out = &asked->list.result};
    if (!flespi_list_next(&asked->list))
        return;
    text_out_print(writing.out, "{\"id\":%lld,\"telemetry\":{", (long long)device->id);
    dossier_each(asked->call->parts->dossiers, device->id, write_value, &writing);
    if (writing.position.length > 0 && fields_want(writing.wanted, TOPIC_POSITION)) {
        begin_value(writing.out, TOPIC_POSITION, writing.moved);
        text_out_bytes(writing.out, writing.position.text, writing.position.length);
        text_out_bytes(writing.out, "}}", 2);
    }
    text_out_free(&writing.position);
    text_out_bytes(writing.out, "}}", 2);
}

// Asks the broker, when it is there, for what is not known yet. Whether all of it has come.
static bool open_all(const struct api_parts *parts, const struct flespi_devices *devices) {
    bool ready = true, up = parts->carrier->is_up(parts->carrier->context);
    for (size_t i = 0; i < devices->count; i++) {
        int64_t id = devices->device[i]->id;
        bool known =
            up ? dossier_open(parts->dossiers, id, clock_ticks()) : dossier_is_known(parts->dossiers, id);
        ready = known && ready;
    }
    return ready;
}

// A request that waits looks through the fleet once, and for the same devices afterwards.
static bool select_devices(struct flespi_asked *asked, struct flespi_devices *devices,
                           struct http_answer *fault) {
    const struct looking *looking = flespi_waits(asked);
    struct selector *selector = &asked->selector[0];
    if (looking != NULL && selector->kind != SELECT_IDS) {
        selector->kind = SELECT_IDS;
        selector->count = looking->count;
        selector->ids = must_have(malloc(sizeof looking->ids));
        memcpy(selector->ids, looking->ids, sizeof looking->ids);
    }
    return flespi_choose(asked, devices, fault);
}

static struct http_answer wait_for(const struct flespi_asked *asked, const struct flespi_devices *devices) {
    struct looking *looking = flespi_waits(asked);
    if (looking != NULL && clock_ticks() - looking->begun > WAIT)
        return flespi_fault(503, "too many look at other devices; try again");
    if (looking == NULL) {
        looking = must_have(calloc(1, sizeof *looking));
        looking->note = FLESPI_WAITS;
        looking->begun = clock_ticks();
        for (; looking->count < devices->count; looking->count++)
            looking->ids[looking->count] = devices->device[looking->count]->id;
        http_set_note(asked->call->request, looking, free);
    }
    return HTTP_LATER;
}

static struct http_answer write_devices(struct flespi_asked *asked, const struct flespi_devices *devices) {
    struct fields wanted = {.text = asked->part[1]};
    for (size_t i = 0; i < devices->count; i++)
        write_device(asked, devices->device[i], &wanted);
    fields_free(&wanted);
    return flespi_list_end(&asked->list);
}

static struct http_answer refuse_fields(char *reason) {
    struct http_answer fault = flespi_fault(400, "%s", reason);
    free(reason);
    return fault;
}

struct http_answer flespi_get_telemetry(struct flespi_asked *asked) {
    const struct api_parts *parts = asked->call->parts;
    struct flespi_devices devices;
    struct http_answer fault;
    char *reason = fields_fault(asked->part[1]);
    if (reason != NULL)
        return refuse_fields(reason);
    if (!select_devices(asked, &devices, &fault))
        return fault;
    if (open_all(parts, &devices))
        return write_devices(asked, &devices);
    return parts->carrier->is_up(parts->carrier->context)
               ? wait_for(asked, &devices)
               : flespi_fault(503, "the broker is not connected, and not all of these values are known");
}
