// Where commands are given in; see desk.h.
#include "gateway/web/desk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "gateway/base/clock.h"
#include "gateway/base/hex.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/config/listing.h"
#include "schema/json_schema.h"
#include "schema/schemas.h"

#define PLACES      1024 // publishes that are remembered
#define AT_ONCE_MAX 100  // commands of an array
#define REASON_MAX  96

struct desk {
    const char *prefix;
    const struct mqtt_carrier *carrier;
    unsigned last;
    struct {
        unsigned number; // 0: nobody asks about it
        int mid;
        int64_t at; // by clock_ticks()
        enum desk_state state;
        char reason[REASON_MAX];
    } places[PLACES]; // by number
};

struct desk *desk_new(const char *prefix, const struct mqtt_carrier *carrier) {
    struct desk *desk = must_have(calloc(1, sizeof *desk));
    desk->prefix = prefix;
    desk->carrier = carrier;
    return desk;
}

void desk_free(struct desk *desk) {
    free(desk);
}

// --- checking ---

static void add_fault(void *context, const char *path, const char *problem) {
    json_array_append_new(context, json_pack("{s:s, s:s}", "path", path, "problem", problem));
}

// One line of all faults, for people; faults is taken over.
static json_t *say(json_t *faults) {
    char *reason = NULL;
    size_t i;
    json_t *fault;
    json_array_foreach(faults, i, fault) {
        const char *path = json_string_value(json_object_get(fault, "path"));
        const char *problem = json_string_value(json_object_get(fault, "problem"));
        char *more = text_format("%s%s%s %s", i > 0 ? reason : "", i > 0 ? "; " : "", path, problem);
        free(reason);
        reason = more;
    }
    json_t *said = json_pack("{s:s, s:o}", "reason", reason, "faults", faults);
    free(reason);
    return said;
}

static json_t *say_one(const char *path, const char *problem) {
    json_t *faults = must_have(json_array());
    add_fault(faults, path, problem);
    return say(faults);
}

// The commands as an array; NULL, and *fault.
static json_t *read_body(const char *body, size_t length, json_t **fault) {
    json_t *json = json_loadb(body, length, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    if (json_is_string(json)) {
        json_t *custom = json_pack("[{s:s, s:{s:O}}]", "name", "custom", "properties", "payload", json);
        json_decref(json);
        return custom;
    }
    if (json_is_object(json))
        return json_pack("[o]", json);
    if (json_array_size(json) >= 1 && json_array_size(json) <= AT_ONCE_MAX)
        return json;
    json_decref(json);
    *fault =
        say_one("command", "is not a command as JSON: an object, an array of 1 to 100 of them, or a text");
    return NULL;
}

static void check_properties(json_t *command, const char *protocol, json_t *faults) {
    const json_t *catalogue = schema_of_commands(protocol);
    const char *name = json_string_value(json_object_get(command, "name"));
    const json_t *schema = json_object_get(json_object_get(catalogue, "$defs"), name);
    json_t *given = json_object_get(command, "properties"), *none = json_object();
    char problem[160];
    snprintf(problem, sizeof problem, "is \"%.60s\", which %s does not have", name, protocol);
    if (schema == NULL)
        add_fault(faults, "command.name", problem);
    else
        json_schema_check(catalogue, schema, given != NULL ? given : none, "properties", add_fault, faults);
    json_decref(none);
}

static void check_one(json_t *command, const char *protocol, json_t *faults) {
    const json_t *envelope = schema_find("command.schema.json");
    if (json_schema_check(envelope, envelope, command, "command", add_fault, faults) == 0 && protocol != NULL)
        check_properties(command, protocol, faults);
}

static void sign(json_t *command, const char *mark, const char *user) {
    json_t *meta = json_object_get(command, "meta");
    if (meta == NULL)
        json_object_set_new(command, "meta", meta = json_object());
    json_object_set_new(meta, "web", json_string(mark));
    json_object_set_new(meta, "user", json_string(user));
}

void desk_mark(char mark[DESK_MARK_SIZE]) {
    uint8_t random[(DESK_MARK_SIZE - 1) / 2];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        must_have(NULL);
    hex_write(random, sizeof random, mark);
}

json_t *desk_check(const char *body, size_t length, const char *protocol, const char *mark, const char *user,
                   json_t **fault) {
    json_t *commands = read_body(body, length, fault), *faults = json_array(), *command;
    size_t i;
    json_array_foreach(commands, i, command) check_one(command, protocol, faults);
    if (json_array_size(faults) > 0) {
        *fault = say(faults);
        json_decref(commands);
        return NULL;
    }
    json_decref(faults);
    json_array_foreach(commands, i, command) sign(command, mark, user);
    return commands;
}

json_t *desk_check_listing(const char *ident, const char *body, size_t length, json_t **fault) {
    json_t *rules = listing_rules(), *faults = must_have(json_array());
    struct config_device device;
    json_t *listing = listing_read(rules, ident, body, length, add_fault, faults, &device);
    json_decref(rules);
    if (listing == NULL)
        *fault = say(faults);
    else
        json_decref(faults);
    return listing;
}

// --- publishing ---

static unsigned number_after(unsigned number) {
    return number + 1 != 0 ? number + 1 : 1;
}

// The place of a request that has gone is free after a while.
static bool is_free(const struct desk *desk, unsigned number) {
    size_t place = number % PLACES;
    return desk->places[place].number == 0 || clock_ticks() - desk->places[place].at > 2 * DESK_TIME;
}

size_t desk_room(const struct desk *desk) {
    size_t room = 0;
    for (unsigned number = number_after(desk->last); room < PLACES && is_free(desk, number);
         number = number_after(number))
        room++;
    return room;
}

const char *desk_hindrance(const struct desk *desk) {
    if (!desk->carrier->is_up(desk->carrier->context))
        return "the broker is not connected";
    return is_free(desk, number_after(desk->last)) ? "the broker wants it slower" : "too much is under way";
}

static unsigned remember(struct desk *desk, int mid, enum desk_state state, const char *reason) {
    desk->last = number_after(desk->last);
    size_t place = desk->last % PLACES;
    desk->places[place].number = desk->last;
    desk->places[place].mid = mid;
    desk->places[place].at = clock_ticks();
    desk->places[place].state = state;
    snprintf(desk->places[place].reason, REASON_MAX, "%s", reason);
    return desk->last;
}

unsigned desk_publish(struct desk *desk, const char *topic, const json_t *payload, enum mqtt_retain retain) {
    if (!is_free(desk, number_after(desk->last)))
        return 0;
    char *whole = text_format("%s/%s", desk->prefix, topic);
    char *text = payload != NULL ? text_of_json(payload, TEXT_TIME_DIGITS) : must_have(strdup(""));
    int mid = 0;
    const struct mqtt_publish publish = {.topic = whole,
                                         .payload = text,
                                         .length = strlen(text),
                                         .qos = 1,
                                         .retain = payload != NULL ? retain : MQTT_RETAINED};
    enum mqtt_publish_result result = desk->carrier->publish(desk->carrier->context, &publish, &mid);
    free(whole);
    free(text);
    if (result == MQTT_NOT_NOW)
        return 0;
    return result == MQTT_SENT ? remember(desk, mid, DESK_WAITS, "")
                               : remember(desk, 0, DESK_REFUSED, "it is too large for the broker");
}

// What is said of it, which stays to be asked about.
static enum desk_state look_up(const struct desk *desk, unsigned number, const char **reason) {
    size_t place = number % PLACES;
    *reason = desk->places[place].reason;
    if (desk->places[place].number == number)
        return desk->places[place].state;
    *reason = "it was asked about too late";
    return DESK_REFUSED;
}

// It has been told; one that waits may come to be asked about.
static void forget(struct desk *desk, unsigned number) {
    size_t place = number % PLACES;
    if (desk->places[place].number == number && desk->places[place].state != DESK_WAITS)
        desk->places[place].number = 0;
}

enum desk_state desk_state(struct desk *desk, unsigned number, const char **reason) {
    enum desk_state state = look_up(desk, number, reason);
    forget(desk, number);
    return state;
}

enum desk_state desk_states(struct desk *desk, unsigned first, unsigned count, const char **reason) {
    enum desk_state state = DESK_TAKEN;
    unsigned number = first;
    for (unsigned i = 0; i < count && state == DESK_TAKEN; i++, number = number_after(number))
        state = look_up(desk, number, reason);
    number = first;
    for (unsigned i = 0; i < count && state != DESK_WAITS; i++, number = number_after(number))
        forget(desk, number);
    return state;
}

void desk_published(struct desk *desk, int mid, enum mqtt_answer answer, const char *reason) {
    for (size_t i = 0; i < PLACES; i++)
        if (desk->places[i].state == DESK_WAITS && desk->places[i].number != 0 &&
            desk->places[i].mid == mid) {
            desk->places[i].state = answer == MQTT_TAKEN ? DESK_TAKEN : DESK_REFUSED;
            snprintf(desk->places[i].reason, REASON_MAX, "%s", reason != NULL ? reason : "");
        }
}

void desk_lost(struct desk *desk) {
    for (size_t i = 0; i < PLACES; i++)
        if (desk->places[i].state == DESK_WAITS) {
            desk->places[i].state = DESK_REFUSED;
            strcpy(desk->places[i].reason,
                   "the connection to the broker was lost; it may have been published");
        }
}
