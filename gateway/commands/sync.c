// The queue of commands in the broker and on disk; see sync.h.
#include "gateway/commands/sync.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/run/gateway.h"

#define ENTRY_MAX 65536 // bytes
#define CROWD     1000 // entries at which a broker may have left out some: Mosquitto's limit of queued messages
#define ASK_TIME  2000 // milliseconds until it is asked again whether it has delivered all
#define SETTLE_TIME                                                                                          \
    1000 // milliseconds without an entry after which a broker that delivers out of order has delivered all

bool command_sync_is_open(const struct gateway *gateway) {
    return gateway->sync.state <= SYNC_SETTLING;
}

bool command_sync_is_done(const struct gateway *gateway) {
    return gateway->sync.state == SYNC_DONE;
}

// --- the disk ---

static void take_stored(void *context, int64_t id, const char *text) {
    struct gateway *gateway = context;
    json_t *row = json_loads(text, 0, NULL);
    if (id > gateway->commands.last_id)
        gateway->commands.last_id = id;
    if (commands_take_buried(gateway, id, row)) {
        json_decref(row);
        return;
    }
    const char *key = json_string_value(json_object_get(row, "key"));
    char *fault = NULL;
    struct command *command =
        key != NULL ? command_from_json(key, json_object_get(row, "entry"), &fault) : NULL;
    json_decref(row);
    if (command == NULL || command->id != id) {
        log_error("the store holds a command %lld that is none: %s", (long long)id,
                  fault != NULL ? fault : "no entry");
        store_delete_command(gateway->store, id);
        if (command != NULL)
            command_free(command);
        free(fault);
        return;
    }
    commands_add(gateway, command);
    if (command_has_ended(command)) { // and the broker may not have heard of it
        command->end_written = true;
        commands_publish_end(gateway, command);
    }
}

void command_sync_start(struct gateway *gateway) {
    uv_timer_init(&gateway->loop, &gateway->sync.settle);
    gateway->sync.settle.data = gateway;
    store_each_command(gateway->store, take_stored, gateway);
    if (gateway->commands.pending > 0)
        log_info("%zu commands wait since the last run", gateway->commands.pending);
}

void command_sync_stop(struct gateway *gateway) {
    uv_close((uv_handle_t *)&gateway->sync.settle, NULL);
}

// --- the broker ---

static const char *own_topic(const struct gateway *gateway, const char *last, char *topic, size_t capacity) {
    snprintf(topic, capacity, "instances/%s/%s", gateway->config->mqtt.client_id, last);
    return topic;
}

// Takes over payload.
static uint64_t publish_own(struct gateway *gateway, const char *last, json_t *payload, bool retain) {
    char topic[300];
    uint64_t number = gateway_publish(gateway, payload, retain, "state/gw/%s",
                                      own_topic(gateway, last, topic, sizeof topic));
    json_decref(payload);
    return number;
}

static void publish_marker(struct gateway *gateway) {
    int64_t last = gateway->commands.last_id > 0 ? gateway->commands.last_id : 1;
    json_t *marker =
        json_pack("{s:s, s:I}", "store", store_marker(gateway->store), "through", (json_int_t)last);
    if (publish_own(gateway, "queue", marker, true) != 0)
        gateway->sync.marked = last;
}

void command_sync_mark(struct gateway *gateway) {
    bool intake = gateway->config->commands.intake;
    if (intake && gateway->sync.state == SYNC_DONE && gateway->commands.last_id > gateway->sync.marked)
        publish_marker(gateway);
}

void command_sync_begin(struct gateway *gateway) {
    struct command_sync *sync = &gateway->sync;
    struct command *command, *next;
    sync->state = SYNC_OPEN;
    sync->vouched = 0;
    sync->entries = 0;
    HASH_ITER(hh, gateway->commands.by_id, command, next) {
        // What is still in the outbox the broker will have.
        command->confirmed = command->published != 0 && !outbox_is_safe(gateway->outbox, command->published);
    }
}

static void ask(struct gateway *gateway);

static void on_unanswered(uv_timer_t *timer) {
    ask(timer->data);
}

// A broker with a full queue drops it: then again.
static void ask(struct gateway *gateway) {
    struct command_sync *sync = &gateway->sync;
    publish_own(gateway, "sync", json_string(sync->nonce), false);
    uv_timer_start(&sync->settle, on_unanswered, ASK_TIME, 0);
}

void command_sync_ask(struct gateway *gateway) {
    struct command_sync *sync = &gateway->sync;
    snprintf(sync->nonce, sizeof sync->nonce, "%lld", (long long)gateway_clock());
    ask(gateway);
}

void command_sync_lost(struct gateway *gateway) {
    gateway->sync.state = command_sync_is_open(gateway) ? SYNC_NEVER : SYNC_NO_LINK;
    uv_timer_stop(&gateway->sync.settle);
}

// An entry that the broker does not have although it remembers.
static void take_missing(struct gateway *gateway, struct command *command) {
    if (gateway->config->commands.intake)
        commands_finish(gateway, command, COMMAND_CANCELED, false, NULL, "canceled");
    else
        commands_forget(gateway, command); // it ended while we were away, or the intake publishes it again
}

// Whether a missing entry is one that the broker lost or never had, and not one that has ended.
static bool is_lost(const struct gateway *gateway, const struct command *command) {
    const struct command_sync *sync = &gateway->sync;
    return gateway->config->commands.intake && (command->id > sync->vouched || sync->entries >= CROWD);
}

static void on_settled(uv_timer_t *timer) {
    struct gateway *gateway = timer->data;
    struct command *command, *next;
    size_t again = 0;
    gateway->sync.state = SYNC_DONE;
    state_settled(gateway);
    HASH_ITER(hh, gateway->commands.by_id, command, next) {
        if (command->confirmed || command_has_ended(command))
            continue;
        if (is_lost(gateway, command)) {
            commands_publish(gateway, command);
            again++;
        } else {
            take_missing(gateway, command);
        }
    }
    if (again > 0)
        log_warning("the broker did not have %zu pending commands, it has them again", again);
    if (gateway->config->commands.intake)
        publish_marker(gateway); // behind them
    HASH_ITER(hh, gateway->commands.by_id, command, next) {
        if (!command_has_ended(command))
            commands_send_next(gateway, command->key);
    }
}

static bool payload_is(const struct mqtt_received *received, const char *text) {
    size_t length = strlen(text);
    return received->length == length + 2 && memcmp((const char *)received->payload + 1, text, length) == 0;
}

static void take_marker(struct gateway *gateway, const struct mqtt_received *received) {
    json_t *marker = json_loadb(received->payload, received->length, 0, NULL);
    const char *store = json_string_value(json_object_get(marker, "store"));
    if (store != NULL && strcmp(store, store_marker(gateway->store)) == 0)
        gateway->sync.vouched = json_integer_value(json_object_get(marker, "through"));
    json_decref(marker);
}

static void take_own(struct gateway *gateway, const char *last, const struct mqtt_received *received) {
    struct command_sync *sync = &gateway->sync;
    if (strcmp(last, "queue") == 0 && received->retain && received->length > 0)
        take_marker(gateway, received);
    if (strcmp(last, "sync") != 0 || !payload_is(received, sync->nonce) || sync->state != SYNC_OPEN)
        return;
    sync->state = SYNC_SETTLING;
    instances_answered(gateway);
    uv_timer_start(&sync->settle, on_settled, SETTLE_TIME, 0);
}

// An emptied entry: somebody canceled the command, or, when we heard of its end before, another instance has
// ended it.
static void take_emptied(struct gateway *gateway, struct command *command) {
    if (command == NULL || command_has_ended(command))
        return;
    if (gateway->config->commands.intake)
        commands_finish(gateway, command, COMMAND_CANCELED, false, NULL, "canceled");
    else
        commands_bury(gateway, command, COMMAND_CANCELED);
}

static bool is_own(const struct gateway *gateway, const struct command *command) {
    return command->instance != NULL && strcmp(command->instance, gateway->config->mqtt.client_id) == 0;
}

static void adopt(struct command *command, struct command *update) {
    command->state = update->state;
    command->attempts = update->attempts;
    command->answer_by = update->answer_by;
    command->expectation = update->expectation;
    free(command->instance);
    command->instance = update->instance;
    update->instance = NULL;
}

// Our own entry, from before this run or this connection: the one that was sent more often is the newer.
// Echoes of this connection say nothing new.
static void take_own_entry(struct gateway *gateway, struct command *command, struct command *update) {
    if (update->attempts > command->attempts)
        adopt(command, update);
    else if (update->state != command->state || update->attempts < command->attempts)
        commands_publish(gateway, command);
}

// What stands in the broker for a command that is known here.
static void take_update(struct gateway *gateway, struct command *command, struct command *update,
                        const struct mqtt_received *received) {
    bool own = is_own(gateway, update), newer_here = !outbox_is_safe(gateway->outbox, command->published);
    if (command_has_ended(command)) {
        if (!command_has_ended(update) && (!own || received->retain))
            commands_clear_stale(gateway, command, update);
    } else if (newer_here || (own && !received->retain)) {
        return;
    } else if (command_has_ended(update)) {
        commands_bury(gateway, command, update->state);
    } else if (own) {
        take_own_entry(gateway, command, update);
    } else {
        adopt(command, update);
    }
}

// What the broker kept for an intake while it was away tells what happened, but not what is: that only the
// retained entries tell, which come behind it.
static void take_entry(struct gateway *gateway, const char *key, int64_t id,
                       const struct mqtt_received *received) {
    char *fault = NULL;
    struct command *known = commands_find(&gateway->commands, id);
    bool current = received->retain || !gateway->config->commands.intake || !command_sync_is_open(gateway);
    gateway->sync.entries += received->retain;
    if (received->length == 0) {
        take_emptied(gateway, known);
        return;
    }
    if (received->length > ENTRY_MAX) {
        log_warning("%s: ignored: it has %zu bytes, expected at most %d", received->topic, received->length,
                    ENTRY_MAX);
        return;
    }
    json_t *entry = json_loadb(received->payload, received->length, JSON_REJECT_DUPLICATES, NULL);
    struct command *command = entry != NULL ? command_from_json(key, entry, &fault) : NULL;
    if (command != NULL && command->id != id)
        fault = strdup("entry.id is not the topic's");
    if (command != NULL && fault == NULL && !command_has_ended(command))
        fault = commands_check(gateway, command->definition, NULL);
    if (command == NULL || fault != NULL) {
        log_warning("%s: ignored: %s", received->topic, fault != NULL ? fault : "it is no JSON");
        if (command != NULL)
            command_free(command);
    } else if (known != NULL) {
        known->confirmed = known->confirmed || current;
        take_update(gateway, known, command, received);
        command_free(command);
    } else if (command_has_ended(command) || !current || (is_own(gateway, command) && !received->retain)) {
        command_free(command); // nothing to do any more, or the echo of what we wrote
    } else {
        command->confirmed = true;
        commands_add(gateway, command);
        if (gateway->config->commands.intake) // another's before: now it is ours to give back to the broker
            commands_keep(gateway, command);
    }
    free(fault);
    json_decref(entry);
    commands_send_next(gateway, key);
}

void command_sync_received(struct gateway *gateway, const char *topic, const struct mqtt_received *received) {
    char own[300], key[96];
    const char *place = strstr(topic, "/commands-queue/");
    own_topic(gateway, "", own, sizeof own);
    // What devices do all the time does not matter.
    if (gateway->sync.state == SYNC_SETTLING && (received->retain || place != NULL))
        uv_timer_start(&gateway->sync.settle, on_settled, SETTLE_TIME, 0);
    if (strncmp(topic, own, strlen(own)) == 0) {
        take_own(gateway, topic + strlen(own), received);
        return;
    }
    if (place == NULL || (size_t)(place - topic) >= sizeof key)
        return;
    const char *id = place + strlen("/commands-queue/");
    size_t digits = strspn(id, "0123456789");
    snprintf(key, sizeof key, "%.*s", (int)(place - topic), topic);
    if (digits >= 1 && digits <= 16 && id[digits] == '\0')
        take_entry(gateway, key, strtoll(id, NULL, 10), received);
    else
        log_warning("%s: ignored: the id of a command is a number", received->topic);
}
