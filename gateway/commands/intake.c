// Taking in commands; see intake.h.
#include "gateway/commands/intake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/clock.h"
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
#define RECENT_TIME 600000000
#define PORTION     50 // commands of a publish that are taken in at once
#define DEPTH_MAX   64 // of nested objects and arrays, so that what holds it can be read too

// One that waits until it is on disk.
struct command_fresh {
    int64_t id;
    struct command_fresh *prev, *next;
};

// Who a publish is for.
struct address {
    char key[COMMAND_KEY_MAX];
    int64_t device_id;  // -1: none
    int64_t channel_id; // 0: any
    char ident[CODEC_IDENT_MAX + 1];
    const struct codec *codec; // that the device speaks, or NULL where that is not known
    uint64_t publish;          // its fingerprint, for the first command that comes of it; then 0
    int mid;                   // its packet id
    uint64_t nth;              // its number
    int64_t twin;              // see struct command
    int64_t leader;            // the same: the first command of it; 0: there is none yet
    int64_t root;              // of twin: the command of the first time
    size_t known;              // so many of its commands were taken in before: those of twin, or of leader
};

// A publish whose commands are being taken in, a portion in each turn of the loop.
struct command_batch {
    struct address address;
    struct mqtt_received received; // without the payload
    json_t *definitions;
    size_t next;
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

static void set_definition(struct command *command, json_t *definition, const struct config *config) {
    int ttl = option_of(definition, "ttl", config->commands.ttl);
    command->definition = definition;
    command->created = clock_now();
    command->expires = command->created + ttl * 1000000LL;
    command->expires_at = clock_ticks() + ttl * 1000000LL;
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
static struct command *make_command(struct command_intake *intake, const struct address *address,
                                    const struct mqtt_received *received, json_t *definition) {
    struct command *command = must_have(calloc(1, sizeof *command));
    command->id = command_table_new_id(intake->queue->table, clock_now());
    command->key = must_have(strdup(address->key));
    strcpy(command->ident, address->ident);
    command->device_id = address->device_id;
    command->channel_id = address->channel_id;
    set_definition(command, definition, intake->queue->config);
    set_response(command, received);
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
                        json_t *definition) {
    const char *full = command_table_full(intake->queue->table, address->key);
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
    json_decref(batch->definitions);
    free((void *)batch->received.topic);
    free((void *)batch->received.response_topic);
    free((void *)batch->received.correlation);
    free(batch);
}

void command_intake_clear(struct command_intake *intake) {
    if (intake->batch != NULL)
        free_batch(intake->batch);
    intake->batch = NULL;
    while (intake->fresh != NULL)
        let_go(intake, intake->fresh);
}

static void log_unkept(const struct command *command) {
    log_about(command->key, LOG_ERROR,
              "%s: command %s is not on disk, which takes nothing: it would be lost with the gateway",
              command->key, command_voice_name(command));
}

// Called for each that waits, in their order. ok false: the disk takes nothing; then memory and broker alone have it.
static void on_kept(void *context, bool ok) {
    struct command_intake *intake = context;
    struct command_queue *queue = intake->queue;
    struct command *command = command_table_find(queue->table, intake->fresh->id);
    let_go(intake, intake->fresh);
    bus_release(queue->voice->bus);
    if (command == NULL || command_has_ended(command))
        return;
    if (!ok)
        log_unkept(command);
    command->fresh = false;
    command_queue_send_next(queue, command->key);
}

// The broker hears nothing more from us until the disk has what was put until now. id: of a command; or 0.
static void await_disk(struct command_intake *intake, int64_t id) {
    struct command_fresh *fresh = must_have(calloc(1, sizeof *fresh));
    fresh->id = id;
    DL_APPEND(intake->fresh, fresh);
    bus_hold(intake->queue->voice->bus);
    store_when_written(intake->queue->voice->store, on_kept, intake);
}

// The first command of a publish carries its fingerprint, and the others the id of the first, and each its place: when
// the gateway is killed before all are on disk, the broker delivers the publish again, and those that are missing are
// taken in.
static void set_origin(struct address *address, struct command *command, size_t place) {
    bool again = place < address->known;
    command->publish = address->publish;
    command->mid = address->mid;
    command->nth = address->nth;
    command->part = (int)place + 1;
    command->twin = again ? address->twin : 0;
    command->leader = again || address->twin == 0 ? address->leader : address->root;
    address->publish = 0;
    if (address->leader == 0)
        address->leader = command->id;
}

// Takes the command over. The broker hears of it, and that its publish was taken, once it is on disk.
static void take_command(struct command_intake *intake, struct command *command) {
    command->fresh = true;
    command_table_add(intake->queue->table, command);
    if (command->twin == 0)
        command_queue_announce(intake->queue, command);
    else
        command_voice_keep(intake->queue->voice, command);
    await_disk(intake, command->id);
}

static void take_definition(struct command_intake *intake, struct command_batch *batch, size_t place) {
    struct address *address = &batch->address;
    const struct mqtt_received *received = &batch->received;
    json_t *definition = json_array_get(batch->definitions, place);
    char *fault = wrong_with(intake, address, definition);
    struct command *command = make_command(intake, address, received, json_incref(definition));
    if (fault == NULL) {
        set_origin(address, command, place);
        take_command(intake, command);
        return;
    }
    if (is_too_large(definition) || is_too_deep(definition, DEPTH_MAX)) {
        json_object_del(command->definition, "meta");
        json_object_del(command->definition, "properties");
    }
    reject(intake, command, received->topic, fault);
    free(fault);
}

static void reject_all(struct command_intake *intake, const struct address *address,
                       struct mqtt_received received, const char *reason) {
    char *fault = wrong_with_topic(intake, &received);
    if (fault != NULL)
        received.response_topic = NULL; // nobody can be answered there
    free(fault);
    if (address->key[0] == '\0' && received.response_topic == NULL)
        log_about(received.topic, LOG_WARNING, "%s: command rejected: %s", received.topic, reason);
    else
        reject(intake, make_command(intake, address, &received, json_object()), received.topic, reason);
}

// The commands of a payload; NULL, and *reason (for the caller to free), when something is wrong with it.
static json_t *read_definitions(const struct command_intake *intake, const struct mqtt_received *received,
                                char **reason) {
    *reason = wrong_with_topic(intake, received);
    if (*reason == NULL && received->correlation != NULL &&
        received->correlation_length > COMMAND_CORRELATION_MAX)
        *reason = text_format("the correlation data has more than %d bytes", COMMAND_CORRELATION_MAX);
    if (*reason == NULL && received->length > PAYLOAD_MAX)
        *reason = text_format("the payload has more than %d bytes", PAYLOAD_MAX);
    return *reason == NULL ? command_parse(received->payload, received->length, reason) : NULL;
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

// Whether a publish with that packet id is the very one that command came of, whatever the broker remembers. once: its
// commands must not happen twice.
static bool is_repeated(const struct command_intake *intake, int64_t twin, int mid, bool once) {
    const struct command *first = command_table_find(intake->queue->table, twin);
    return first != NULL && twin > intake->recent && first->mid == mid && (once || command_has_ended(first));
}

// The command of the first time, also of a publish that comes a third time before it was known that the second one was no
// new one: the gateway was killed between. known: how many commands of that publish there are; all, when an earlier version
// has taken them in.
static int64_t find_root(const struct command_intake *intake, int64_t twin, size_t *known) {
    const struct command *command = command_table_find(intake->queue->table, twin);
    *known = twin == 0 ? 0 : SIZE_MAX;
    for (size_t parts = 0; command != NULL; command = command_table_find(intake->queue->table, twin)) {
        if (command->parts == 0)
            *known = parts = SIZE_MAX;
        if ((size_t)command->parts > parts)
            *known = parts = (size_t)command->parts;
        if (command->twin == 0)
            break;
        twin = command->twin;
    }
    return twin;
}

// Of one that is surely delivered again only what is missing is taken in.
static void compare(const struct command_intake *intake, struct address *address,
                    const struct mqtt_received *received, const json_t *definitions) {
    bool once = has_once(intake, definitions);
    address->publish = redelivery_fingerprint(received);
    address->mid = received->mid;
    address->nth = received->nth;
    address->twin = redelivery_twin(intake->redelivery, address->publish, received->mid, received->nth,
                                    once && !intake->settled);
    address->root = find_root(intake, address->twin, &address->known);
    if (!intake->settled)
        return;
    if (is_repeated(intake, address->twin, received->mid, once)) {
        address->publish = 0;
        address->leader = address->root;
    } else {
        address->known = 0;
    }
    address->twin = 0;
}

// Returns where the publish begins that was compared: behind what is left out.
static size_t begin_behind(const struct address *address, size_t count) {
    if (address->leader == 0)
        return 0;
    if (address->known >= count)
        say_left_out(address->key, address->leader);
    else
        say_taken_up(address->key, address->known);
    return address->known;
}

// False: some are left.
static bool take_portion(struct command_intake *intake, struct command_batch *batch) {
    size_t count = json_array_size(batch->definitions);
    size_t end = count - batch->next > PORTION ? batch->next + PORTION : count;
    for (; batch->next < end; batch->next++)
        take_definition(intake, batch, batch->next);
    return end == count;
}

static char *copy_text(const char *text) {
    return text != NULL ? must_have(strdup(text)) : NULL;
}

// For the following turns of the loop. Until all of it is taken in the broker is neither read nor written to.
static void keep_rest(struct command_intake *intake, const struct command_batch *batch) {
    const struct mqtt_received *received = &batch->received;
    struct command_batch *rest = must_have(malloc(sizeof *rest));
    *rest = *batch;
    rest->received.payload = NULL;
    rest->received.instance = NULL;
    rest->received.topic = copy_text(received->topic);
    rest->received.response_topic = copy_text(received->response_topic);
    if (received->correlation != NULL) {
        rest->received.correlation = must_have(malloc(received->correlation_length + 1));
        memcpy((void *)rest->received.correlation, received->correlation, received->correlation_length);
    }
    json_incref(rest->definitions);
    intake->batch = rest;
    bus_hold(intake->queue->voice->bus);
    bus_enough(intake->queue->voice->bus);
}

static void take_payload(struct command_intake *intake, const struct address *address,
                         const struct mqtt_received *received) {
    char *fault = NULL;
    struct command_batch batch = {.address = *address, .received = *received};
    batch.definitions = read_definitions(intake, received, &fault);
    if (batch.definitions == NULL) {
        reject_all(intake, address, *received, fault);
    } else {
        compare(intake, &batch.address, received, batch.definitions);
        size_t count = json_array_size(batch.definitions);
        batch.next = begin_behind(&batch.address, count);
        if (batch.next < count && !take_portion(intake, &batch))
            keep_rest(intake, &batch);
    }
    json_decref(batch.definitions);
    free(fault);
}

bool command_intake_go_on(struct command_intake *intake) {
    if (intake->batch == NULL)
        return false;
    if (!take_portion(intake, intake->batch))
        return true;
    free_batch(intake->batch);
    intake->batch = NULL;
    bus_release(intake->queue->voice->bus);
    return false;
}

// What came before is taken in before what comes now.
static void finish_batch(struct command_intake *intake) {
    while (command_intake_go_on(intake))
        ;
}

void command_intake_take(struct command_intake *intake, const struct mqtt_received *received) {
    struct address address;
    const char *topic = bus_topic_after(intake->queue->voice->bus, received->topic, TOPIC_COMMAND);
    const char *wrong = read_address(intake, topic, &address);
    finish_batch(intake);
    if (wrong != NULL)
        reject_all(intake, &address, *received, wrong);
    else
        take_payload(intake, &address, received);
}

// --- what the broker may have delivered again ---

static void leave_out(struct command_intake *intake, struct command *command) {
    say_left_out(command->key, command->twin);
    command_queue_forget(intake->queue, command);
}

static void decide(struct command_intake *intake, struct command *command, bool again) {
    if (again) {
        leave_out(intake, command);
        return;
    }
    command_table_is_no_twin(command);
    command_queue_announce(intake->queue, command);
    command_queue_send_next(intake->queue, command->key);
}

void command_intake_settled(struct command_intake *intake, int64_t vouched) {
    struct command *command, *next;
    intake->settled = true;
    HASH_ITER(hh, intake->queue->table->by_id, command, next) {
        bool once = command_queue_is_once(intake->queue, command);
        if (command->twin != 0)
            decide(intake, command,
                   command->twin > vouched || is_repeated(intake, command->twin, command->mid, once));
    }
}

void command_intake_sweep(struct command_intake *intake, int64_t now, int64_t vouched) {
    if (intake->batch != NULL || !redelivery_is_overdue(intake->redelivery, now))
        return;
    if (!intake->settled)
        command_intake_settled(intake, vouched);
    redelivery_end(intake->redelivery);
}

// Nobody will ever say what these were: one that must not happen twice is not risked.
static void decide_without_the_session(struct command_intake *intake) {
    struct command *command, *next;
    HASH_ITER(hh, intake->queue->table->by_id, command, next) {
        if (command->twin != 0)
            decide(intake, command, command_queue_is_once(intake->queue, command));
    }
}

// The packet ids of the earlier one say nothing any more. That is on disk before the broker is asked for anything: a
// gateway that is killed must not take what comes in this session for what came in that.
static void begin_session(struct command_intake *intake) {
    struct command_table *table = intake->queue->table;
    int64_t before = intake->before_session;
    decide_without_the_session(intake);
    if (table->by_id == NULL)
        return; // there is nothing to compare with
    intake->before_session = command_table_new_id(table, clock_now());
    command_voice_keep_session(intake->queue->voice, intake->before_session, before);
    await_disk(intake, 0);
}

void command_intake_connected(struct command_intake *intake, bool resumed) {
    finish_batch(intake);
    if (!resumed && intake->queue->config->commands.intake)
        begin_session(intake);
    intake->settled = false;
    intake->recent = clock_now() - RECENT_TIME;
    redelivery_begin(intake->redelivery, resumed ? intake->queue->table : NULL, intake->before_session,
                     clock_ticks());
}
