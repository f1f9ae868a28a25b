// The outbox; see outbox.h.
//
// Each message has a number, which only grows, and the number tells where the message is:
//
//    taken by the broker │ in memory (items)             │ on disk alone             │ in memory (late)
//    ────────────────────┼───────────────────────────────┼───────────────────────────┼─────────────────
//                        │ at the broker … next_out …    │ next_load … last_spilled  │ while catching up
//
//   - items are in order, the oldest that the broker does not have first. Those before next_out are at the
//     broker, unacknowledged; the others wait.
//   - While spilling, messages from next_load to last_spilled are on disk alone, or on their way there.
//   - While catching up (the last ones are being read back from the disk), what comes is kept in late, behind
//     them.
//   - Safe are all up to written_through (the high-water mark of the disk) and all before the first that the
//     broker does not have and the disk neither. Only what is safe is acknowledged to a device.
//   - On disk are those from there, and what waits beside the queue, which is written by itself. Of the latter only so much
//     is kept in memory; the lane knows the numbers of the others, and has them read back when their turn comes. What the
//     broker has taken is deleted from disk in batches: after a crash a message may go out twice, never not at all.
#include "gateway/broker/outbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/hash.h"
#include "gateway/base/limiter.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/broker/lanes.h"
#include "gateway/broker/refusals.h"
#include "gateway/broker/sideline.h"
#include "gateway/broker/store.h"
#include "gateway/broker/suspects.h"
#include "gateway/broker/topic.h"

#define MEMORY_COUNT     10000       // messages in memory beyond which the outbox spills
#define MEMORY_BYTES     (32U << 20) // and bytes
#define BUSY_COUNT       5000        // messages beyond which nothing more is read, if it can wait
#define BUSY_BYTES       (16U << 20) // and bytes
#define BACKGROUND_MAX   200000      // messages in the background beyond which it is so too
#define BACKGROUND_MANY  2000        // and beyond which no more of them are read
#define VALUES_SOON      1000        // values among these beyond which state waits with its owner
#define UNWRITTEN_MAX    (64U << 20) // bytes on their way to the disk beyond which the outbox is full
#define UNWRITTEN_FAILED (4U << 20)  // the same when the disk has just failed to take them
#define SAFE_WITHIN      2000        // milliseconds that a message may wait without being safe
#define SAVE_WITHIN      250         // the same beside the queue, because its topic is refused
#define TICK             500         // milliseconds
#define OVERDUE          10000       // milliseconds that the broker may leave out one answer among others
#define LOAD_COUNT       4000        // messages that are read back at once, at most
#define LOAD_COUNT_MIN   100         // and how many in any case
#define LOAD_BYTES       (4U << 20)  // and bytes, when they are as large as most
#define LOAD_SOON        500         // milliseconds within which a broker that keeps pace has answered all
#define SHARE            2           // messages that go out for each that is taken in while a backlog goes
#define SHARE_AGAIN      200         // allowance at which devices are read again
#define DELETE_COUNT     1000        // messages that are deleted from the disk at once
#define GONE_MAX         4000        // and at most, however busy it is
#define BESIDE_COUNT     5000 // messages that wait beside the queue beyond which those on disk stay there alone
#define BESIDE_BYTES     (8U << 20) // and bytes
#define READ_COUNT       500        // of those that are read back at once, at most
#define READ_LANE        32         // and of one topic
#define REFUSALS_MAX     10 // of a message, while others are taken or without a reason, until it is dropped
#define DROPPED_MAX                                                                                          \
    2 // connections in a row that break with a momentary message at the broker, until it is suspected
#define REFUSED_KEPT 64     // refused messages that are remembered for who waits for them later
#define SILENCE_MAX  15000  // milliseconds without an answer to anything that is under way
#define HURRY_MAX    10     // accused messages beyond which it is the broker that is in trouble
#define FORGIVEN     300000 // milliseconds that a connection lives without the accused until they go again
#define LOOK_MAX     500    // messages among which one to another topic is looked for
#define OVERDUE_MAX  3      // times that the answer to a message may be left out
#define ROW_OVERHEAD 64     // bytes of a message on disk besides its text

// Where it stands on disk, of a message that waits beside the queue, or did.
enum saved {
    NOT_SAVED, // with the others, if it does
    UNSAVED,   // nowhere; it is to be written
    SAVING,    // it is being written
    SAVED,
};

// A message that is read back from the disk. The lane stays meanwhile.
struct asked {
    uint64_t number;
    struct lane *lane;
};

enum place {
    IN_QUEUE,
    AT_BROKER,
    BESIDE,     // it waits in its lane: for an earlier one to its topic, or because that is refused for now
    PASSED_OVER // others are tried in its place; see suspects.h
};

struct item {
    uint64_t number;
    uint64_t since;              // by uv_now(): when it was put or read back
    struct mqtt_publish publish; // its pointers point into bytes
    size_t size;
    int mid; // while it is at the broker; 0: it is not
    bool report;
    bool background; // others go first
    bool momentary;  // of what the broker of this connection has
    uint64_t hash;   // of the topic
    enum place place;
    struct lane *lane;                  // unless it is in the queue
    struct item *lane_prev, *lane_next; // at the broker, or in the lane
    bool refused;                       // for now, once at least
    bool apart;                         // it waited for such a one, or was one
    bool fetched;                       // read back from those that wait on disk alone, and not sent since
    enum saved saved;
    uint64_t write;                     // the one that it is written with
    struct item *save_prev, *save_next; // of those that are to be written, or are being written
    bool again;                         // it went out after its lane was refused for now
    struct strikes strikes;
    uint64_t taken_then;  // messages taken before the first strike, or the first answer that was left out
    int overdue;          // times that its answer was left out
    uint64_t handed_over; // by uv_now()
    struct item *prev, *next;
    char bytes[];
};

// Messages that were given to the store and are not on disk yet.
struct written {
    uint64_t through; // the last of them, and all before it; those beside the queue are told by the write
    uint64_t write;   // its number
    size_t bytes;
    struct written *prev, *next;
};

struct refused {
    uint64_t number;
    bool report;
};

// What is waited for: who waits for a report does not wait for what is in the background before it.
enum flow { FOREGROUND, ALL, FLOWS };

struct outbox {
    uv_loop_t *loop;
    uv_timer_t tick;
    const struct mqtt_carrier *carrier;
    struct store *store;
    struct outbox_handlers handlers;
    const char *prefix; // of our topics
    unsigned window, in_flight;
    struct lanes lanes;
    unsigned turn;                 // which of enum source had it last
    bool paced;                    // the link took nothing more when it was handed a message last
    uint64_t up_since;             // by uv_now(); 0: not connected
    uint64_t last_answer;          // on this connection, by uv_now(); 0: none
    uint64_t taken, taken_reports; // messages that the broker took: of any kind, reports alone
    size_t max_bytes;
    uint64_t last_number;
    uint64_t earlier; // the last that an earlier run has left
    unsigned dropped; // connections in a row that broke with a momentary one at the broker

    struct item *items; // in order; those before next_out are at the broker
    struct item *next_out;
    struct item *under_way;   // items at the broker, the one handed over first before all others
    struct item *flow[FLOWS]; // all before it stand apart
    size_t count, bytes;      // of items
    size_t beside_bytes;      // of those that wait beside the queue
    size_t skipped;           // those that others are tried in place of
    size_t fetched;           // those that were read back, and have not gone out since
    struct item *unsaved;     // of these: they are to be written
    struct item *saving;      // they are being written, in order
    uint64_t parked_since;    // by uv_now(): when the first of those that wait on disk alone did
    struct asked *asked;      // those of them that are being read back, in order; NULL: none
    size_t asked_count;
    size_t asked_next;      // all before it have come, or are not there
    struct item *read_last; // the last of them that has come
    bool pumping;           // messages are being handed over
    uint64_t answered_at;   // by uv_now(): the last answer to an item on this connection; 0: none
    uint64_t held_at;       // by uv_now(): when nothing was read from the broker, on purpose, last
    struct suspects suspects;
    struct refusals refusals;
    struct refused *refused; // messages that were refused: all since the last tick, and some before it
    size_t refused_count, refused_capacity;
    struct sideline *sideline;
    uint64_t passed_over;  // the oldest at the broker, when a later one was answered before it
    uint64_t passed_since; // when that was, by uv_now()

    bool spilling;
    uint64_t spilling_since; // by uv_now(): when the oldest on disk was put, as far as is known
    bool loading;
    uint64_t load_through; // the last on disk when the loading began
    size_t load_limit;     // messages of this loading, at most
    size_t loaded;         // and how many there were
    uint64_t missing;      // of it: they were written, and are not there
    struct item *late;     // what came while the last messages are read back: it follows these in memory
    bool catching_up;      // these are being read back
    int allowance;         // SHARE times the messages that may be taken in while a backlog goes
    bool stopped;
    uint64_t written_through, last_spilled, next_load;
    size_t disk_count; // messages on disk that are not in items, nor beside the queue
    size_t disk_rows;  // all on disk that are not deleted
    size_t disk_bytes; // of these
    uint64_t *gone;    // numbers of messages that are to be deleted there
    size_t gone_count;
    struct written *writes;
    uint64_t writes_begun, writes_done; // since the start
    size_t unwritten_bytes;             // given to the store and not on disk yet
    bool disk_fails;
    struct limiter log_limiter; // of lines about messages that are lost

    enum outbox_intake intake;
    struct outbox_waiter *waiters[FLOWS];
};

static void pump(struct outbox *outbox);

static bool carrier_is_up(const struct outbox *outbox) {
    return outbox->carrier->is_up(outbox->carrier->context);
}

// Messages that may be at the broker unacknowledged: as configured, or fewer where the broker says so.
static unsigned window_of(const struct outbox *outbox) {
    const struct mqtt_carrier *carrier = outbox->carrier;
    unsigned most = carrier->window != NULL ? carrier->window(carrier->context) : outbox->window;
    return most < outbox->window ? most : outbox->window;
}

static size_t disk_size(const struct mqtt_publish *publish) {
    return strlen(publish->topic) + publish->length + publish->correlation_length + ROW_OVERHEAD;
}

size_t outbox_count(const struct outbox *outbox) {
    return outbox->count + outbox->disk_count + outbox->lanes.parked + sideline_count(outbox->sideline);
}

// Whether it is on disk, or on its way there; and whether it is there.
static bool is_given(const struct outbox *outbox, const struct item *item) {
    return item->number <= outbox->last_spilled || item->saved >= SAVING;
}

static bool is_on_disk(const struct outbox *outbox, const struct item *item) {
    return item->number <= outbox->written_through || item->saved == SAVED;
}

// Messages and bytes that wait in the queue or are at the broker. What waits beside it, and can go to disk, holds up nothing.
static size_t queue_count(const struct outbox *outbox) {
    return outbox->count - (outbox->disk_fails ? 0 : outbox->lanes.waiting);
}

static size_t queue_bytes(const struct outbox *outbox) {
    return outbox->bytes - (outbox->disk_fails ? 0 : outbox->beside_bytes);
}

// What waits beside the queue has a bound of its own.
static bool is_over_memory(const struct outbox *outbox) {
    return queue_count(outbox) > MEMORY_COUNT || queue_bytes(outbox) > MEMORY_BYTES;
}

size_t outbox_set_aside_count(const struct outbox *outbox) {
    return store_set_aside_count(outbox->store);
}

void outbox_put_result(struct outbox *outbox, const struct mqtt_publish *publish) {
    sideline_result(outbox->sideline, publish);
    pump(outbox);
}

size_t outbox_unsafe_count(const struct outbox *outbox) {
    const struct item *item;
    size_t count = 0;
    DL_FOREACH(outbox->items, item) count += !is_on_disk(outbox, item);
    return count;
}

bool outbox_keeps_up(const struct outbox *outbox) {
    return carrier_is_up(outbox) && !outbox->spilling && !outbox_is_full(outbox) &&
           outbox->lanes.values < VALUES_SOON && queue_count(outbox) < MEMORY_COUNT / 2 &&
           queue_bytes(outbox) < MEMORY_BYTES / 2;
}

bool outbox_has_ahead_fewer_than(const struct outbox *outbox, size_t count) {
    return carrier_is_up(outbox) && !outbox->spilling && !outbox_is_full(outbox) &&
           queue_count(outbox) < outbox->in_flight + count;
}

bool outbox_is_full(const struct outbox *outbox) {
    return outbox->intake == OUTBOX_FULL;
}

// --- what it takes in ---

// Bytes that may be on their way to the disk: no more than it has room for.
static size_t unwritten_max(const struct outbox *outbox) {
    size_t most = outbox->disk_fails ? UNWRITTEN_FAILED : UNWRITTEN_MAX;
    return store_room(outbox->store) < most ? (size_t)store_room(outbox->store) : most;
}

static bool is_full(const struct outbox *outbox) {
    // Some room between the two bounds, so that it does not change all the time.
    bool was = outbox->intake == OUTBOX_FULL;
    return outbox->disk_bytes > outbox->max_bytes / 10 * (was ? 9 : 10) ||
           outbox->unwritten_bytes > unwritten_max(outbox) / (was ? 2 : 1);
}

static bool has_answered_within(const struct outbox *outbox, uint64_t milliseconds) {
    return outbox->answered_at != 0 && uv_now(outbox->loop) - outbox->answered_at <= milliseconds;
}

// While a backlog goes to the broker, less is taken in than goes out, so that it comes to an end. When the broker
// answers nothing, the disk is there for the devices as if it were away.
static bool is_over_share(const struct outbox *outbox) {
    int least = outbox->intake == OUTBOX_BUSY ? SHARE_AGAIN : 0;
    return outbox->allowance < least && has_answered_within(outbox, SAFE_WITHIN);
}

// The broker is connected, only slower than the devices: better that they wait than that the disk fills.
static bool is_busy(const struct outbox *outbox) {
    size_t part = outbox->intake == OUTBOX_BUSY ? 2 : 1;
    if (!carrier_is_up(outbox))
        return false;
    if (outbox->spilling)
        return is_over_share(outbox);
    return queue_count(outbox) > BUSY_COUNT / part || queue_bytes(outbox) > BUSY_BYTES / part ||
           outbox->lanes.background > BACKGROUND_MAX / part;
}

// What is in the background waits beside the queue, and no report behind it.
static bool is_crowded(const struct outbox *outbox) {
    return carrier_is_up(outbox) &&
           outbox->lanes.background > BACKGROUND_MANY / (outbox->intake == OUTBOX_CROWDED ? 2 : 1);
}

static void note_intake(struct outbox *outbox) {
    if (outbox->allowance > -SHARE * BUSY_COUNT)
        outbox->allowance -= SHARE;
}

static void note_outflow(struct outbox *outbox) {
    if (outbox->allowance < SHARE * BUSY_COUNT)
        outbox->allowance++;
}

static size_t written_bytes(const struct outbox *outbox) {
    return outbox->disk_bytes > outbox->unwritten_bytes ? outbox->disk_bytes - outbox->unwritten_bytes : 0;
}

static void update_intake(struct outbox *outbox) {
    enum outbox_intake was = outbox->intake;
    outbox->intake = is_full(outbox)      ? OUTBOX_FULL
                     : is_busy(outbox)    ? OUTBOX_BUSY
                     : is_crowded(outbox) ? OUTBOX_CROWDED
                                          : OUTBOX_TAKES;
    if (outbox->intake == was)
        return;
    if (outbox->intake == OUTBOX_FULL)
        log_error(
            "the outbox is full: %zu messages wait for the broker, %zu bytes on disk (store.max_bytes is "
            "%zu), %zu bytes not written yet; not reading from devices until there is room",
            outbox_count(outbox), written_bytes(outbox), outbox->max_bytes, outbox->unwritten_bytes);
    else if (was == OUTBOX_FULL)
        log_warning("the outbox has room again");
    outbox->handlers.intake(outbox->handlers.context, outbox->intake);
}

// --- items ---

static struct item *make_item(const struct mqtt_publish *publish) {
    size_t topic = strlen(publish->topic) + 1;
    size_t size = sizeof(struct item) + topic + publish->length + publish->correlation_length;
    struct item *item = must_have(malloc(size));
    *item = (struct item){.publish = *publish, .size = size};
    item->hash = hash_fnv1a(publish->topic, topic - 1);
    char *next = item->bytes;
    item->publish.topic = memcpy(next, publish->topic, topic);
    next += topic;
    if (publish->length > 0)
        item->publish.payload = memcpy(next, publish->payload, publish->length);
    next += publish->length;
    if (publish->correlation != NULL)
        item->publish.correlation = memcpy(next, publish->correlation, publish->correlation_length);
    return item;
}

// What follows {prefix}/ in a topic, or NULL.
static const char *own_topic(const struct outbox *outbox, const struct mqtt_publish *publish) {
    const char *rest = topic_after(publish->topic, outbox->prefix);
    return rest != NULL && *rest == '/' ? rest + 1 : NULL;
}

// Reports are worth keeping when the broker does not take them. State is published again when it is due, and
// log entries are for those who watch now.
static bool is_report(const struct outbox *outbox, const struct mqtt_publish *publish) {
    const char *rest = own_topic(outbox, publish);
    return rest != NULL && topic_after(rest, TOPIC_MESSAGE) != NULL;
}

// Whether only the last value counts: of state. Not of commands, where an entry that is emptied means another
// thing when nobody saw how it ended.
static bool is_replaceable(const struct outbox *outbox, const struct mqtt_publish *publish) {
    const char *rest = own_topic(outbox, publish);
    return rest != NULL && topic_after(rest, TOPIC_STATE) != NULL && strstr(rest, TOPIC_QUEUE) == NULL;
}

// State, log entries, and what is published for other programs (discovery, OwnTracks): where not all can go at once, reports
// and commands do not wait for them. Not what the instance says of commands and state, which must not be there before these.
static bool is_background(const struct outbox *outbox, const struct mqtt_publish *publish) {
    const char *rest = own_topic(outbox, publish);
    if (rest == NULL)
        return publish->background || publish->retain != MQTT_NOT_RETAINED;
    if (topic_after(rest, TOPIC_STATE TOPIC_INSTANCES) != NULL)
        return false;
    return publish->background || topic_after(rest, TOPIC_LOG) != NULL || is_replaceable(outbox, publish);
}

// Whether it tells what the broker has. Sent again on the next connection, a broker that has lost all would tell us our own
// word for what it remembers.
static bool is_momentary(const struct outbox *outbox, const struct mqtt_publish *publish) {
    const char *rest = own_topic(outbox, publish), *end = rest != NULL ? strrchr(rest, '/') : NULL;
    return end != NULL && topic_after(rest, TOPIC_STATE TOPIC_INSTANCES) != NULL && publish->length > 0 &&
           (strcmp(end, TOPIC_MARKER) == 0 || strcmp(end, TOPIC_GENERATION) == 0);
}

static struct item *new_item(struct outbox *outbox, const struct mqtt_publish *publish, uint64_t number) {
    struct item *item = make_item(publish);
    item->number = number;
    item->since = uv_now(outbox->loop);
    item->report = is_report(outbox, publish);
    item->background = is_background(outbox, publish);
    item->momentary = is_momentary(outbox, publish);
    outbox->bytes += item->size;
    outbox->count++;
    return item;
}

static void append_item(struct outbox *outbox, const struct mqtt_publish *publish, uint64_t number) {
    struct item *item = new_item(outbox, publish, number);
    DL_APPEND(outbox->items, item);
    if (outbox->next_out == NULL)
        outbox->next_out = item;
    for (int i = 0; i < FLOWS; i++)
        outbox->flow[i] = outbox->flow[i] != NULL ? outbox->flow[i] : item;
}

static void free_item(struct outbox *outbox, struct item *item) {
    outbox->bytes -= item->size;
    outbox->count--;
    free(item);
}

// The number before an item; without one that of the last message in memory.
static uint64_t number_before(const struct outbox *outbox, const struct item *item) {
    if (item != NULL)
        return item->number - 1;
    return outbox->spilling ? outbox->next_load - 1 : UINT64_MAX;
}

// The broker has all up to this number, or refused them for good.
static uint64_t taken_through(const struct outbox *outbox) {
    return number_before(outbox, outbox->items);
}

static bool is_faulty(const struct item *item) {
    return strikes_accuse(&item->strikes) || item->overdue >= OVERDUE_MAX - 1;
}

// A report that the broker perhaps never takes, or what waits beside the others, or did because it was refused for now,
// when it is on disk: nothing waits for it, however long that is.
static bool stands_apart(const struct outbox *outbox, const struct item *item) {
    return ((is_faulty(item) && item->report) || item->place == BESIDE || item->apart) &&
           is_on_disk(outbox, item);
}

static struct item *oldest_in_flow(const struct outbox *outbox, enum flow flow) {
    struct item *item = outbox->flow[flow];
    while (item != NULL && ((flow == FOREGROUND && item->background) || stands_apart(outbox, item)))
        item = item->next;
    return item;
}

// The broker has all up to this number but for those that stand apart.
static uint64_t flowed_through(const struct outbox *outbox, enum flow flow) {
    return number_before(outbox, oldest_in_flow(outbox, flow));
}

// Many may wait beside the queue: they are passed once.
static void pass_those_apart(struct outbox *outbox) {
    for (enum flow flow = 0; flow < FLOWS; flow++)
        outbox->flow[flow] = oldest_in_flow(outbox, flow);
}

static void flow_anew(struct outbox *outbox) {
    for (enum flow flow = 0; flow < FLOWS; flow++)
        outbox->flow[flow] = outbox->items;
}

// --- what is deleted from disk ---

static int compare_numbers(const void *left, const void *right) {
    const uint64_t *one = left, *other = right;
    return (*one > *other) - (*one < *other);
}

// Numbers that follow each other are deleted together.
static void delete_gone(struct outbox *outbox) {
    const uint64_t *gone = outbox->gone;
    size_t first = 0;
    qsort(outbox->gone, outbox->gone_count, sizeof *gone, compare_numbers);
    for (size_t i = 0; i < outbox->gone_count; i++) {
        if (i + 1 < outbox->gone_count && gone[i + 1] == gone[i] + 1)
            continue;
        store_delete_messages(outbox->store, gone[first], gone[i]);
        first = i + 1;
    }
    outbox->gone_count = 0;
}

static void delete_taken(struct outbox *outbox, size_t at_least) {
    if (outbox->gone_count == 0 || outbox->gone_count < at_least)
        return;
    delete_gone(outbox);
    if (outbox->disk_rows > 0)
        return;
    outbox->disk_bytes = 0;
    store_tidy(outbox->store);
}

static void forget_row(struct outbox *outbox, size_t size) {
    outbox->disk_rows -= outbox->disk_rows > 0;
    outbox->disk_bytes -= size < outbox->disk_bytes ? size : outbox->disk_bytes;
}

// It is on disk, or on its way there.
static void note_gone(struct outbox *outbox, uint64_t number, size_t size) {
    if (outbox->gone == NULL)
        outbox->gone = must_have(malloc(GONE_MAX * sizeof *outbox->gone));
    outbox->gone[outbox->gone_count++] = number;
    forget_row(outbox, size);
    delete_taken(outbox, GONE_MAX);
}

// --- where an item is ---

static bool is_retained(const struct item *item) {
    return item->publish.retain != MQTT_NOT_RETAINED;
}

// Those that wait in a lane are in order. What is refused is older than nearly all of them.
static void insert_beside(struct lane *lane, struct item *item) {
    struct item *next = lane->waiting;
    if (next == NULL || next->lane_prev->number < item->number) { // the first knows the last
        DL_APPEND2(lane->waiting, item, lane_prev, lane_next);
        return;
    }
    while (next->number < item->number)
        next = next->lane_next;
    DL_PREPEND_ELEM2(lane->waiting, next, item, lane_prev, lane_next);
}

// What waits beside the queue is written by itself, before long.
static void save_soon(struct outbox *outbox, struct item *item) {
    if (item->saved != NOT_SAVED || is_given(outbox, item))
        return;
    item->saved = UNSAVED;
    DL_APPEND2(outbox->unsaved, item, save_prev, save_next);
}

static void stop_saving(struct outbox *outbox, struct item *item) {
    if (item->saved == UNSAVED)
        DL_DELETE2(outbox->unsaved, item, save_prev, save_next);
    if (item->saved == SAVING)
        DL_DELETE2(outbox->saving, item, save_prev, save_next);
}

// Which lane it waits in: its topic's. Log entries about one thing (devices/42/created, devices/42/deleted) stay in order,
// whichever they are: who hears last that a device has gone takes it for gone.
static const char *lane_topic(const struct outbox *outbox, const struct item *item, char cut[TOPIC_MAX]) {
    const char *topic = item->publish.topic, *rest = own_topic(outbox, &item->publish);
    const char *thing = rest != NULL ? topic_after(rest, TOPIC_LOG) : NULL;
    const char *word = thing != NULL ? strrchr(thing, '/') : NULL;
    if (word == NULL || strchr(thing, '/') == word || word - topic >= TOPIC_MAX)
        return topic;
    snprintf(cut, TOPIC_MAX, "%.*s", (int)(word - topic), topic);
    return cut;
}

// From the queue.
static void enter(struct outbox *outbox, struct item *item, enum place place) {
    char cut[TOPIC_MAX];
    struct lane *lane = lanes_get(&outbox->lanes, lane_topic(outbox, item, cut), item->report);
    lanes_set_background(lane, item->background, is_retained(item));
    item->lane = lane;
    item->place = place;
    if (place == AT_BROKER) {
        DL_APPEND2(outbox->under_way, item, lane_prev, lane_next);
        lane->under_way++;
    } else if (place == BESIDE) {
        insert_beside(lane, item);
        lanes_count(&outbox->lanes, lane, 1);
        outbox->beside_bytes += item->size;
        item->apart = item->apart || lane->refused;
        save_soon(outbox, item);
    } else {
        lane->skipped++;
        outbox->skipped++;
    }
}

// Returns the lane that it was in, or NULL.
static struct lane *leave(struct outbox *outbox, struct item *item) {
    struct lane *lane = item->lane;
    if (item->place == AT_BROKER) {
        DL_DELETE2(outbox->under_way, item, lane_prev, lane_next);
        lane->under_way--;
        lane->solo = lane->solo && lane->under_way > 0;
    } else if (item->place == BESIDE) {
        DL_DELETE2(lane->waiting, item, lane_prev, lane_next);
        lanes_count(&outbox->lanes, lane, -1);
        outbox->beside_bytes -= item->size;
    } else if (item->place == PASSED_OVER) {
        lane->skipped--;
        outbox->skipped--;
    }
    item->place = IN_QUEUE;
    item->lane = NULL;
    return lane;
}

// It goes out, or is gone.
static void note_not_fetched(struct outbox *outbox, struct item *item) {
    outbox->fetched -= item->fetched;
    item->fetched = false;
}

// From memory.
static void remove_item(struct outbox *outbox, struct item *item) {
    struct lane *lane = leave(outbox, item);
    if (lane != NULL)
        lanes_tidy(&outbox->lanes, lane);
    if (item == outbox->next_out)
        outbox->next_out = item->next;
    for (int i = 0; i < FLOWS; i++)
        outbox->flow[i] = outbox->flow[i] == item ? item->next : outbox->flow[i];
    if (item == outbox->read_last)
        outbox->read_last = NULL;
    stop_saving(outbox, item);
    note_not_fetched(outbox, item);
    DL_DELETE(outbox->items, item);
    free_item(outbox, item);
}

static void drop_item(struct outbox *outbox, struct item *item) {
    bool given = is_given(outbox, item);
    uint64_t number = item->number;
    size_t size = disk_size(&item->publish);
    remove_item(outbox, item);
    if (given)
        note_gone(outbox, number, size);
}

// --- waiting for safety ---

uint64_t outbox_last_number(const struct outbox *outbox) {
    return outbox->last_number;
}

bool outbox_has_taken(const struct outbox *outbox, uint64_t number) {
    return flowed_through(outbox, ALL) >= number;
}

bool outbox_is_rid_of_earlier(const struct outbox *outbox) {
    return flowed_through(outbox, ALL) >= outbox->earlier;
}

static bool is_safe(const struct outbox *outbox, uint64_t number, enum flow flow) {
    const struct sideline *sideline = outbox->sideline;
    if (number == UINT64_MAX)
        return taken_through(outbox) == number && outbox->lanes.parked == 0 &&
               sideline_count(sideline) == 0 && !sideline_is_under_way(sideline);
    return number <= outbox->written_through || number <= flowed_through(outbox, flow);
}

bool outbox_is_safe(const struct outbox *outbox, uint64_t number) {
    return is_safe(outbox, number, FOREGROUND);
}

static enum flow flow_of(const struct outbox_waiter *waiter) {
    return waiter->background ? ALL : FOREGROUND;
}

// A waiter behind one that waits for more is called with it, which is late but safe; and a callback may
// forget any other waiter, so each time the first one is taken anew.
static void call_waiters_of(struct outbox *outbox, enum flow flow) {
    struct outbox_waiter **waiters = &outbox->waiters[flow];
    while (*waiters != NULL && is_safe(outbox, (*waiters)->last, flow)) {
        struct outbox_waiter *waiter = *waiters;
        DL_DELETE(*waiters, waiter);
        waiter->done(waiter, true);
    }
}

static void call_waiters(struct outbox *outbox) {
    pass_those_apart(outbox);
    for (enum flow flow = 0; flow < FLOWS; flow++)
        call_waiters_of(outbox, flow);
}

static bool concerns(const struct outbox_waiter *waiter, const struct refused *refused) {
    return waiter->first <= refused->number && refused->number <= waiter->last &&
           (refused->report || !waiter->reports);
}

static struct outbox_waiter *find_waiter(const struct outbox *outbox, const struct refused *refused) {
    struct outbox_waiter *waiter;
    for (enum flow flow = 0; flow < FLOWS; flow++)
        DL_FOREACH(outbox->waiters[flow], waiter) {
            if (concerns(waiter, refused))
                return waiter;
        }
    return NULL;
}

static void fail_waiters(struct outbox *outbox, const struct refused *refused) {
    struct outbox_waiter *waiter;
    while ((waiter = find_waiter(outbox, refused)) != NULL) {
        outbox_forget(outbox, waiter);
        waiter->done(waiter, false);
    }
}

// A message may be refused while it is put, before anybody could wait for it.
static bool was_refused(const struct outbox *outbox, const struct outbox_waiter *waiter) {
    for (size_t i = 0; i < outbox->refused_count; i++)
        if (concerns(waiter, &outbox->refused[i]))
            return true;
    return false;
}

// Who puts messages waits for them before the loop goes on, so none of this tick may be forgotten: of what is
// not remembered nobody knows that it was refused.
static void remember_refused(struct outbox *outbox, struct refused refused) {
    if (outbox->refused_count == outbox->refused_capacity) {
        outbox->refused_capacity = outbox->refused_capacity * 2 + REFUSED_KEPT;
        outbox->refused = must_have(realloc(outbox->refused, outbox->refused_capacity * sizeof refused));
    }
    outbox->refused[outbox->refused_count++] = refused;
}

static void forget_refused(struct outbox *outbox) {
    size_t count = outbox->refused_count;
    if (count <= REFUSED_KEPT)
        return;
    memmove(outbox->refused, outbox->refused + count - REFUSED_KEPT, REFUSED_KEPT * sizeof *outbox->refused);
    outbox->refused_count = outbox->refused_capacity = REFUSED_KEPT;
    outbox->refused = must_have(realloc(outbox->refused, REFUSED_KEPT * sizeof *outbox->refused));
}

void outbox_when_safe(struct outbox *outbox, struct outbox_waiter *waiter) {
    if (was_refused(outbox, waiter))
        waiter->done(waiter, false);
    else if (is_safe(outbox, waiter->last, flow_of(waiter)))
        waiter->done(waiter, true);
    else
        DL_APPEND(outbox->waiters[flow_of(waiter)], waiter);
}

void outbox_forget(struct outbox *outbox, struct outbox_waiter *waiter) {
    DL_DELETE(outbox->waiters[flow_of(waiter)], waiter);
}

// --- to the disk ---

static void on_written(void *context, bool ok);

static size_t write_row(struct outbox *outbox, uint64_t number, const struct mqtt_publish *publish) {
    size_t size = disk_size(publish);
    store_put_message(outbox->store, number, publish);
    outbox->disk_rows++;
    outbox->disk_bytes += size;
    outbox->unwritten_bytes += size;
    return size;
}

static size_t write_message(struct outbox *outbox, uint64_t number, const struct mqtt_publish *publish) {
    outbox->last_spilled = number;
    return write_row(outbox, number, publish);
}

static void tell_when_written(struct outbox *outbox, size_t bytes) {
    struct written *written = must_have(malloc(sizeof *written));
    *written =
        (struct written){.through = outbox->last_spilled, .write = ++outbox->writes_begun, .bytes = bytes};
    DL_APPEND(outbox->writes, written);
    store_when_written(outbox->store, on_written, outbox);
}

// With the next write.
static size_t save(struct outbox *outbox, struct item *item) {
    DL_DELETE2(outbox->unsaved, item, save_prev, save_next);
    item->saved = SAVING;
    item->write = outbox->writes_begun + 1;
    DL_APPEND2(outbox->saving, item, save_prev, save_next);
    return write_row(outbox, item->number, &item->publish);
}

// How long it may wait beside the queue unwritten: those behind it that were taken are not safe before it is.
static uint64_t patience_of(const struct item *item) {
    return item->apart ? SAVE_WITHIN : SAFE_WITHIN;
}

// What has waited so for a moment goes to disk; where much waits, all of it.
static void save_beside(struct outbox *outbox, bool all) {
    struct item *item, *next;
    size_t bytes = 0;
    DL_FOREACH_SAFE2(outbox->unsaved, item, next, save_next) {
        if (all || uv_now(outbox->loop) - item->since >= patience_of(item))
            bytes += save(outbox, item);
    }
    if (bytes > 0)
        tell_when_written(outbox, bytes);
}

// --- what waits on disk alone ---
//
// Only so much waits beside the queue in memory. More of it is on disk alone, and its lane knows the numbers. What goes out
// next to a topic is the one with the lowest number, wherever it is.

static bool has_many_beside(const struct outbox *outbox) {
    return outbox->lanes.waiting > BESIDE_COUNT || outbox->beside_bytes > BESIDE_BYTES;
}

static bool may_park(const struct outbox *outbox, const struct item *item) {
    return item->place == BESIDE && is_on_disk(outbox, item) &&
           parked_may_take(&item->lane->parked, item->number);
}

// Too many wait: it is on disk, and stays there alone; or it is written at once, and does so later.
static void park_if_many(struct outbox *outbox, struct item *item) {
    if (!has_many_beside(outbox))
        return;
    if (item->saved == UNSAVED)
        save_beside(outbox, true);
    if (!may_park(outbox, item))
        return;
    if (outbox->lanes.parked == 0)
        outbox->parked_since = uv_now(outbox->loop);
    lanes_park(&outbox->lanes, item->lane, item->number, disk_size(&item->publish));
    remove_item(outbox, item);
}

// Those that are on disk now.
static void end_saving(struct outbox *outbox) {
    while (outbox->saving != NULL && outbox->saving->write <= outbox->writes_done) {
        struct item *item = outbox->saving;
        DL_DELETE2(outbox->saving, item, save_prev, save_next);
        item->saved = SAVED;
        park_if_many(outbox, item);
    }
}

// Writes are reported in the order in which they were asked for.
static void on_written(void *context, bool ok) {
    struct outbox *outbox = context;
    struct written *written = outbox->writes;
    outbox->disk_fails = !ok;
    if (!ok) { // the store tries again, so wait again
        update_intake(outbox);
        store_when_written(outbox->store, on_written, outbox);
        return;
    }
    DL_DELETE(outbox->writes, written);
    outbox->written_through = written->through;
    outbox->writes_done = written->write;
    outbox->unwritten_bytes -= written->bytes;
    free(written);
    end_saving(outbox);
    update_intake(outbox);
    call_waiters(outbox);
}

// --- all to the disk ---

// Writes all in memory that is not on disk; from now on messages go there.
static void begin_spilling(struct outbox *outbox, const char *why) {
    struct item *item;
    size_t bytes = 0;
    uint64_t before = outbox->last_spilled;
    log_warning("%zu messages are waiting for the broker: %s; writing them to disk", outbox->count, why);
    outbox->spilling = true;
    outbox->spilling_since = outbox->items != NULL ? outbox->items->since : uv_now(outbox->loop);
    outbox->allowance = SHARE * BUSY_COUNT;
    DL_FOREACH(outbox->items, item) {
        if (item->saved == UNSAVED)
            bytes += save(outbox, item);
        else if (item->number > before && item->saved == NOT_SAVED)
            bytes += write_row(outbox, item->number, &item->publish);
    }
    outbox->last_spilled = outbox->last_number;
    outbox->next_load = outbox->last_number + 1;
    tell_when_written(outbox, bytes);
}

// What came late goes to disk after all.
static void spill_late(struct outbox *outbox) {
    struct item *item, *next;
    outbox->catching_up = false;
    DL_FOREACH_SAFE(outbox->late, item, next) {
        DL_DELETE(outbox->late, item);
        tell_when_written(outbox, write_message(outbox, item->number, &item->publish));
        outbox->disk_count++;
        free_item(outbox, item);
    }
}

// --- back from the disk ---

static void note_missing_rows(struct outbox *outbox, uint64_t count) {
    outbox->disk_rows -= count < outbox->disk_rows ? (size_t)count : outbox->disk_rows;
}

// Of this run all messages from next_load on were written, without gaps.
static void note_gap(struct outbox *outbox, uint64_t until) {
    uint64_t from = outbox->next_load > outbox->earlier ? outbox->next_load : outbox->earlier + 1;
    if (until <= from)
        return;
    outbox->missing += until - from;
    note_missing_rows(outbox, until - from);
    outbox->disk_count -= until - from < outbox->disk_count ? (size_t)(until - from) : outbox->disk_count;
}

static void tell_missing(struct outbox *outbox) {
    if (outbox->missing > 0)
        log_error("%llu messages that were written to disk are not in the store any more: they are lost",
                  (unsigned long long)outbox->missing);
    outbox->missing = 0;
}

static void take_loaded(void *context, uint64_t number, const struct mqtt_publish *publish) {
    struct outbox *outbox = context;
    if (number < outbox->next_load)
        return;
    note_gap(outbox, number);
    append_item(outbox, publish, number);
    outbox->loaded++;
    outbox->next_load = number + 1;
    outbox->disk_count -= outbox->disk_count > 0;
}

static void end_spilling(struct outbox *outbox) {
    outbox->spilling = outbox->catching_up = false;
    DL_CONCAT(outbox->items, outbox->late);
    if (outbox->next_out == NULL)
        outbox->next_out = outbox->late;
    for (int i = 0; i < FLOWS; i++)
        outbox->flow[i] = outbox->flow[i] != NULL ? outbox->flow[i] : outbox->late;
    outbox->late = NULL;
    log_info("the broker is keeping up again; messages are no longer written to disk");
    call_waiters(outbox);
}

static void on_loaded(void *context, bool ok) {
    struct outbox *outbox = context;
    outbox->loading = false;
    if (ok && outbox->loaded < outbox->load_limit && outbox->next_load <= outbox->load_through) {
        // Nothing more is there. A store that was damaged has less than was put.
        note_gap(outbox, outbox->load_through + 1);
        outbox->next_load = outbox->load_through + 1;
        outbox->disk_count = (size_t)(outbox->last_spilled - outbox->load_through);
    }
    tell_missing(outbox);
    if (outbox->catching_up && outbox->next_load > outbox->last_spilled)
        end_spilling(outbox);
    else
        spill_late(outbox);
    if (ok)
        pump(outbox); // otherwise the next tick tries again
}

// Whether memory has room for what is on disk.
static bool has_room(const struct outbox *outbox) {
    return queue_count(outbox) < MEMORY_COUNT / 2 && queue_bytes(outbox) < MEMORY_BYTES / 2;
}

static bool waits_within(const struct outbox *outbox, const struct item *item, uint64_t milliseconds) {
    return item == NULL || uv_now(outbox->loop) - item->since <= milliseconds;
}

// Whether the broker answers in time, and has been handed all that is in memory or will be soon, however much
// comes. Before that, new messages would only wait in memory until they are written after all. A disk that takes
// nothing is only a detour, but not while the broker answers nothing either.
static bool has_caught_up(const struct outbox *outbox) {
    const struct item *oldest = oldest_in_flow(outbox, ALL);
    bool keeps_pace = has_answered_within(outbox, LOAD_SOON) && waits_within(outbox, oldest, LOAD_SOON);
    return keeps_pace ||
           (waits_within(outbox, oldest, SAFE_WITHIN) && (outbox->disk_fails || outbox->next_out == NULL));
}

// Each reading waits for what is being written, so as many are read as memory has room for.
static size_t load_limit(const struct outbox *outbox) {
    size_t count = outbox->disk_rows;
    size_t most =
        count > 0 && outbox->disk_bytes > 0 ? LOAD_BYTES / (outbox->disk_bytes / count + 1) : LOAD_COUNT;
    return most > LOAD_COUNT ? LOAD_COUNT : most < LOAD_COUNT_MIN ? LOAD_COUNT_MIN : most;
}

static void load_more(struct outbox *outbox) {
    if (!outbox->spilling || outbox->loading || !has_room(outbox) || !carrier_is_up(outbox))
        return;
    if (outbox->next_load > outbox->last_spilled) {
        if (has_caught_up(outbox))
            end_spilling(outbox);
        return;
    }
    outbox->loading = true;
    outbox->loaded = 0;
    outbox->load_through = outbox->last_spilled;
    // With messages coming all the time the disk would never be empty if they went there until the end.
    outbox->load_limit = load_limit(outbox);
    outbox->catching_up = outbox->disk_count < outbox->load_limit && has_caught_up(outbox);
    store_load_messages(outbox->store, outbox->next_load, outbox->load_limit, take_loaded, on_loaded, outbox);
}

// --- what waits beside the others ---
//
// Two retained messages to one topic are never under way together, because not every broker keeps their order. And
// what the broker does not take for now waits, and with it what follows to its topic; see lanes.h.

static bool is_same_topic(const struct item *one, const struct item *other) {
    return one->hash == other->hash && strcmp(one->publish.topic, other->publish.topic) == 0;
}

// Of values that wait for one topic only the last counts.
static void replace_earlier(struct outbox *outbox, struct item *item) {
    struct lane *lane = item->lane;
    while (lane->waiting != item)
        drop_item(outbox, lane->waiting);
    while (!parked_is_empty(&lane->parked) && parked_first(&lane->parked) < item->number) {
        uint64_t number = parked_first(&lane->parked);
        note_gone(outbox, number, lanes_unpark(&outbox->lanes, lane));
    }
}

// Whether the next of the queue must wait for others to its topic, or because that is refused for now.
static bool must_wait(const struct outbox *outbox, const struct item *item) {
    char cut[TOPIC_MAX];
    const struct lane *lane = lanes_find(&outbox->lanes, lane_topic(outbox, item, cut));
    if (lane == NULL)
        return false;
    if (!parked_is_empty(&lane->parked) && parked_first(&lane->parked) < item->number)
        return true;
    if (lane->count > 0 || lane->solo || lane->refused)
        return true;
    return is_retained(item) && lane->under_way + lane->skipped > 0;
}

// It waits beside the others, which go on.
static struct lane *hold_back(struct outbox *outbox, struct item *item) {
    outbox->next_out = item->next;
    enter(outbox, item, BESIDE);
    struct lane *lane = item->lane;
    if (is_replaceable(outbox, &item->publish))
        replace_earlier(outbox, item);
    park_if_many(outbox, item);
    return lane;
}

// Whether a message must be alone at the broker with those to its topic.
static bool goes_alone(const struct lane *lane, const struct item *item) {
    return is_retained(item) || item->refused || lane->refused || lane->one_by_one;
}

static bool may_follow(const struct lane *lane, const struct item *item) {
    return lane->under_way == 0 || (!lane->solo && !goes_alone(lane, item));
}

// Whether the first that waits for the topic is in memory.
static bool has_first(const struct lane *lane) {
    return lane->count > 0 &&
           (parked_is_empty(&lane->parked) || lane->waiting->number < parked_first(&lane->parked));
}

// An answer has come: those that wait for the topic may go, unless it is refused for now.
static void go_on(struct outbox *outbox, struct lane *lane) {
    if (lane->refused && lane->state == LANE_FLOWS && lane->under_way == 0 && lane_has_more(lane))
        lanes_set(&outbox->lanes, lane, LANE_RESTS); // what was tried of it is gone: the next has its turn
    if (lane_has_more(lane) && lane->skipped == 0 && !lane->refused) {
        if (!has_first(lane))
            lanes_set(&outbox->lanes, lane, LANE_READS);
        else if (may_follow(lane, lane->waiting))
            lanes_set(&outbox->lanes, lane, LANE_READY);
    }
    lanes_tidy(&outbox->lanes, lane);
}

// Whether it lets those behind it go first, as not all have a place at the broker now. What was never there is not to blame
// for anything.
static bool steps_aside(const struct outbox *outbox, const struct item *item) {
    bool no_suspect = item->handed_over == 0 && outbox->suspects.through > 0;
    return item->background && (no_suspect || outbox->paced || outbox->in_flight >= window_of(outbox));
}

// All of those, up to one that may go.
static void hold_back_waiting(struct outbox *outbox) {
    struct item *item;
    while ((item = outbox->next_out) != NULL) {
        bool waits = must_wait(outbox, item);
        if (!waits && !steps_aside(outbox, item))
            return;
        struct lane *lane = hold_back(outbox, item);
        if (!waits)
            go_on(outbox, lane);
    }
}

// What is not under way waits again in its place.
static void restart(struct outbox *outbox) {
    for (struct item *item = outbox->items; item != outbox->next_out; item = item->next) {
        struct lane *lane = leave(outbox, item);
        if (lane != NULL)
            lanes_settle(&outbox->lanes, lane);
    }
    outbox->next_out = outbox->items;
    flow_anew(outbox);
}

// --- to the broker ---

static const struct refusals_rule *rule_of(const struct item *item) {
    return item->report ? &refusals_of_reports : &refusals_of_others;
}

static void log_refused(struct outbox *outbox, const struct mqtt_publish *publish, bool kept,
                        const char *why) {
    unsigned suppressed;
    char note[LIMITER_NOTE_MAX];
    if (limiter_allows(&outbox->log_limiter, uv_now(outbox->loop), "lost", 4, &suppressed))
        log_error("message to %s (%zu bytes) %s, the broker rejected it: %s%s", publish->topic,
                  publish->length, kept ? "set aside" : "dropped", why, limiter_note(suppressed, note));
}

// Returns whether it was kept.
static bool keep_aside(struct outbox *outbox, const struct mqtt_publish *publish, const char *why) {
    if (!store_set_aside(outbox->store, publish, why))
        return false;
    outbox->handlers.set_aside(outbox->handlers.context);
    return true;
}

// The broker does not take it, now or ever: everything else goes on. Its device is not told that it arrived.
static void refuse_item(struct outbox *outbox, struct item *item, const char *why) {
    const struct refused refused = {.number = item->number, .report = item->report};
    struct lane *lane = leave(outbox, item);
    remember_refused(outbox, refused);
    bool kept = item->report && keep_aside(outbox, &item->publish, why);
    log_refused(outbox, &item->publish, kept, why);
    drop_item(outbox, item);
    if (lane != NULL)
        go_on(outbox, lane);
    fail_waiters(outbox, &refused); // last: whoever is told may put more
}

static void on_given_up(void *context, const struct mqtt_publish *publish, const char *why) {
    struct outbox *outbox = context;
    bool kept = publish->retain == MQTT_NOT_RETAINED && keep_aside(outbox, publish, why);
    log_refused(outbox, publish, kept, why);
}

// --- what the broker does not take for now; see lanes.h ---

// Messages that the broker has taken: of reports, or of any.
static uint64_t taken_of(const struct outbox *outbox, bool reports) {
    return reports ? outbox->taken_reports : outbox->taken;
}

static void log_deferred(struct outbox *outbox, const struct item *item, const char *reason) {
    unsigned suppressed;
    char note[LIMITER_NOTE_MAX];
    if (!item->refused && limiter_allows(&outbox->log_limiter, uv_now(outbox->loop), "later", 5, &suppressed))
        log_warning("the broker rejected a message to %s for now: %s; retrying%s", item->publish.topic,
                    reason, limiter_note(suppressed, note));
}

// A value that waits behind it takes its place.
static void wait_again(struct outbox *outbox, struct lane *lane, struct item *item) {
    item->refused = true;
    if (is_replaceable(outbox, &item->publish) && lane_has_more(lane)) {
        drop_item(outbox, item);
        return;
    }
    enter(outbox, item, BESIDE);
    park_if_many(outbox, item);
}

// Whether those that wait for the topic give way to what comes: all its tries were in vain, and half the disk is used. Entries of
// commands stay.
static bool gives_way(const struct outbox *outbox, const struct lane *lane, const struct item *item) {
    return lanes_blame(&outbox->lanes, lane) && lane->refusals >= REFUSALS_MAX &&
           outbox->disk_bytes > outbox->max_bytes / 2 &&
           (!is_retained(item) || is_replaceable(outbox, &item->publish));
}

// Then it is tried soon again, until it is no more.
static void trim(struct outbox *outbox, struct lane *lane) {
    while (has_first(lane) && gives_way(outbox, lane, lane->waiting)) {
        refuse_item(outbox, lane->waiting, "it does not take those before it");
        lane->not_before = 0;
    }
}

// What was read back to go out behind it waits on disk again, so that others can be read.
static void park_fetched(struct outbox *outbox, struct lane *lane) {
    while (lane->count > 1 && lane->waiting->lane_prev->fetched &&
           may_park(outbox, lane->waiting->lane_prev)) {
        struct item *last = lane->waiting->lane_prev;
        lanes_park(&outbox->lanes, lane, last->number, disk_size(&last->publish));
        remove_item(outbox, last);
    }
}

// The broker does not take it for now: it goes out again after a pause, or was refused often enough.
static void defer_item(struct outbox *outbox, struct item *item, bool unreasoned, const char *reason) {
    struct lane *lane = leave(outbox, item);
    uint64_t others = taken_of(outbox, item->report);
    bool enough = lane->refusals >= REFUSALS_MAX, passed = lane_was_passed(lane, others);
    log_deferred(outbox, item, reason);
    if (lane->refused && !item->again) { // it was under way together with the one that was refused first
        wait_again(outbox, lane, item);
        return;
    }
    lanes_note_try(&outbox->lanes, item->again, false);
    lanes_defer(&outbox->lanes, lane, uv_now(outbox->loop), others, unreasoned);
    if (!enough) {
        wait_again(outbox, lane, item);
    } else {
        lane->refusals = passed ? lane->refusals : 0; // the broker may be in trouble: the next has its tries
        refuse_item(outbox, item, reason);
    }
    trim(outbox, lane);
    park_fetched(outbox, lane);
}

// --- messages that the connection breaks on, or that are never answered; see suspects.h ---

// Whether the broker has taken others since the message had its first fault, so that it takes messages. One to
// the topic of a message that was just found to be to blame needs no other.
static bool has_taken_others(const struct outbox *outbox, const struct item *item) {
    return taken_of(outbox, item->report) > item->taken_then ||
           refusals_has(&outbox->refusals, item->publish.topic, rule_of(item), uv_now(outbox->loop));
}

static void note_taken_then(const struct outbox *outbox, struct item *item) {
    item->taken_then = taken_of(outbox, item->report);
}

static void note_first_fault(const struct outbox *outbox, struct item *item) {
    if (item->strikes.count == 0 && item->overdue == 0)
        note_taken_then(outbox, item);
}

// It waits while others go out in its place.
static bool is_accused(const struct outbox *outbox, const struct item *item) {
    return is_faulty(item) && !has_taken_others(outbox, item);
}

// To a topic of the accused; or where one of these is no report, none either.
static bool is_beside_accused(const struct outbox *outbox, const struct item *item) {
    const struct item *earlier;
    for (earlier = outbox->items; earlier != item; earlier = earlier->next)
        if (is_accused(outbox, earlier) &&
            (is_same_topic(earlier, item) || (!earlier->report && !item->report)))
            return true;
    return false;
}

static struct item *oldest_under_way(const struct outbox *outbox) {
    struct item *oldest = outbox->under_way, *item;
    DL_FOREACH2(outbox->under_way, item, lane_next) {
        if (item->number < oldest->number)
            oldest = item;
    }
    return oldest;
}

// The oldest that does not wait beside the others.
static const struct item *first_in_turn(const struct outbox *outbox) {
    const struct item *first = outbox->skipped > 0 ? outbox->items : oldest_under_way(outbox);
    if (first == NULL || (outbox->next_out != NULL && outbox->next_out->number < first->number))
        return outbox->next_out;
    while (first->place == BESIDE)
        first = first->next;
    return first;
}

static bool is_first_accused(const struct outbox *outbox) {
    const struct item *first = first_in_turn(outbox);
    return first != NULL && is_accused(outbox, first);
}

static void go_on_from(struct outbox *outbox, struct item *next) {
    struct item *item;
    outbox->next_out = next;
    for (item = outbox->items; item != next; item = item->next)
        if (item->place == IN_QUEUE)
            enter(outbox, item, must_wait(outbox, item) ? BESIDE : PASSED_OVER);
}

// Those to the topics of the accused tell the least: another is tried first, if there is one. So are reports, where
// state is accused.
static void pass_over_accused(struct outbox *outbox) {
    struct item *first = NULL, *item = outbox->items;
    if (!is_first_accused(outbox))
        return;
    for (unsigned looked = 0; item != NULL; item = item->next) {
        if (item->place == BESIDE || is_accused(outbox, item) || must_wait(outbox, item))
            continue;
        if (first == NULL)
            first = item;
        if (looked++ == LOOK_MAX || !is_beside_accused(outbox, item))
            break;
    }
    go_on_from(outbox, item != NULL ? item : first);
}

static unsigned count_accused(const struct outbox *outbox) {
    const struct item *item;
    unsigned count = 0;
    for (item = outbox->items; item != outbox->next_out; item = item->next)
        count += is_accused(outbox, item);
    return count;
}

static uint64_t age_of_connection(const struct outbox *outbox) {
    return uv_now(outbox->loop) - outbox->up_since;
}

// A gateway that stood still has not read yet that the connection ended: what it writes then did not end it.
static bool is_alive(const struct outbox *outbox) {
    return outbox->carrier->is_alive == NULL || outbox->carrier->is_alive(outbox->carrier->context);
}

// A message with strikes goes out alone, and when the connection has lived so long that a break tells
// something.
static bool may_be_tried(const struct outbox *outbox, const struct item *item) {
    uint64_t age = age_of_connection(outbox);
    if (item->strikes.count == 0)
        return true;
    return outbox->in_flight == 0 && age >= strikes_wait(&item->strikes) &&
           (!sideline_is_under_way(outbox->sideline) || age > SILENCE_MAX) && is_alive(outbox);
}

// The connection broke without them.
static void forgive(struct outbox *outbox) {
    struct item *item;
    DL_FOREACH(outbox->items, item) {
        item->strikes = (struct strikes){.count = 0};
        item->overdue = 0;
    }
    flow_anew(outbox);
}

// --- handing over ---

static bool is_suspected(const struct outbox *outbox) {
    if (outbox->items == NULL || !suspects_include(&outbox->suspects, outbox->items->number))
        return false;
    const struct item *first = first_in_turn(outbox);
    return first != NULL && suspects_include(&outbox->suspects, first->number);
}

// One that stood apart may do so no more.
static void flow_again(struct outbox *outbox, struct item *item) {
    for (int i = 0; i < FLOWS && !stands_apart(outbox, item); i++)
        if (!(i == FOREGROUND && item->background) &&
            (outbox->flow[i] == NULL || item->number < outbox->flow[i]->number))
            outbox->flow[i] = item;
}

// The link has the item. What becomes of it is told later, also with QoS 0.
static void note_handed_over(struct outbox *outbox, struct item *item) {
    outbox->suspects.left -= is_suspected(outbox) && outbox->suspects.left > 0;
    if (item == outbox->next_out)
        outbox->next_out = item->next;
    leave(outbox, item);
    enter(outbox, item, AT_BROKER);
    note_not_fetched(outbox, item);
    flow_again(outbox, item);
    item->lane->solo = goes_alone(item->lane, item);
    item->again = item->lane->refused;
    item->handed_over = uv_now(outbox->loop);
    outbox->in_flight++;
}

// Whether the next message may be handed over now.
static bool has_place(const struct outbox *outbox) {
    const struct item *next = outbox->next_out;
    if (next == NULL)
        return false;
    if (is_suspected(outbox))
        return outbox->suspects.left > 0 && may_be_tried(outbox, next) &&
               (suspects_include(&outbox->suspects, next->number) || is_first_accused(outbox));
    return outbox->in_flight < window_of(outbox);
}

static enum mqtt_publish_result give_to_link(struct outbox *outbox, struct item *item) {
    const struct refusals_rule *rule = rule_of(item);
    uint64_t now = uv_now(outbox->loop);
    if (refusals_forbid(&outbox->refusals, item->publish.topic, rule, now)) {
        refuse_item(outbox, item, "it has refused others like it");
        return MQTT_REFUSED;
    }
    enum mqtt_publish_result result =
        outbox->carrier->publish(outbox->carrier->context, &item->publish, &item->mid);
    if (result != MQTT_SENT)
        item->mid = 0;
    if (result != MQTT_REFUSED)
        outbox->paced = result == MQTT_NOT_NOW;
    if (result == MQTT_REFUSED)
        refuse_item(outbox, item, "it is too large, or its topic is not valid");
    if (result != MQTT_SENT)
        return result;
    refusals_note_tried(&outbox->refusals, item->publish.topic, rule, now);
    note_handed_over(outbox, item);
    return result;
}

// Where the next message comes from.
enum source { FROM_QUEUE, FROM_READY, FROM_BEHIND, SOURCES };

static struct lane *ready_lane(const struct outbox *outbox, enum source source) {
    return source == FROM_READY ? outbox->lanes.ready : outbox->lanes.ready_behind;
}

// The first of a lane that is ready. It is the last lane in turn then. False when the link takes nothing more now.
static bool hand_over_ready(struct outbox *outbox, struct lane *lane) {
    struct item *item = lane->waiting;
    lanes_set(&outbox->lanes, lane, has_first(lane) ? LANE_FLOWS : LANE_READS);
    if (!has_first(lane) || !may_follow(lane, item))
        return true;
    enum mqtt_publish_result result = give_to_link(outbox, item);
    if (result == MQTT_SENT)
        go_on(outbox, lane);
    else if (result == MQTT_NOT_NOW)
        lanes_set(&outbox->lanes, lane, LANE_READY);
    return result != MQTT_NOT_NOW;
}

// One with strikes, on a connection that is too young for it, rests again: others go on.
static void rest_struck(struct outbox *outbox, enum source source) {
    struct lane *lane;
    while ((lane = ready_lane(outbox, source)) != NULL && lane->waiting != NULL) {
        unsigned wait = strikes_wait(&lane->waiting->strikes);
        if (age_of_connection(outbox) >= wait)
            return;
        lane->not_before = outbox->up_since + wait;
        lanes_set(&outbox->lanes, lane, LANE_RESTS);
    }
}

// Whether the first lane that is ready has a place now.
static bool has_ready_place(const struct outbox *outbox, const struct lane *lane) {
    if (lane == NULL)
        return false;
    if (is_suspected(outbox))
        return outbox->suspects.left > 0 && (lane->waiting == NULL || may_be_tried(outbox, lane->waiting));
    return outbox->in_flight < window_of(outbox);
}

static bool hand_over_from(struct outbox *outbox, enum source source) {
    if (source == FROM_QUEUE)
        return give_to_link(outbox, outbox->next_out) != MQTT_NOT_NOW;
    return hand_over_ready(outbox, ready_lane(outbox, source));
}

// The queue, the lanes that are ready and those in the background, in turn: neither many that were refused nor what comes
// anew takes all places, among suspects too. False when nothing more goes out now.
static bool hand_over_one(struct outbox *outbox, bool lanes_too) {
    hold_back_waiting(outbox);
    for (unsigned i = 1; i <= SOURCES; i++) {
        enum source source = (outbox->turn + i) % SOURCES;
        bool may = source == FROM_QUEUE ? has_place(outbox)
                                        : (lanes_too || source == FROM_BEHIND) &&
                                              has_ready_place(outbox, ready_lane(outbox, source));
        if (!may)
            continue;
        outbox->turn = source;
        return hand_over_from(outbox, source);
    }
    return false;
}

// Nobody is suspected any more once all that were are gone, or wait beside the others.
static void end_suspicion(struct outbox *outbox) {
    if (outbox->suspects.through > 0 && !is_suspected(outbox))
        outbox->suspects.through = 0;
}

// Only when all that was at the broker is answered is it known what goes out again: those that were passed over come first.
static void prepare(struct outbox *outbox) {
    hold_back_waiting(outbox);
    end_suspicion(outbox);
    rest_struck(outbox, FROM_READY);
    rest_struck(outbox, FROM_BEHIND);
    if (!is_suspected(outbox) || outbox->in_flight > 0)
        return;
    if (outbox->skipped > 0)
        restart(outbox);
    hold_back_waiting(outbox);
    suspects_begin_portion(&outbox->suspects);
    pass_over_accused(outbox);
}

static void hand_over(struct outbox *outbox) {
    if (!carrier_is_up(outbox))
        return;
    prepare(outbox);
    bool has_ready = outbox->lanes.ready != NULL;
    while (hand_over_one(outbox, has_ready)) {
    }
    while (hand_over_one(
        outbox, true)) { // those that became ready meanwhile: others may have replaced what waited there
    }
}

// --- those on disk alone whose turn it is ---

// Back to its place among those in memory. The queue has passed it, unless it began anew meanwhile.
static void insert_read(struct outbox *outbox, struct lane *lane, struct item *item) {
    struct item *after = outbox->read_last, *next = after != NULL ? after->next : outbox->items;
    while (next != NULL && next->number < item->number)
        next = next->next;
    if (next != NULL)
        DL_PREPEND_ELEM(outbox->items, next, item);
    else
        DL_APPEND(outbox->items, item);
    outbox->read_last = item;
    item->apart = true;
    item->saved = SAVED;
    item->fetched = true;
    outbox->fetched++;
    if (outbox->next_out != NULL && item->number >= outbox->next_out->number)
        return;
    enter(outbox, item, BESIDE);
    if (lane->state == LANE_READS)
        lanes_set(&outbox->lanes, lane, LANE_READY);
}

static bool is_oldest_parked(const struct lane *lane, uint64_t number) {
    return !parked_is_empty(&lane->parked) && parked_first(&lane->parked) == number;
}

// It was not on disk: it is lost, unless it is not wanted any more.
static void note_not_there(struct outbox *outbox, const struct asked *asked) {
    if (!is_oldest_parked(asked->lane, asked->number))
        return;
    forget_row(outbox, lanes_unpark(&outbox->lanes, asked->lane));
    outbox->missing++;
}

// A later value may have replaced it meanwhile; or an older message was refused and waits before it: then it stays on disk
// until its turn comes.
static void take_read(void *context, uint64_t number, const struct mqtt_publish *publish) {
    struct outbox *outbox = context;
    while (outbox->asked_next < outbox->asked_count && outbox->asked[outbox->asked_next].number < number)
        note_not_there(outbox, &outbox->asked[outbox->asked_next++]);
    if (outbox->asked_next == outbox->asked_count || outbox->asked[outbox->asked_next].number != number)
        return;
    struct lane *lane = outbox->asked[outbox->asked_next++].lane;
    if (!is_oldest_parked(lane, number))
        return;
    bool background = lane->background; // the disk does not know
    lanes_unpark(&outbox->lanes, lane);
    struct item *item = new_item(outbox, publish, number);
    item->background = background;
    insert_read(outbox, lane, item);
}

// Of a lane that is to be read: its first is in memory again, or nothing is left of it.
static bool needs_no_reading(struct outbox *outbox, struct lane *lane) {
    if (has_first(lane))
        lanes_set(&outbox->lanes, lane, LANE_READY);
    else if (lane_has_more(lane))
        return false;
    else if (lane->under_way + lane->skipped > 0)
        lanes_set(&outbox->lanes, lane, LANE_FLOWS);
    else
        lanes_settle(&outbox->lanes, lane);
    return true;
}

static void end_reading_lane(struct outbox *outbox, struct lane *lane) {
    if (lane->state == LANE_READS)
        needs_no_reading(outbox, lane);
    else if (!lane_has_more(lane))
        lanes_settle(&outbox->lanes, lane);
}

// Each lane once, of which several were asked for: it may be gone then.
static void end_reading(struct outbox *outbox, const struct asked *asked, size_t count) {
    struct lane *lanes[READ_COUNT];
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (asked[i].lane->reading)
            lanes[used++] = asked[i].lane;
        asked[i].lane->reading = false;
    }
    for (size_t i = 0; i < used; i++)
        end_reading_lane(outbox, lanes[i]);
}

static void on_read(void *context, bool ok) {
    struct outbox *outbox = context;
    struct asked *asked = outbox->asked;
    size_t count = outbox->asked_count;
    while (ok && outbox->asked_next < count)
        note_not_there(outbox, &asked[outbox->asked_next++]);
    outbox->asked = NULL;
    outbox->asked_count = outbox->asked_next = 0;
    outbox->read_last = NULL;
    end_reading(outbox, asked, count);
    free(asked);
    tell_missing(outbox);
    if (ok)
        pump(outbox);
}

// Of one that is refused the first is enough to try it.
static size_t ask_lane(struct lane *lane, struct asked *asked, size_t room) {
    size_t most = lane->refused && lane->refusals < REFUSALS_MAX ? 1 : READ_LANE,
           count = parked_count(&lane->parked);
    most = most < room ? most : room;
    count = count < most ? count : most;
    for (size_t i = 0; i < count; i++)
        asked[i] = (struct asked){parked_at(&lane->parked, i), lane};
    lane->reading = true;
    return count;
}

static size_t ask_lanes(struct outbox *outbox, struct lane *list, struct asked *asked, size_t count,
                        size_t most) {
    struct lane *lane, *next;
    DL_FOREACH_SAFE(list, lane, next) {
        if (count == most)
            break;
        if (!needs_no_reading(outbox, lane))
            count += ask_lane(lane, asked + count, most - count);
    }
    return count;
}

// Those of the lanes whose turn it is.
static void read_lanes(struct outbox *outbox) {
    struct asked asked[READ_COUNT];
    uint64_t numbers[READ_COUNT];
    if ((outbox->lanes.reading == NULL && outbox->lanes.reading_behind == NULL) || outbox->asked != NULL ||
        !carrier_is_up(outbox) || is_suspected(outbox) || outbox->fetched >= READ_COUNT ||
        is_over_memory(outbox))
        return;
    size_t share = outbox->lanes.reading_behind != NULL ? READ_COUNT / 4 : 0;
    size_t count = ask_lanes(outbox, outbox->lanes.reading, asked, 0, READ_COUNT - share);
    count = ask_lanes(outbox, outbox->lanes.reading_behind, asked, count, READ_COUNT);
    if (count == 0)
        return;
    // In order, so that each finds its place behind the one before. Each begins with its number.
    qsort(asked, count, sizeof *asked, compare_numbers);
    for (size_t i = 0; i < count; i++)
        numbers[i] = asked[i].number;
    outbox->asked = must_have(malloc(count * sizeof *asked));
    memcpy(outbox->asked, asked, count * sizeof *asked);
    outbox->asked_count = count;
    store_load_some(outbox->store, numbers, count, take_read, on_read, outbox);
}

static void note_up(struct outbox *outbox) {
    if (outbox->up_since != 0 || !carrier_is_up(outbox))
        return;
    outbox->up_since = uv_now(outbox->loop) > 0 ? uv_now(outbox->loop) : 1;
    sideline_link_up(outbox->sideline);
}

// A message with strikes is under way: it must be alone.
static bool is_trying(const struct outbox *outbox) {
    if (!is_suspected(outbox) || outbox->in_flight != 1)
        return false;
    return outbox->under_way->strikes.count > 0;
}

static void pump_sideline(struct outbox *outbox) {
    if (!is_trying(outbox))
        sideline_pump(outbox->sideline, outbox->next_out == NULL && !outbox->spilling);
}

// Before all that waits, also when the link is just coming up.
void outbox_say(struct outbox *outbox, const struct mqtt_publish *publish) {
    note_up(outbox);
    sideline_say(outbox->sideline, publish);
    pump_sideline(outbox);
}

// Who is told meanwhile that a message was refused may put others.
static void pump(struct outbox *outbox) {
    if (outbox->pumping)
        return; // the loop below goes on with what there is
    outbox->pumping = true;
    pass_those_apart(outbox);
    note_up(outbox);
    hand_over(outbox);
    pump_sideline(outbox);
    outbox->pumping = false;
    load_more(outbox);
    read_lanes(outbox);
    call_waiters(outbox);
}

// While spilling.
static void put_behind(struct outbox *outbox, const struct mqtt_publish *publish, uint64_t number) {
    note_intake(outbox);
    if (outbox->catching_up) {
        struct item *item = new_item(outbox, publish, number);
        DL_APPEND(outbox->late, item);
        if (is_over_memory(outbox))
            spill_late(outbox);
    } else {
        tell_when_written(outbox, write_message(outbox, number, publish));
        outbox->disk_count++;
    }
    update_intake(outbox);
}

uint64_t outbox_put(struct outbox *outbox, const struct mqtt_publish *publish) {
    uint64_t number = ++outbox->last_number;
    if (outbox->spilling) {
        put_behind(outbox, publish, number);
        return number;
    }
    append_item(outbox, publish, number);
    pump(outbox);
    if (is_over_memory(outbox))
        begin_spilling(outbox, "it is slower than the devices");
    else if (outbox->stopped)
        begin_spilling(outbox, "gateway stopped");
    update_intake(outbox);
    return number;
}

void outbox_link_up(struct outbox *outbox) {
    outbox->answered_at = 0;
    outbox->up_since = 0;
    pump(outbox);
}

// It will soon be known which message is to blame: no long waits meanwhile.
static void hurry(struct outbox *outbox) {
    if (outbox->carrier->got_on != NULL)
        outbox->carrier->got_on(outbox->carrier->context);
}

static void set_aside_closed_at(struct outbox *outbox, struct item *item) {
    refusals_note(&outbox->refusals, item->publish.topic, rule_of(item), uv_now(outbox->loop));
    suspects_note_closer(&outbox->suspects, uv_now(outbox->loop));
    refuse_item(outbox, item, "it closes the connection when it gets this message");
}

// The connection broke with this one alone under way.
static void note_strike(struct outbox *outbox, struct item *item, enum mqtt_end end) {
    note_first_fault(outbox, item);
    strikes_note(&item->strikes, end, item->handed_over - outbox->up_since,
                 uv_now(outbox->loop) - item->handed_over);
    if (strikes_convict(&item->strikes) && has_taken_others(outbox, item))
        set_aside_closed_at(outbox, item);
}

// While anything is under way.
static const struct item *last_under_way(const struct outbox *outbox) {
    const struct item *last = outbox->under_way, *item;
    DL_FOREACH2(outbox->under_way, item, lane_next) {
        if (item->number > last->number)
            last = item;
    }
    return last;
}

// The broker broke the connection, or the network: what was under way may be the reason; see suspects.h.
static void blame_unanswered(struct outbox *outbox, enum mqtt_end end) {
    struct item *first = oldest_under_way(outbox);
    if (first == NULL) {
        suspects_note_break(&outbox->suspects, &(struct suspects_break){.under_way = 0});
        forgive(outbox);
        return;
    }
    bool accused = is_first_accused(outbox);
    bool alone = suspects_note_break(&outbox->suspects,
                                     &(struct suspects_break){.now = uv_now(outbox->loop),
                                                              .under_way = outbox->in_flight,
                                                              .first = first->number,
                                                              .last = last_under_way(outbox)->number,
                                                              .answered = outbox->answered_at != 0});
    if (is_suspected(outbox) && count_accused(outbox) < HURRY_MAX)
        hurry(outbox);
    if (alone || (accused && outbox->in_flight == 1))
        note_strike(outbox, first, end);
}

// One that is never answered, or at which the broker closes again and again, stays, so that it is found.
static void drop_momentary(struct outbox *outbox) {
    struct item *item, *next;
    DL_FOREACH_SAFE(outbox->items, item, next) {
        if (item->momentary && item->overdue == 0 && item->strikes.count == 0)
            drop_item(outbox, item);
    }
}

static void note_down(struct outbox *outbox) {
    struct item *item;
    bool momentary = false;
    DL_FOREACH2(outbox->under_way, item, lane_next) {
        item->mid = 0;
        momentary = momentary || item->momentary;
    }
    restart(outbox);
    outbox->dropped += momentary;
    if (outbox->dropped <= DROPPED_MAX)
        drop_momentary(outbox);
    outbox->in_flight = 0;
    outbox->passed_over = 0;
    outbox->up_since = outbox->last_answer = 0;
}

// What was at the broker may have arrived or not: it goes out again, before all that waits; but for what is momentary.
void outbox_link_down(struct outbox *outbox, enum mqtt_end end) {
    bool known = end != MQTT_ENDED_BY_US && refusals_note_close(&outbox->refusals, uv_now(outbox->loop));
    enum mqtt_end unknown = known ? MQTT_ENDED_BY_US : end; // at what it closed
    if (known)
        suspects_note_closer(&outbox->suspects, uv_now(outbox->loop));
    bool beside = sideline_link_down(outbox->sideline, unknown);
    if (known || (beside && unknown != MQTT_ENDED_BY_US && count_accused(outbox) < HURRY_MAX))
        hurry(outbox);
    if (unknown != MQTT_ENDED_BY_US && !beside)
        blame_unanswered(outbox, unknown);
    note_down(outbox);
    update_intake(outbox);
}

// Answers come in order, so the one that is looked for is at the front.
static struct item *find_at_broker(const struct outbox *outbox, int mid) {
    struct item *item;
    DL_FOREACH2(outbox->under_way, item, lane_next) {
        if (item->mid == mid)
            return item;
    }
    return NULL;
}

// A broker that drops its answer when too much waits for us (Mosquitto does) would leave a message there for
// ever.
static void note_order(struct outbox *outbox, const struct item *answered) {
    const struct item *oldest = outbox->under_way;
    if (oldest == answered) {
        outbox->passed_over = 0;
    } else if (outbox->passed_over != oldest->number) {
        outbox->passed_over = oldest->number;
        outbox->passed_since = uv_now(outbox->loop);
    }
}

static void take_item(struct outbox *outbox, struct item *item) {
    struct lane *lane = leave(outbox, item);
    refusals_note_taken(&outbox->refusals, item->publish.topic, rule_of(item));
    outbox->taken_reports += item->report;
    outbox->dropped = item->momentary ? 0 : outbox->dropped;
    outbox->taken++;
    note_outflow(outbox);
    sideline_note_taken(outbox->sideline);
    if (!lane->refused || item->again)
        lanes_note_try(&outbox->lanes, item->again, true);
    if (!lane->refused || item->again) // otherwise it was under way together with the one that was refused
        lanes_note_taken(&outbox->lanes, lane);
    drop_item(outbox, item);
    go_on(outbox, lane);
}

// For good. Those that wait for its topic are tried one after the other.
static void take_refusal(struct outbox *outbox, struct item *item, const char *reason) {
    refusals_note_said(&outbox->refusals, item->publish.topic, rule_of(item), uv_now(outbox->loop));
    lanes_note_taken(&outbox->lanes, item->lane);
    item->lane->one_by_one = true;
    refuse_item(outbox, item, reason);
}

static void take_answer(struct outbox *outbox, struct item *item, enum mqtt_answer answer,
                        const char *reason) {
    if (answer == MQTT_TAKEN)
        take_item(outbox, item);
    else if (answer == MQTT_NEVER_TAKEN)
        take_refusal(outbox, item, reason);
    else
        defer_item(outbox, item, answer == MQTT_NOT_TAKEN, reason);
}

void outbox_published(struct outbox *outbox, int mid, enum mqtt_answer answer, const char *reason) {
    struct item *item = find_at_broker(outbox, mid);
    outbox->last_answer = uv_now(outbox->loop);
    if (item == NULL && sideline_published(outbox->sideline, mid, answer, reason)) {
        outbox->taken += answer == MQTT_TAKEN;
        return;
    }
    if (item == NULL)
        return;
    note_order(outbox, item);
    item->mid = 0;
    outbox->in_flight--;
    outbox->answered_at = outbox->last_answer;
    if (is_suspected(outbox) && outbox->in_flight == 0)
        suspects_clear_portion(&outbox->suspects, window_of(outbox));
    suspects_note_answer(&outbox->suspects, outbox->last_answer - item->handed_over);
    item->strikes = (struct strikes){.count = 0};
    item->overdue = 0;
    take_answer(outbox, item, answer, reason);
}

void outbox_link_ready(struct outbox *outbox) {
    delete_taken(outbox, DELETE_COUNT);
    pump(outbox);
    update_intake(outbox);
}

// --- beginning, time, ending ---

// What was read back from the disk, and still stands there, may wait in front of the oldest unsafe one. What waits beside
// the queue is written by itself.
static bool waits_too_long(const struct outbox *outbox) {
    const struct item *oldest = outbox->items;
    while (oldest != NULL && (is_on_disk(outbox, oldest) || oldest->place == BESIDE))
        oldest = oldest->next;
    return oldest != NULL && uv_now(outbox->loop) - oldest->since > SAFE_WITHIN;
}

static const char *why_it_waits(const struct outbox *outbox) {
    return carrier_is_up(outbox) ? "it does not acknowledge messages" : "it is disconnected";
}

static void refuse_unanswered(struct outbox *outbox, struct item *item) {
    item->mid = 0;
    outbox->in_flight--;
    refusals_note(&outbox->refusals, item->publish.topic, rule_of(item), uv_now(outbox->loop));
    refuse_item(outbox, item, "it never acknowledges this message");
}

static unsigned longer_of(unsigned one, unsigned other) {
    return one > other ? one : other;
}

// Its answer was left out once more. Whether the broker will never answer it: it has answered others meanwhile, and much
// sooner. Otherwise others go out in its place again. Of state, or a log entry, once is enough where it has not answered
// others of the kind.
static bool note_left_out(struct outbox *outbox, struct item *item, bool alone) {
    uint64_t now = uv_now(outbox->loop), waited = now - item->handed_over;
    bool known = !item->report && refusals_has(&outbox->refusals, item->publish.topic, rule_of(item), now);
    note_first_fault(outbox, item);
    if (alone && item->overdue < OVERDUE_MAX - 2)
        item->overdue = OVERDUE_MAX - 2; // no other can be the reason: others go first now
    if ((++item->overdue < OVERDUE_MAX && !known) || !has_taken_others(outbox, item))
        return false;
    note_taken_then(outbox, item);
    return suspects_would_have_answered(&outbox->suspects, waited);
}

// While nothing is read from the broker, on purpose, that is no silence of its.
static void note_held(struct outbox *outbox) {
    const struct mqtt_carrier *carrier = outbox->carrier;
    if (carrier->is_held != NULL && carrier->is_held(carrier->context))
        outbox->held_at = uv_now(outbox->loop);
}

static uint64_t later_of(uint64_t one, uint64_t other) {
    return one > other ? one : other;
}

static bool is_overdue(const struct outbox *outbox) {
    uint64_t since = later_of(outbox->passed_since, outbox->held_at);
    return outbox->passed_over != 0 &&
           uv_now(outbox->loop) - since > longer_of(suspects_patience(&outbox->suspects), OVERDUE);
}

// The broker answers others and not this one: it goes out again on a new connection, but not for ever.
static void end_overdue(struct outbox *outbox) {
    struct item *item = outbox->under_way;
    while (item != NULL && item->number != outbox->passed_over)
        item = item->lane_next;
    outbox->passed_over = 0;
    if (item != NULL && note_left_out(outbox, item, false)) {
        refuse_unanswered(outbox, item);
        return;
    }
    suspects_note_silence(&outbox->suspects);
    outbox->carrier->reset(outbox->carrier->context, "it skipped an acknowledgement");
}

static bool is_silent(const struct outbox *outbox, const struct item *oldest) {
    uint64_t since = later_of(later_of(oldest->handed_over, outbox->answered_at), outbox->held_at);
    unsigned patience = suspects_patience(&outbox->suspects); // suspects are few
    return uv_now(outbox->loop) - since >
           (is_suspected(outbox) ? patience : longer_of(patience, SILENCE_MAX));
}

// All that were under way go out again one at a time. The oldest is the likely reason: others go out in its place
// when it stays without an answer.
static void suspect_unanswered(struct outbox *outbox) {
    uint64_t last = last_under_way(outbox)->number;
    if (outbox->suspects.through < last)
        outbox->suspects.through = last;
    outbox->suspects.portion = 1;
    outbox->suspects.cleared = 0;
    if (count_accused(outbox) < HURRY_MAX)
        hurry(outbox);
}

// The broker keeps the connection and answers nothing any more. RabbitMQ does so at a message that is too large.
static void end_silence(struct outbox *outbox) {
    struct item *oldest = oldest_under_way(outbox);
    if (oldest == NULL || !carrier_is_up(outbox) || !is_silent(outbox, oldest))
        return;
    if (is_suspected(outbox))
        suspects_note_silence(&outbox->suspects);
    else
        suspects_fall_silent(&outbox->suspects);
    suspect_unanswered(outbox);
    bool alone = outbox->in_flight == 1;
    if (note_left_out(outbox, oldest, alone) && alone)
        refuse_unanswered(outbox, oldest);
    outbox->carrier->reset(outbox->carrier->context, "it does not acknowledge messages");
}

// Nothing but the accused waits, and nothing shows whether the broker takes them now.
static void try_accused_again(struct outbox *outbox) {
    bool idle = outbox->in_flight == 0 && outbox->next_out == NULL && outbox->items != NULL;
    if (idle && outbox->up_since != 0 && age_of_connection(outbox) > FORGIVEN)
        forgive(outbox);
}

static void on_tick(uv_timer_t *timer) {
    struct outbox *outbox = timer->data;
    note_held(outbox);
    end_silence(outbox);
    sideline_tick(outbox->sideline, later_of(outbox->last_answer, outbox->held_at), &outbox->suspects);
    try_accused_again(outbox);
    if (!outbox->spilling && waits_too_long(outbox))
        begin_spilling(outbox, why_it_waits(outbox));
    if (is_overdue(outbox))
        end_overdue(outbox);
    delete_taken(outbox, 1);
    save_beside(outbox, false);
    forget_refused(outbox);
    pump(outbox); // others are tried before those that were refused
    lanes_wake(&outbox->lanes, uv_now(outbox->loop),
               (const uint64_t[]){taken_of(outbox, false), taken_of(outbox, true)});
    pump(outbox);
    update_intake(outbox);
}

struct outbox *outbox_new(uv_loop_t *loop, struct store *store, const char *prefix, unsigned window,
                          size_t max_bytes, const struct outbox_handlers *handlers) {
    struct outbox *outbox = must_have(calloc(1, sizeof *outbox));
    struct store_messages stored = store_messages(store);
    *outbox = (struct outbox){
        .loop = loop,
        .store = store,
        .prefix = prefix,
        .window = window,
        .max_bytes = max_bytes,
        .handlers = *handlers,
        .log_limiter = {.per_second = LOG_LINES},
        .spilling = stored.count > 0,
        .spilling_since = uv_now(loop),
        .last_number = stored.last,
        .earlier = stored.last,
        .written_through = stored.last,
        .last_spilled = stored.last,
        .next_load = stored.first,
        .disk_count = stored.count,
        .disk_rows = stored.count,
        .disk_bytes = stored.bytes + stored.count * ROW_OVERHEAD,
        .allowance = SHARE * BUSY_COUNT,
    };
    outbox->sideline = sideline_new(loop, store, &outbox->refusals, on_given_up, outbox);
    if (stored.count > 0)
        log_warning("%zu messages are waiting since the last run", stored.count);
    uv_timer_init(loop, &outbox->tick);
    outbox->tick.data = outbox;
    uv_timer_start(&outbox->tick, on_tick, TICK, TICK);
    return outbox;
}

void outbox_set_carrier(struct outbox *outbox, const struct mqtt_carrier *carrier) {
    outbox->carrier = carrier;
    sideline_set_carrier(outbox->sideline, carrier);
}

void outbox_stop(struct outbox *outbox) {
    uv_close((uv_handle_t *)&outbox->tick, NULL);
    outbox->stopped = true;
    spill_late(outbox);
    sideline_stop(outbox->sideline);
    if (!outbox->spilling && outbox_unsafe_count(outbox) > 0)
        begin_spilling(outbox, "gateway stopped");
    delete_taken(outbox, 1);
}

void outbox_free(struct outbox *outbox) {
    struct written *written, *next;
    while (outbox->items != NULL)
        remove_item(outbox, outbox->items);
    DL_FOREACH_SAFE(outbox->writes, written, next) {
        free(written);
    }
    lanes_free(&outbox->lanes);
    sideline_free(outbox->sideline);
    free(outbox->refused);
    free(outbox->gone);
    free(outbox->asked);
    free(outbox);
}

uint64_t outbox_taken(const struct outbox *outbox) {
    return outbox->taken;
}

uint64_t outbox_oldest_age(const struct outbox *outbox) {
    uint64_t now = uv_now(outbox->loop);
    if (outbox->lanes.parked > 0 && (!outbox->spilling || outbox->parked_since < outbox->spilling_since))
        return now - outbox->parked_since;
    if (outbox->spilling)
        return now - outbox->spilling_since;
    return outbox->items != NULL ? now - outbox->items->since : 0;
}
