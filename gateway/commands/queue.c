// The queue of commands; see queue.h.
#include "gateway/commands/queue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/channels/peer.h"
#include "gateway/commands/parse.h"
#include "gateway/commands/sync.h"
#include "gateway/run/gateway.h"

#define SWEEP_INTERVAL 500 // milliseconds
#define ADOPTION_TIME                                                                                        \
    15 // seconds after its time-out at which a command that another instance sent is taken over
#define FORGET_TIME                                                                                          \
    3600 // seconds for which an ended command is known: longer than Mosquitto goes between two savings
#define KEY_MAX        96
#define TOPIC_NAME_MAX 64

// What waits for one device.
struct command_target {
    char *key;
    struct command *commands; // in the order in which they go out
    size_t count;
    UT_hash_handle hh;
};

static const int event_codes[] = {
    [COMMAND_QUEUED] = 330,  [COMMAND_CANCELED] = 331, [COMMAND_PROCESSED] = 332,
    [COMMAND_EXPIRED] = 333, [COMMAND_SENT] = 334,
};

// --- the table ---

struct command *commands_find(const struct command_queue *queue, int64_t id) {
    struct command *command;
    HASH_FIND(hh, queue->by_id, &id, sizeof id, command);
    return command;
}

int64_t commands_new_id(struct gateway *gateway) {
    int64_t now = gateway_clock();
    do { // the clock may have been set back, and the broker may hold commands of then
        gateway->commands.last_id = now > gateway->commands.last_id ? now : gateway->commands.last_id + 1;
    } while (commands_find(&gateway->commands, gateway->commands.last_id) != NULL);
    return gateway->commands.last_id;
}

static struct command_target *find_target(const struct command_queue *queue, const char *key) {
    struct command_target *target;
    HASH_FIND_STR(queue->targets, key, target);
    return target;
}

const char *commands_full(const struct command_queue *queue, const char *key) {
    const struct command_target *target = find_target(queue, key);
    if (target != NULL && target->count >= COMMANDS_PER_DEVICE_MAX)
        return "as many commands as may wait for one device wait already (1000)";
    return queue->pending >= COMMANDS_MAX ? "as many commands as may wait in all wait already (100000)"
                                          : NULL;
}

static int by_priority_then_age(const struct command *a, const struct command *b) {
    if (a->priority != b->priority)
        return a->priority > b->priority ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

void commands_add(struct gateway *gateway, struct command *command) {
    struct command_queue *queue = &gateway->commands;
    command->gateway = gateway;
    HASH_ADD(hh, queue->by_id, id, sizeof command->id, command);
    if (command_has_ended(command))
        return;
    struct command_target *target = find_target(queue, command->key);
    if (target == NULL) {
        target = must_have(calloc(1, sizeof *target));
        target->key = must_have(strdup(command->key));
        HASH_ADD_KEYPTR(hh, queue->targets, target->key, strlen(target->key), target);
    }
    command->target = target;
    target->count++;
    queue->pending++;
    DL_INSERT_INORDER(target->commands, command, by_priority_then_age);
}

// Out of its device's list, but still in the table.
static void leave_target(struct command_queue *queue, struct command *command) {
    struct command_target *target = command->target;
    if (target == NULL)
        return;
    DL_DELETE(target->commands, command);
    command->target = NULL;
    queue->pending--;
    if (--target->count > 0)
        return;
    HASH_DEL(queue->targets, target);
    free(target->key);
    free(target);
}

static void drop(struct gateway *gateway, struct command *command) {
    leave_target(&gateway->commands, command);
    HASH_DEL(gateway->commands.by_id, command);
    command_free(command);
}

void commands_forget(struct gateway *gateway, struct command *command) {
    store_delete_command(gateway->store, command->id);
    drop(gateway, command);
}

// --- saying where a command is ---

// A name as a part of a topic: as it is when it can be one.
static const char *topic_name(const struct command *command) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._?-";
    const char *name = command_name(command);
    size_t length = strlen(name);
    return length >= 1 && length <= TOPIC_NAME_MAX && strspn(name, allowed) == length ? name : "invalid";
}

// A log entry, or the result for the publisher; for the caller to free.
static json_t *entry_of(const struct command *command, enum command_state step, const json_t *more) {
    static const char *const kept[] = {"name", "properties", "meta"};
    json_t *entry = json_pack("{s:i, s:f, s:I}", "event_code", event_codes[step], "timestamp",
                              (double)gateway_clock() / 1e6, "id", (json_int_t)command->id);
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        if (json_object_get(command->definition, kept[i]) != NULL)
            json_object_set(entry, kept[i], json_object_get(command->definition, kept[i]));
    if (command->ident[0] != '\0')
        json_object_set_new(entry, "ident", json_string(command->ident));
    if (command->device_id >= 0)
        json_object_set_new(entry, "device_id", json_integer(command->device_id));
    if (command->sent_on != 0 || command->channel_id != 0)
        json_object_set_new(entry, "channel_id",
                            json_integer(command->sent_on != 0 ? command->sent_on : command->channel_id));
    if (command->attempts > 0)
        json_object_set_new(entry, "attempts", json_integer(command->attempts));
    json_object_update(entry, (json_t *)more);
    return entry;
}

void commands_log(struct gateway *gateway, const struct command *command, const char *step,
                  const json_t *more) {
    enum command_state state = strcmp(step, "queued") == 0 ? COMMAND_QUEUED
                               : strcmp(step, "sent") == 0 ? COMMAND_SENT
                                                           : command->state;
    json_t *entry = entry_of(command, state, more);
    gateway_publish(gateway, entry, MQTT_NOT_RETAINED, "log/gw/%s/commands-queue/%s/%s", command->key,
                    topic_name(command), step);
    json_decref(entry);
}

void commands_say_result(struct gateway *gateway, const struct command *command) {
    commands_log(gateway, command, command_state_name(command->state), command->result);
    if (command->response_topic == NULL)
        return;
    json_t *entry = entry_of(command, command->state, command->result);
    char *text = must_have(json_dumps(entry, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(16)));
    outbox_put(gateway->outbox, &(struct mqtt_publish){.topic = command->response_topic,
                                                       .payload = text,
                                                       .length = strlen(text),
                                                       .qos = 1,
                                                       .correlation = command->correlation,
                                                       .correlation_length = command->correlation_length});
    free(text);
    json_decref(entry);
}

static uint64_t publish_entry(struct gateway *gateway, const struct command *command, const json_t *entry) {
    return gateway_publish(gateway, entry, MQTT_RETAINED, "state/gw/%s/commands-queue/%lld", command->key,
                           (long long)command->id);
}

static void store_entry(struct gateway *gateway, const struct command *command, const json_t *entry) {
    json_t *row = json_pack("{s:s, s:O}", "key", command->key, "entry", entry);
    char *text = must_have(json_dumps(row, JSON_COMPACT | JSON_REAL_PRECISION(16)));
    store_put_command(gateway->store, command->id, text);
    free(text);
    json_decref(row);
}

void commands_keep(struct gateway *gateway, const struct command *command) {
    json_t *entry = command_to_json(command);
    store_entry(gateway, command, entry);
    json_decref(entry);
}

// What we write of a command from now on is ours.
static void sign(struct gateway *gateway, struct command *command) {
    free(command->instance);
    command->instance = must_have(strdup(gateway->config->mqtt.client_id));
}

void commands_publish(struct gateway *gateway, struct command *command) {
    sign(gateway, command);
    json_t *entry = command_to_json(command);
    command->published = publish_entry(gateway, command, entry);
    command->confirmed = true;
    store_entry(gateway, command, entry);
    json_decref(entry);
}

// --- the end ---

static void keep_id_only(struct command *command) {
    json_object_clear(command->definition);
    json_decref(command->result);
    free(command->response_topic);
    free(command->correlation);
    command->result = NULL;
    command->response_topic = NULL;
    command->correlation = NULL;
}

void commands_bury(struct gateway *gateway, struct command *command, enum command_state end) {
    leave_target(&gateway->commands, command);
    keep_id_only(command);
    command->state = end;
    command->forget_at = gateway_clock() + FORGET_TIME * 1000000LL;
    json_t *row = json_pack("{s:s, s:i, s:I}", "key", command->key, "ended", (int)end, "forget_at",
                            (json_int_t)command->forget_at);
    char *text = must_have(json_dumps(row, JSON_COMPACT));
    store_put_command(gateway->store, command->id, text);
    free(text);
    json_decref(row);
}

bool commands_take_buried(struct gateway *gateway, int64_t id, const json_t *row) {
    const char *key = json_string_value(json_object_get(row, "key"));
    json_int_t end = json_integer_value(json_object_get(row, "ended"));
    if (key == NULL || end < COMMAND_PROCESSED || end > COMMAND_CANCELED)
        return false;
    struct command *command = must_have(calloc(1, sizeof *command));
    command->id = id;
    command->key = must_have(strdup(key));
    command->definition = must_have(json_object());
    command->state = (enum command_state)end;
    command->forget_at = json_integer_value(json_object_get(row, "forget_at"));
    commands_add(gateway, command);
    return true;
}

void commands_clear_stale(struct gateway *gateway, const struct command *command, struct command *stale) {
    if (command->forget_at == 0)
        return; // its end is on the way
    log_warning("%s: command %lld has ended (%s), the broker still held it", command->key,
                (long long)command->id, command_state_name(command->state));
    stale->state = command->state;
    free(stale->instance);
    stale->instance = must_have(strdup(gateway->config->mqtt.client_id));
    json_t *entry = command_to_json(stale);
    publish_entry(gateway, stale, entry);
    publish_entry(gateway, stale, NULL);
    json_decref(entry);
}

static void on_end_published(struct outbox_waiter *waiter, bool safe) {
    struct command *command = (struct command *)((char *)waiter - offsetof(struct command, waiter));
    commands_bury(command->gateway, command, command->state);
}

// The entry says how it ended before it is emptied: to the other instances an empty one alone is a
// cancelation.
void commands_publish_end(struct gateway *gateway, struct command *command) {
    json_t *entry = command_to_json(command);
    publish_entry(gateway, command, entry); // first, because the device may already be on its way to another
    commands_say_result(gateway, command);
    command->published = publish_entry(gateway, command, NULL);
    json_decref(entry);
    if (command->published == 0)
        return; // the outbox is full: the sweep tries again
    command->waiter = (struct outbox_waiter){
        .first = command->published, .last = command->published, .done = on_end_published};
    outbox_when_safe(gateway->outbox, &command->waiter);
}

static void on_end_written(void *context, bool ok) {
    struct command *command = context;
    command->end_written = true;
    commands_publish_end(command->gateway, command);
}

void commands_finish(struct gateway *gateway, struct command *command, enum command_state end, bool executed,
                     json_t *response, const char *reason) {
    command->state = end;
    command->published = 0;
    command->result = json_pack("{s:b, s:o?}", "executed", executed, "response", response);
    if (response == NULL)
        json_object_set_new(command->result, "response", json_null());
    if (reason != NULL)
        json_object_set_new(command->result, "reason", json_string(reason));
    log_info("%s: command %s is %s%s%s%s", command->key, topic_name(command), command_state_name(end),
             executed ? ", executed" : "", reason != NULL ? ": " : "", reason != NULL ? reason : "");
    leave_target(&gateway->commands, command);
    sign(gateway, command); // another instance may have sent it, and must not take the end for its own words
    commands_keep(gateway, command);
    // It stays in the table until then, because it has ended and its end is not published.
    store_when_written(gateway->store, on_end_written, command);
}

// --- sending ---

static struct session *session_of(const struct gateway *gateway, const struct command *command) {
    struct session *session = command->device_id >= 0
                                  ? session_by_device_id(&gateway->sessions, command->device_id)
                                  : session_by_ident(&gateway->sessions, command->ident);
    // An unlisted ident may hash to a listed device's id, and an identity may have changed.
    return session != NULL && session->device.known == (command->device_id >= 0) ? session : NULL;
}

static struct peer *reachable_peer(const struct gateway *gateway, const struct command *command) {
    const struct session *session = session_of(gateway, command);
    if (session == NULL || !session_is_settled(gateway, session))
        return NULL;
    struct peer *peer = session_reachable(session, (uint64_t)gateway->config->commands.udp_reachable * 1000);
    bool other_channel =
        peer != NULL && command->channel_id != 0 && peer->channel->config->id != command->channel_id;
    return other_channel ? NULL : peer;
}

// Seconds to wait for the answer.
static unsigned timeout_of(const struct gateway *gateway, const struct command *command) {
    if (command->timeout > 0)
        return (unsigned)command->timeout;
    return command->expectation.timeout != 0 ? command->expectation.timeout
                                             : (unsigned)gateway->config->commands.timeout;
}

static void note_sent(struct gateway *gateway, struct command *command, const struct peer *peer) {
    command->state = COMMAND_SENT;
    command->attempts++;
    command->answer_by = gateway_clock() + timeout_of(gateway, command) * 1000000LL;
    command->sent_to = peer->serial;
    command->sent_on = peer->channel->config->id;
    command->has_begun = false;
    strcpy(command->ident, peer_ident(peer));
    log_info("channel %s, %s, device %s: command %s goes out, attempt %d of %d", peer->channel->config->name,
             peer->address, peer_ident(peer), topic_name(command), command->attempts, command->max_attempts);
    json_t *where = json_pack("{s:I, s:s, s:s}", "channel_id", (json_int_t)peer->channel->config->id,
                              "source", peer->address, "transport", peer->transport->is_udp ? "udp" : "tcp");
    commands_log(gateway, command, "sent", where);
    json_decref(where);
    commands_publish(gateway, command);
}

// False when it cannot be encoded: then it has ended.
static bool send_command(struct gateway *gateway, struct command *command, struct peer *peer) {
    const struct codec *codec = peer->channel->config->codec;
    uint8_t bytes[CODEC_COMMAND_MAX];
    struct codec_writer writer = {.bytes = bytes, .capacity = sizeof bytes};
    // Checked when it was taken in, but perhaps not for the protocol that the device turned out to speak.
    char *fault = commands_check(gateway, command->definition, codec);
    if (fault == NULL)
        fault =
            command_encode(command->definition, codec, peer->stream.session, &writer, &command->expectation);
    if (fault != NULL) {
        commands_finish(gateway, command, COMMAND_PROCESSED, false, NULL, fault);
        free(fault);
        return false;
    }
    note_sent(gateway, command, peer);
    peer->transport->send(peer, bytes, writer.length);
    return true;
}

static bool is_ours(const struct gateway *gateway, const struct command *command) {
    return command->instance != NULL && strcmp(command->instance, gateway->config->mqtt.client_id) == 0;
}

// A command that was sent to a connection which is gone, to a device that is back: it did not wait for the
// answer, so the command goes out again.
static void requeue_unanswered(struct gateway *gateway, struct command_target *target) {
    struct command *command;
    DL_FOREACH(target->commands, command) {
        const struct peer *peer = command->state == COMMAND_SENT ? reachable_peer(gateway, command) : NULL;
        if (peer == NULL || command->has_begun || !is_ours(gateway, command) || command->sent_to == 0 ||
            command->sent_to == peer->serial || command->attempts >= command->max_attempts)
            continue;
        command->state = COMMAND_QUEUED;
        commands_publish(gateway, command);
    }
}

static bool any_sent(const struct command_target *target) {
    const struct command *command;
    DL_FOREACH(target->commands, command) {
        if (command->state == COMMAND_SENT)
            return true;
    }
    return false;
}

// Where answers carry no id, the next command waits until the last one has ended. A command that ends here
// leaves the list, and the last to leave takes the target with it.
void commands_send_next(struct gateway *gateway, const char *key) {
    struct command_target *target = find_target(&gateway->commands, key);
    struct command *command, *next;
    if (target == NULL)
        return;
    requeue_unanswered(gateway, target);
    bool busy = any_sent(target);
    DL_FOREACH_SAFE(target->commands, command, next) {
        struct peer *peer = command->state == COMMAND_QUEUED ? reachable_peer(gateway, command) : NULL;
        if (peer == NULL || command->expires <= gateway_clock() ||
            !(command->confirmed || !command_sync_is_open(gateway)))
            continue;
        bool one_at_a_time = peer->channel->config->codec->one_at_a_time;
        if (one_at_a_time && busy)
            return;
        if (send_command(gateway, command, peer) && one_at_a_time)
            return;
    }
}

static char *key_of_session(const struct session *session, const struct channel *channel, char key[KEY_MAX]) {
    if (session->device.known)
        snprintf(key, KEY_MAX, "devices/%lld", (long long)session->device.id);
    else
        snprintf(key, KEY_MAX, "channels/%lld/%s", (long long)channel->config->id, session->ident);
    return key;
}

static const struct channel *channel_of(const struct session *session) {
    return session->tcp != NULL ? session->tcp->channel : session->udp->channel;
}

void commands_device_talks(struct gateway *gateway, struct session *session) {
    char key[KEY_MAX];
    if (gateway->commands.targets != NULL)
        commands_send_next(gateway, key_of_session(session, channel_of(session), key));
}

char *commands_check(const struct gateway *gateway, json_t *definition, const struct codec *codec) {
    char *first = NULL;
    bool known = false; // the protocol that said the first fault has a command of that name
    if (codec != NULL)
        return command_check(definition, codec);
    for (size_t i = 0; i < gateway->config->channel_count; i++) {
        const struct codec *one = gateway->config->channels[i].codec;
        char *fault = command_check(definition, one);
        if (fault == NULL) {
            free(first);
            return NULL;
        }
        // What a protocol says that has such a command tells more than that another one has none.
        bool better = first == NULL || (!known && command_is_of(definition, one));
        known = known || command_is_of(definition, one);
        free(better ? first : fault);
        first = better ? fault : first;
    }
    return first;
}

// --- answers ---

// How well an answer fits a command; 0: not at all. Numbers of frames begin anew with each connection, so
// what was sent on this one goes first; and an answer that came after its time is better than sending again.
static int fit_of(const struct command *command, const struct peer *peer, const struct codec_answer *answer) {
    const char *key = command->expectation.key;
    bool waits = command->state == COMMAND_SENT || command->attempts > 0;
    if (!waits || !(*key == '\0' ? !answer->implicit : strcmp(key, answer->key) == 0))
        return 0;
    return command->state != COMMAND_SENT ? 1 : command->sent_to != peer->serial ? 2 : 3;
}

static struct command *find_asked(const struct command_target *target, const struct peer *peer,
                                  const struct codec_answer *answer) {
    struct command *command, *best = NULL;
    if (target == NULL)
        return NULL;
    DL_FOREACH(target->commands, command) {
        if (fit_of(command, peer, answer) > (best != NULL ? fit_of(best, peer, answer) : 0))
            best = command;
    }
    return best;
}

static void note_begun(struct gateway *gateway, struct command *command, const char *text) {
    command->has_begun = true;
    log_info("%s: command %s has begun: %s", command->key, topic_name(command), text);
    if (command->state == COMMAND_SENT)
        return;
    command->state = COMMAND_SENT; // it was late, and is not to be sent again
    command->answer_by = gateway_clock() + timeout_of(gateway, command) * 1000000LL;
    commands_publish(gateway, command);
}

void commands_answered(struct peer *peer, const struct codec_answer *answer) {
    struct gateway *gateway = peer->gateway;
    const char *text = answer->text != NULL ? answer->text : "-";
    char key[KEY_MAX];
    if (answer->implicit && gateway->commands.targets == NULL)
        return;
    key_of_session(peer->session, peer->channel, key);
    struct command *command = find_asked(find_target(&gateway->commands, key), peer, answer);
    if (command == NULL) {
        if (!answer->implicit)
            log_info("device %s: an answer to '%s' that nobody waits for: %s", peer_ident(peer), answer->key,
                     text);
        return;
    }
    if (answer->outcome == CODEC_PROGRESS && command->expectation.final_after_progress) {
        note_begun(gateway, command, text);
        return;
    }
    bool executed = answer->outcome != CODEC_FAILURE;
    commands_finish(gateway, command, COMMAND_PROCESSED, executed, command_response(answer),
                    executed ? NULL : "the device said that it failed");
    commands_send_next(gateway, key);
}

// --- time ---

// A command whose answer did not come: it waits for its next attempt, or has had its last.
static void time_out(struct gateway *gateway, struct command *command) {
    char reason[80];
    char key[KEY_MAX];
    snprintf(key, sizeof key, "%s", command->key);
    if (command->attempts >= command->max_attempts) {
        snprintf(reason, sizeof reason, "no answer to %d attempts", command->attempts);
        commands_finish(gateway, command, COMMAND_PROCESSED, false, NULL, reason);
    } else {
        command->state = COMMAND_QUEUED;
        commands_publish(gateway, command);
    }
    commands_send_next(gateway, key);
}

static void sweep_command(struct gateway *gateway, struct command *command, int64_t now) {
    if (command_has_ended(command)) {
        if (command->forget_at != 0 && now >= command->forget_at)
            commands_forget(gateway, command);
        else if (command->end_written && command->published == 0 && command->forget_at == 0)
            commands_publish_end(gateway, command);
        return;
    }
    if (!command->confirmed && command_sync_is_open(gateway))
        return; // it may have ended elsewhere
    // What another instance has sent is its own, until that has surely gone; expiry is the intake's.
    bool decides = gateway->config->commands.intake && command_sync_is_done(gateway);
    bool late = now >= command->answer_by && is_ours(gateway, command);
    bool orphaned = now >= command->answer_by + ADOPTION_TIME * 1000000LL && decides;
    if (command->state == COMMAND_SENT && (late || orphaned))
        time_out(gateway, command);
    else if (command->state == COMMAND_QUEUED && now >= command->expires && decides)
        commands_finish(gateway, command, COMMAND_EXPIRED, false, NULL, "the device did not talk in time");
    else if (command->state == COMMAND_QUEUED && session_of(gateway, command) != NULL)
        commands_send_next(gateway, command->key); // its session may have become settled by time alone
}

static void on_sweep(uv_timer_t *timer) {
    struct gateway *gateway = timer->data;
    struct command *command, *next;
    int64_t now = gateway_clock();
    HASH_ITER(hh, gateway->commands.by_id, command, next) {
        sweep_command(gateway, command, now);
    }
    command_sync_mark(gateway);
}

void commands_start(struct gateway *gateway) {
    uv_timer_init(&gateway->loop, &gateway->commands.sweep);
    gateway->commands.sweep.data = gateway;
    uv_timer_start(&gateway->commands.sweep, on_sweep, SWEEP_INTERVAL, SWEEP_INTERVAL);
}

void commands_stop(struct gateway *gateway) {
    uv_close((uv_handle_t *)&gateway->commands.sweep, NULL);
}

void commands_free(struct gateway *gateway) {
    struct command *command, *next;
    HASH_ITER(hh, gateway->commands.by_id, command, next) {
        drop(gateway, command);
    }
}
