// The commands that wait for devices, and new ones, in flespi's form.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codecs/codec.h"
#include "gateway/base/clock.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/topic.h"
#include "gateway/web/flespi_choice.h"
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
    if (!flespi_choose(asked, &devices, &fault))
        return fault;
    json_t *commands = must_have(json_array());
    for (size_t i = 0; i < devices.count; i++)
        add_waiting(commands, parts->waiting, devices.device[i]);
    flespi_list_add(&asked->list, commands, &asked->selector[1]); // all, when the path has none
    json_decref(commands);
    return flespi_list_end(&asked->list);
}

// --- what is sent ---

// To one device.
struct errand {
    int64_t id;
    unsigned number;  // of the desk; 0: it is not published yet
    unsigned code;    // how it ended, as a status of HTTP: 200 is done; 0: it is under way
    char reason[160]; // why not
};

// What is under way for a request.
struct sending {
    enum flespi_note note; // FLESPI_WAITS
    int64_t until;         // by clock_ticks()
    char mark[DESK_MARK_SIZE];
    struct errand errands[FLESPI_DEVICES_MAX];
    size_t count;
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
    for (size_t i = 0; i < sending->count; i++) {
        const struct errand *errand = &sending->errands[i];
        if (errand->code == 200)
            add_sent(&asked->list, errand->id, commands);
        else
            flespi_list_error(&asked->list, errand->code, errand->id, errand->reason);
    }
    json_decref(commands);
    return flespi_list_end(&asked->list);
}

__attribute__((format(printf, 3, 4))) static void end(struct errand *errand, unsigned code,
                                                      const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    errand->code = code;
    vsnprintf(errand->reason, sizeof errand->reason, format, arguments);
    va_end(arguments);
}

// Stays unpublished when the desk cannot do so now.
static void publish(const struct flespi_asked *asked, const struct sending *sending, struct errand *errand) {
    const struct fleet_device *device = fleet_by_id(asked->call->parts->fleet, errand->id);
    char place[ROW_PLACE_MAX];
    if (!flespi_is_there(device)) {
        end(errand, 404, "there is no such item");
        return;
    }
    json_t *fault, *commands = check(asked, sending, NULL, &fault);
    char *topic = text_format("command/gw/%s", row_place(device, place));
    errand->number = desk_publish(asked->call->parts->desk, topic, commands, MQTT_NOT_RETAINED);
    free(topic);
    json_decref(commands);
}

// What the broker has said, or that it says nothing any more.
static void hear(const struct flespi_asked *asked, const struct sending *sending, struct errand *errand) {
    const struct api_parts *parts = asked->call->parts;
    const char *reason;
    bool late = clock_ticks() > sending->until, up = parts->carrier->is_up(parts->carrier->context);
    if (errand->number == 0) {
        if (late || !up)
            end(errand, 503, "%s; it was not sent", desk_hindrance(parts->desk));
        return;
    }
    enum desk_state state = desk_state(parts->desk, errand->number, &reason);
    if (state == DESK_TAKEN)
        errand->code = 200;
    else if (state == DESK_REFUSED)
        end(errand, 502, "the broker did not take it: %s", reason);
    else if (late)
        end(errand, 504, "the broker did not answer; it may have been published");
}

// Not now, until all have ended. In their order: the first that cannot be published keeps back those after it.
static struct http_answer follow(struct flespi_asked *asked, struct sending *sending) {
    bool waits = false, kept_back = false;
    for (size_t i = 0; i < sending->count; i++) {
        struct errand *errand = &sending->errands[i];
        if (errand->code == 0 && errand->number == 0 && !kept_back)
            publish(asked, sending, errand);
        if (errand->code == 0)
            hear(asked, sending, errand);
        kept_back = kept_back || (errand->code == 0 && errand->number == 0);
        waits = waits || errand->code == 0;
    }
    return waits ? HTTP_LATER : tell_sent(asked, sending);
}

// NULL, or what keeps all of it from being sent.
static json_t *check_all(const struct flespi_asked *asked, const struct sending *sending,
                         const struct flespi_devices *devices) {
    json_t *fault = NULL;
    for (size_t i = 0; i < devices->count && fault == NULL; i++)
        json_decref(check(asked, sending, devices->device[i], &fault));
    return fault;
}

// All are checked before the first is sent.
static struct http_answer send_all(struct flespi_asked *asked, const struct flespi_devices *devices) {
    struct sending *sending = must_have(calloc(1, sizeof *sending));
    sending->note = FLESPI_WAITS;
    http_set_note(asked->call->request, sending, free);
    sending->until = clock_ticks() + DESK_TIME;
    desk_mark(sending->mark);
    json_t *fault = check_all(asked, sending, devices);
    if (fault != NULL)
        return refuse(fault);
    for (; sending->count < devices->count; sending->count++)
        sending->errands[sending->count].id = devices->device[sending->count]->id;
    return follow(asked, sending);
}

struct http_answer flespi_post_commands(struct flespi_asked *asked) {
    const struct api_parts *parts = asked->call->parts;
    struct sending *sending = flespi_waits(asked);
    struct flespi_devices devices;
    struct http_answer fault;
    if (sending != NULL)
        return follow(asked, sending);
    if (!flespi_choose(asked, &devices, &fault))
        return fault;
    if (asked->list.errors.length > 0 || devices.count == 0)
        return flespi_fault(404, "not all of these devices are there; nothing was sent");
    if (!parts->carrier->is_up(parts->carrier->context))
        return flespi_fault(503, "the broker is not connected; nothing was sent");
    if (desk_room(parts->desk) < devices.count)
        return flespi_fault(503, "too much is under way; nothing was sent; try again");
    return send_all(asked, &devices);
}
