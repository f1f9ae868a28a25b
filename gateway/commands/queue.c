// The queue of commands; see queue.h.
#include "gateway/commands/queue.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/commands/parse.h"

// Seconds after its time-out at which a command that another instance sent is taken over.
#define ADOPTION_TIME 15
// Seconds from the return of a device until a command that must not happen twice ends without an answer.
#define RETURN_TIME 5
// Seconds for an entry to come back from the broker, after which it is said again.
#define CLAIM_TIME 10
// Times that the broker may take an entry without giving it back, before it is taken for refused: of MQTT 3.1.1 it
// cannot say so.
#define UNRETURNED_MAX 3
// Seconds that a command may be sent later than its entry says.
#define LATE_TIME 1
// Seconds that a tombstone stands at least: longer than Mosquitto waits between two saves.
#define FORGET_TIME 3600
// Commands of a device beyond which they are not looked at for each who asks.
#define FEW 32
// Messages that wait for the broker beyond which no new command is announced, but so many in each sweep.
#define BEHIND   128
#define AT_LEAST 50
// Of tombstones, so that what is kept of many commands is bounded.
#define TOMBSTONES_MAX 100000

// One of a list of those that wait: until the disk has it as sent, or until it is announced.
struct command_mention {
    int64_t id;
    struct command_mention *prev, *next;
};

static void mention(struct command_mention **list, const struct command *command) {
    struct command_mention *mention = must_have(calloc(1, sizeof *mention));
    mention->id = command->id;
    DL_APPEND(*list, mention);
}

// The first one; NULL: it is not there any more.
static struct command *take_mentioned(const struct command_queue *queue, struct command_mention **list) {
    struct command_mention *first = *list;
    struct command *command = command_table_find(queue->table, first->id);
    DL_DELETE(*list, first);
    free(first);
    return command;
}

static bool is_spent(const struct command_queue *queue) {
    return queue->effort >= COMMAND_EFFORT_MAX;
}

// --- what the broker says to an entry ---

static bool has_others(const struct command_queue *queue) {
    return queue->roads->has_others(queue->roads->context);
}

// Whether the others should know of it, and do not.
static bool is_hidden(const struct command_queue *queue, const struct command *command) {
    return command->refused && command->unshared && has_others(queue);
}

static void watch_entry(struct command_queue *queue, struct command *command);

// Only noted: the outbox may be in the middle of something. The sweep acts on it.
static void on_entry_safe(struct outbox_waiter *waiter, bool safe) {
    struct command *command = (struct command *)((char *)waiter - offsetof(struct command, waiter));
    command->watched = false;
    command->refused = !safe && waiter->last == command->published;
    command->unshared = command->unshared && !safe;
    if (is_hidden(command->queue, command))
        log_about(command->key, LOG_WARNING,
                  "%s: command %s can be sent by this gateway alone: the broker refuses its queue entry",
                  command->key, command_voice_name(command));
    watch_entry(command->queue, command); // what was published behind it
}

static void watch_entry(struct command_queue *queue, struct command *command) {
    if (command->watched || command->published == 0 || command->published == command->waiter.last)
        return;
    command->queue = queue;
    command->watched = true;
    command->waiter = (struct outbox_waiter){
        .first = command->published, .last = command->published, .done = on_entry_safe};
    outbox_when_safe(queue->voice->outbox, &command->waiter);
}

static void watch_no_more(const struct command_queue *queue, struct command *command) {
    if (command->watched)
        outbox_forget(queue->voice->outbox, &command->waiter);
    command->watched = command->refused = false;
}

void command_queue_publish(struct command_queue *queue, struct command *command) {
    queue->effort += COMMAND_EFFORT_SAID;
    command_voice_publish(queue->voice, command);
    command->refused = false;
    watch_entry(queue, command);
}

// --- new commands ---

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

static void announce_now(struct command_queue *queue, struct command *command) {
    command->unannounced = false;
    say_queued(queue, command);
    command->unshared = true; // until the broker has taken it
    command_queue_publish(queue, command);
    queue->any_unsaid = queue->any_unsaid || command->unsaid;
}

// What else is published of it comes behind that.
static void announce_first(struct command_queue *queue, struct command *command) {
    if (command->unannounced)
        announce_now(queue, command);
}

// While the broker is away nobody waits behind them.
static bool may_announce(const struct command_queue *queue) {
    const struct command_voice *voice = queue->voice;
    return !bus_is_up(voice->bus) || outbox_has_ahead_fewer_than(voice->outbox, BEHIND);
}

void command_queue_announce(struct command_queue *queue, struct command *command) {
    if (queue->unannounced == NULL && may_announce(queue)) {
        announce_now(queue, command);
        return;
    }
    command->unannounced = true;
    command_voice_keep(queue->voice, command); // now, whenever it is published
    mention(&queue->unannounced, command);
}

bool command_queue_is_announced(const struct command_queue *queue) {
    return queue->unannounced == NULL;
}

static void announce_next(struct command_queue *queue) {
    struct command *command = take_mentioned(queue, &queue->unannounced);
    if (command != NULL)
        announce_first(queue, command);
}

// --- the end ---

static void keep_id_only(struct command *command) {
    json_object_clear(command->definition);
    json_decref(command->result);
    free(command->response_topic);
    free(command->correlation);
    free(command->bytes);
    command->bytes = NULL;
    command->result = NULL;
    command->response_topic = NULL;
    command->correlation = NULL;
}

void command_queue_bury(struct command_queue *queue, struct command *command, enum command_state end) {
    watch_no_more(queue, command);
    command_table_leave_target(queue->table, command);
    command->unannounced = false;
    keep_id_only(command);
    command->state = end;
    command->forget_at = clock_ticks() + FORGET_TIME * 1000000LL;
    // Until then somebody may put back an entry that is signed and has not expired.
    if (command->expires_at > command->forget_at)
        command->forget_at = command->expires_at;
    command_voice_keep_tombstone(queue->voice, command);
}

void command_queue_forget(struct command_queue *queue, struct command *command) {
    watch_no_more(queue, command);
    command_voice_forget(queue->voice, command);
    command_table_drop(queue->table, command);
}

void command_queue_clear_stale(struct command_queue *queue, struct command *command, struct command *stale) {
    if (command->stale != NULL && command->stale != stale)
        command_free(command->stale);
    command->stale = stale;
    if (!command_voice_clear_stale(queue->voice, command, stale))
        return; // the outbox is full: the sweep tries again
    command->stale = NULL;
    command_free(stale);
}

// What the broker refuses to empty stands there until it takes that: at a later connection it is heard, and emptied
// again; see sync.c.
static void on_end_published(struct outbox_waiter *waiter, bool safe) {
    struct command *command = (struct command *)((char *)waiter - offsetof(struct command, waiter));
    if (!safe)
        log_about(command->key, LOG_WARNING,
                  "%s: the broker refuses to clear the entry of command %lld, which has ended: it is still "
                  "retained",
                  command->key, (long long)command->id);
    command_queue_bury(command->queue, command, command->state);
}

void command_queue_publish_end(struct command_queue *queue, struct command *command) {
    queue->effort += COMMAND_EFFORT_SAID;
    command->end_written = true;
    command->queue = queue;
    command_voice_publish_end(queue->voice, command);
    if (command->published == 0)
        return; // the outbox is full: the sweep tries again
    command->waiter =
        (struct outbox_waiter){// Its result is a log entry, and would be said by nobody after a crash.
                               .first = command->published,
                               .last = command->published,
                               .background = true,
                               .done = on_end_published};
    outbox_when_safe(queue->voice->outbox, &command->waiter);
}

static void publish_next_end(struct command_queue *queue) {
    struct command *command = queue->table->ending;
    DL_DELETE(queue->table->ending, command);
    command->ending = false;
    command_queue_publish_end(queue, command);
}

// Of hundreds that have ended together the disk tells in one turn.
static void on_end_written(void *context, bool ok) {
    struct command *command = context;
    struct command_table *table = command->queue->table;
    command->ending = true;
    DL_APPEND(table->ending, command);
    if (!is_spent(command->queue))
        publish_next_end(command->queue);
}

static void log_end(const struct command *command) {
    const char *name = command_voice_name(command);
    const char *reason = json_string_value(json_object_get(command->result, "reason"));
    if (json_is_true(json_object_get(command->result, "executed")))
        log_about(command->key, LOG_INFO, "%s: command %s executed", command->key, name);
    else if (command->state == COMMAND_CANCELED)
        log_about(command->key, LOG_INFO, "%s: command %s canceled", command->key, name);
    else
        log_about(command->key, LOG_INFO, "%s: command %s %s: %s", command->key, name,
                  command->state == COMMAND_EXPIRED ? "expired" : "failed", reason);
}

// response (taken over) and reason may be NULL.
static json_t *result_of(bool executed, json_t *response, const char *reason) {
    json_t *result =
        json_pack("{s:b, s:o}", "executed", executed, "response", response != NULL ? response : json_null());
    if (reason != NULL)
        json_object_set_new(result, "reason", json_string(reason));
    return result;
}

// Takes result over.
static void finish(struct command_queue *queue, struct command *command, enum command_state end,
                   json_t *result) {
    queue->effort += COMMAND_EFFORT_SAID;
    announce_first(queue, command);
    watch_no_more(queue, command);
    command->state = end;
    command->published = 0;
    command->end_said = command->result_said = false;
    json_decref(command->result);
    command->result = result;
    command->queue = queue;
    log_end(command);
    command_table_leave_target(queue->table, command);
    // Another instance may have sent it, and must not take the end for its own words.
    command_voice_sign(queue->voice, command);
    command_voice_keep(queue->voice, command);
    // It stays in the table until then, because it has ended and its end is not published.
    store_when_written(queue->voice->store, on_end_written, command);
}

// It ends without having been executed.
static void fail(struct command_queue *queue, struct command *command, enum command_state end,
                 const char *reason) {
    finish(queue, command, end, result_of(false, NULL, reason));
}

// The same where it may have been: the device may have acted without being able to say so.
static void end_uncertain(struct command_queue *queue, struct command *command, const char *what) {
    char *reason = text_format("%s: it may have been executed", what);
    json_t *result = result_of(false, NULL, reason);
    json_object_set_new(result, "uncertain", json_true());
    finish(queue, command, COMMAND_PROCESSED, result);
    free(reason);
}

void command_queue_cancel(struct command_queue *queue, struct command *command) {
    fail(queue, command, COMMAND_CANCELED, "canceled");
}

// --- sending ---

static bool find_device(const struct command_queue *queue, const struct command *command, struct road *road) {
    const struct command_roads *roads = queue->roads;
    return roads->find(roads->context, command->device_id, command->ident, road);
}

static bool find_road(const struct command_queue *queue, const struct command *command, struct road *road) {
    return find_device(queue, command, road) &&
           (command->channel_id == 0 || command->channel_id == road->channel->id);
}

uint64_t command_queue_connection(const struct command_queue *queue, const struct command *command) {
    struct road road;
    return find_road(queue, command, &road) ? road.serial : 0;
}

// Seconds to wait for the answer.
static unsigned timeout_of(const struct command_queue *queue, const struct command *command) {
    if (command->timeout > 0)
        return (unsigned)command->timeout;
    return command->expectation.timeout != 0 ? command->expectation.timeout
                                             : (unsigned)queue->config->commands.timeout;
}

static void set_answer_time(struct command *command, unsigned seconds) {
    command->answer_by = clock_now() + seconds * 1000000LL;
    command->answer_at = clock_ticks() + seconds * 1000000LL;
}

static void await_answer(const struct command_queue *queue, struct command *command) {
    command->state = COMMAND_SENT;
    command_table_note_begun(command);
    set_answer_time(command, timeout_of(queue, command));
}

bool command_queue_is_once(const struct command_queue *queue, const struct command *command) {
    return command->max_attempts == 1 && command_is_once(command->definition, queue->config);
}

static void say_sent(const struct command_queue *queue, struct command *command, const struct road *road) {
    log_about(road->ident, LOG_INFO, "channel %s, %s, device %s: command %s sent, attempt %d of %d",
              road->channel->name, road->source, road->ident, command_voice_name(command), command->attempts,
              command->max_attempts);
    json_t *where = json_pack("{s:I, s:s, s:s}", "channel_id", (json_int_t)road->channel->id, "source",
                              road->source, "transport", road->is_udp ? "udp" : "tcp");
    command_voice_log(queue->voice, command, COMMAND_SENT, where);
    json_decref(where);
}

static void note_sent(const struct command_queue *queue, struct command *command, const struct road *road) {
    command->attempts++;
    await_answer(queue, command);
    command->sent_to = road->serial;
    command->sent_on = road->channel->id;
    command->has_begun = command->is_back = false;
    snprintf(command->ident, sizeof command->ident, "%s", road->ident);
}

// NULL when writer holds the bytes, else why not, for the caller to free.
static char *encode(struct command *command, const struct road *road, struct codec_writer *writer) {
    const struct codec *codec = road->channel->codec;
    const struct codec_setting setting = {.now = clock_now(),
                                          .transport = road->is_udp ? CODEC_UDP : CODEC_TCP,
                                          .options = road->channel->options,
                                          .ident = road->ident};
    // Checked when it was taken in, but perhaps not for the protocol that the device turned out to speak.
    char *fault = command_check(command->definition, codec);
    return fault != NULL ? fault
                         : command_encode(command->definition, codec, road->codec_session, &setting, writer,
                                          &command->expectation);
}

// It is said to be sent, but is not yet.
static bool is_unsent(const struct command *command) {
    return command->unwritten || command->unheard;
}

static void on_sent_written(void *context, bool ok);

static void await_disk(struct command_queue *queue, struct command *command) {
    mention(&queue->unwritten, command);
    store_when_written(queue->voice->store, on_sent_written, queue);
}

// False when it cannot be encoded: then it has ended.
static bool encode_or_fail(struct command_queue *queue, struct command *command, const struct road *road,
                           struct codec_writer *writer) {
    char *fault = encode(command, road, writer);
    if (fault == NULL)
        return true;
    fail(queue, command, COMMAND_PROCESSED, fault);
    free(fault);
    return false;
}

static void send_now(const struct command_queue *queue, struct command *command, const struct road *road,
                     const uint8_t *bytes, size_t length) {
    say_sent(queue, command, road);
    bus_flush(queue->voice->bus); // said before it is done
    road->send(road->context, bytes, length);
}

static void drop_bytes(struct command *command) {
    free(command->bytes);
    command->bytes = NULL;
}

// What the entry says of the answer is about these very bytes: a protocol may number what it sends.
static void keep_bytes(struct command *command, const struct codec_writer *writer) {
    drop_bytes(command);
    command->bytes = must_have(malloc(writer->length + 1));
    memcpy(command->bytes, writer->bytes, writer->length);
    command->bytes_length = writer->length;
}

static void send_later(struct command_queue *queue, struct command *command,
                       const struct codec_writer *writer) {
    keep_bytes(command, writer);
    command->claim_by = clock_ticks() + CLAIM_TIME * 1000000LL;
    if (command->unwritten)
        await_disk(queue, command);
}

// False when it cannot be encoded: then it has ended. After a crash a command that must not happen twice must not be
// sent once more: the disk knows first. Where there are others, they know first.
static bool send_command(struct command_queue *queue, struct command *command, const struct road *road) {
    uint8_t bytes[CODEC_COMMAND_MAX];
    struct codec_writer writer = {.bytes = bytes, .capacity = sizeof bytes};
    if (!encode_or_fail(queue, command, road, &writer))
        return false;
    announce_first(queue, command);
    note_sent(queue, command, road);
    command->unwritten = command_queue_is_once(queue, command);
    command->unheard = has_others(queue);
    command_queue_publish(queue, command);
    if (is_unsent(command))
        send_later(queue, command, &writer);
    else
        send_now(queue, command, road, bytes, writer.length);
    return true;
}

void command_queue_yield(struct command *command) {
    command->unwritten = command->unheard = false;
    command->sent_to = 0;
    drop_bytes(command);
}

// It was not sent after all.
static void take_back(struct command_queue *queue, struct command *command) {
    command_queue_yield(command);
    command->state = COMMAND_QUEUED;
    command->attempts--;
    command_table_note_begun(command);
    command_voice_publish(queue->voice, command);
}

// The time for the answer begins now. Where that is much later than the entry says, others would take the command
// over too early.
static void send_kept(struct command_queue *queue, struct command *command, const struct road *road) {
    int64_t said = command->answer_by;
    await_answer(queue, command);
    if (command->answer_by - said > LATE_TIME * 1000000LL)
        command_voice_publish(queue->voice, command);
    send_now(queue, command, road, command->bytes, command->bytes_length);
    drop_bytes(command);
}

// What it waited for has come: it is sent, unless the device or its time has gone meanwhile.
static void send_unsent(struct command_queue *queue, struct command *command) {
    struct road road;
    char key[COMMAND_KEY_MAX];
    snprintf(key, sizeof key, "%s", command->key);
    bool in_time = command->expires_at > clock_ticks();
    if (in_time && find_road(queue, command, &road) && road.serial == command->sent_to) {
        send_kept(queue, command, &road);
        return;
    }
    take_back(queue, command);
    command_queue_send_next(queue, key);
}

// Called for each that waits, in their order. ok false: the disk takes nothing; the broker has the entry.
static void on_sent_written(void *context, bool ok) {
    struct command_queue *queue = context;
    struct command *command = take_mentioned(queue, &queue->unwritten);
    if (command == NULL || !command->unwritten || command_has_ended(command))
        return;
    command->unwritten = false;
    if (!command->unheard)
        send_unsent(queue, command);
}

void command_queue_heard(struct command_queue *queue, struct command *command) {
    command->unheard = false;
    command->unreturned = 0;
    if (!command->unwritten)
        send_unsent(queue, command);
}

static void clear_mentions(struct command_mention **list) {
    struct command_mention *mention, *next;
    DL_FOREACH_SAFE(*list, mention, next) {
        free(mention);
    }
    *list = NULL;
}

void command_queue_clear(struct command_queue *queue) {
    clear_mentions(&queue->unwritten);
    clear_mentions(&queue->unannounced);
    command_walk_end(queue->table, &queue->ended);
}

// Before the roll call has settled, what the broker has not confirmed may have ended elsewhere.
static bool may_have_ended(const struct command_queue *queue, const struct command *command) {
    return !command->confirmed && (queue->unsettled || roll_call_is_open(queue->roll_call));
}

// Whether it was sent to a connection which is gone, from here or by another instance, and may be sent again by this
// road. The device came here after the other one sent it: else that one is told that it is here, and does not send.
static bool is_unanswered(const struct command_queue *queue, const struct command *command,
                          const struct road *road) {
    return !command->has_begun && !is_unsent(command) && command->sent_to != road->serial &&
           command->here_then != road->serial && command->attempts < command->max_attempts &&
           !may_have_ended(queue, command);
}

// Whether the device is back without having answered a command that must not happen twice.
static bool is_back_silent(const struct command_queue *queue, const struct command *command,
                           const struct road *road) {
    if (roll_call_is_open(queue->roll_call))
        return false; // it may have ended elsewhere, which is still to be heard
    return command->sent_to != road->serial && command->here_then != road->serial && !command->is_back &&
           !command->has_begun && !is_unsent(command) && command_queue_is_once(queue, command);
}

// The answer may stand behind the report that the device came back with. Its entry stays as it is: when another
// instance has said that it sends it, and the device was gone before it did, that one takes it back.
static void await_last_answer(struct command *command) {
    command->is_back = true;
    set_answer_time(command, RETURN_TIME);
}

// Whether it goes out that way.
static bool fits(const struct command *command, const struct road *road) {
    return command->channel_id == 0 || command->channel_id == road->channel->id;
}

// A command that was sent to a connection which is gone, to a device that is back: it did not wait for the
// answer, so the command goes out again, or ends if it must not. Returns whether one is under way.
static bool requeue_unanswered(struct command_queue *queue, struct command_target *target,
                               const struct road *road) {
    struct command *command;
    bool busy = false;
    DL_FOREACH2(target->begun, command, next_begun) {
        if (command->state == COMMAND_SENT && fits(command, road)) {
            if (is_back_silent(queue, command, road)) {
                await_last_answer(command);
            } else if (is_unanswered(queue, command, road)) {
                command->state = COMMAND_QUEUED;
                command_voice_publish(queue->voice, command);
            }
        }
        busy = busy || command->state == COMMAND_SENT;
    }
    return busy;
}

static bool may_go_out(const struct command_queue *queue, const struct command *command,
                       const struct road *road) {
    return command->state == COMMAND_QUEUED && !command->fresh && command->twin == 0 && fits(command, road) &&
           command->expires_at > clock_ticks() && !may_have_ended(queue, command) &&
           (!has_others(queue) || roll_call_is_done(queue->roll_call));
}

static void make_due(struct command_queue *queue, struct command_target *target) {
    if (target->due)
        return;
    target->due = true;
    DL_APPEND2(queue->table->due, target, prev_due, next_due);
}

// A command that ends here leaves the list, and the last to leave takes the target with it.
static void send_several(struct command_queue *queue, struct command_target *target,
                         const struct road *road) {
    struct command *command, *next;
    DL_FOREACH_SAFE(target->commands, command, next) {
        if (is_spent(queue)) {
            make_due(queue, target);
            return;
        }
        if (may_go_out(queue, command, road))
            send_command(queue, command, road);
    }
}

// Where answers carry no id, the next command waits until the last one has ended.
static void send_one(struct command_queue *queue, struct command_target *target, const struct road *road) {
    struct command *command, *next;
    DL_FOREACH_SAFE(target->commands, command, next) {
        if (may_go_out(queue, command, road) && send_command(queue, command, road))
            return;
    }
}

// Returns whether it is over and some of the target are left, which otherwise went with its last command.
static bool cancel_some(struct command_queue *queue, struct command_target *target) {
    struct command *command = target->commands, *next;
    for (; command != NULL && !is_spent(queue); command = next) {
        bool last = target->count == 1;
        next = command->next;
        queue->effort++;
        if (command->id > target->canceled)
            continue;
        command_queue_cancel(queue, command);
        if (last)
            return false;
    }
    if (command == NULL)
        target->canceled = 0;
    else
        make_due(queue, target);
    return command == NULL;
}

// All that wait there are for one device.
static void send_from(struct command_queue *queue, struct command_target *target) {
    struct road road;
    if (target->canceled != 0 && !cancel_some(queue, target))
        return;
    queue->effort += (unsigned)target->count;
    if (!find_device(queue, target->commands, &road))
        return;
    bool busy = requeue_unanswered(queue, target, &road);
    if (!road.channel->codec->one_at_a_time)
        send_several(queue, target, &road);
    else if (!busy)
        send_one(queue, target, &road);
}

void command_queue_send_next(struct command_queue *queue, const char *key) {
    struct command_target *target = command_table_target(queue->table, key);
    if (target == NULL)
        return;
    if (target->count <= FEW && !is_spent(queue))
        send_from(queue, target);
    else
        make_due(queue, target);
}

void command_queue_cancel_all(struct command_queue *queue, const char *key) {
    struct command_target *target = command_table_target(queue->table, key);
    if (target == NULL)
        return;
    target->canceled = queue->table->last_id;
    command_queue_send_next(queue, key);
}

void command_queue_rouse(struct command_queue *queue) {
    queue->table->roused = queue->table->targets;
}

static void rouse_some(struct command_queue *queue) {
    struct command_table *table = queue->table;
    while (table->roused != NULL && !is_spent(queue)) {
        struct command_target *target = table->roused;
        table->roused = target->hh.next;
        queue->effort++;
        command_queue_send_next(queue, target->key);
    }
}

bool command_queue_has_more(const struct command_queue *queue) {
    return queue->table->due != NULL || queue->table->roused != NULL || queue->table->ending != NULL ||
           (queue->unannounced != NULL && may_announce(queue));
}

bool command_queue_go_on(struct command_queue *queue) {
    struct command_table *table = queue->table;
    queue->effort = 0;
    while (table->ending != NULL && !is_spent(queue))
        publish_next_end(queue);
    while (queue->unannounced != NULL && !is_spent(queue) && may_announce(queue))
        announce_next(queue);
    while (table->due != NULL && !is_spent(queue)) {
        struct command_target *target = table->due;
        DL_DELETE2(table->due, target, prev_due, next_due);
        target->due = false;
        send_from(queue, target);
    }
    rouse_some(queue);
    return command_queue_has_more(queue);
}

void command_queue_device_talks(struct command_queue *queue, int64_t device_id, int64_t channel_id,
                                const char *ident) {
    char key[COMMAND_KEY_MAX];
    if (queue->table->targets != NULL)
        command_queue_send_next(queue, command_key(key, device_id, channel_id, ident));
}

// --- answers ---

#define FIT_BEST 3

// How well an answer fits a command; 0: not at all. Numbers of frames begin anew with each connection, so
// what was sent on this one goes first; and an answer that came after its time is better than sending again.
static int fit_of(const struct command *command, const struct road *from, const struct codec_answer *answer) {
    const char *key = command->expectation.key;
    bool waits = command->state == COMMAND_SENT || command->attempts > 0;
    if (answer->implicit && command->sent_to != from->serial)
        return 0; // a report of a device that has come back is what it says each time
    if (!waits || !(*key == '\0' ? !answer->implicit : strcmp(key, answer->key) == 0))
        return 0;
    return command->state != COMMAND_SENT ? 1 : command->sent_to != from->serial ? 2 : FIT_BEST;
}

static struct command *find_asked(const struct command_queue *queue, const char *key, const struct road *from,
                                  const struct codec_answer *answer) {
    const struct command_target *target = command_table_target(queue->table, key);
    struct command *command, *best = NULL;
    if (target == NULL)
        return NULL;
    DL_FOREACH2(target->begun, command, next_begun) {
        if (fit_of(command, from, answer) > (best != NULL ? fit_of(best, from, answer) : 0))
            best = command;
        if (best != NULL && fit_of(best, from, answer) == FIT_BEST)
            break;
    }
    return best;
}

// Whether it comes from elsewhere than the connection that the command was sent on, which is still there: anybody may
// say that he is the device.
static bool is_forged(const struct command_queue *queue, const struct command *command,
                      const struct road *from) {
    struct road road;
    return command->state == COMMAND_SENT && command->sent_to != from->serial &&
           find_road(queue, command, &road) && road.serial == command->sent_to;
}

static const char *text_of(const struct codec_answer *answer) {
    return answer->text != NULL ? answer->text : "-";
}

static void note_begun(const struct command_queue *queue, struct command *command,
                       const struct codec_answer *answer) {
    command->has_begun = true;
    command_voice_keep(queue->voice, command);
    log_about(command->key, LOG_INFO, "%s: command %s started: %s", command->key, command_voice_name(command),
              text_of(answer));
    if (command->state == COMMAND_SENT)
        return;
    await_answer(queue, command); // it was late, and is not to be sent again
    command_voice_publish(queue->voice, command);
}

static void take_answer(struct command_queue *queue, struct command *command,
                        const struct codec_answer *answer) {
    bool executed = answer->outcome != CODEC_FAILURE;
    finish(queue, command, COMMAND_PROCESSED,
           result_of(executed, command_response(answer), executed ? NULL : "the device said that it failed"));
}

void command_queue_answered(struct command_queue *queue, const struct road *from,
                            const struct codec_answer *answer) {
    char key[COMMAND_KEY_MAX];
    if (answer->implicit && queue->table->targets == NULL)
        return;
    command_key(key, from->device_id, from->channel->id, from->ident);
    struct command *command = find_asked(queue, key, from, answer);
    if (command == NULL) {
        if (!answer->implicit)
            log_about(from->ident, LOG_INFO, "device %s: unexpected answer to '%s': %s", from->ident,
                      answer->key, text_of(answer));
    } else if (is_forged(queue, command, from)) {
        if (!answer->implicit)
            log_about(
                from->ident, LOG_WARNING,
                "device %s: an answer to '%s' from %s is ignored: it was asked at another address, where it "
                "still is",
                from->ident, answer->key, from->source);
    } else if (answer->outcome == CODEC_PROGRESS && command->expectation.final_after_progress) {
        note_begun(queue, command, answer);
    } else {
        take_answer(queue, command, answer);
        command_queue_send_next(queue, key);
    }
}

// --- time ---

// One that must not happen twice waits until its device can be asked what became of it: when it comes back.
static void give_up_once(struct command_queue *queue, struct command *command) {
    struct road road;
    if (command->is_back)
        end_uncertain(queue, command, "the device came back without having answered");
    else if (find_device(queue, command, &road))
        end_uncertain(queue, command, "the device did not answer in time");
    else if (command->expires_at <= clock_ticks())
        end_uncertain(queue, command, "the device did not come back in time");
}

static void give_up(struct command_queue *queue, struct command *command) {
    if (command_queue_is_once(queue, command)) {
        give_up_once(queue, command);
        return;
    }
    char *reason = text_format("no answer to %d attempts", command->attempts);
    fail(queue, command, COMMAND_PROCESSED, reason);
    free(reason);
}

// A command whose answer did not come: it waits for its next attempt, or has had its last.
static void time_out(struct command_queue *queue, struct command *command) {
    if (command->attempts >= command->max_attempts) {
        give_up(queue, command);
    } else {
        command->state = COMMAND_QUEUED;
        queue->effort += COMMAND_EFFORT_SAID;
        command_voice_publish(queue->voice, command);
    }
}

// surplus: how many tombstones there are too many. The oldest come first.
static bool is_forgotten(const struct command *command, int64_t now, size_t *surplus) {
    if (command->forget_at == 0)
        return false;
    if (now >= command->forget_at)
        return true;
    bool over = *surplus > 0;
    *surplus -= over;
    return over;
}

// The intake has every command that waits on its disk: what it does not know, and is no newer than this, has ended. The
// others learn of commands that are older, when they come back.
static void forget_ended(struct command_queue *queue, struct command *command) {
    if (queue->config->commands.intake && command->id > queue->table->forgotten)
        queue->table->forgotten = command->id;
    command_queue_forget(queue, command);
}

static void keep_forgotten(struct command_queue *queue, int64_t before) {
    if (queue->table->forgotten != before)
        command_voice_keep_forgotten(queue->voice, queue->table->forgotten, before);
}

static void sweep_ended(struct command_queue *queue, struct command *command, int64_t now, size_t *surplus) {
    if (is_forgotten(command, now, surplus))
        forget_ended(queue, command);
    else if (command->end_written && command->published == 0 && command->forget_at == 0)
        command_queue_publish_end(queue, command);
    else if (command->stale != NULL)
        command_queue_clear_stale(queue, command, command->stale);
}

// Expiry and what is left behind are the intake's to decide.
static bool decides(const struct command_queue *queue) {
    return queue->config->commands.intake && roll_call_is_done(queue->roll_call);
}

// What another instance has sent is left to it, until it has surely gone.
static bool is_timed_out(const struct command_queue *queue, const struct command *command, int64_t now) {
    bool ours = command->is_back || command_voice_is_own(queue->voice, command);
    bool late = now >= command->answer_at && ours;
    bool orphaned = now >= command->answer_at + ADOPTION_TIME * 1000000LL && decides(queue);
    return late || orphaned;
}

// It cannot be said that it is sent, and others may send it. The intake says how it ends: to it an emptied entry is
// a cancelation, whatever else it could not be told.
static void end_unclaimed(struct command_queue *queue, struct command *command, const char *what) {
    char *reason = text_format("not sent: the broker %s its queue entry, without which another gateway might "
                               "send it too",
                               what);
    command_queue_yield(command);
    command->attempts--;
    command_table_note_begun(command);
    if (queue->config->commands.intake) {
        fail(queue, command, COMMAND_PROCESSED, reason);
    } else {
        log_about(command->key, LOG_WARNING, "%s: command %s canceled, %s", command->key,
                  command_voice_name(command), reason);
        command_voice_empty(queue->voice, command);
        command->ended_elsewhere = true;
        command_queue_bury(queue, command, COMMAND_CANCELED);
    }
    free(reason);
}

// Its entry has not come back.
static void sweep_unsent(struct command_queue *queue, struct command *command, int64_t now) {
    if (command->unwritten)
        return;
    if (command->refused && command->unshared)
        command_queue_heard(queue, command);
    else if (command->refused)
        end_unclaimed(queue, command, "refuses");
    else if (now < command->claim_by || !roll_call_is_done(queue->roll_call))
        return;
    else if (bus_has_taken(queue->voice->bus, command->published) && ++command->unreturned >= UNRETURNED_MAX)
        end_unclaimed(queue, command, "does not give back");
    else
        take_back(queue, command); // it is tried again
}

static void sweep_pending(struct command_queue *queue, struct command *command, int64_t now) {
    if (command->twin != 0 || may_have_ended(queue, command))
        return;
    if (command->unsaid && !bus_is_full(queue->voice->bus)) { // else it would be written to disk each time
        queue->effort += COMMAND_EFFORT_SAID;
        command_voice_publish(queue->voice, command);
    }
    if (is_unsent(command)) {
        sweep_unsent(queue, command, now);
    } else if (command->state == COMMAND_SENT) {
        if (is_timed_out(queue, command, now))
            time_out(queue, command);
    } else if (now >= command->expires_at && decides(queue)) {
        fail(queue, command, COMMAND_EXPIRED,
             is_hidden(queue, command)
                 ? "the device did not talk in time to this gateway; the broker refuses "
                   "the queue entry, so that no other one knew of it"
                 : "the device did not talk in time");
    }
}

// The target that is next goes with its last command; then the sweep stands at another one. Where no effort is left for all
// of it, it goes on there.
static void sweep_target(struct command_queue *queue, int64_t now) {
    struct command_table *table = queue->table;
    struct command_target *target = table->swept;
    char key[COMMAND_KEY_MAX];
    snprintf(key, sizeof key, "%s", target->key);
    if (!table->sweeping)
        table->swept_next = target->commands;
    table->sweeping = true;
    while (table->swept == target && table->swept_next != NULL) {
        struct command *command = table->swept_next;
        if (is_spent(queue))
            return;
        table->swept_next = command->next;
        queue->effort++;
        sweep_pending(queue, command, now);
    }
    if (table->swept == target)
        command_table_sweep(table, target->hh.next);
    command_queue_send_next(queue, key); // its session may have become settled by time alone
}

static void begin_sweep(struct command_queue *queue) {
    struct command_table *table = queue->table;
    size_t ended = HASH_COUNT(table->by_id) - table->pending;
    queue->surplus = ended > TOMBSTONES_MAX ? ended - TOMBSTONES_MAX : 0;
    command_table_sweep(table, table->targets);
    command_walk_begin(table, &queue->ended);
    for (int i = 0; i < AT_LEAST && queue->unannounced != NULL; i++)
        announce_next(queue); // the broker may never keep up
}

static void sweep_some_ended(struct command_queue *queue, int64_t now) {
    int64_t forgotten = queue->table->forgotten;
    struct command *command;
    while (!is_spent(queue) && (command = command_walk_next(queue->table, &queue->ended)) != NULL) {
        queue->effort++;
        if (command_has_ended(command))
            sweep_ended(queue, command, now, &queue->surplus);
    }
    keep_forgotten(queue, forgotten);
}

bool command_queue_sweep(struct command_queue *queue, int64_t now) {
    queue->effort = 0;
    if (!queue->ended.under_way && queue->table->swept == NULL)
        begin_sweep(queue);
    sweep_some_ended(queue, now);
    while (!is_spent(queue) && queue->table->swept != NULL)
        sweep_target(queue, now);
    return queue->ended.under_way || queue->table->swept != NULL;
}
