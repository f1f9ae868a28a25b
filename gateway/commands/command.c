// Commands and their entries; see command.h.
#include "gateway/commands/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/hex.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/topic.h"
#include "schema/json_schema.h"
#include "schema/schemas.h"

static const char *const state_names[] = {
    [COMMAND_QUEUED] = "queued",   [COMMAND_SENT] = "sent",         [COMMAND_PROCESSED] = "processed",
    [COMMAND_EXPIRED] = "expired", [COMMAND_CANCELED] = "canceled",
};

// Parts of a command that are its definition, as the publisher gave it.
static const char *const definition_keys[] = {"name", "properties", "meta", "priority", "timeout"};
#define DEFINITION_KEYS (sizeof definition_keys / sizeof definition_keys[0])

char *command_key(char key[COMMAND_KEY_MAX], int64_t device_id, int64_t channel_id, const char *ident) {
    if (device_id >= 0)
        snprintf(key, COMMAND_KEY_MAX, TOPIC_DEVICES "%lld", (long long)device_id);
    else
        snprintf(key, COMMAND_KEY_MAX, TOPIC_CHANNELS "%lld/%s", (long long)channel_id, ident);
    return key;
}

const char *command_state_name(enum command_state state) {
    return state_names[state];
}

const char *command_name(const struct command *command) {
    const char *name = json_string_value(json_object_get(command->definition, "name"));
    return name != NULL ? name : "invalid";
}

bool command_has_ended(const struct command *command) {
    return command->state >= COMMAND_PROCESSED;
}

void command_free(struct command *command) {
    if (command->stale != NULL)
        command_free(command->stale);
    free(command->key);
    json_decref(command->definition);
    free(command->response_topic);
    free(command->correlation);
    free(command->instance);
    free(command->bytes);
    json_decref(command->result);
    free(command);
}

static json_t *seconds(int64_t microseconds) {
    return json_real((double)microseconds / 1e6);
}

static int64_t microseconds(const json_t *entry, const char *key) {
    return (int64_t)(json_number_value(json_object_get(entry, key)) * 1e6 + 0.5);
}

static json_t *hex_text(const uint8_t *bytes, size_t length) {
    char *text = must_have(malloc(2 * length + 1));
    json_t *json = json_string(hex_write(bytes, length, text));
    free(text);
    return json;
}

static void copy_definition(json_t *to, const json_t *from) {
    for (size_t i = 0; i < DEFINITION_KEYS; i++)
        if (json_object_get(from, definition_keys[i]) != NULL)
            json_object_set(to, definition_keys[i], json_object_get(from, definition_keys[i]));
}

static void add_sent(const struct command *command, json_t *entry) {
    json_object_set_new(entry, "attempts", json_integer(command->attempts));
    if (command->instance != NULL)
        json_object_set_new(entry, "instance", json_string(command->instance));
    if (command->attempts == 0)
        return;
    json_object_set_new(entry, "answer_by", seconds(command->answer_by));
    json_object_set_new(entry, "answer_key", json_string(command->expectation.key));
    json_object_set_new(entry, "answer_final", json_boolean(command->expectation.final_after_progress));
}

static void add_target(const struct command *command, json_t *entry) {
    if (command->device_id >= 0)
        json_object_set_new(entry, "device_id", json_integer(command->device_id));
    if (command->ident[0] != '\0')
        json_object_set_new(entry, "ident", json_string(command->ident));
    if (command->channel_id != 0)
        json_object_set_new(entry, "channel_id", json_integer(command->channel_id));
}

static void add_response(const struct command *command, json_t *entry) {
    if (command->response_topic != NULL)
        json_object_set_new(entry, "response_topic", json_string(command->response_topic));
    if (command->correlation != NULL)
        json_object_set_new(entry, "correlation_data",
                            hex_text(command->correlation, command->correlation_length));
    if (command->result != NULL)
        json_object_set(entry, "result", command->result);
}

json_t *command_to_json(const struct command *command) {
    json_t *entry = must_have(json_object());
    copy_definition(entry, command->definition);
    json_object_set_new(entry, "id", json_integer(command->id));
    json_object_set_new(entry, "created", seconds(command->created));
    json_object_set_new(entry, "expires", seconds(command->expires));
    json_object_set_new(entry, "max_attempts", json_integer(command->max_attempts));
    json_object_set_new(entry, "state", json_string(state_names[command->state]));
    add_sent(command, entry);
    add_target(command, entry);
    add_response(command, entry);
    return entry;
}

static bool is_same_text(const char *one, const char *other) {
    return one == other || (one != NULL && other != NULL && strcmp(one, other) == 0);
}

bool command_is_same(const struct command *one, const struct command *other) {
    bool same = strcmp(one->key, other->key) == 0 && one->created == other->created &&
                one->expires == other->expires && one->max_attempts == other->max_attempts &&
                is_same_text(one->response_topic, other->response_topic);
    for (size_t i = 0; i < DEFINITION_KEYS && same; i++) {
        const json_t *value = json_object_get(one->definition, definition_keys[i]);
        const json_t *its = json_object_get(other->definition, definition_keys[i]);
        same = value == its || json_equal(value, its);
    }
    return same;
}

// --- reading ---

static void keep_first(void *context, const char *path, const char *problem) {
    char **reason = context;
    if (*reason == NULL)
        *reason = text_format("%s %s", path, problem);
}

static char *copy_text(const json_t *entry, const char *key) {
    const char *text = json_string_value(json_object_get(entry, key));
    return text != NULL ? must_have(strdup(text)) : NULL;
}

static int integer_of(const json_t *entry, const char *key) {
    return (int)json_schema_integer(json_object_get(entry, key));
}

static enum command_state state_of(const json_t *entry) {
    int state = COMMAND_QUEUED;
    while (strcmp(state_names[state], json_string_value(json_object_get(entry, "state"))) != 0)
        state++;
    return (enum command_state)state;
}

static void read_target(struct command *command, const json_t *entry) {
    const json_t *device_id = json_object_get(entry, "device_id");
    const char *ident = json_string_value(json_object_get(entry, "ident"));
    command->device_id = device_id != NULL ? json_schema_integer(device_id) : -1;
    command->channel_id = json_schema_integer(json_object_get(entry, "channel_id"));
    if (ident != NULL)
        strcpy(command->ident, ident);
}

static void read_sent(struct command *command, const json_t *entry) {
    const char *key = json_string_value(json_object_get(entry, "answer_key"));
    command->attempts = integer_of(entry, "attempts");
    command->answer_by = microseconds(entry, "answer_by");
    command->expectation.final_after_progress = json_is_true(json_object_get(entry, "answer_final"));
    command->instance = copy_text(entry, "instance");
    if (key != NULL)
        strcpy(command->expectation.key, key);
}

static void read_response(struct command *command, const json_t *entry) {
    const char *hex = json_string_value(json_object_get(entry, "correlation_data"));
    command->response_topic = copy_text(entry, "response_topic");
    command->result = json_incref(json_object_get(entry, "result"));
    if (hex == NULL)
        return;
    command->correlation_length = strlen(hex) / 2;
    command->correlation = must_have(malloc(command->correlation_length + 1));
    hex_read(hex, 2 * command->correlation_length, command->correlation);
}

static struct command *new_command(int64_t id, const char *key) {
    struct command *command = must_have(calloc(1, sizeof *command));
    command->id = id;
    command->key = must_have(strdup(key));
    command->definition = must_have(json_object());
    return command;
}

static struct command *read_command(const char *key, const json_t *entry) {
    struct command *command = new_command(json_schema_integer(json_object_get(entry, "id")), key);
    copy_definition(command->definition, entry);
    command->created = microseconds(entry, "created");
    command->expires = microseconds(entry, "expires");
    command->priority = integer_of(entry, "priority");
    command->max_attempts = integer_of(entry, "max_attempts");
    command->timeout = integer_of(entry, "timeout");
    command->state = state_of(entry);
    read_response(command, entry);
    read_target(command, entry);
    read_sent(command, entry);
    return command;
}

struct command *command_from_json(const char *key, json_t *entry, char **reason) {
    const json_t *schema = schema_find("command_entry.schema.json");
    char expected[COMMAND_KEY_MAX];
    *reason = NULL;
    if (json_schema_check(schema, schema, entry, "entry", keep_first, reason) > 0)
        return NULL;
    struct command *command = read_command(key, entry);
    command_key(expected, command->device_id, command->channel_id, command->ident);
    if (strcmp(expected, key) == 0)
        return command;
    keep_first(reason, "entry", "is for another device than its topic");
    command_free(command);
    return NULL;
}

// --- deadlines ---

#define ANSWER_MAX (3600 * 1000000LL) // microseconds to wait for an answer of which the entry says too much

static int64_t at_most(int64_t value, int64_t most) {
    return value < most ? value : most;
}

void command_set_deadlines(struct command *command, const struct clock_mark *now) {
    int64_t whole = command->expires - command->created, left = command->expires - now->wall;
    bool believed = clock_is_set(command->created) && now->wall >= command->created;
    int64_t answer = command->answer_by - now->wall, answer_max = ANSWER_MAX;
    if (command->timeout > 0)
        answer_max = command->timeout * 1000000LL;
    command->expires_at = now->ticks + (believed ? at_most(left, whole) : whole);
    command->answer_at = now->ticks + (believed ? at_most(answer, answer_max) : answer_max);
}

// --- rows ---

json_t *command_row_clock(void) {
    const struct clock_mark mark = clock_mark();
    return json_pack("{s:s, s:I, s:I}", "boot", mark.boot, "ticks", (json_int_t)mark.ticks, "wall",
                     (json_int_t)mark.wall);
}

// Rows of earlier versions do not say which clock theirs is of.
int64_t command_row_time(const json_t *row, const char *name, const struct clock_mark *now) {
    const json_t *clock = json_object_get(row, "clock");
    if (clock == NULL)
        return now->ticks + ANSWER_MAX;
    const char *boot = json_string_value(json_object_get(clock, "boot"));
    struct clock_mark then = {.ticks = json_integer_value(json_object_get(clock, "ticks")),
                              .wall = json_integer_value(json_object_get(clock, "wall"))};
    snprintf(then.boot, sizeof then.boot, "%s", boot != NULL ? boot : "");
    return clock_carry_over(json_integer_value(json_object_get(row, name)), &then, now);
}

static void read_origin(struct command *command, const json_t *row) {
    command->is_foreign = json_is_true(json_object_get(row, "foreign"));
    command->publish = (uint64_t)json_integer_value(json_object_get(row, "publish"));
    command->mid = (int)json_integer_value(json_object_get(row, "mid"));
    command->part = (int)json_integer_value(json_object_get(row, "part"));
    command->leader = json_integer_value(json_object_get(row, "leader"));
}

static void write_origin(const struct command *command, json_t *row) {
    json_object_set_new(row, "foreign", json_boolean(command->is_foreign));
    json_object_set_new(row, "publish", json_integer((json_int_t)command->publish));
    json_object_set_new(row, "mid", json_integer(command->mid));
    json_object_set_new(row, "part", json_integer(command->part));
    json_object_set_new(row, "leader", json_integer(command->leader));
}

json_t *command_to_row(const struct command *command, json_t *entry) {
    json_t *row =
        json_pack("{s:s, s:O, s:I, s:b, s:o, s:I, s:I}", "key", command->key, "entry", entry, "twin",
                  (json_int_t)command->twin, "begun", command->has_begun, "clock", command_row_clock(),
                  "expires_at", (json_int_t)command->expires_at, "answer_at", (json_int_t)command->answer_at);
    write_origin(command, row);
    return row;
}

struct command *command_from_row(int64_t id, const json_t *row, char **reason) {
    const char *key = json_string_value(json_object_get(row, "key"));
    const struct clock_mark now = clock_mark();
    struct command *command =
        key != NULL ? command_from_json(key, json_object_get(row, "entry"), reason) : NULL;
    if (command == NULL)
        return NULL;
    read_origin(command, row);
    command->twin = json_integer_value(json_object_get(row, "twin"));
    command->has_begun = json_is_true(json_object_get(row, "begun"));
    command_set_deadlines(command, &now);
    if (json_object_get(row, "clock") != NULL) { // missing in rows of earlier versions
        command->expires_at = command_row_time(row, "expires_at", &now);
        command->answer_at = command_row_time(row, "answer_at", &now);
    }
    if (command->id == id)
        return command;
    command_free(command);
    return NULL;
}

// --- tombstones ---

json_t *command_to_tombstone(const struct command *command) {
    json_t *row = json_pack("{s:s, s:i, s:o, s:I}", "key", command->key, "ended", (int)command->state,
                            "clock", command_row_clock(), "forget_at", (json_int_t)command->forget_at);
    write_origin(command, row);
    return row;
}

struct command *command_from_tombstone(int64_t id, const json_t *row) {
    const char *key = json_string_value(json_object_get(row, "key"));
    json_int_t end = json_integer_value(json_object_get(row, "ended"));
    const struct clock_mark now = clock_mark();
    if (key == NULL || end < COMMAND_PROCESSED || end > COMMAND_CANCELED)
        return NULL;
    struct command *command = new_command(id, key);
    command->state = (enum command_state)end;
    command->forget_at = command_row_time(row, "forget_at", &now);
    read_origin(command, row);
    return command;
}
