// Removing devices; see clearing.h.
#include "gateway/state/clearing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "codecs/codec.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/table.h"

#define INTERVAL   100   // milliseconds between looks at the time
#define QUIET_TIME 1000  // milliseconds without an answer, behind the mark, after which a round is over
#define MARK_TIME  5000  // milliseconds until a mark that has not come back is sent again
#define MARKS_MAX  6     // in a round, until it goes on without
#define GONE_MAX   10000 // devices that are remembered as removed
#define ASKED_MAX  2000  // devices in a round
#define ASK_TIME   2500  // milliseconds of a round in which more are asked for
#define AT_ONCE    20    // devices: of so few a broker with a short queue leaves out nothing
#define ENDED_MAX  100   // devices whose round ends in one turn of the loop
#define LAST_FIELD "timestamp"
#define LOOKS      2   // rounds in a row without an identity, until telemetry is that of nobody
#define ROUNDS_MAX 100 // for a device: somebody may write its telemetry again and again

// A device that is being removed.
struct leaving {
    int64_t device_id;
    char ident[CODEC_IDENT_MAX + 1]; // or ""
    bool removed;                    // what was retained for it, except telemetry
    bool orphan;                     // there should be nothing else
    unsigned looks;                  // of an orphan: rounds that have brought no identity
    bool asked;                      // for its telemetry, in this round
    bool answered;                   // something came
    bool has_timestamp;              // which is left for the end
    unsigned rounds;                 // without an end
    uint32_t generation;             // in which it was removed
    UT_hash_handle hh;
    struct leaving *prev, *next; // among those that are not removed yet
    struct leaving *prev_asked, *next_asked;
};

// Asking for telemetry.
struct round {
    bool under_way;
    bool asking;     // there are more to be asked for
    bool ending;     // all is told
    uint64_t began;  // by uv_now()
    unsigned asked;  // devices
    bool marked;     // the mark has come back
    bool silent;     // none has: what has not come may still be there
    unsigned number; // says the mark that was sent last
    unsigned marks;  // that were sent behind all questions; or one, behind the last questions so far
    uint64_t sent;   // the mark, by uv_now()
    uint64_t heard;  // the last that the broker retains, or the mark; by uv_now()
};

struct clearing {
    const struct bus *bus;
    struct mqtt_asker asker;
    struct publisher *publisher;
    struct generation *generation;
    clearing_remove_fn *remove;
    clearing_emptied_fn *emptied;
    void *context;
    uv_timer_t timer;          // runs while devices are being removed
    struct leaving *leaving;   // by id
    struct leaving *unremoved; // of these, the longest first
    struct leaving *asked;     // those that are asked for in this round
    struct round round;
    uint64_t cleared;     // number in the outbox of what was cleared last
    struct leaving *gone; // by id, the longest first: a broker that falls back has them again
};

static struct leaving *find(const struct clearing *clearing, int64_t device_id) {
    struct leaving *leaving;
    HASH_FIND(hh, clearing->leaving, &device_id, sizeof device_id, leaving);
    return leaving;
}

bool clearing_is_under_way(const struct clearing *clearing, int64_t device_id) {
    return find(clearing, device_id) != NULL;
}

bool clearing_is_clear(const struct clearing *clearing) {
    return clearing->unremoved == NULL;
}

// --- all but telemetry ---

// As far as the broker keeps up: a registry may lose all its devices at once.
static bool remove_devices(void *context) {
    struct clearing *clearing = context;
    struct leaving *leaving;
    while ((leaving = clearing->unremoved) != NULL && bus_keeps_up(clearing->bus) &&
           publisher_goes_on(clearing->publisher)) {
        DL_DELETE(clearing->unremoved, leaving);
        leaving->removed = true;
        leaving->generation = generation_write(clearing->generation);
        clearing->remove(clearing->context, leaving->device_id,
                         *leaving->ident != '\0' ? leaving->ident : NULL);
    }
    return clearing->unremoved == NULL;
}

// --- those that are gone ---

static void drop_gone(struct clearing *clearing, struct leaving *gone) {
    HASH_DEL(clearing->gone, gone);
    free(gone);
}

static void drop_gone_id(struct clearing *clearing, int64_t device_id) {
    struct leaving *gone;
    HASH_FIND(hh, clearing->gone, &device_id, sizeof device_id, gone);
    if (gone != NULL)
        drop_gone(clearing, gone);
}

static void remember(struct clearing *clearing, struct leaving *leaving) {
    drop_gone_id(clearing, leaving->device_id);
    HASH_ADD(hh, clearing->gone, device_id, sizeof leaving->device_id, leaving);
    if (HASH_COUNT(clearing->gone) > GONE_MAX)
        drop_gone(clearing, clearing->gone);
}

static void note_asked(struct clearing *clearing, struct leaving *leaving, bool asked) {
    if (asked && !leaving->asked)
        DL_APPEND2(clearing->asked, leaving, prev_asked, next_asked);
    else if (!asked && leaving->asked)
        DL_DELETE2(clearing->asked, leaving, prev_asked, next_asked);
    leaving->asked = asked;
}

static void leave(struct clearing *clearing, struct leaving *leaving) {
    note_asked(clearing, leaving, false);
    HASH_DEL(clearing->leaving, leaving);
    if (!leaving->removed)
        DL_DELETE(clearing->unremoved, leaving);
    if (leaving->orphan)
        free(leaving);
    else
        remember(clearing, leaving);
}

// --- telemetry ---

const char *clearing_filter_of_all(const struct bus *bus, char filter[TOPIC_MAX]) {
    return bus_topic(bus, filter, TOPIC_STATE TOPIC_DEVICES "+" TOPIC_TELEMETRY "+");
}

static const char *device_filter(const struct clearing *clearing, int64_t device_id, const char *rest,
                                 char filter[TOPIC_MAX]) {
    return bus_topic(clearing->bus, filter, TOPIC_STATE TOPIC_DEVICES "%lld%s", (long long)device_id, rest);
}

static bool clear(struct clearing *clearing, int64_t device_id, const char *field) {
    uint64_t number =
        bus_publish(clearing->bus, NULL, MQTT_RETAINED, TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_TELEMETRY "%s",
                    (long long)device_id, field);
    if (number != 0)
        clearing->cleared = number;
    return number != 0;
}

// It is not known yet whether it is one.
static bool is_looked_at(const struct leaving *leaving) {
    return leaving->orphan && leaving->looks < LOOKS;
}

// What is not cleared is asked for again: messages come first.
void clearing_heard_telemetry(struct clearing *clearing, int64_t device_id, const char *field) {
    struct leaving *leaving = find(clearing, device_id);
    if (leaving == NULL || !leaving->asked || is_looked_at(leaving))
        return;
    if (strcmp(field, LAST_FIELD) == 0) {
        leaving->has_timestamp = true;
        return;
    }
    leaving->answered = true;
    if (bus_keeps_up(clearing->bus))
        clear(clearing, device_id, field);
}

void clearing_goes_on(struct clearing *clearing) {
    clearing->round.heard = uv_now(clearing->timer.loop);
}

// --- rounds ---

static void on_timer(uv_timer_t *timer);

// In another turn of the loop: with 0, libuv would look in this one.
static void look_soon(struct clearing *clearing) {
    if (uv_is_active((uv_handle_t *)&clearing->timer))
        uv_timer_start(&clearing->timer, on_timer, 1, INTERVAL);
}

static void send_mark(struct clearing *clearing) {
    struct round *round = &clearing->round;
    json_t *mark = json_integer(++round->number);
    bus_publish(clearing->bus, mark, MQTT_NOT_RETAINED, TOPIC_STATE TOPIC_INSTANCES "%s" TOPIC_MARK,
                bus_client_id(clearing->bus));
    json_decref(mark);
    round->sent = uv_now(clearing->timer.loop);
    round->marks++;
}

// Where no mark comes back, because an access list forbids it or the way there and back takes longer and longer,
// silence alone says that the broker has told all.
static void give_up_on_marks(struct clearing *clearing) {
    log_about("mark", LOG_WARNING,
              "%s/" TOPIC_STATE TOPIC_INSTANCES "%s" TOPIC_MARK
              " does not come back from the broker: whether the telemetry of removed devices is cleared is "
              "told by silence",
              bus_prefix(clearing->bus), bus_client_id(clearing->bus));
    clearing->round.marked = clearing->round.silent = true;
    clearing_goes_on(clearing);
}

void clearing_heard_mark(struct clearing *clearing, const struct mqtt_received *received) {
    const struct round *round = &clearing->round;
    char text[16];
    snprintf(text, sizeof text, "%.*s", (int)(received->length < sizeof text ? received->length : 0),
             received->payload);
    unsigned long number = strtoul(text, NULL, 10);
    if (received->retain || !round->under_way || number > round->number ||
        number <= round->number - round->marks)
        return;
    clearing->round.marked = !round->asking;
    clearing_goes_on(clearing);
    if (round->asking)
        look_soon(clearing); // the broker is as quick as that
}

// The identity alone at first, and then before the telemetry.
static bool ask_for_one(struct clearing *clearing, struct leaving *leaving) {
    const struct mqtt_asker *asker = &clearing->asker;
    char filter[TOPIC_MAX];
    if (leaving->orphan &&
        !asker->subscribe(asker->context, device_filter(clearing, leaving->device_id, "", filter)))
        return false;
    note_asked(clearing, leaving,
               is_looked_at(leaving) ||
                   asker->subscribe(asker->context, device_filter(clearing, leaving->device_id,
                                                                  TOPIC_TELEMETRY "+", filter)));
    return leaving->asked;
}

// As many as the broker tells of while a round lasts.
static bool may_ask_more(const struct clearing *clearing) {
    const struct round *round = &clearing->round;
    return round->asked < ASKED_MAX && uv_now(clearing->timer.loop) - round->began < ASK_TIME;
}

// A mark goes behind them.
static void ask_for_some(struct clearing *clearing) {
    struct round *round = &clearing->round;
    struct leaving *leaving, *next;
    unsigned until = round->asked + AT_ONCE;
    HASH_ITER(hh, clearing->leaving, leaving, next) {
        if (leaving->asked)
            continue;
        if (round->asked == until || !ask_for_one(clearing, leaving))
            break;
        round->asked++;
    }
    round->asking = leaving != NULL && may_ask_more(clearing);
    round->marks = 0;
    if (round->asked > 0)
        send_mark(clearing);
}

// What was cleared in the round before would come again until the broker has taken that.
static void begin_round(struct clearing *clearing) {
    if (!clearing_is_clear(clearing) || !bus_has_taken(clearing->bus, clearing->cleared) ||
        !bus_keeps_up(clearing->bus))
        return;
    clearing->round.marked = clearing->round.silent = clearing->round.ending = false;
    clearing->round.asked = 0;
    clearing->round.began = uv_now(clearing->timer.loop);
    ask_for_some(clearing);
    clearing->round.under_way = clearing->round.asked > 0;
}

static void go_on_asking(struct clearing *clearing) {
    if (bus_keeps_up(clearing->bus))
        ask_for_some(clearing);
}

static void stop_asking(struct clearing *clearing, const struct leaving *leaving) {
    const struct mqtt_asker *asker = &clearing->asker;
    char filter[TOPIC_MAX];
    if (leaving->orphan)
        asker->unsubscribe(asker->context, device_filter(clearing, leaving->device_id, "", filter));
    if (!is_looked_at(leaving))
        asker->unsubscribe(asker->context,
                           device_filter(clearing, leaving->device_id, TOPIC_TELEMETRY "+", filter));
}

// Without an identity. Where nothing shows that the broker has told all, nothing is cleared.
static void take_look(struct clearing *clearing, struct leaving *leaving) {
    leaving->looks++;
    if (clearing->round.silent)
        leave(clearing, leaving);
}

static void take_result(struct clearing *clearing, struct leaving *leaving) {
    if (is_looked_at(leaving)) {
        take_look(clearing, leaving);
        return;
    }
    bool again = leaving->answered && ++leaving->rounds < ROUNDS_MAX;
    leaving->answered = false;
    if (again || (leaving->has_timestamp && !clear(clearing, leaving->device_id, LAST_FIELD)))
        return;
    if (leaving->has_timestamp) // its id may be another device's by now
        clearing->emptied(clearing->context, leaving->device_id, LAST_FIELD);
    leave(clearing, leaving);
}

static void end_round(struct clearing *clearing) {
    clearing->round.ending = true;
    for (int i = 0; i < ENDED_MAX && clearing->asked != NULL; i++) {
        struct leaving *leaving = clearing->asked;
        stop_asking(clearing, leaving);
        note_asked(clearing, leaving, false);
        take_result(clearing, leaving);
    }
    clearing->round.under_way = clearing->asked != NULL;
    look_soon(clearing);
}

static void on_timer(uv_timer_t *timer) {
    struct clearing *clearing = timer->data;
    const struct round *round = &clearing->round;
    uint64_t now = uv_now(timer->loop);
    if (!round->under_way)
        begin_round(clearing);
    else if (round->asking)
        go_on_asking(clearing);
    else if (round->ending || (round->marked && now - round->heard > QUIET_TIME))
        end_round(clearing);
    else if (!round->marked && now - round->sent > MARK_TIME && round->marks < MARKS_MAX)
        send_mark(clearing);
    else if (!round->marked && now - round->sent > MARK_TIME)
        give_up_on_marks(clearing);
    if (clearing->leaving == NULL && !round->under_way)
        uv_timer_stop(timer);
}

// --- what others call ---

static void start_timer(struct clearing *clearing) {
    uv_handle_t *handle = (uv_handle_t *)&clearing->timer;
    if (!uv_is_active(handle) && !uv_is_closing(handle))
        uv_timer_start(&clearing->timer, on_timer, INTERVAL, INTERVAL);
}

static struct leaving *find_or_make(struct clearing *clearing, int64_t device_id) {
    struct leaving *leaving = find(clearing, device_id);
    if (leaving != NULL)
        return leaving;
    leaving = must_have(calloc(1, sizeof *leaving));
    leaving->device_id = device_id;
    leaving->removed = true;
    HASH_ADD(hh, clearing->leaving, device_id, sizeof leaving->device_id, leaving);
    start_timer(clearing);
    return leaving;
}

void clearing_begin(struct clearing *clearing, int64_t device_id, const char *ident) {
    struct leaving *leaving = find_or_make(clearing, device_id);
    if (ident != NULL)
        snprintf(leaving->ident, sizeof leaving->ident, "%s", ident);
    if (leaving->asked)
        stop_asking(clearing, leaving);
    if (leaving->removed)
        DL_APPEND(clearing->unremoved, leaving);
    note_asked(clearing, leaving, false);
    leaving->removed = leaving->orphan = leaving->answered = leaving->has_timestamp = false;
    leaving->rounds = 0;
    publisher_wake(clearing->publisher);
}

void clearing_begin_orphan(struct clearing *clearing, int64_t device_id) {
    if (find(clearing, device_id) != NULL)
        return;
    find_or_make(clearing, device_id)->orphan = true;
}

void clearing_heard_identity(struct clearing *clearing, int64_t device_id) {
    struct leaving *leaving = find(clearing, device_id);
    if (leaving == NULL || !leaving->orphan)
        return;
    if (leaving->asked)
        stop_asking(clearing, leaving);
    leave(clearing, leaving);
}

void clearing_restore(struct clearing *clearing, struct generation_span lost) {
    struct leaving *gone, *next;
    HASH_ITER(hh, clearing->leaving, gone, next) { // its telemetry may still be asked for
        if (!gone->orphan && gone->removed && gone->generation > lost.after && gone->generation < lost.before)
            clearing_begin(clearing, gone->device_id, NULL); // its ident is known
    }
    HASH_ITER(hh, clearing->gone, gone, next) {
        if (gone->generation <= lost.after)
            continue;
        HASH_DEL(clearing->gone, gone);
        clearing_begin(clearing, gone->device_id, *gone->ident != '\0' ? gone->ident : NULL);
        free(gone);
    }
}

void clearing_link_down(struct clearing *clearing) {
    clearing->round.under_way = false;
    while (clearing->asked != NULL) {
        clearing->asked->answered = false;
        note_asked(clearing, clearing->asked, false);
    }
}

struct clearing *clearing_new(uv_loop_t *loop, const struct bus *bus, const struct mqtt_asker *asker,
                              struct publisher *publisher, struct generation *generation,
                              clearing_remove_fn *remove, clearing_emptied_fn *emptied, void *context) {
    struct clearing *clearing = must_have(calloc(1, sizeof *clearing));
    clearing->bus = bus;
    clearing->asker = *asker;
    clearing->publisher = publisher;
    clearing->generation = generation;
    clearing->remove = remove;
    clearing->emptied = emptied;
    clearing->context = context;
    uv_timer_init(loop, &clearing->timer);
    clearing->timer.data = clearing;
    publisher_add(publisher, remove_devices, clearing);
    return clearing;
}

void clearing_stop(struct clearing *clearing) {
    uv_close((uv_handle_t *)&clearing->timer, NULL);
    while (clearing->leaving != NULL)
        leave(clearing, clearing->leaving);
}

void clearing_free(struct clearing *clearing) {
    while (clearing->gone != NULL)
        drop_gone(clearing, clearing->gone);
    free(clearing);
}
