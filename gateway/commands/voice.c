// Publishes and stores what becomes of a command; see voice.h.
#include "gateway/commands/voice.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"

#define TOPIC_NAME_MAX 64
#define ATTESTED_ROW   0 // the number of that row: no command's

static const int event_codes[] = {
    [COMMAND_QUEUED] = 330,  [COMMAND_CANCELED] = 331, [COMMAND_PROCESSED] = 332,
    [COMMAND_EXPIRED] = 333, [COMMAND_SENT] = 334,
};

const char *command_voice_name(const struct command *command) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._?-";
    const char *name = command_name(command);
    size_t length = strlen(name);
    return length >= 1 && length <= TOPIC_NAME_MAX && strspn(name, allowed) == length ? name : "invalid";
}

// --- steps and results ---

static void add_definition(const struct command *command, json_t *entry) {
    static const char *const kept[] = {"name", "properties", "meta"};
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        if (json_object_get(command->definition, kept[i]) != NULL)
            json_object_set(entry, kept[i], json_object_get(command->definition, kept[i]));
}

static void add_target(const struct command *command, json_t *entry) {
    int64_t channel_id = command->sent_on != 0 ? command->sent_on : command->channel_id;
    if (command->ident[0] != '\0')
        json_object_set_new(entry, "ident", json_string(command->ident));
    if (command->device_id >= 0)
        json_object_set_new(entry, "device_id", json_integer(command->device_id));
    if (channel_id != 0)
        json_object_set_new(entry, "channel_id", json_integer(channel_id));
}

// A log entry, or the result for the publisher; for the caller to free.
static json_t *entry_of(const struct command *command, enum command_state step, const json_t *more) {
    json_t *entry = json_pack("{s:i, s:f, s:I}", "event_code", event_codes[step], "timestamp",
                              (double)clock_now() / 1e6, "id", (json_int_t)command->id);
    add_definition(command, entry);
    add_target(command, entry);
    if (command->attempts > 0)
        json_object_set_new(entry, "attempts", json_integer(command->attempts));
    json_object_update(entry, (json_t *)more);
    return entry;
}

bool command_voice_log(const struct command_voice *voice, const struct command *command,
                       enum command_state step, const json_t *more) {
    json_t *entry = entry_of(command, step, more);
    uint64_t number = bus_publish(voice->bus, entry, MQTT_NOT_RETAINED, TOPIC_LOG "%s" TOPIC_QUEUE "%s/%s",
                                  command->key, command_voice_name(command), command_state_name(step));
    json_decref(entry);
    return number != 0;
}

// Last of all that goes out: whoever sent the command chose the topic.
static void respond(const struct command_voice *voice, const struct command *command) {
    json_t *entry = entry_of(command, command->state, command->result);
    char *text = text_of_json(entry, TEXT_TIME_DIGITS);
    outbox_put_result(voice->outbox,
                      &(struct mqtt_publish){.topic = command->response_topic,
                                             .payload = text,
                                             .length = strlen(text),
                                             .qos = 1,
                                             .correlation = command->correlation,
                                             .correlation_length = command->correlation_length});
    free(text);
    json_decref(entry);
}

static void count(struct command_counts *counts, const struct command *command) {
    bool executed = json_is_true(json_object_get(command->result, "executed"));
    counts->executed += command->state == COMMAND_PROCESSED && executed;
    counts->failed += command->state == COMMAND_PROCESSED && !executed;
    counts->expired += command->state == COMMAND_EXPIRED;
    counts->canceled += command->state == COMMAND_CANCELED;
}

// Once its log entry has gone out: to the numbers, and to whoever asked.
static void tell_end(const struct command_voice *voice, const struct command *command) {
    if (voice->counts != NULL)
        count(voice->counts, command);
    if (command->response_topic != NULL)
        respond(voice, command);
}

void command_voice_result(const struct command_voice *voice, const struct command *command) {
    command_voice_log(voice, command, command->state, command->result);
    tell_end(voice, command);
}

// --- on disk ---

typedef void store_put_fn(struct store *store, int64_t id, const char *entry);

// Takes row over.
static void store_row(const struct command_voice *voice, const struct command *command, json_t *row,
                      store_put_fn *put) {
    char *text = text_of_json(row, TEXT_TIME_DIGITS);
    put(voice->store, command->id, text);
    free(text);
    json_decref(row);
}

static void store_entry(const struct command_voice *voice, const struct command *command, json_t *entry) {
    store_row(voice, command, command_to_row(command, entry), store_put_command);
}

void command_voice_keep(const struct command_voice *voice, const struct command *command) {
    json_t *entry = command_to_json(command);
    store_entry(voice, command, entry);
    json_decref(entry);
}

void command_voice_keep_tombstone(const struct command_voice *voice, const struct command *command) {
    store_row(voice, command, command_to_tombstone(command), store_put_note);
}

void command_voice_keep_session(const struct command_voice *voice, int64_t id, int64_t before) {
    store_put_note(voice->store, id, "{\"session\":true}");
    if (before != 0)
        store_delete_command(voice->store, before);
}

void command_voice_keep_forgotten(const struct command_voice *voice, int64_t id, int64_t before) {
    store_put_note(voice->store, id, "{\"forgotten\":true}");
    if (before != 0)
        store_delete_command(voice->store, before);
}

void command_voice_keep_attested(const struct command_voice *voice, int64_t id) {
    char *row = text_format("{\"attested\":%lld}", (long long)id);
    store_put_note(voice->store, ATTESTED_ROW, row);
    free(row);
}

void command_voice_forget(const struct command_voice *voice, const struct command *command) {
    store_delete_command(voice->store, command->id);
}

// --- the entry in the broker ---

bool command_voice_is_on_its_way(const struct command_voice *voice, const struct command *command) {
    return command->unsaid || !outbox_is_safe(voice->outbox, command->published);
}

bool command_voice_is_own(const struct command_voice *voice, const struct command *command) {
    return bus_is_own(voice->bus, command->instance);
}

void command_voice_sign(const struct command_voice *voice, struct command *command) {
    free(command->instance);
    command->instance = must_have(strdup(bus_client_id(voice->bus)));
}

// entry: NULL for an empty one. Signed is what goes out, and not what is on our disk.
static uint64_t publish_entry(const struct command_voice *voice, const struct command *command,
                              const json_t *entry) {
    json_t *copy = entry != NULL ? must_have(json_copy((json_t *)entry)) : NULL;
    if (copy != NULL)
        command_signature_set(copy, command->key, &voice->secret);
    uint64_t number = bus_publish(voice->bus, copy, MQTT_RETAINED, TOPIC_STATE "%s" TOPIC_QUEUE "%lld",
                                  command->key, (long long)command->id);
    json_decref(copy);
    return number;
}

void command_voice_publish(const struct command_voice *voice, struct command *command) {
    command_voice_sign(voice, command);
    json_t *entry = command_to_json(command);
    command->published = publish_entry(voice, command, entry);
    command->unsaid = command->published == 0;
    command->confirmed = !command->unsaid;
    store_entry(voice, command, entry);
    json_decref(entry);
}

// Once.
static void say_result(const struct command_voice *voice, struct command *command) {
    if (!command->end_said || command->result_said ||
        !command_voice_log(voice, command, command->state, command->result))
        return;
    command->result_said = true;
    tell_end(voice, command);
}

// The entry says how it ended before it is emptied: to the other instances an empty one alone is a
// cancelation.
void command_voice_publish_end(const struct command_voice *voice, struct command *command) {
    json_t *entry = command_to_json(command);
    // First, because the device may already be on its way to another.
    command->end_said = command->end_said || publish_entry(voice, command, entry) != 0;
    say_result(voice, command);
    command->published = command->result_said ? publish_entry(voice, command, NULL) : 0;
    json_decref(entry);
}

void command_voice_empty(const struct command_voice *voice, const struct command *command) {
    publish_entry(voice, command, NULL);
}

// Says that it has ended, so that nobody sends it, and empties it. False when the outbox does not take that.
static bool end_entry(const struct command_voice *voice, struct command *command) {
    command_voice_sign(voice, command);
    json_t *entry = command_to_json(command);
    publish_entry(voice, command, entry);
    json_decref(entry);
    return publish_entry(voice, command, NULL) != 0;
}

void command_voice_clear_forgotten(const struct command_voice *voice, struct command *command) {
    log_about(command->key, LOG_WARNING,
              "%s: command %lld ended long ago, but somebody has put it back; clearing it", command->key,
              (long long)command->id);
    command->state = COMMAND_CANCELED;
    end_entry(voice, command);
}

bool command_voice_clear_stale(const struct command_voice *voice, const struct command *command,
                               struct command *stale) {
    if (command->forget_at == 0)
        return true; // its end is on the way
    if (bus_is_full(voice->bus))
        return false;
    log_warning("%s: command %lld has already ended (%s), but the broker still retained it; clearing it",
                command->key, (long long)command->id, command_state_name(command->state));
    stale->state = command->state;
    return end_entry(voice, stale);
}
