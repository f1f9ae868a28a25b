// The commands that wait for devices, and new ones, in flespi's form.
#include <stdlib.h>
#include <string.h>

#include "codecs/codec.h"
#include "gateway/base/clock.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/topic.h"
#include "gateway/web/flespi_asked.h"
#include "gateway/web/reply.h"
#include "gateway/web/row.h"

// --- what waits ---

// In flespi an id is a number.
static void mend_id(json_t *command) {
    const char *text = json_string_value(json_object_get(command, "id")), *end;
    int64_t id;
    if (text != NULL && topic_read_id(text, &id, &end) && *end == '\0')
        json_object_set_new(command, "id", json_integer(id));
}

// Adds those of a device to an array.
static void add_waiting(json_t *commands, const struct waiting *waiting, const struct fleet_device *device) {
    struct text_out out = {0};
    char place[ROW_PLACE_MAX];
    size_t i;
    json_t *command;
    text_out_bytes(&out, "[", 1);
    waiting_write(waiting, row_place(device, place), &out);
    text_out_bytes(&out, "]", 1);
    json_t *own = json_loadb(out.text, out.length, 0, NULL);
    json_array_foreach(own, i, command) {
        mend_id(command);
        json_object_set_new(command, "device_id", json_integer(device->id));
    }
    json_array_extend(commands, own);
    json_decref(own);
    text_out_free(&out);
}

struct http_answer flespi_get_commands(struct flespi_asked *asked) {
    const struct api_parts *parts = asked->call->parts;
    struct flespi_devices devices;
    struct http_answer fault;
    if (!flespi_devices_select(&devices, parts->fleet, &asked->selector[0], &asked->list, &fault))
        return fault;
    json_t *commands = must_have(json_array());
    for (size_t i = 0; i < devices.count; i++)
        add_waiting(commands, parts->waiting, devices.device[i]);
    flespi_list_add(&asked->list, commands, &asked->selector[1]); // all, when the path has none
    json_decref(commands);
    return flespi_list_end(&asked->list);
}

// --- what is sent ---

// What is under way for a request.
struct sending {
    unsigned first, count; // numbers of the desk
    int64_t until;         // by clock_ticks()
    char mark[DESK_MARK_SIZE];
    int64_t ids[FLESPI_DEVICES_MAX]; // of the devices, as many
};

// fault is of desk_check(), and taken over.
static struct http_answer refuse(json_t *fault) {
    json_object_set_new(fault, "code", json_integer(400));
    return reply_json(400, json_pack("{s:[o]}", "errors", fault));
}

// The commands as they are published to a device, whose protocol is its own, or with NULL is not checked; NULL, and *fault.
static json_t *check(const struct flespi_asked *asked, const struct sending *sending,
                     const struct fleet_device *device, json_t **fault) {
    const struct http_view *view = http_view(asked->call->request);
    const struct codec *codec = device != NULL ? codec_by_id((unsigned)device->protocol) : NULL;
    return desk_check(view->body, view->length, codec != NULL ? codec->name : NULL, sending->mark,
                      asked->call->user, fault);
}

static void add_sent(struct flespi_list *list, int64_t id, const json_t *commands) {
    size_t i;
    json_t *command;
    json_t *sent = must_have(json_deep_copy(commands));
    json_array_foreach(sent, i, command) json_object_set_new(command, "device_id", json_integer(id));
    flespi_list_add(list, sent, &(struct selector){.kind = SELECT_ALL});
    json_decref(sent);
}

static struct http_answer tell_sent(struct flespi_asked *asked, const struct sending *sending) {
    json_t *fault, *commands = check(asked, sending, NULL, &fault); // valid, or they would not have been sent
    for (unsigned i = 0; i < sending->count; i++)
        add_sent(&asked->list, sending->ids[i], commands);
    json_decref(commands);
    return flespi_list_end(&asked->list);
}

// Not now, until the broker has taken all of it.
static struct http_answer follow(struct flespi_asked *asked, const struct sending *sending) {
    const char *reason;
    enum desk_state state = desk_states(asked->call->parts->desk, sending->first, sending->count, &reason);
    if (state == DESK_REFUSED)
        return flespi_fault(502, "the broker did not take it: %s", reason);
    if (state == DESK_WAITS && clock_ticks() > sending->until)
        return flespi_fault(504, "the broker did not answer; it may have been published");
    return state == DESK_WAITS ? HTTP_LATER : tell_sent(asked, sending);
}

// False when the broker is away.
static bool publish(const struct flespi_asked *asked, struct sending *sending,
                    const struct fleet_device *device) {
    char place[ROW_PLACE_MAX];
    json_t *fault, *commands = check(asked, sending, device, &fault);
    char *topic = text_format("command/gw/%s", row_place(device, place));
    unsigned number = desk_publish(asked->call->parts->desk, topic, commands, MQTT_NOT_RETAINED);
    free(topic);
    json_decref(commands);
    if (number == 0)
        return false;
    sending->first = sending->count == 0 ? number : sending->first;
    sending->ids[sending->count++] = device->id;
    return true;
}

// All are checked before the first is sent.
static struct http_answer send_all(struct flespi_asked *asked, struct sending *sending,
                                   const struct flespi_devices *devices) {
    json_t *fault = NULL;
    for (size_t i = 0; i < devices->count; i++) {
        json_t *commands = check(asked, sending, devices->device[i], &fault);
        if (commands == NULL)
            return refuse(fault);
        json_decref(commands);
    }
    for (size_t i = 0; i < devices->count; i++)
        if (!publish(asked, sending, devices->device[i]))
            return flespi_fault(503, "the broker is not connected; published for %zu of %zu devices", i,
                                devices->count);
    return follow(asked, sending);
}

struct http_answer flespi_post_commands(struct flespi_asked *asked) {
    struct sending *sending = http_note(asked->call->request);
    struct flespi_devices devices;
    struct http_answer fault;
    if (sending != NULL)
        return follow(asked, sending);
    if (!flespi_devices_select(&devices, asked->call->parts->fleet, &asked->selector[0], &asked->list,
                               &fault))
        return fault;
    if (asked->list.errors.length > 0 || devices.count == 0)
        return flespi_fault(404, "not all of these devices are there; nothing was sent");
    sending = must_have(calloc(1, sizeof *sending));
    sending->until = clock_ticks() + DESK_TIME;
    desk_mark(sending->mark);
    http_set_note(asked->call->request, sending);
    return send_all(asked, sending, &devices);
}
