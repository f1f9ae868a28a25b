// Commands on their way; see command_queue.h.
#include "gateway/command_queue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/command_parse.h"
#include "gateway/gateway.h"
#include "gateway/log.h"
#include "gateway/memory.h"
#include "gateway/peer.h"
#include "schema/json_schema.h"

// Codes of log entries; flespi's.
enum { EVENT_QUEUED = 330, EVENT_PROCESSED = 332, EVENT_SENT = 334 };

// Who a command is for.
struct target {
    int64_t channel_id;              // 0: not said
    int64_t device_id;               // -1: none
    char ident[CODEC_IDENT_MAX + 1]; // empty: not known
    struct session *session;         // NULL: not here
};

struct pending_command {
    struct gateway *gateway;
    struct target target;
    int64_t id;
    json_t *definition; // name, properties, …
    char *response_topic;
    void *correlation;
    size_t correlation_length;
    struct codec_expectation expectation;
    bool sent;
    int attempts;
    bool has_timer;
    uv_timer_t timer;
    struct pending_command *prev, *next;
};

// --- saying what became of a command ---

// A name as a part of a topic: as it is when it can be one.
static const char *topic_name(const json_t *definition) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._?-";
    const char *name = json_string_value(json_object_get(definition, "name"));
    size_t length = name != NULL ? strlen(name) : 0;
    return length >= 1 && length <= 64 && strspn(name, allowed) == length ? name : "invalid";
}

static json_t *entry_of(const struct pending_command *command, int code) {
    const struct target *target = &command->target;
    json_t *entry = json_pack("{s:i, s:f, s:I}", "event_code", code, "timestamp",
                              (double)gateway_clock() / 1e6, "id", (json_int_t)command->id);
    static const char *const kept[] = {"name", "properties", "meta"};
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        if (json_object_get(command->definition, kept[i]) != NULL)
            json_object_set(entry, kept[i], json_object_get(command->definition, kept[i]));
    if (target->ident[0] != '\0')
        json_object_set_new(entry, "ident", json_string(target->ident));
    if (target->device_id >= 0)
        json_object_set_new(entry, "device_id", json_integer(target->device_id));
    if (target->channel_id != 0)
        json_object_set_new(entry, "channel_id", json_integer(target->channel_id));
    return entry;
}

static void publish_entry(struct pending_command *command, const json_t *entry, const char *event) {
    const struct target *target = &command->target;
    const char *name = topic_name(command->definition);
    if (target->device_id >= 0)
        gateway_publish(command->gateway, entry, false, "log/gw/devices/%lld/commands-queue/%s/%s",
                        (long long)target->device_id, name, event);
    else if (target->ident[0] != '\0')
        gateway_publish(command->gateway, entry, false, "log/gw/channels/%lld/%s/commands-queue/%s/%s",
                        (long long)target->channel_id, target->ident, name, event);
}

static void publish_response(struct pending_command *command, const json_t *entry) {
    if (command->response_topic == NULL)
        return;
    char *text = must_have(json_dumps(entry, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(16)));
    outbox_put(command->gateway->outbox,
               &(struct mqtt_publish){.topic = command->response_topic,
                                      .payload = text,
                                      .length = strlen(text),
                                      .qos = 1,
                                      .correlation = command->correlation,
                                      .correlation_length = command->correlation_length});
    free(text);
}

static void say(struct pending_command *command, int code, const char *event) {
    json_t *entry = entry_of(command, code);
    publish_entry(command, entry, event);
    json_decref(entry);
}

static void free_command(struct pending_command *command) {
    json_decref(command->definition);
    free(command->response_topic);
    free(command->correlation);
    free(command);
}

static void on_timer_closed(uv_handle_t *handle) {
    free_command(handle->data);
}

// Says the result and ends the command. response is taken over and may be NULL; reason may be NULL.
static void finish(struct pending_command *command, bool executed, json_t *response, const char *reason) {
    struct session *session = command->target.session;
    json_t *entry = entry_of(command, EVENT_PROCESSED);
    json_object_set_new(entry, "executed", json_boolean(executed));
    json_object_set_new(entry, "response", response != NULL ? response : json_null());
    if (reason != NULL)
        json_object_set_new(entry, "reason", json_string(reason));
    publish_entry(command, entry, "processed");
    publish_response(command, entry);
    json_decref(entry);
    log_info("device %s: command %s: %s%s%s", command->target.ident[0] != '\0' ? command->target.ident : "-",
             topic_name(command->definition), executed ? "executed" : "not executed",
             reason != NULL ? ": " : "", reason != NULL ? reason : "");
    if (session != NULL) {
        DL_DELETE(session->commands, command);
        session_release(command->gateway, session);
    }
    if (command->has_timer)
        uv_close((uv_handle_t *)&command->timer, on_timer_closed);
    else
        free_command(command);
}

// --- sending ---

static struct peer *reachable_peer(const struct pending_command *command) {
    const struct target *target = &command->target;
    struct peer *peer =
        target->session == NULL
            ? NULL
            : session_reachable(target->session,
                                (uint64_t)command->gateway->config->commands.udp_reachable * 1000);
    bool other_channel =
        peer != NULL && target->channel_id != 0 && peer->channel->config->id != target->channel_id;
    return other_channel ? NULL : peer;
}

static int option_of(const struct pending_command *command, const char *name, int standard) {
    const json_t *value = json_object_get(command->definition, name);
    return value != NULL ? (int)json_schema_integer(value) : standard;
}

static void on_timeout(uv_timer_t *timer);

// False when it cannot be encoded: then it has ended.
static bool send_command(struct pending_command *command, struct peer *peer) {
    uint8_t bytes[CODEC_COMMAND_MAX];
    struct codec_writer writer = {.bytes = bytes, .capacity = sizeof bytes};
    char *fault = command_encode(command->definition, peer->channel->config->codec, peer->stream.session,
                                 &writer, &command->expectation);
    if (fault != NULL) {
        finish(command, false, NULL, fault);
        free(fault);
        return false;
    }
    command->sent = true;
    command->attempts++;
    log_info("channel %s, %s, device %s: command %s goes out, attempt %d", peer->channel->config->name,
             peer->address, peer_ident(peer), topic_name(command->definition), command->attempts);
    say(command, EVENT_SENT, "sent");
    unsigned timeout = command->expectation.timeout;
    if (json_object_get(command->definition, "timeout") != NULL || timeout == 0)
        timeout = (unsigned)option_of(command, "timeout", command->gateway->config->commands.timeout);
    uv_timer_start(&command->timer, on_timeout, timeout * 1000ULL, 0);
    peer->transport->send(peer, bytes, writer.length);
    return true;
}

static bool any_sent(const struct session *session) {
    const struct pending_command *command;
    DL_FOREACH(session->commands, command) {
        if (command->sent)
            return true;
    }
    return false;
}

// Sends what may go out: where answers carry no id, the next command waits until the last one has ended.
static void send_next(struct session *session) {
    struct pending_command *command, *next;
    bool busy = any_sent(session);
    DL_FOREACH_SAFE(session->commands, command, next) {
        struct peer *peer = command->sent ? NULL : reachable_peer(command);
        if (peer == NULL)
            continue;
        bool one_at_a_time = peer->channel->config->codec->one_at_a_time;
        if (one_at_a_time && busy)
            return;
        if (send_command(command, peer) && one_at_a_time)
            return;
    }
}

static void finish_and_go_on(struct pending_command *command, bool executed, json_t *response,
                             const char *reason) {
    struct gateway *gateway = command->gateway;
    char ident[CODEC_IDENT_MAX + 1];
    strcpy(ident, command->target.ident);
    finish(command, executed, response, reason);
    struct session *session =
        session_by_ident(&gateway->sessions, ident); // it may have ended with the command
    if (session != NULL)
        send_next(session);
}

static void on_timeout(uv_timer_t *timer) {
    struct pending_command *command = timer->data;
    struct peer *peer = reachable_peer(command);
    char reason[80];
    if (peer != NULL && command->attempts < option_of(command, "max_attempts",
                                                      command->gateway->config->commands.max_attempts)) {
        send_command(command, peer);
        return;
    }
    if (peer == NULL)
        strcpy(reason, "the device went away before it answered");
    else
        snprintf(reason, sizeof reason, "no answer to %d attempts", command->attempts);
    finish_and_go_on(command, false, NULL, reason);
}

void commands_device_talks(struct gateway *gateway, struct session *session) {
    if (session->commands != NULL)
        send_next(session);
}

// --- answers ---

static bool matches(const struct pending_command *command, const struct codec_answer *answer) {
    const char *key = command->expectation.key;
    if (!command->sent)
        return false;
    return *key == '\0' ? !answer->implicit : strcmp(key, answer->key) == 0;
}

void commands_answered(struct gateway *gateway, struct session *session, const struct codec_answer *answer) {
    struct pending_command *command;
    DL_FOREACH(session->commands, command) {
        if (matches(command, answer))
            break;
    }
    if (command == NULL) {
        if (!answer->implicit)
            log_info("device %s: an answer to '%s', which nobody asked for: %s", session->ident, answer->key,
                     answer->text != NULL ? answer->text : "-");
        return;
    }
    if (answer->outcome == CODEC_PROGRESS && command->expectation.final_after_progress) {
        log_info("device %s: command %s has begun: %s", session->ident, topic_name(command->definition),
                 answer->text != NULL ? answer->text : "-");
        return;
    }
    bool executed = answer->outcome != CODEC_FAILURE;
    finish_and_go_on(command, executed, command_response(answer),
                     executed ? NULL : "the device said that it failed");
}

// --- taking in ---

// Reads devices/{id} or channels/{id}/{ident}; NULL, or what is wrong with it.
static const char *read_target(struct gateway *gateway, const char *topic, struct target *target) {
    long long number;
    int end = 0;
    const char *rest = topic + (strncmp(topic, "devices/", 8) == 0    ? 8
                                : strncmp(topic, "channels/", 9) == 0 ? 9
                                                                      : 0);
    *target = (struct target){.device_id = -1};
    if (rest == topic)
        return "commands go to devices/{device.id} or channels/{channel.id}/{ident}";
    if (*rest < '0' || *rest > '9' || sscanf(rest, "%15lld%n", &number, &end) != 1)
        return rest == topic + 8 ? "device.id is not a number" : "channel.id is not a number";
    if (rest == topic + 8) {
        target->device_id = number;
        if (rest[end] >= '0' && rest[end] <= '9') // 53 bits have 16 digits
            target->device_id = strtoll(rest, (char **)&rest, 10), end = 0;
        target->session = session_by_device_id(&gateway->sessions, target->device_id);
        if (target->session != NULL)
            strcpy(target->ident, target->session->ident);
        return rest[end] == '\0' ? NULL : "device.id is not a number";
    }
    target->channel_id = number;
    if (rest[end] != '/' || !device_ident_valid(rest + end + 1))
        return "the ident is not 1 to 32 letters, digits, dots, dashes, underscores";
    strcpy(target->ident, rest + end + 1);
    struct device device = device_by_ident(gateway->registry, target->ident);
    target->device_id = device.known ? device.id : -1;
    target->session = session_by_ident(&gateway->sessions, target->ident);
    return NULL;
}

static struct pending_command *make_command(struct gateway *gateway, const struct target *target,
                                            const struct mqtt_received *received, json_t *definition) {
    struct pending_command *command = must_have(calloc(1, sizeof *command));
    int64_t now = gateway_clock();
    gateway->commands.last_id = now > gateway->commands.last_id ? now : gateway->commands.last_id + 1;
    command->gateway = gateway;
    command->target = *target;
    command->target.session = NULL; // until it stands in its list
    command->id = gateway->commands.last_id;
    command->definition = json_incref(definition);
    if (received->response_topic != NULL)
        command->response_topic = must_have(strdup(received->response_topic));
    if (received->correlation != NULL) {
        command->correlation = must_have(malloc(received->correlation_length));
        command->correlation_length = received->correlation_length;
        memcpy(command->correlation, received->correlation, received->correlation_length);
    }
    return command;
}

static void refuse(struct gateway *gateway, const struct target *target, const struct mqtt_received *received,
                   json_t *definition, const char *reason) {
    log_warning("a command to %s is refused: %s", received->topic, reason);
    finish(make_command(gateway, target, received, definition), false, NULL, reason);
}

// A command goes behind all those of its priority.
static int by_priority(const struct pending_command *there, const struct pending_command *added) {
    return option_of(there, "priority", 0) >= option_of(added, "priority", 0) ? -1 : 1;
}

static void take_command(struct gateway *gateway, const struct target *target,
                         const struct mqtt_received *received, json_t *definition) {
    struct pending_command probe = {.gateway = gateway, .target = *target};
    struct peer *peer = reachable_peer(&probe);
    if (peer == NULL) {
        refuse(gateway, target, received, definition, "the device is not connected");
        return;
    }
    char *fault = command_check(definition, peer->channel->config->codec);
    if (fault != NULL) {
        refuse(gateway, target, received, definition, fault);
        free(fault);
        return;
    }
    struct pending_command *command = make_command(gateway, target, received, definition);
    command->target.session = target->session;
    command->target.channel_id = peer->channel->config->id;
    command->has_timer = true;
    uv_timer_init(&gateway->loop, &command->timer);
    command->timer.data = command;
    DL_INSERT_INORDER(target->session->commands, command, by_priority);
    say(command, EVENT_QUEUED, "queued");
    send_next(target->session);
}

void commands_received(struct gateway *gateway, const char *topic, const struct mqtt_received *received) {
    struct target target;
    char *fault = NULL;
    json_t *commands = command_parse(received->payload, received->length, &fault), *nothing = json_object();
    const char *wrong_target = read_target(gateway, topic, &target);
    json_t *definition;
    size_t i;
    if (wrong_target != NULL || fault != NULL)
        refuse(gateway, &target, received, nothing, wrong_target != NULL ? wrong_target : fault);
    json_array_foreach(wrong_target == NULL ? commands : NULL, i, definition) {
        take_command(gateway, &target, received, definition);
    }
    free(fault);
    json_decref(commands);
    json_decref(nothing);
}

void commands_stop(struct gateway *gateway) {
    struct session *session, *next;
    HASH_ITER(by_ident, gateway->sessions.by_ident, session, next) {
        while (session != NULL && session->commands != NULL) {
            bool last = session->commands->next == NULL;
            finish(session->commands, false, NULL, "the gateway stops");
            session = last ? NULL : session; // it may have ended with its last command
        }
    }
}
