// Taking in commands; see intake.h.
#include "gateway/commands/intake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/clock.h"
#include "gateway/base/hex.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/bus.h"
#include "gateway/commands/parse.h"
#include "gateway/commands/response_topic.h"
#include "schema/json_schema.h"

#define PAYLOAD_MAX    262144 // bytes of a publish
#define DEFINITION_MAX 16384  // bytes of one command, as JSON
// Microseconds before a connection in which a command came shortly before it: longer than a broker restarts.
#define RECENT_TIME    600000000
#define EFFORT_DECIDED 20 // see COMMAND_EFFORT_MAX: to write that a command is left out, or to put it on disk
#define EFFORT_LENGTH  500 // the same: bytes of a row of the journal that cost one more to write
#define PORTION        50  // commands of a publish that are taken in at once
#define DEPTH_MAX      64  // of nested objects and arrays, so that what holds it can be read too

// One that waits until it is on disk.
struct command_fresh {
    int64_t id;
    bool holds; // the link, meanwhile
    struct command_fresh *prev, *next;
};

// Who a publish is for.
struct address {
    char key[COMMAND_KEY_MAX];
    int64_t device_id;  // -1: none
    int64_t channel_id; // 0: any
    char ident[CODEC_IDENT_MAX + 1];
    const struct codec *codec; // that the device speaks, or NULL where that is not known
};

// A publish whose commands are taken in. It is in the journal when first_id is not 0: then that is the number of its first
// command, and it is acknowledged.
struct command_batch {
    struct address address;
    struct command_origin *origin;
    struct mqtt_received received;
    json_t *definitions; // NULL: there are none to take in
    int64_t first_id;
    int64_t created, came_at; // microseconds since 1970, and by clock_ticks()
};

static const struct config_channel *find_channel(const struct command_intake *intake, int64_t id) {
    const struct config *config = intake->queue->config;
    for (size_t i = 0; i < config->channel_count; i++)
        if (config->channels[i].id == id)
            return &config->channels[i];
    return NULL;
}

// Fills in ident and codec, as far as they are known.
static void find_device(const struct command_intake *intake, struct address *address) {
    const struct command_roads *roads = intake->queue->roads;
    const char *ident;
    if (!roads->whois(roads->context, address->device_id, &ident, &address->codec))
        ident = registry_ident_of(intake->registry, address->device_id);
    if (ident != NULL)
        snprintf(address->ident, sizeof address->ident, "%s", ident);
}

// An id, or the ident of a device in the registry: an IMEI may look like the id of another one.
static bool read_device_id(const struct command_intake *intake, const char *text, int64_t *id) {
    const char *end;
    bool is_number = topic_read_id(text, id, &end) && *end == '\0';
    if (is_number && registry_ident_of(intake->registry, *id) != NULL)
        return true;
    struct device device =
        device_ident_valid(text) ? registry_device(intake->registry, text) : (struct device){0};
    if (device.listed)
        *id = device.id;
    else if (!is_number)
        *id = -1;
    return device.listed || is_number;
}

static const char *read_device_address(const struct command_intake *intake, const char *text,
                                       struct address *address) {
    if (!read_device_id(intake, text, &address->device_id))
        return "it is neither a device.id, which is a number, nor the ident of a device in the registry";
    find_device(intake, address);
    command_key(address->key, address->device_id, 0, address->ident);
    return NULL;
}

static const char *read_channel_address(const struct command_intake *intake, const char *text,
                                        struct address *address) {
    const char *end;
    if (!topic_read_id(text, &address->channel_id, &end) || *end != '/')
        return "channel.id is not a number";
    if (!device_ident_valid(end + 1))
        return "the ident is not 1 to 32 letters, digits, dots, dashes, underscores";
    const struct config_channel *channel = find_channel(intake, address->channel_id);
    struct device device = registry_device(intake->registry, end + 1);
    strcpy(address->ident, end + 1);
    address->device_id = device.known ? device.id : -1;
    command_key(address->key, address->device_id, address->channel_id, address->ident);
    if (channel == NULL)
        return "there is no channel of that id";
    address->codec = channel->codec;
    return NULL;
}

// NULL, or what is wrong with the topic.
static const char *read_address(const struct command_intake *intake, const char *topic,
                                struct address *address) {
    const char *device = topic_after(topic, TOPIC_DEVICES), *channel = topic_after(topic, TOPIC_CHANNELS);
    *address = (struct address){.device_id = -1};
    if (device != NULL)
        return read_device_address(intake, device, address);
    if (channel != NULL)
        return read_channel_address(intake, channel, address);
    return "commands go to devices/{device.id} or channels/{channel.id}/{ident}";
}

static int option_of(const json_t *definition, const char *name, int standard) {
    const json_t *value = json_object_get(definition, name);
    return value != NULL ? (int)json_schema_integer(value) : standard;
}

static void set_definition(struct command *command, json_t *definition, const struct config *config,
                           const struct command_batch *batch) {
    int ttl = option_of(definition, "ttl", config->commands.ttl);
    command->definition = definition;
    command->created = batch->created;
    command->expires = command->created + ttl * 1000000LL;
    command->expires_at = batch->came_at + ttl * 1000000LL;
    int attempts = command_is_once(definition, config) ? 1 : config->commands.max_attempts;
    command->max_attempts = option_of(definition, "max_attempts", attempts);
    command->timeout = option_of(definition, "timeout", 0);
    command->priority = option_of(definition, "priority", 0);
}

static void set_response(struct command *command, const struct mqtt_received *received) {
    if (received->response_topic != NULL)
        command->response_topic = must_have(strdup(received->response_topic));
    if (received->correlation == NULL || received->correlation_length > COMMAND_CORRELATION_MAX)
        return;
    command->correlation = must_have(malloc(received->correlation_length + 1));
    command->correlation_length = received->correlation_length;
    memcpy(command->correlation, received->correlation, received->correlation_length);
}

// Takes over definition.
static struct command *make_command(struct command_intake *intake, const struct command_batch *batch,
                                    int64_t id, json_t *definition) {
    const struct address *address = &batch->address;
    struct command *command = must_have(calloc(1, sizeof *command));
    command->id = id;
    command->key = must_have(strdup(address->key));
    strcpy(command->ident, address->ident);
    command->device_id = address->device_id;
    command->channel_id = address->channel_id;
    set_definition(command, definition, intake->queue->config, batch);
    set_response(command, &batch->received);
    return command;
}

// A rejected command was never queued: it has a result and nothing else. Takes the command over.
static void reject(struct command_intake *intake, struct command *command, const char *topic,
                   const char *reason) {
    log_about(topic, LOG_WARNING, "%s: command rejected: %s", topic, reason);
    command->state = COMMAND_PROCESSED;
    command->result = json_pack("{s:b, s:n, s:s}", "executed", 0, "response", "reason", reason);
    command_voice_result(intake->queue->voice, command);
    command_free(command);
}

// For the caller to free, or NULL.
static char *wrong_with_topic(const struct command_intake *intake, const struct mqtt_received *received) {
    return received->response_topic != NULL
               ? response_topic_fault(intake->queue->config, received->response_topic)
               : NULL;
}

static bool is_too_large(const json_t *definition) {
    return json_dumpb(definition, NULL, 0, JSON_COMPACT) > DEFINITION_MAX;
}

static bool is_too_deep(const json_t *value, int left) {
    const char *key;
    const json_t *inner;
    size_t i;
    if (left == 0)
        return true;
    json_object_foreach((json_t *)value, key, inner) {
        if (is_too_deep(inner, left - 1))
            return true;
    }
    json_array_foreach(value, i, inner) {
        if (is_too_deep(inner, left - 1))
            return true;
    }
    return false;
}

static char *check(const struct command_intake *intake, const struct address *address, json_t *definition) {
    return address->codec != NULL ? command_check(definition, address->codec)
                                  : command_check_for_any(definition, intake->queue->config);
}

// What is wrong with a command (for the caller to free), or NULL.
static char *wrong_with(const struct command_intake *intake, const struct address *address,
                        json_t *definition, bool again) {
    const char *full = again ? command_table_full_of_twins(intake->queue->table, address->key)
                             : command_table_full(intake->queue->table, address->key);
    if (is_too_large(definition))
        return must_have(strdup("the command has more than 16384 bytes"));
    if (is_too_deep(definition, DEPTH_MAX))
        return must_have(strdup("the command has more than 64 levels of objects and arrays in each other"));
    char *fault = check(intake, address, definition);
    return fault == NULL && full != NULL ? must_have(strdup(full)) : fault;
}

static void let_go(struct command_intake *intake, struct command_fresh *fresh) {
    DL_DELETE(intake->fresh, fresh);
    free(fresh);
}

static void free_batch(struct command_batch *batch) {
    if (batch == NULL)
        return;
    json_decref(batch->definitions);
    free((void *)batch->received.topic);
    free((void *)batch->received.response_topic);
    free((void *)batch->received.correlation);
    free(batch);
}

void command_intake_clear(struct command_intake *intake) {
    command_walk_end(intake->queue->table, &intake->recalling);
    command_walk_end(intake->queue->table, &intake->undecided);
    free_batch(intake->batch);
    intake->batch = NULL;
    command_journal_clear(intake->journal);
    while (intake->fresh != NULL)
        let_go(intake, intake->fresh);
}

static void log_unkept(const struct command *command) {
    log_about(command->key, LOG_ERROR,
              "%s: command %s is not on disk, which takes nothing: it would be lost with the gateway",
              command->key, command_voice_name(command));
}

static void log_unkept_publish(const struct command_intake *intake, int64_t id) {
    const struct command_publish *publish = command_journal_find(intake->journal, id);
    if (publish != NULL)
        log_about(
            publish->key, LOG_ERROR,
            "%s: %zu commands of a publish are not on disk, which takes nothing: they would be lost with "
            "the gateway",
            publish->key, publish->count - publish->taken);
}

// Called for each that waits, in their order. ok false: the disk takes nothing; then memory and broker alone have it.
static void on_kept(void *context, bool ok) {
    struct command_intake *intake = context;
    struct command_queue *queue = intake->queue;
    struct command *command = command_table_find(queue->table, intake->fresh->id);
    if (!ok)
        log_unkept_publish(intake, intake->fresh->id);
    if (intake->fresh->holds)
        bus_release(queue->voice->bus);
    let_go(intake, intake->fresh);
    if (command == NULL || command_has_ended(command))
        return;
    if (!ok)
        log_unkept(command);
    command->fresh = false;
    command_queue_send_next(queue, command->key);
}

// id: of a command that is sent when it is on disk, or of a publish in the journal; or 0. holds: the broker hears nothing more from us until the disk has
// what was put until now.
static void await_disk(struct command_intake *intake, int64_t id, bool holds) {
    struct command_fresh *fresh = must_have(calloc(1, sizeof *fresh));
    fresh->id = id;
    fresh->holds = holds;
    DL_APPEND(intake->fresh, fresh);
    if (holds)
        bus_hold(intake->queue->voice->bus);
    store_when_written(intake->queue->voice->store, on_kept, intake);
}

// The first command of a publish carries its fingerprint, and the others the id of the first, and each its place: so the
// publish is known when the broker delivers it again.
static void set_origin(struct command_origin *origin, struct command *command, size_t place) {
    bool again = place < origin->known;
    command->publish = origin->publish;
    command->mid = origin->mid;
    command->nth = origin->nth;
    command->part = (int)place + 1;
    command->twin = again ? origin->twin : 0;
    command->leader = again || origin->twin == 0 ? origin->leader : origin->root;
    origin->publish = 0;
    if (origin->leader == 0)
        origin->leader = command->id;
}

// Takes the command over. holds: the broker hears that its publish was taken once it is on disk.
static void take_command(struct command_intake *intake, struct command *command, bool holds) {
    command->fresh = true;
    command_table_add(intake->queue->table, command);
    if (command->twin == 0)
        command_queue_announce(intake->queue, command);
    else
        command_voice_keep(intake->queue->voice, command);
    await_disk(intake, command->id, holds);
}

static int64_t id_of(const struct command_intake *intake, const struct command_batch *batch, size_t place) {
    return batch->first_id != 0 ? batch->first_id + (int64_t)place
                                : command_table_new_id(intake->queue->table, clock_now());
}

static void reject_definition(struct command_intake *intake, struct command *command, const char *topic,
                              const char *fault) {
    const json_t *definition = command->definition;
    if (is_too_large(definition) || is_too_deep(definition, DEPTH_MAX)) {
        json_object_del(command->definition, "meta");
        json_object_del(command->definition, "properties");
    }
    reject(intake, command, topic, fault);
}

static void take_definition(struct command_intake *intake, const struct command_batch *batch, size_t place) {
    int64_t id = id_of(intake, batch, place);
    json_t *definition = json_array_get(batch->definitions, place);
    if (command_table_find(intake->queue->table, id) != NULL)
        return; // the broker had its entry when the gateway was killed, and the disk had not
    bool again = batch->origin->twin != 0 && place < batch->origin->known;
    char *fault = wrong_with(intake, &batch->address, definition, again);
    struct command *command = make_command(intake, batch, id, json_incref(definition));
    if (fault == NULL) {
        set_origin(batch->origin, command, place);
        take_command(intake, command, batch->first_id == 0);
        return;
    }
    reject_definition(intake, command, batch->received.topic, fault);
    free(fault);
}

static void reject_all(struct command_intake *intake, const struct command_batch *all, const char *reason) {
    struct command_batch batch = *all;
    const struct mqtt_received *received = &batch.received;
    char *fault = wrong_with_topic(intake, received);
    if (fault != NULL)
        batch.received.response_topic = NULL; // nobody can be answered there
    free(fault);
    if (batch.address.key[0] == '\0' && received->response_topic == NULL)
        log_about(received->topic, LOG_WARNING, "%s: command rejected: %s", received->topic, reason);
    else
        reject(intake, make_command(intake, &batch, id_of(intake, &batch, 0), json_object()), received->topic,
               reason);
}

// What is wrong with a publish, whatever it holds (for the caller to free), or NULL.
static char *wrong_with_publish(const struct command_intake *intake, const struct mqtt_received *received) {
    char *fault = wrong_with_topic(intake, received);
    if (fault == NULL && received->correlation != NULL &&
        received->correlation_length > COMMAND_CORRELATION_MAX)
        fault = text_format("the correlation data has more than %d bytes", COMMAND_CORRELATION_MAX);
    if (fault == NULL && received->length > PAYLOAD_MAX)
        fault = text_format("the payload has more than %d bytes", PAYLOAD_MAX);
    return fault;
}

static void say_left_out(const char *key, int64_t twin) {
    log_info("%s: delivered again by the broker, left out: command %lld came of it already", key,
             (long long)twin);
}

static void say_taken_up(const char *key, size_t known) {
    log_info(
        "%s: delivered again by the broker: its first %zu commands came already, the others are taken in now",
        key, known);
}

// Whether one of them must not happen twice.
static bool has_once(const struct command_intake *intake, const json_t *definitions) {
    const json_t *definition;
    size_t i;
    json_array_foreach(definitions, i, definition) {
        if (command_is_once(definition, intake->queue->config) &&
            json_object_get(definition, "max_attempts") == NULL)
            return true;
    }
    return false;
}

// Of a publish that was in the journal, whose first place has the number of twin: there may be another one, where the
// first was rejected.
static const struct command *first_that_came_of(const struct command_intake *intake, int64_t twin) {
    const struct command *first = command_table_find(intake->queue->table, twin), *next;
    for (int64_t id = twin + 1; first == NULL && id < twin + COMMANDS_AT_ONCE_MAX; id++) {
        next = command_table_find(intake->queue->table, id);
        first = next != NULL && next->publish != 0 && id - next->part == twin - 1 ? next : NULL;
    }
    return first;
}

// The packet id of the publish of twin, 0 at QoS 0; -1: nothing of it is left.
static int mid_of(const struct command_intake *intake, int64_t twin) {
    const struct command_publish *waiting = command_journal_find(intake->journal, twin);
    if (waiting != NULL)
        return waiting->origin.mid;
    const struct command *first = first_that_came_of(intake, twin);
    return first != NULL ? first->mid : -1;
}

// Whether a publish with that packet id is taken for the very one that command came of, whatever the broker remembers.
// once: its commands must not happen twice; any other rather runs twice than not at all, since packet ids go round.
static bool is_repeated(const struct command_intake *intake, int64_t twin, int mid, bool once) {
    return once && twin > intake->recent && mid_of(intake, twin) == mid;
}

// Whether twin was found for a publish by another packet id, because that has one that must not happen twice.
static bool has_other_mid(const struct command_intake *intake, int64_t twin, int mid) {
    int known = mid_of(intake, twin);
    return known >= 0 && known != mid;
}

// The command of the first time, also of a publish that comes a third time before it was known that the second one was no
// new one: the gateway was killed between. known: how many commands of that publish there are; all, when an earlier version
// has taken them in, or the journal has the others.
static int64_t find_root(const struct command_intake *intake, int64_t twin, size_t *known) {
    int64_t next = twin;
    *known = twin == 0 ? 0 : SIZE_MAX;
    for (size_t parts = 0; next != 0;) {
        const struct command *command = command_table_find(intake->queue->table, twin = next);
        const struct command_publish *waiting = command_journal_find(intake->journal, twin);
        if (command == NULL && waiting == NULL)
            break;
        size_t its = waiting != NULL || command->parts == 0 ? SIZE_MAX : (size_t)command->parts;
        *known = parts = its > parts ? its : parts;
        next = command != NULL ? command->twin : waiting->origin.twin;
    }
    return twin;
}

static bool is_once(const struct command_intake *intake, const char *payload, size_t length) {
    char *fault = NULL;
    json_t *definitions = command_parse(payload, length, &fault);
    bool once = has_once(intake, definitions);
    json_decref(definitions);
    free(fault);
    return once;
}

// Of one that is surely delivered again only what is missing is taken in.
static struct command_origin compare(const struct command_intake *intake,
                                     const struct mqtt_received *received) {
    bool once =
        redelivery_count(intake->redelivery) > 0 && is_once(intake, received->payload, received->length);
    struct command_origin origin = {.publish = redelivery_fingerprint(received),
                                    .mid = received->mid,
                                    .nth = received->nth,
                                    .once = once};
    origin.twin = redelivery_twin(intake->redelivery, origin.publish, received->mid, received->nth,
                                  once && !intake->settled);
    origin.root = find_root(intake, origin.twin, &origin.known);
    if (!intake->settled)
        return origin;
    if (is_repeated(intake, origin.twin, received->mid, once)) {
        origin.publish = 0;
        origin.leader = origin.root;
    } else {
        origin.known = 0;
    }
    origin.twin = 0;
    return origin;
}

// Returns where the publish begins that was compared: behind what is left out.
static size_t begin_behind(const char *key, const struct command_origin *origin, size_t count) {
    if (origin->leader == 0)
        return 0;
    if (origin->known < count) {
        say_taken_up(key, origin->known);
        return origin->known;
    }
    say_left_out(key, origin->leader);
    return count;
}

// --- publishes of many commands ---

// What follows in this turn of the loop is bounded too.
static void hold_when_full(struct command_intake *intake) {
    if (intake->full || !command_journal_is_full(intake->journal))
        return;
    intake->full = true;
    bus_hold(intake->queue->voice->bus);
    bus_enough(intake->queue->voice->bus);
}

static void release_when_not_full(struct command_intake *intake) {
    if (!intake->full || command_journal_is_full(intake->journal))
        return;
    intake->full = false;
    bus_release(intake->queue->voice->bus);
}

static json_t *correlation_json(const struct mqtt_received *received) {
    char hex[2 * COMMAND_CORRELATION_MAX + 1];
    return received->correlation != NULL
               ? json_string(hex_write(received->correlation, received->correlation_length, hex))
               : json_null();
}

// NULL: the payload is no text that JSON may hold.
static json_t *write_batch(const struct command_batch *batch) {
    const struct address *address = &batch->address;
    const struct mqtt_received *received = &batch->received;
    bool has_nul = memchr(received->payload, '\0', received->length) != NULL;
    json_t *payload = has_nul ? NULL : json_stringn(received->payload, received->length);
    if (payload == NULL)
        return NULL;
    return json_pack("{s:s, s:o, s:s, s:I, s:I, s:s?, s:o, s:I, s:I, s:o}", "topic", received->topic,
                     "payload", payload, "ident", address->ident, "device_id", (json_int_t)address->device_id,
                     "channel_id", (json_int_t)address->channel_id, "response_topic",
                     received->response_topic, "correlation_data", correlation_json(received), "created",
                     (json_int_t)batch->created, "came_at", (json_int_t)batch->came_at, "clock",
                     command_row_clock());
}

// The broker hears that it was taken when it is on disk. taken: so many of its commands came before. False: it is no text,
// or the disk takes nothing; then its commands are announced before it is acknowledged.
static bool write_down(struct command_intake *intake, const struct command_batch *batch, size_t count,
                       size_t taken) {
    json_t *row = store_is_writable(intake->queue->voice->store) ? write_batch(batch) : NULL;
    if (row == NULL)
        return false;
    int64_t id = command_table_new_ids(intake->queue->table, clock_now(), count + 1);
    command_journal_add(intake->journal, intake->queue->voice, id, batch->address.key, count, taken,
                        batch->origin, row);
    await_disk(intake, id, true);
    hold_when_full(intake);
    return true;
}

static const char *text_at(const json_t *row, const char *name) {
    return json_string_value(json_object_get(row, name));
}

static char *copy_text(const char *text) {
    return text != NULL ? must_have(strdup(text)) : NULL;
}

static void read_received(struct mqtt_received *received, const json_t *row) {
    const char *hex = text_at(row, "correlation_data"), *topic = text_at(row, "topic");
    received->topic = copy_text(topic != NULL ? topic : "");
    received->response_topic = copy_text(text_at(row, "response_topic"));
    if (hex == NULL)
        return;
    uint8_t *bytes = must_have(malloc(strlen(hex) / 2 + 1));
    hex_read(hex, strlen(hex) / 2 * 2, bytes);
    received->correlation = bytes;
    received->correlation_length = strlen(hex) / 2;
}

// Which protocol the device speaks may have become known meanwhile.
static void read_row_address(const struct command_intake *intake, struct address *address,
                             const struct command_publish *publish, const json_t *row) {
    const char *ident = text_at(row, "ident");
    snprintf(address->key, sizeof address->key, "%s", publish->key);
    snprintf(address->ident, sizeof address->ident, "%s", ident != NULL ? ident : "");
    address->device_id = json_integer_value(json_object_get(row, "device_id"));
    address->channel_id = json_integer_value(json_object_get(row, "channel_id"));
    const struct config_channel *channel = find_channel(intake, address->channel_id);
    if (address->channel_id == 0)
        find_device(intake, address);
    else if (channel != NULL)
        address->codec = channel->codec;
}

static void read_definitions(struct command_intake *intake, struct command_batch *batch,
                             const json_t *payload) {
    char *fault = NULL;
    batch->definitions = command_parse(json_string_value(payload), json_string_length(payload), &fault);
    if (batch->definitions == NULL)
        reject_all(intake, batch, fault);
    free(fault);
}

static struct command_batch *open_batch(struct command_intake *intake, struct command_publish *publish) {
    const struct clock_mark now = clock_mark();
    struct command_batch *batch = must_have(calloc(1, sizeof *batch));
    json_t *row = command_journal_open(publish);
    read_row_address(intake, &batch->address, publish, row);
    read_received(&batch->received, row);
    batch->origin = &publish->origin;
    batch->first_id = publish->id + 1;
    batch->created = json_integer_value(json_object_get(row, "created"));
    batch->came_at = command_row_time(row, "came_at", &now);
    read_definitions(intake, batch, json_object_get(row, "payload"));
    json_decref(row);
    return batch;
}

static void cancel_taken(struct command_intake *intake, int64_t id) {
    struct command *command = command_table_find(intake->queue->table, id);
    if (command != NULL && !command_has_ended(command))
        command_queue_cancel(intake->queue, command);
}

static void take_portion(struct command_intake *intake, struct command_publish *publish) {
    size_t left = publish->count - publish->taken;
    for (size_t i = left < PORTION ? left : PORTION; i > 0; i--) {
        size_t place = publish->taken;
        if (place < json_array_size(intake->batch->definitions))
            take_definition(intake, intake->batch, place);
        command_journal_took(intake->journal, publish, 1);
        if (publish->canceled)
            cancel_taken(intake, publish->id + 1 + (int64_t)place);
    }
}

bool command_intake_has_more(const struct command_intake *intake) {
    return intake->deciding || intake->journal->publishes != NULL;
}

static void take_from_journal(struct command_intake *intake) {
    struct command_publish *first = intake->journal->publishes;
    if (intake->batch == NULL)
        intake->batch = open_batch(intake, first);
    take_portion(intake, first);
    if (first->taken < first->count)
        return;
    free_batch(intake->batch);
    intake->batch = NULL;
    command_journal_drop(intake->journal, intake->queue->voice, first);
    release_when_not_full(intake);
}

// --- what the broker may have delivered again ---

// Where the first command of its publish stays, a tombstone says that this one came too. Otherwise, when the publish comes
// once more, it would look as if this one had been cut off by a kill, and would be taken in.
static void leave_out(struct command_intake *intake, struct command *command) {
    say_left_out(command->key, command->twin);
    intake->left_out = true;
    if (command_table_find(intake->queue->table, command->leader) != NULL)
        command_queue_bury(intake->queue, command, COMMAND_CANCELED);
    else
        command_queue_forget(intake->queue, command);
}

static void decide(struct command_intake *intake, struct command *command, bool again) {
    if (again) {
        leave_out(intake, command);
        return;
    }
    command_table_is_no_twin(intake->queue->table, command);
    command_queue_announce(intake->queue, command);
    command_queue_send_next(intake->queue, command->key);
}

static void decide_waiting(struct command_intake *intake, struct command_publish *publish, bool again) {
    if (again)
        say_left_out(publish->key, publish->origin.twin);
    intake->left_out = intake->left_out || again;
    command_journal_decide(intake->journal, intake->queue->voice, publish, again);
}

// Whether the broker has forgotten, or never heard, that the publish of twin was acknowledged. That the marker does not cover
// it is no proof: a gateway that is killed soon acknowledges and never publishes the next one, and packet ids go round. It is
// one where the broker has had a marker that covered it and shows an older one, or where this run took in the first one: then
// few packet ids went by unseen. A broker that shows nothing of what it retains proves nothing.
static bool is_unacknowledged(const struct command_intake *intake, int64_t twin) {
    return intake->vouched >= 0 && (twin <= intake->attested || twin > intake->before_run);
}

static bool is_again(const struct command_intake *intake, int64_t id, int64_t twin, int mid, bool once) {
    if (id <= intake->over)
        return once; // nobody will ever say what it was: one that must not happen twice is not risked
    if (twin > intake->vouched)
        return once || (is_unacknowledged(intake, twin) && !has_other_mid(intake, twin, mid));
    return is_repeated(intake, twin, mid, once);
}

static void decide_command(struct command_intake *intake, struct command *command) {
    intake->queue->effort++;
    if (command->twin == 0 || command_has_ended(command)) // with its device: its end is on the way
        return;
    intake->queue->effort += EFFORT_DECIDED;
    decide(intake, command,
           is_again(intake, command->id, command->twin, command->mid,
                    command_queue_is_once(intake->queue, command)));
}

static void decide_publish(struct command_intake *intake, struct command_publish *publish) {
    int64_t twin = publish->origin.twin;
    intake->undecided_at = publish->next;
    intake->queue->effort++;
    if (twin == 0)
        return;
    intake->queue->effort += EFFORT_DECIDED + (unsigned)(publish->length / EFFORT_LENGTH);
    decide_waiting(intake, publish,
                   is_again(intake, publish->id, twin, publish->origin.mid, publish->origin.once));
}

static void decide_next(struct command_intake *intake) {
    struct command_table *table = intake->queue->table;
    if (table->twins == 0) // there may be 200,000 left to look at
        command_walk_end(table, &intake->undecided);
    struct command *command = command_walk_next(table, &intake->undecided);
    if (command != NULL)
        decide_command(intake, command);
    else if (intake->undecided_at != NULL)
        decide_publish(intake, intake->undecided_at);
    else
        intake->deciding = false;
}

// A gateway that is killed would take it for one that is meant again, when the broker's next marker covers it and the disk
// still has it.
static void hold_what_is_left_out(struct command_intake *intake) {
    if (intake->left_out)
        await_disk(intake, 0, true);
    intake->left_out = false;
}

static void decide_some(struct command_intake *intake) {
    while (intake->deciding && intake->queue->effort < COMMAND_EFFORT_MAX)
        decide_next(intake);
    hold_what_is_left_out(intake);
}

static void decide_all(struct command_intake *intake) {
    while (intake->deciding)
        decide_next(intake);
    hold_what_is_left_out(intake);
}

// over: see struct command_intake. A gateway that was killed has some left of a session before.
static void begin_deciding(struct command_intake *intake, int64_t over, int64_t vouched) {
    intake->deciding = true;
    intake->over = over;
    intake->vouched = vouched;
    intake->attested = intake->attested_then;
    if (intake->queue->table->twins > 0)
        command_walk_begin(intake->queue->table, &intake->undecided);
    intake->undecided_at = intake->journal->publishes;
    intake->queue->effort = 0;
    decide_some(intake);
}

bool command_intake_go_on(struct command_intake *intake) {
    intake->queue->effort = 0;
    if (intake->deciding)
        decide_some(intake);
    else if (intake->journal->publishes != NULL)
        take_from_journal(intake);
    return command_intake_has_more(intake);
}

// --- what came before the connection ---

static void tell_of(struct command_intake *intake, uint64_t fingerprint, int mid, uint64_t nth, int64_t id) {
    if (fingerprint != 0 && id > intake->before_session)
        redelivery_add(intake->redelivery, &(struct redelivery_publish){
                                               .fingerprint = fingerprint, .mid = mid, .nth = nth, .id = id});
}

// By the number of its first place, which that command has when it is taken in. Of those of which a command was taken in,
// that stands for it.
static void tell_of_waiting(struct command_intake *intake) {
    const struct command_publish *publish;
    DL_FOREACH(intake->journal->publishes, publish) {
        tell_of(intake, publish->origin.publish, publish->origin.mid, publish->origin.nth, publish->id + 1);
    }
}

static bool recall_next(struct command_intake *intake) {
    const struct command *command = command_walk_next(intake->queue->table, &intake->recalling);
    if (command == NULL)
        return false;
    tell_of(intake, command->publish, command->mid, command->nth, command->id);
    return true;
}

static void begin_recalling(struct command_intake *intake) {
    struct command_table *table = intake->queue->table;
    intake->resumed = false;
    redelivery_begin(intake->redelivery, HASH_COUNT(table->by_id) + intake->journal->count, clock_ticks());
    tell_of_waiting(intake);
    command_walk_begin(table, &intake->recalling);
}

bool command_intake_is_recalling(const struct command_intake *intake) {
    return intake->resumed || intake->recalling.under_way;
}

// What is decided by an older marker comes first: nothing that comes now is of that.
bool command_intake_recall(struct command_intake *intake) {
    if (intake->resumed)
        decide_some(intake);
    if (intake->resumed && !intake->deciding)
        begin_recalling(intake);
    while (intake->queue->effort++ < COMMAND_EFFORT_MAX && recall_next(intake))
        ;
    return command_intake_is_recalling(intake);
}

static void recall_all(struct command_intake *intake) {
    if (intake->resumed) {
        decide_all(intake);
        begin_recalling(intake);
    }
    while (recall_next(intake))
        ;
}

// --- what comes ---

static void take_all(struct command_intake *intake, struct command_batch *batch, size_t place) {
    const struct mqtt_received *received = &batch->received;
    char *fault = NULL;
    batch->definitions = command_parse(received->payload, received->length, &fault);
    if (batch->definitions == NULL)
        reject_all(intake, batch, fault);
    for (; place < json_array_size(batch->definitions); place++)
        take_definition(intake, batch, place);
    json_decref(batch->definitions);
    free(fault);
}

// What comes for somebody for whom something waits in the journal goes behind that.
static bool is_for_journal(const struct command_intake *intake, const struct command_batch *batch,
                           size_t count) {
    return count <= COMMANDS_AT_ONCE_MAX &&
           (count > PORTION || command_journal_has(intake->journal, batch->address.key));
}

static void take_payload(struct command_intake *intake, struct command_batch *batch) {
    const struct mqtt_received *received = &batch->received;
    size_t count = command_count(received->payload, received->length);
    *batch->origin = compare(intake, received);
    size_t place = begin_behind(batch->address.key, batch->origin, count);
    if (place >= count && batch->origin->leader != 0)
        return; // it came before
    if (!is_for_journal(intake, batch, count) || !write_down(intake, batch, count, place))
        take_all(intake, batch, place);
}

void command_intake_take(struct command_intake *intake, const struct mqtt_received *received) {
    struct command_origin origin;
    recall_all(intake);
    struct command_batch batch = {
        .origin = &origin, .received = *received, .created = clock_now(), .came_at = clock_ticks()};
    const char *topic = bus_topic_after(intake->queue->voice->bus, received->topic, TOPIC_COMMAND);
    const char *wrong = read_address(intake, topic, &batch.address);
    char *fault = wrong != NULL ? text_format("%s", wrong) : wrong_with_publish(intake, received);
    if (fault != NULL)
        reject_all(intake, &batch, fault);
    else
        take_payload(intake, &batch);
    free(fault);
}

// --- the broker ---

// If something is still being decided here, the session is a new one, in which nothing can have come again.
void command_intake_settled(struct command_intake *intake, int64_t vouched) {
    recall_all(intake);
    intake->settled = true;
    if (!intake->deciding)
        begin_deciding(intake, intake->before_session, vouched);
}

void command_intake_sweep(struct command_intake *intake, int64_t now, int64_t vouched) {
    if (!redelivery_is_overdue(intake->redelivery, now))
        return;
    if (!intake->settled)
        command_intake_settled(intake, vouched);
    redelivery_end(intake->redelivery);
}

// The packet ids of the earlier one say nothing any more. That is on disk before the broker is asked for anything: a
// gateway that is killed must not take what comes in this session for what came in that.
static void begin_session(struct command_intake *intake) {
    struct command_table *table = intake->queue->table;
    int64_t before = intake->before_session;
    if (!intake->deciding)
        begin_deciding(intake, INT64_MAX, 0);
    if (table->by_id == NULL && intake->journal->publishes == NULL)
        return; // there is nothing to compare with
    intake->before_session = command_table_new_id(table, clock_now());
    command_voice_keep_session(intake->queue->voice, intake->before_session, before);
    await_disk(intake, 0, true);
}

void command_intake_connected(struct command_intake *intake, bool resumed) {
    if (!resumed && intake->queue->config->commands.intake)
        begin_session(intake);
    intake->settled = false;
    intake->resumed = resumed;
    intake->attested_then = intake->queue->table->attested;
    intake->recent = clock_now() - RECENT_TIME;
    redelivery_end(intake->redelivery);
    command_walk_end(intake->queue->table, &intake->recalling);
    command_intake_recall(intake);
}
