// The queue of commands in the broker and on disk; see sync.h.
#include "gateway/commands/sync.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/bus.h"
#include "gateway/broker/store.h"
#include "gateway/commands/parse.h"
#include "gateway/commands/response_topic.h"

#define ENTRY_MAX 65536 // bytes
// Entries at which a broker may have left out some: Mosquitto's limit of queued messages.
#define CROWD          1000
#define RIGHT_INTERVAL 1000000 // microseconds
#define LOOK_INTERVAL  400000  // the same

static bool is_intake(const struct command_sync *sync) {
    return sync->queue->config->commands.intake;
}

static struct command_table *table_of(const struct command_sync *sync) {
    return sync->queue->table;
}

static const struct command_voice *voice_of(const struct command_sync *sync) {
    return sync->queue->voice;
}

// --- the disk ---

static struct command *read_row(int64_t id, const json_t *row, char **fault) {
    struct command *command = command_from_tombstone(id, row);
    return command != NULL ? command : command_from_row(id, row, fault);
}

static void drop_row(const struct command_sync *sync, int64_t id, const char *fault) {
    log_error("command %lld in the store is invalid, dropped: %s", (long long)id,
              fault != NULL ? fault : "no entry");
    store_delete_command(voice_of(sync)->store, id);
}

// Of a row that is no command's; false: it is one.
static bool take_other(struct command_sync *sync, int64_t id, const json_t *row) {
    struct command_table *table = table_of(sync);
    if (json_is_true(json_object_get(row, "forgotten"))) {
        table->forgotten = id;
    } else if (json_is_integer(json_object_get(row, "attested"))) {
        table->attested = json_integer_value(json_object_get(row, "attested"));
    } else if (json_is_true(json_object_get(row, "session"))) {
        sync->before_session = id;
        command_table_note_id(table, id);
    } else if (command_journal_take_row(sync->journal, id, row)) {
        command_table_note_id(table, id + (int64_t)sync->journal->publishes->prev->count); // the last one
    } else {
        return false;
    }
    return true;
}

static void take_stored(void *context, int64_t id, const char *text) {
    struct command_sync *sync = context;
    char *fault = NULL;
    json_t *row = json_loads(text, 0, NULL);
    bool other = take_other(sync, id, row);
    struct command *command = other ? NULL : read_row(id, row, &fault);
    json_decref(row);
    if (!other && (command == NULL || !command->is_foreign))
        command_table_note_id(table_of(sync), id);
    if (!other && command == NULL)
        drop_row(sync, id, fault);
    else if (command != NULL)
        command_table_add(table_of(sync), command);
    // The broker may not have heard of its end. Of a tombstone's it has.
    if (command != NULL && command_has_ended(command) && command->forget_at == 0)
        command_queue_publish_end(sync->queue, command);
    free(fault);
}

void command_sync_start(struct command_sync *sync) {
    store_each_command(voice_of(sync)->store, take_stored, sync);
    command_journal_resume(sync->journal, table_of(sync));
    size_t pending = table_of(sync)->pending + sync->journal->waiting;
    if (pending > 0)
        log_info("%zu command%s pending from the last run", pending, TEXT_S(pending));
}

// --- the marker ---

// Whether the entries of all commands are published: what the broker does not have of the others was not canceled. Of what
// may have come again, that is not known until it is decided by the last marker.
static bool is_all_announced(struct command_sync *sync) {
    const struct command *command, *next;
    int64_t now = clock_ticks();
    if (!command_queue_is_announced(sync->queue) || sync->journal->publishes != NULL ||
        table_of(sync)->twins > 0)
        return false;
    if (!sync->queue->any_unsaid)
        return true;
    if (now - sync->looked < LOOK_INTERVAL)
        return false; // it was not so, and is much to look at
    sync->looked = now;
    HASH_ITER(hh, table_of(sync)->by_id, command, next) {
        if (command->unsaid && !command_has_ended(command))
            return false;
    }
    sync->queue->any_unsaid = false;
    return true;
}

// Never before the entry of a command that it covers. Not now is false: command_sync_mark() comes back to it.
static bool publish_marker(struct command_sync *sync) {
    if (bus_is_full(voice_of(sync)->bus) || !is_all_announced(sync))
        return false;
    const struct command_voice *voice = voice_of(sync);
    int64_t last = table_of(sync)->last_id > 0 ? table_of(sync)->last_id : 1;
    json_t *marker =
        json_pack("{s:s, s:I}", "store", store_marker(voice->store), "through", (json_int_t)last);
    bool published =
        bus_publish(voice->bus, marker, MQTT_RETAINED, TOPIC_STATE TOPIC_INSTANCES "%s" TOPIC_MARKER,
                    bus_client_id(voice->bus)) != 0;
    sync->marked = published ? last : sync->marked;
    json_decref(marker);
    return published;
}

static bool is_spent(const struct command_sync *sync) {
    return sync->queue->effort >= COMMAND_EFFORT_MAX;
}

static void publish_again(struct command_sync *sync, struct command *command) {
    sync->queue->effort += COMMAND_EFFORT_SAID;
    command_voice_publish(voice_of(sync), command);
}

// Of those that are overwritten meanwhile the next walk hears.
static void put_some_right(struct command_sync *sync) {
    struct command *command;
    while (!is_spent(sync) && (command = command_walk_next(table_of(sync), &sync->righting)) != NULL) {
        sync->queue->effort++;
        if (command->spoiled && !command_has_ended(command))
            publish_again(sync, command);
        command->spoiled = false;
    }
}

static void put_right(struct command_sync *sync) {
    int64_t now = clock_ticks();
    if (!(sync->marker_spoiled || sync->any_spoiled) || sync->righting.under_way ||
        now - sync->righted < RIGHT_INTERVAL)
        return;
    sync->marker_spoiled = sync->marker_spoiled && !publish_marker(sync);
    sync->righted = now;
    if (!sync->any_spoiled)
        return;
    sync->any_spoiled = false;
    command_walk_begin(table_of(sync), &sync->righting);
    put_some_right(sync);
}

// Only where there are others: alone, it was nobody who has a key.
static void hint(struct command_sync *sync) {
    const struct command_roads *roads = sync->queue->roads;
    if (!sync->unverified || sync->hinted || !roads->has_others(roads->context))
        return;
    sync->hinted = true;
    log_warning("pending commands of another gateway are ignored, because they were not signed with the key "
                "of this one: "
                "set commands.key_file to the same key for all gateways on the broker");
}

void command_sync_mark(struct command_sync *sync) {
    hint(sync);
    if (!roll_call_is_done(sync->roll_call) || sync->queue->unsettled)
        return;
    put_right(sync);
    if (is_intake(sync) && table_of(sync)->last_id > sync->marked)
        publish_marker(sync);
}

static void take_marker(struct command_sync *sync, const struct mqtt_received *received) {
    json_t *marker = json_loadb(received->payload, received->length, 0, NULL);
    const char *store = json_string_value(json_object_get(marker, "store"));
    if (store != NULL && strcmp(store, store_marker(voice_of(sync)->store)) == 0)
        sync->vouched = json_integer_value(json_object_get(marker, "through"));
    json_decref(marker);
}

// The broker has a marker of ours: one that it shows later and that says less tells that it fell back. Where there were no
// commands yet, that says nothing, and the disk is left alone.
static void attest(struct command_sync *sync, int64_t through) {
    if (through <= table_of(sync)->attested || through > sync->marked || table_of(sync)->last_id == 0)
        return;
    table_of(sync)->attested = through;
    command_voice_keep_attested(voice_of(sync), through);
}

// What we publish there comes back, also an older one that a newer one follows.
static void compare_marker(struct command_sync *sync, const struct mqtt_received *received) {
    json_t *marker = json_loadb(received->payload, received->length, 0, NULL);
    const char *store = json_string_value(json_object_get(marker, "store"));
    int64_t through = json_integer_value(json_object_get(marker, "through"));
    bool ours = store != NULL && strcmp(store, store_marker(voice_of(sync)->store)) == 0;
    sync->marker_spoiled = !ours || through != sync->marked;
    if (ours)
        attest(sync, through);
    json_decref(marker);
}

// --- the roll call ---

// What is still in the outbox the broker will have.
static bool recall_next(struct command_sync *sync) {
    struct command *command = command_walk_next(table_of(sync), &sync->recalling);
    if (command != NULL)
        command->confirmed = command_voice_is_on_its_way(voice_of(sync), command);
    return command != NULL;
}

bool command_sync_recall(struct command_sync *sync) {
    while (sync->queue->effort++ < COMMAND_EFFORT_MAX && recall_next(sync))
        ;
    return sync->recalling.under_way;
}

static void recall_all(struct command_sync *sync) {
    while (recall_next(sync))
        ;
}

void command_sync_connected(struct command_sync *sync) {
    sync->vouched = -1;
    sync->entries = 0;
    sync->queue->unsettled = false; // the roll call begins anew
    command_walk_end(table_of(sync), &sync->settling);
    command_walk_begin(table_of(sync), &sync->recalling);
    sync->queue->effort = 0;
    command_sync_recall(sync);
}

// An entry that the broker does not have although it remembers.
static void take_missing(struct command_sync *sync, struct command *command) {
    if (is_intake(sync))
        command_queue_cancel(sync->queue, command);
    else // it ended while we were away, or the intake publishes it again
        command_queue_forget(sync->queue, command);
}

// Whether a missing entry is one that the broker lost or never had, and not one that has ended.
static bool is_lost(const struct command_sync *sync, const struct command *command) {
    return is_intake(sync) && (command->id > sync->vouched || sync->entries >= CROWD);
}

static void take_unconfirmed(struct command_sync *sync, struct command *command) {
    if (command->confirmed || command->unannounced || command->twin != 0 || command_has_ended(command))
        return;
    if (!is_lost(sync, command)) {
        take_missing(sync, command);
        return;
    }
    sync->again++;
    publish_again(sync, command);
    sync->queue->any_unsaid = sync->queue->any_unsaid || command->unsaid;
}

static void end_settling(struct command_sync *sync) {
    if (sync->again > 0)
        log_warning("%zu pending command%s missing at the broker, publishing again", sync->again,
                    sync->again == 1 ? " was" : "s were");
    sync->queue->unsettled = false;
    sync->marked = -1;
    command_sync_mark(sync); // behind them
    command_queue_rouse(sync->queue);
}

// Gives the broker again what it lost.
static void settle_some(struct command_sync *sync) {
    struct command *command;
    while (!is_spent(sync) && (command = command_walk_next(table_of(sync), &sync->settling)) != NULL) {
        sync->queue->effort++;
        take_unconfirmed(sync, command);
    }
    if (!sync->settling.under_way)
        end_settling(sync);
}

void command_sync_settled(struct command_sync *sync) {
    recall_all(sync);
    sync->again = 0;
    sync->queue->unsettled = true;
    sync->queue->effort = 0;
    command_walk_begin(table_of(sync), &sync->settling);
    settle_some(sync);
}

bool command_sync_has_more(const struct command_sync *sync) {
    return sync->settling.under_way || sync->righting.under_way;
}

bool command_sync_go_on(struct command_sync *sync) {
    sync->queue->effort = 0;
    if (sync->settling.under_way)
        settle_some(sync);
    else if (sync->righting.under_way)
        put_some_right(sync);
    return command_sync_has_more(sync);
}

// --- entries that come ---

// Another instance has ended it.
static void bury(struct command_sync *sync, struct command *command, enum command_state end) {
    command->ended_elsewhere = true;
    command_queue_bury(sync->queue, command, end);
}

// An emptied entry: somebody canceled the command, or, when we heard of its end before, another instance has
// ended it.
static void take_emptied(struct command_sync *sync, struct command *command) {
    if (command == NULL || command_has_ended(command))
        return;
    if (is_intake(sync))
        command_queue_cancel(sync->queue, command);
    else
        bury(sync, command, COMMAND_CANCELED);
}

// It is not sent from here any more, if it was about to be. Who was, may also take that back while the device is here
// and is waited for.
static void adopt(struct command *command, struct command *update) {
    if (command->unwritten || command->unheard)
        command_queue_yield(command);
    command->is_back = false;
    command->state = update->state;
    command->attempts = update->attempts;
    command->answer_by = update->answer_by;
    command->answer_at = update->answer_at;
    command_table_note_begun(command);
    command->expectation = update->expectation;
    command->here_then = update->here_then;
    free(command->instance);
    command->instance = update->instance;
    update->instance = NULL;
}

// Our own entry, from before this run or this connection: the one that was sent more often is the newer.
// Echoes of this connection say nothing new.
static void take_own_entry(struct command_sync *sync, struct command *command, struct command *update) {
    if (update->attempts > command->attempts)
        adopt(command, update);
    else if (update->state != command->state || update->attempts < command->attempts)
        command_voice_publish(voice_of(sync), command);
}

// What comes while our own word that it is sent has not come back: that word, or that of another who was first.
static void take_claim(struct command_sync *sync, struct command *command, struct command *update, bool own) {
    if (update->state != COMMAND_SENT)
        return; // from before
    if (!own) {
        adopt(command, update);
    } else if (update->attempts == command->attempts) {
        command_queue_heard(sync->queue, command);
    }
}

// Somebody has overwritten an entry that we wrote last: it has neither ended nor changed.
static void note_spoiled(struct command_sync *sync, struct command *command) {
    if (command_has_ended(command) || command->fresh || !command_voice_is_own(voice_of(sync), command))
        return;
    command->spoiled = command->confirmed = sync->any_spoiled = true;
}

static bool is_by_the_same(const struct command *command, const struct command *update) {
    return command->instance != NULL && update->instance != NULL &&
           strcmp(command->instance, update->instance) == 0;
}

// Only who has sent it takes that back: anything else with fewer attempts is from before, put back by somebody.
static bool is_older(const struct command *command, const struct command *update) {
    return update->attempts < command->attempts && !is_by_the_same(command, update);
}

// Whoever has said that he sends it does not after all. That counts also while our own word that we do is on its way: it
// comes behind this one.
static bool is_taken_back(const struct command *command, const struct command *update) {
    return command->state == COMMAND_SENT && update->state == COMMAND_QUEUED &&
           update->attempts == command->attempts - 1 && is_by_the_same(command, update);
}

// Who says that he sends it when another one has said so already was too late, and hears that as we do. An attempt
// that follows has another number.
static bool is_too_late(const struct command *command, const struct command *update) {
    return command->state == COMMAND_SENT && update->state == COMMAND_SENT &&
           update->attempts == command->attempts && !is_by_the_same(command, update);
}

// What stands in the broker for a command that is known here. echo: we have said it on this connection.
static void take_update(struct command_sync *sync, struct command *command, struct command *update,
                        bool echo) {
    const struct command_voice *voice = voice_of(sync);
    bool own = command_voice_is_own(voice, update);
    if (command_has_ended(command))
        return;
    if (command_has_ended(update) && !echo)
        bury(sync, command, update->state); // whatever we have said meanwhile
    else if (command->unheard)
        take_claim(sync, command, update, own);
    else if (!own && is_taken_back(command, update))
        adopt(command, update);
    else if (echo || command_voice_is_on_its_way(voice, command))
        return; // what we have is newer
    else if (own)
        take_own_entry(sync, command, update);
    else if (is_older(command, update) || is_too_late(command, update))
        note_spoiled(sync, command);
    else
        adopt(command, update);
}

// Takes the command over.
static void take_new(struct command_sync *sync, struct command *command) {
    command->confirmed = true;
    command->is_foreign = true;
    command_table_add(table_of(sync), command);
    if (is_intake(sync)) // another's before: now it is ours to give back to the broker
        command_voice_keep(voice_of(sync), command);
}

// Whoever may write entries must not fill our memory with them.
static bool has_room(const struct command_sync *sync, const struct command *command) {
    const char *full = command_table_full(table_of(sync), command->key);
    if (full != NULL)
        log_about(command->key, LOG_WARNING, "%s: the entry of command %lld is ignored: %s", command->key,
                  (long long)command->id, full);
    return full == NULL;
}

// Takes the command over. What the broker kept for an intake while it was away tells what happened, but not
// what is: that only the retained entries tell, which come behind it.
static void take_command(struct command_sync *sync, struct command *command, bool retained) {
    struct command *known = command_table_find(table_of(sync), command->id);
    bool current = retained || !is_intake(sync) || !roll_call_is_open(sync->roll_call);
    bool echo = command_voice_is_own(voice_of(sync), command) && !retained;
    command->here_then = retained ? 0 : command_queue_connection(sync->queue, command);
    if (known != NULL) {
        known->confirmed = known->confirmed || current;
        known->unshared = false;
    }
    // A live end is another instance's, who will empty it. What we said before we heard of the end came behind it.
    bool stands = retained || !command_has_ended(command);
    if (known != NULL && command_has_ended(known) && stands && (!echo || known->ended_elsewhere)) {
        command_queue_clear_stale(sync->queue, known, command);
        return;
    }
    if (known != NULL && !command_has_ended(known) && !command_is_same(known, command)) {
        note_spoiled(sync, known);
    } else if (known != NULL) {
        known->spoiled = false;
        take_update(sync, known, command, echo);
    } else if (is_intake(sync) && command->id <= table_of(sync)->forgotten && stands) {
        command_voice_clear_forgotten(voice_of(sync), command);
    } else if (current && !echo && !command_has_ended(command) && has_room(sync, command)) {
        take_new(sync, command);
        return;
    }
    command_free(command);
}

// What is wrong with the command that an entry holds, for the caller to free, or NULL.
static char *wrong_with(const struct command_sync *sync, const struct command *command, int64_t id) {
    const struct config *config = sync->queue->config;
    char *fault = NULL;
    if (command->id != id)
        return text_format("entry.id is not the topic's");
    if (command->response_topic != NULL)
        fault = response_topic_fault(config, command->response_topic);
    if (fault != NULL || command_has_ended(command))
        return fault;
    return command_check_for_any(command->definition, config);
}

// NULL, and *fault (for the caller to free), when it is not an entry for that key and id.
static struct command *read_entry(struct command_sync *sync, const char *key, int64_t id,
                                  const struct mqtt_received *received, char **fault) {
    json_t *entry = json_loadb(received->payload, received->length, JSON_REJECT_DUPLICATES, NULL);
    if (entry == NULL) {
        *fault = text_format("not valid JSON");
        return NULL;
    }
    const struct clock_mark now = clock_mark();
    const char *wrong = command_signature_fault(entry, key, &voice_of(sync)->secret);
    struct command *command = wrong == NULL ? command_from_json(key, entry, fault) : NULL;
    sync->unverified = sync->unverified || wrong != NULL;
    if (wrong != NULL)
        *fault = text_format("%s", wrong);
    json_decref(entry);
    if (command != NULL)
        command_set_deadlines(command, &now);
    if (command != NULL)
        *fault = wrong_with(sync, command, id);
    if (command == NULL || *fault == NULL)
        return command;
    command_free(command);
    return NULL;
}

static bool is_signed(const struct mqtt_received *received) {
    json_t *entry = received->length <= ENTRY_MAX
                        ? json_loadb(received->payload, received->length, JSON_REJECT_DUPLICATES, NULL)
                        : NULL;
    bool found = json_object_get(entry, "signature") != NULL;
    json_decref(entry);
    return found;
}

// What no gateway wrote, of a command that the intake, which knows all, does not know, must not look like one that waits.
// False: it stays. A signed one may be right with another key.
static bool clear_stray(const struct command_sync *sync, const char *key, int64_t id,
                        const struct mqtt_received *received) {
    return is_intake(sync) && !is_signed(received) &&
           bus_publish(voice_of(sync)->bus, NULL, MQTT_RETAINED, TOPIC_STATE "%s" TOPIC_QUEUE "%lld", key,
                       (long long)id) != 0;
}

static void refuse_entry(struct command_sync *sync, const char *key, int64_t id,
                         const struct mqtt_received *received, const char *fault) {
    struct command *command = command_table_find(table_of(sync), id);
    bool ours = command != NULL && strcmp(command->key, key) == 0;
    bool cleared = !ours && clear_stray(sync, key, id, received);
    log_about(received->topic, LOG_WARNING, "%s: ignored: %s%s", received->topic, fault,
              cleared ? "; clearing it" : "");
    if (!ours)
        return;
    command->confirmed = command->confirmed || received->retain; // of an earlier version, it is not signed
    note_spoiled(sync, command);
    if (command->forget_at != 0)
        command_voice_empty(voice_of(sync), command);
}

static void take_entry(struct command_sync *sync, const char *key, int64_t id,
                       const struct mqtt_received *received) {
    char *fault = NULL;
    struct command *command = read_entry(sync, key, id, received, &fault);
    if (command != NULL)
        take_command(sync, command, received->retain);
    else
        refuse_entry(sync, key, id, received, fault);
    free(fault);
    command_queue_send_next(sync->queue, key);
}

static void take_payload(struct command_sync *sync, const char *key, int64_t id,
                         const struct mqtt_received *received) {
    sync->entries += received->retain;
    if (received->length == 0)
        take_emptied(sync, command_table_find(table_of(sync), id));
    else if (received->length > ENTRY_MAX)
        refuse_entry(sync, key, id, received, "it has more than 65536 bytes");
    else
        take_entry(sync, key, id, received);
}

// --- what comes ---

// place is where TOPIC_QUEUE stands in topic.
static void take_queue_topic(struct command_sync *sync, const char *topic, const char *place,
                             const struct mqtt_received *received) {
    char key[COMMAND_KEY_MAX];
    int64_t id;
    const char *end;
    bool has_id = topic_read_id(topic_after(place, TOPIC_QUEUE), &id, &end) && *end == '\0';
    if ((size_t)(place - topic) >= sizeof key)
        return;
    snprintf(key, sizeof key, "%.*s", (int)(place - topic), topic);
    if (has_id)
        take_payload(sync, key, id, received);
    else
        log_about(received->topic, LOG_WARNING, "%s: ignored: the command id is not a number",
                  received->topic);
}

void command_sync_received(struct command_sync *sync, const char *topic,
                           const struct mqtt_received *received) {
    const char *place = strstr(topic, TOPIC_QUEUE), *own = topic_after(topic, TOPIC_INSTANCES);
    own = own != NULL ? bus_after_own(voice_of(sync)->bus, own) : NULL;
    bool marker = own != NULL && strcmp(own, TOPIC_MARKER) == 0;
    recall_all(sync);
    if (received->retain && sync->vouched < 0)
        sync->vouched = 0;
    if (marker && received->retain && received->length > 0)
        take_marker(sync, received);
    else if (marker && !received->retain && sync->marked > 0)
        compare_marker(sync, received);
    else if (own == NULL && place != NULL)
        take_queue_topic(sync, topic, place, received);
}
