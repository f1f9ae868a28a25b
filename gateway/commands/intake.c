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

// It waits whether or not somebody will come for it; but whoever made a mistake should see it.
static void say_queued(const struct command_queue *queue, const struct command *command) {
    const struct command_roads *roads = queue->roads;
    bool known = command->device_id < 0 || roads->knows(roads->context, command->device_id);
    json_t *more = known ? NULL : json_pack("{s:b}", "known", 0);
    if (!known)
        log_about(command->key, LOG_WARNING,
                  "%s: command %s queued for a device that is neither in the registry nor was ever heard",
                  command->key, command_voice_name(command));
    command_voice_log(queue->voice, command, COMMAND_QUEUED, more);
    json_decref(more);
}

static void let_go(struct command_intake *intake, struct command_fresh *fresh) {
    DL_DELETE(intake->fresh, fresh);
    free(fresh);
}

void command_intake_clear(struct command_intake *intake) {
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

static void announce(struct command_intake *intake, struct command *command) {
    say_queued(intake->queue, command);
    command->unshared = true; // until the broker has taken it
    command_queue_publish(intake->queue, command);
    intake->queue->unannounced = intake->queue->unannounced || command->unsaid;
}

// Takes the command over. The broker hears of it, and that its publish was taken, once it is on disk.
static void take_command(struct command_intake *intake, struct address *address, struct command *command) {
    command->publish = address->publish;
    command->mid = address->mid;
    command->nth = address->nth;
    command->twin = address->twin;
    address->publish = 0;
    command->fresh = true;
    command_table_add(intake->queue->table, command);
    if (command->twin == 0)
        announce(intake, command);
    else
        command_voice_keep(intake->queue->voice, command);
    await_disk(intake, command->id);
}

static void take_definition(struct command_intake *intake, struct address *address,
                            const struct mqtt_received *received, json_t *definition) {
    char *fault = wrong_with(intake, address, definition);
    struct command *command = make_command(intake, address, received, json_incref(definition));
    if (fault == NULL) {
        take_command(intake, address, command);
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

// False when it is surely delivered again.
static bool compare(const struct command_intake *intake, struct address *address,
                    const struct mqtt_received *received, const json_t *definitions) {
    bool once = has_once(intake, definitions);
    address->publish = redelivery_fingerprint(received);
    address->mid = received->mid;
    address->nth = received->nth;
    address->twin = redelivery_twin(intake->redelivery, address->publish, received->mid, received->nth,
                                    once && !intake->settled);
    if (!intake->settled)
        return true;
    bool repeated = is_repeated(intake, address->twin, received->mid, once);
    if (repeated)
        say_left_out(address->key, address->twin);
    address->twin = 0;
    return !repeated;
}

static void take_payload(struct command_intake *intake, struct address *address,
                         const struct mqtt_received *received) {
    char *fault = NULL;
    json_t *definitions = read_definitions(intake, received, &fault), *definition;
    size_t i;
    if (definitions == NULL) {
        reject_all(intake, address, *received, fault);
    } else if (compare(intake, address, received, definitions)) {
        json_array_foreach(definitions, i, definition) {
            take_definition(intake, address, received, definition);
        }
    }
    json_decref(definitions);
    free(fault);
}

void command_intake_take(struct command_intake *intake, const struct mqtt_received *received) {
    struct address address;
    const char *topic = bus_topic_after(intake->queue->voice->bus, received->topic, TOPIC_COMMAND);
    const char *wrong = read_address(intake, topic, &address);
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
    command->twin = 0;
    announce(intake, command);
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
    if (!redelivery_is_overdue(intake->redelivery, now))
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
    if (!resumed && intake->queue->config->commands.intake)
        begin_session(intake);
    intake->settled = false;
    intake->recent = clock_now() - RECENT_TIME;
    redelivery_begin(intake->redelivery, resumed ? intake->queue->table : NULL, intake->before_session,
                     clock_ticks());
}
