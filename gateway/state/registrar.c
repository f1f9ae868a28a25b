// The registry in the broker; see registrar.h.
#include "gateway/state/registrar.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/clean.h"
#include "gateway/base/clock.h"
#include "gateway/base/limiter.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/table.h"
#include "gateway/base/text.h"
#include "gateway/config/listing.h"

#define PORTION       5000000 // nanoseconds of one turn of the loop
#define CROWD         1000 // entries at which a broker may have left out some: Mosquitto's limit of queued messages
#define SLOW          15      // times the quiet time: and when not even one entry has come
#define ASKED_MAX     50      // that are asked for by name at once
#define TRIES_MAX     5       // that the broker does not even tell of one that it has
#define ROUNDS_MAX    10      // in a row that it is asked for all
#define RIGHT_AFTER   1000000 // microseconds until what was refused is put right: its writer may still mend it
#define EVENT_REFUSED 4
#define REFUSALS      20 // log entries in a second
#define QUOTE_MAX     300
#define CONFIGURED    0 // number of a row in the store that is none of the broker's: idents of the configuration

// Where a record waits.
enum wait {
    WAITS_NOWHERE,
    WAITS_FOR_ITS_PORTION, // to take what was heard
    WAITS_FOR_SETTLING,    // the same, once it is known how old the broker's state is
    WAITS_TO_BE_TOLD,      // the broker, what holds
    WAITS_TO_BE_ASKED_FOR, // the broker has told of a crowd, and not of this one
    WAITS_FOR_THE_ANSWER,  // it was asked for by name
};

// What is known of an ident.
struct record {
    char *ident;
    char *text;          // payload that holds, or of a device that was removed held; NULL: none
    bool removed;        // it holds no longer
    int64_t number;      // on disk; 0: not there
    uint32_t generation; // the broker has it by then; 0: not known
    uint32_t written;    // generation in which it was heard, until the broker has said that; 0: none
    unsigned told;       // round in which the broker has told something of it
    char *heard;         // payload that came and is still to be taken, or NULL
    size_t heard_length;
    bool early;         // heard: retained, before it was known how old the broker's state is
    bool missing;       // to be told since the broker has lost it
    int64_t not_before; // to be told: by clock_ticks()
    enum wait waits;
    struct record *prev, *next; // in the list that it waits in
    struct record *prev_written, *next_written;
    struct record *prev_removed, *next_removed;
    UT_hash_handle hh;
};

struct registrar {
    struct registrar_parts parts;
    json_t *rules;
    struct record *records; // by ident
    struct record *queue, *parked, *due, *missing, *asked;
    struct record *written; // the longest first
    struct record *removed; // the longest first
    size_t removed_count;
    int64_t last_number; // on disk
    unsigned connections;
    // In each the broker tells of all: one begins when we connect, and one whenever it is asked again.
    unsigned round;
    unsigned asked_again; // rounds in a row
    bool is_round;        // one that it was asked for is under way
    size_t told;          // retained entries that came in this round
    size_t news;          // entries that said something new, since the round began
    uint64_t heard;       // the last entry, by uv_now()
    struct record *mark;  // asked for behind others: once the broker has told of it, it has told of those
    unsigned tries;       // that it did not
    uv_timer_t timer;     // runs while the broker may have more to tell
    bool settled, remembered;
    struct generation_span lost;
    struct record *sweep; // looks for those that the broker has not told of
    bool sweeping;
    size_t again;
    uint64_t configured; // hash of what the store says that the configuration has; 0: nothing
    struct limiter *limiter;
    uv_idle_t idle; // runs while something waits for its portion
};

// --- records ---

static struct record *find(const struct registrar *registrar, const char *ident) {
    struct record *record;
    HASH_FIND_STR(registrar->records, ident, record);
    return record;
}

static bool holds(const struct record *record) {
    return record->text != NULL && !record->removed;
}

static struct record **list_of(struct registrar *registrar, enum wait waits) {
    switch (waits) {
    case WAITS_FOR_ITS_PORTION:
        return &registrar->queue;
    case WAITS_FOR_SETTLING:
        return &registrar->parked;
    case WAITS_TO_BE_TOLD:
        return &registrar->due;
    case WAITS_TO_BE_ASKED_FOR:
        return &registrar->missing;
    default:
        return &registrar->asked;
    }
}

static const char *filter_of(const struct registrar *registrar, const char *ident, char filter[TOPIC_MAX]) {
    return bus_topic(registrar->parts.bus, filter, TOPIC_REGISTRY TOPIC_DEVICES "%s", ident);
}

static bool ask_for(const struct registrar *registrar, const char *ident) {
    const struct mqtt_asker *asker = &registrar->parts.asker;
    char filter[TOPIC_MAX];
    return asker->subscribe(asker->context, filter_of(registrar, ident, filter));
}

static void ask_no_more_for(const struct registrar *registrar, const char *ident) {
    const struct mqtt_asker *asker = &registrar->parts.asker;
    char filter[TOPIC_MAX];
    asker->unsubscribe(asker->context, filter_of(registrar, ident, filter));
}

static void wait_nowhere(struct registrar *registrar, struct record *record) {
    if (record->waits != WAITS_NOWHERE)
        DL_DELETE(*list_of(registrar, record->waits), record);
    if (record->waits == WAITS_FOR_THE_ANSWER)
        ask_no_more_for(registrar, record->ident);
    record->waits = WAITS_NOWHERE;
    record->missing = false;
    record->not_before = 0;
}

static void wait_in(struct registrar *registrar, struct record *record, enum wait waits) {
    wait_nowhere(registrar, record);
    DL_APPEND(*list_of(registrar, waits), record);
    record->waits = waits;
}

static void drop_heard(struct record *record) {
    free(record->heard);
    record->heard = NULL;
}

static void leave_removed(struct registrar *registrar, struct record *record) {
    if (!record->removed)
        return;
    DL_DELETE2(registrar->removed, record, prev_removed, next_removed);
    registrar->removed_count--;
    record->removed = false;
}

static void leave_written(struct registrar *registrar, struct record *record) {
    if (record->written != 0)
        DL_DELETE2(registrar->written, record, prev_written, next_written);
    record->written = 0;
}

static void drop(struct registrar *registrar, struct record *record) {
    wait_nowhere(registrar, record);
    leave_removed(registrar, record);
    leave_written(registrar, record);
    if (registrar->sweep == record)
        registrar->sweep = record->hh.next;
    if (registrar->mark == record) {
        ask_no_more_for(registrar, record->ident);
        registrar->mark = NULL;
    }
    HASH_DEL(registrar->records, record);
    drop_heard(record);
    free(record->text);
    free(record->ident);
    free(record);
}

static struct record *make(struct registrar *registrar, const char *ident) {
    struct record *record = must_have(calloc(1, sizeof *record));
    record->ident = must_have(strdup(ident));
    HASH_ADD_KEYPTR(hh, registrar->records, record->ident, strlen(record->ident), record);
    return record;
}

// Of one of which nothing is known any more.
static void drop_if_empty(struct registrar *registrar, struct record *record) {
    if (record->text == NULL && record->heard == NULL && record->waits == WAITS_NOWHERE)
        drop(registrar, record);
}

// --- the disk ---

static void save(struct registrar *registrar, struct record *record) {
    if (registrar->parts.store == NULL || !holds(record))
        return;
    if (record->number == 0)
        record->number = ++registrar->last_number;
    json_t *row = json_pack("{s:s, s:s, s:I}", "ident", record->ident, "payload", record->text, "generation",
                            (json_int_t)record->generation);
    char *text = json_dumps(row, JSON_COMPACT);
    if (text != NULL)
        store_put_device(registrar->parts.store, record->number, text);
    free(text);
    json_decref(row);
}

static void unsave(struct registrar *registrar, struct record *record) {
    if (record->number != 0)
        store_delete_device(registrar->parts.store, record->number);
    record->number = 0;
}

// --- generations ---

// The broker has just said it: it has it by the next number that it will have.
static void note_written(struct registrar *registrar, struct record *record) {
    leave_written(registrar, record);
    record->generation = generation_vouched(registrar->parts.generation);
    record->written = generation_write(registrar->parts.generation);
    DL_APPEND2(registrar->written, record, prev_written, next_written);
}

static void take_vouched(struct registrar *registrar) {
    struct record *record;
    uint32_t vouched = generation_vouched(registrar->parts.generation);
    while ((record = registrar->written) != NULL && record->written <= vouched &&
           publisher_goes_on(registrar->parts.publisher)) {
        record->generation = record->written;
        leave_written(registrar, record);
        save(registrar, record);
    }
}

// Whether the broker was told of it later than it remembers.
static bool is_newer(const struct registrar *registrar, const struct record *record) {
    return record->generation > registrar->lost.after;
}

// --- what is refused ---

static void publish_refusal(struct registrar *registrar, const char *ident, const char *payload,
                            size_t length, const char *problem) {
    char quote[QUOTE_MAX];
    uint64_t now = uv_now(registrar->parts.loop);
    if (!registrar->parts.speaks(registrar->parts.context) || !bus_keeps_up(registrar->parts.bus) ||
        !limiter_allows(registrar->limiter, now, "", 0, NULL))
        return;
    json_t *entry = json_pack("{s:i, s:f, s:s, s:s, s:s, s:s}", "event_code", EVENT_REFUSED, "timestamp",
                              (double)clock_now() / 1e6, "ident", ident, "error_text", problem, "payload",
                              clean_text(payload, length, quote, sizeof quote), "instance",
                              bus_client_id(registrar->parts.bus));
    if (entry != NULL)
        bus_publish(registrar->parts.bus, entry, MQTT_NOT_RETAINED, TOPIC_LOG TOPIC_REFUSED);
    json_decref(entry);
}

static void tell_refusal(struct registrar *registrar, const char *ident, const char *payload, size_t length,
                         const char *problem) {
    log_about(ident, LOG_WARNING, "%s/" TOPIC_REGISTRY TOPIC_DEVICES "%s: refused: %s",
              bus_prefix(registrar->parts.bus), ident, problem);
    publish_refusal(registrar, ident, payload, length, problem);
}

// What stood before stays in force, and in a moment the broker has that again. Where nothing did, a payload that is
// wrong stays as it is, since a later version may know better; but of two with one id (clash), not both may stand there:
// who reads them later would take whichever comes first.
static void refuse(struct registrar *registrar, struct record *record, const char *problem, bool clash) {
    tell_refusal(registrar, record->ident, record->heard, record->heard_length, problem);
    drop_heard(record);
    if (holds(record) || clash) {
        wait_in(registrar, record, WAITS_TO_BE_TOLD);
        record->not_before = clock_ticks() + RIGHT_AFTER;
        publisher_wake(registrar->parts.publisher);
    }
    drop_if_empty(registrar, record);
}

static void note_fault(void *context, const char *path, const char *problem) {
    char **faults = context;
    char *longer =
        text_format("%s%s%s: %s", *faults != NULL ? *faults : "", *faults != NULL ? "; " : "", path, problem);
    free(*faults);
    *faults = longer;
}

// --- what is taken ---

// Why what the broker has of it is not in force, for the caller to free; or NULL.
static char *hidden_by(const struct registrar *registrar, const struct config_device *device) {
    const char *holder = registry_configured_with(registrar->parts.registry, device->id);
    if (registry_is_configured(registrar->parts.registry, device->ident))
        return text_format(
            "the configuration has this ident, and wins: this counts once it has it no longer");
    if (holder == NULL)
        return NULL;
    return text_format(
        "the configuration gives its id, %lld, to %s, and wins: this counts once it does so no longer",
        (long long)device->id, holder);
}

// payload: NULL when nobody has just published it.
static void tell_who_wins(struct registrar *registrar, const struct config_device *device,
                          const char *payload) {
    char *why = hidden_by(registrar, device);
    if (why == NULL)
        return;
    log_about(device->ident, LOG_WARNING,
              "device %s stands in the broker's registry, but the configuration wins: %s", device->ident,
              why);
    if (payload != NULL)
        publish_refusal(registrar, device->ident, payload, strlen(payload), why);
    free(why);
}

// The registry changes now, and nobody points to what it said before.
static void change(struct registrar *registrar, const char *ident, const struct config_device *device,
                   bool stood) {
    struct registry *registry = registrar->parts.registry;
    struct device before = registry_device(registry, ident);
    struct adopted *old =
        device != NULL ? registry_adopt(registry, device) : registry_disown(registry, ident);
    registrar->parts.changed(registrar->parts.context, ident, &before, stood);
    adopted_free(old);
}

static void set_text(struct record *record, const char *text, size_t length) {
    free(record->text);
    record->text = must_have(strndup(text, length));
}

static void take(struct registrar *registrar, struct record *record, const struct config_device *device) {
    bool known = holds(record);
    leave_removed(registrar, record);
    set_text(record, record->heard, record->heard_length);
    drop_heard(record);
    note_written(registrar, record);
    save(registrar, record);
    log_about("registry", LOG_INFO, "device %s (id %lld, name %s) %s by the broker's registry", record->ident,
              (long long)device->id, device->name, known ? "is changed" : "is added");
    tell_who_wins(registrar, device, record->text);
    change(registrar, record->ident, device, record->early && registrar->connections == 1);
}

// Of those that were removed only so many are remembered.
static void remember_removed(struct registrar *registrar, struct record *record) {
    record->removed = true;
    DL_APPEND2(registrar->removed, record, prev_removed, next_removed);
    if (++registrar->removed_count > REGISTRAR_REMOVED_MAX)
        drop(registrar, registrar->removed);
}

static void remove_device(struct registrar *registrar, struct record *record) {
    drop_heard(record);
    if (!holds(record)) {
        drop_if_empty(registrar, record);
        return;
    }
    log_about("registry", LOG_INFO, "device %s is removed from the broker's registry", record->ident);
    unsave(registrar, record);
    note_written(registrar, record);
    change(registrar, record->ident, NULL, false);
    remember_removed(registrar, record);
}

// An id that the configuration gives to another device counts once it does so no longer; but what stands stays in force.
static bool would_go_out_of_force(const struct registrar *registrar, const struct record *record,
                                  const struct config_device *device) {
    const struct config_device *before = registry_adopted(registrar->parts.registry, device->ident);
    return holds(record) && before != NULL && before->id != device->id;
}

// What another device has that id, for the caller to free; NULL when none has that matters. *clash: that is the broker's,
// too.
static char *find_clash(const struct registrar *registrar, const struct record *record,
                        const struct config_device *device, bool *clash) {
    const char *adopted = registry_adopted_with(registrar->parts.registry, device->id);
    const char *configured = registry_configured_with(registrar->parts.registry, device->id);
    *clash = adopted != NULL && strcmp(adopted, device->ident) != 0;
    if (*clash)
        return text_format("device %s has the id %lld, which device %s already has", device->ident,
                           (long long)device->id, adopted);
    if (configured == NULL || strcmp(configured, device->ident) == 0 ||
        !would_go_out_of_force(registrar, record, device))
        return NULL;
    return text_format("device %s has the id %lld, which device %s of the configuration already has",
                       device->ident, (long long)device->id, configured);
}

static void take_heard(struct registrar *registrar, struct record *record) {
    struct config_device device;
    char *faults = NULL;
    bool clash = false;
    json_t *json = record->heard_length > REGISTRAR_PAYLOAD_MAX
                       ? NULL
                       : listing_read(registrar->rules, record->ident, record->heard, record->heard_length,
                                      note_fault, &faults, &device);
    if (json != NULL)
        faults = find_clash(registrar, record, &device, &clash);
    if (json != NULL && faults == NULL)
        take(registrar, record, &device);
    else
        refuse(registrar, record, faults != NULL ? faults : "it has more than 16384 bytes", clash);
    json_decref(json);
    free(faults);
}

static bool is_heard(const struct record *record, const char *text) {
    return record->heard_length == strlen(text) && memcmp(record->heard, text, record->heard_length) == 0;
}

// What the broker retained at the beginning is older than what we know: it gets that again.
static bool is_outdated(const struct registrar *registrar, const struct record *record) {
    return record->early && registrar->remembered && record->text != NULL && is_newer(registrar, record) &&
           (!record->removed || is_heard(record, record->text));
}

static void tell_again(struct registrar *registrar, struct record *record) {
    registrar->again++;
    wait_in(registrar, record, WAITS_TO_BE_TOLD);
    record->missing = true;
    publisher_wake(registrar->parts.publisher);
}

static void take_next(struct registrar *registrar) {
    struct record *record = registrar->queue;
    wait_nowhere(registrar, record);
    if (is_outdated(registrar, record)) {
        drop_heard(record);
        tell_again(registrar, record);
    } else if (record->heard_length == 0) {
        remove_device(registrar, record);
    } else {
        take_heard(registrar, record);
    }
}

// --- what the broker has not told of ---

static void on_timer(uv_timer_t *timer);

static void watch_what_comes(struct registrar *registrar) {
    uint64_t interval = registrar->parts.quiet_time / 4 + 1;
    uv_handle_t *handle = (uv_handle_t *)&registrar->timer;
    if (!uv_is_active(handle) && !uv_is_closing(handle))
        uv_timer_start(&registrar->timer, on_timer, interval, interval);
}

// In a later round of a connection nothing is given back: what is missing there has just been removed, or left out.
static void sweep_one(struct registrar *registrar, struct record *record) {
    if (!holds(record) || record->told == registrar->round || record->waits != WAITS_NOWHERE)
        return;
    if (registrar->asked_again == 0 &&
        (!registrar->remembered || is_newer(registrar, record) || record->written != 0))
        tell_again(registrar, record);
    else if (registrar->asked_again == 0 && registrar->told < CROWD)
        remove_device(registrar, record);
    else
        wait_in(registrar, record, WAITS_TO_BE_ASKED_FOR);
}

static void end_sweep(struct registrar *registrar) {
    registrar->sweeping = false;
    if (registrar->again > 0 && registrar->parts.speaks(registrar->parts.context))
        log_warning(
            "%zu devices of the registry were missing at the broker, or older there; publishing them again",
            registrar->again);
    if (registrar->missing != NULL)
        watch_what_comes(registrar);
}

static void sweep_next(struct registrar *registrar) {
    struct record *record = registrar->sweep;
    if (record == NULL) {
        end_sweep(registrar);
        return;
    }
    registrar->sweep = record->hh.next;
    sweep_one(registrar, record);
}

// --- portions ---

static bool has_work(const struct registrar *registrar) {
    return registrar->queue != NULL || registrar->sweeping;
}

static void on_idle(uv_idle_t *idle) {
    struct registrar *registrar = idle->data;
    uint64_t end = uv_hrtime() + PORTION;
    if (registrar->parts.is_busy(registrar->parts.context))
        return;
    while (has_work(registrar) && uv_hrtime() < end) {
        if (registrar->queue != NULL)
            take_next(registrar);
        else
            sweep_next(registrar);
    }
    if (!has_work(registrar))
        uv_idle_stop(idle);
}

static void start_work(struct registrar *registrar) {
    if (!uv_is_closing((uv_handle_t *)&registrar->idle))
        uv_idle_start(&registrar->idle, on_idle);
}

size_t registrar_count(const struct registrar *registrar) {
    return HASH_COUNT(registrar->records);
}

// --- what a broker leaves out ---
//
// A broker whose queue for a client is full drops what comes next, and nobody learns of it. So it is asked again for all
// when very much has come, until nothing new comes; and whoever it has not told of in a crowd is asked for by name before
// that counts as removed. Behind these it is asked for one that it has told of: with that, their answers are in.

static bool is_at_the_broker(const struct registrar *registrar, const struct record *record) {
    return holds(record) && record->told == registrar->round && record->waits == WAITS_NOWHERE;
}

static struct record *find_mark(const struct registrar *registrar) {
    struct record *record = registrar->records;
    while (record != NULL && !is_at_the_broker(registrar, record))
        record = record->hh.next;
    return record;
}

static void ask_for_missing(struct registrar *registrar) {
    struct record *record;
    size_t count = 0;
    while ((record = registrar->missing) != NULL && count++ < ASKED_MAX && ask_for(registrar, record->ident))
        wait_in(registrar, record, WAITS_FOR_THE_ANSWER);
    registrar->heard = uv_now(registrar->parts.loop);
    record = find_mark(registrar);
    if (record == NULL || !ask_for(registrar, record->ident))
        return;
    record->told = 0;
    registrar->mark = record;
}

static bool take_mark(struct registrar *registrar) {
    struct record *mark = registrar->mark;
    if (mark == NULL)
        return false;
    bool told = mark->told == registrar->round;
    ask_no_more_for(registrar, mark->ident);
    mark->told = registrar->round;
    registrar->mark = NULL;
    return told;
}

static void tell_that_they_stay(struct registrar *registrar) {
    log_warning("the broker does not answer which devices of its registry it has: those that it did not tell "
                "of stay");
    while (registrar->missing != NULL)
        wait_nowhere(registrar, registrar->missing);
    registrar->tries = 0;
}

static void take_answer(struct registrar *registrar, struct record *record, bool answered) {
    bool told = record->told == registrar->round;
    wait_nowhere(registrar, record);
    if (!told && answered)
        remove_device(registrar, record);
    else if (!told)
        wait_in(registrar, record, WAITS_TO_BE_ASKED_FOR);
}

static void take_answers(struct registrar *registrar) {
    bool answered = take_mark(registrar);
    registrar->tries = answered ? 0 : registrar->tries + 1;
    while (registrar->asked != NULL)
        take_answer(registrar, registrar->asked, answered);
    if (registrar->tries == TRIES_MAX)
        tell_that_they_stay(registrar);
}

static bool asks_for_all(const struct registrar *registrar) {
    return registrar->news >= CROWD || (registrar->asked_again > 0 && registrar->news > 0);
}

static void begin_round(struct registrar *registrar) {
    registrar->asked_again++;
    registrar->round++;
    registrar->news = registrar->told = 0;
    registrar->heard = uv_now(registrar->parts.loop);
    registrar->is_round = true;
}

static void ask_for_all(struct registrar *registrar) {
    if (registrar->asked_again < ROUNDS_MAX) {
        if (ask_for(registrar, "+"))
            begin_round(registrar);
        return;
    }
    log_warning(
        "the broker tells of other devices of its registry each time that it is asked: its queue for one "
        "client may be too short (in Mosquitto: max_queued_messages)");
    registrar->news = registrar->asked_again = 0;
}

static void sweep(struct registrar *registrar) {
    registrar->is_round = false;
    registrar->sweeping = true;
    registrar->sweep = registrar->records;
    start_work(registrar);
}

// A broker that is slow has told nothing yet.
static bool is_quiet(const struct registrar *registrar) {
    uint64_t silence = uv_now(registrar->parts.loop) - registrar->heard;
    bool waits = registrar->is_round && registrar->told == 0;
    return registrar->settled && !has_work(registrar) &&
           silence >= registrar->parts.quiet_time * (waits ? SLOW : 1);
}

static void on_timer(uv_timer_t *timer) {
    struct registrar *registrar = timer->data;
    if (!is_quiet(registrar))
        return;
    if (registrar->is_round) {
        sweep(registrar);
    } else if (registrar->asked != NULL) {
        take_answers(registrar);
    } else if (registrar->missing != NULL) {
        ask_for_missing(registrar);
    } else if (asks_for_all(registrar)) {
        ask_for_all(registrar);
    } else {
        registrar->news = registrar->asked_again = 0;
        uv_timer_stop(timer);
    }
}

// --- telling the broker ---

static void tell(struct registrar *registrar, struct record *record) {
    const struct bus *bus = registrar->parts.bus;
    char topic[TOPIC_MAX];
    bool missing = record->missing, stands = holds(record);
    bus_topic(bus, topic, TOPIC_REGISTRY TOPIC_DEVICES "%s", record->ident);
    if (bus_publish_text(bus, topic, stands ? record->text : "", stands ? strlen(record->text) : 0,
                         MQTT_RETAINED) == 0)
        return; // the outbox is full: later
    wait_nowhere(registrar, record);
    if (missing) {
        uint32_t generation = record->generation; // until the broker has the next one
        note_written(registrar, record);
        record->generation = generation;
    }
    drop_if_empty(registrar, record);
}

// True when nothing is left for us to tell.
static bool tell_some(struct registrar *registrar) {
    struct record *record, *next;
    if (registrar->due == NULL || !registrar->parts.speaks(registrar->parts.context))
        return true;
    DL_FOREACH_SAFE(registrar->due, record, next) {
        if (!bus_keeps_up(registrar->parts.bus) || !publisher_goes_on(registrar->parts.publisher))
            return false;
        if (record->not_before <= clock_ticks())
            tell(registrar, record);
    }
    return registrar->due == NULL;
}

static bool publish(void *context) {
    struct registrar *registrar = context;
    take_vouched(registrar);
    return tell_some(registrar) && registrar->written == NULL;
}

// --- what comes ---

void registrar_connected(struct registrar *registrar) {
    struct record *record, *next;
    registrar->connections++;
    registrar->round++;
    registrar->told = registrar->news = registrar->asked_again = registrar->tries = 0;
    registrar->settled = registrar->sweeping = registrar->is_round = false;
    registrar->sweep = NULL;
    take_mark(registrar);
    while (registrar->missing != NULL)
        wait_nowhere(registrar, registrar->missing);
    while (registrar->asked != NULL)
        wait_nowhere(registrar, registrar->asked);
    DL_FOREACH_SAFE(registrar->parked, record, next) { // comes again
        drop_heard(record);
        wait_nowhere(registrar, record);
    }
}

void registrar_settled(struct registrar *registrar, bool remembered, struct generation_span lost) {
    registrar->settled = true;
    registrar->remembered = remembered;
    registrar->lost = lost;
    registrar->again = 0;
    while (registrar->parked != NULL)
        wait_in(registrar, registrar->parked, WAITS_FOR_ITS_PORTION);
    sweep(registrar);
}

// Says nothing new: it is what holds, or empties what does not.
static bool is_known(const struct record *record, const struct mqtt_received *received) {
    if (received->length == 0)
        return record == NULL || (!holds(record) && record->heard == NULL);
    return record != NULL && holds(record) && strlen(record->text) == received->length &&
           memcmp(record->text, received->payload, received->length) == 0;
}

static void keep_heard(struct registrar *registrar, struct record *record,
                       const struct mqtt_received *received) {
    drop_heard(record);
    record->heard = must_have(calloc(1, received->length + 1));
    if (received->length > 0)
        memcpy(record->heard, received->payload, received->length);
    record->heard_length = received->length;
    record->early = received->retain && !registrar->settled;
    registrar->news++;
    watch_what_comes(registrar);
    wait_in(registrar, record,
            record->early && record->text != NULL ? WAITS_FOR_SETTLING : WAITS_FOR_ITS_PORTION);
    start_work(registrar);
}

static void hear_known(struct registrar *registrar, struct record *record) {
    if (record == NULL)
        return;
    drop_heard(record);
    wait_nowhere(registrar, record);
    drop_if_empty(registrar, record);
}

void registrar_received(struct registrar *registrar, const char *ident,
                        const struct mqtt_received *received) {
    struct record *record = find(registrar, ident);
    registrar->told += received->retain;
    registrar->heard = uv_now(registrar->parts.loop);
    if (record != NULL)
        record->told = registrar->round;
    if (is_known(record, received)) {
        hear_known(registrar, record);
        return;
    }
    if (record == NULL && HASH_COUNT(registrar->records) - registrar->removed_count >= REGISTRAR_MAX) {
        tell_refusal(registrar, ident, received->payload, received->length,
                     "the registry in the broker has 200000 devices already");
        return;
    }
    if (record == NULL)
        record = make(registrar, ident);
    record->told = registrar->round;
    keep_heard(registrar, record, received);
}

// --- what the configuration has ---

void registrar_remember_configured(struct registrar *registrar) {
    struct store *store = registrar->parts.store;
    uint64_t hash;
    const char *idents = registry_configured(registrar->parts.registry, &hash);
    if (store != NULL && hash != registrar->configured && hash != 0) {
        char *row = text_format("{\"configured\":\"%s\"}", idents); // there is nothing to escape in an ident
        store_put_device(store, CONFIGURED, row);
        free(row);
    } else if (store != NULL && hash != registrar->configured) {
        store_delete_device(store, CONFIGURED);
    }
    registrar->configured = hash;
}

static void take_configured(struct registrar *registrar, const char *idents) {
    char *copy = must_have(strdup(idents)), *rest = NULL;
    registrar->configured = registry_hash_of(idents);
    for (char *ident = strtok_r(copy, " ", &rest); ident != NULL; ident = strtok_r(NULL, " ", &rest))
        if (!registry_is_configured(registrar->parts.registry, ident))
            registry_note_left(registrar->parts.registry, ident);
    free(copy);
}

// --- the beginning ---

static void take_row(struct registrar *registrar, int64_t number, const char *ident, const char *payload,
                     uint32_t generation) {
    struct config_device device;
    char *faults = NULL;
    bool clash = true;
    json_t *json =
        find(registrar, ident) == NULL
            ? listing_read(registrar->rules, ident, payload, strlen(payload), note_fault, &faults, &device)
            : NULL;
    if (json != NULL)
        clash = registry_adopted_with(registrar->parts.registry, device.id) != NULL;
    if (clash) {
        log_error("device %s in the store is invalid, dropped: %s", ident,
                  faults != NULL ? faults : "it is there twice");
        store_delete_device(registrar->parts.store, number);
    } else {
        struct record *record = make(registrar, ident);
        record->number = number;
        record->generation = generation;
        set_text(record, payload, strlen(payload));
        adopted_free(registry_adopt(registrar->parts.registry, &device));
        tell_who_wins(registrar, &device, NULL);
    }
    json_decref(json);
    free(faults);
}

static void take_stored(void *context, int64_t number, const char *entry) {
    struct registrar *registrar = context;
    json_t *row = json_loads(entry, 0, NULL);
    const char *ident = json_string_value(json_object_get(row, "ident"));
    const char *payload = json_string_value(json_object_get(row, "payload"));
    const char *configured = json_string_value(json_object_get(row, "configured"));
    json_int_t generation = json_integer_value(json_object_get(row, "generation"));
    if (number > registrar->last_number)
        registrar->last_number = number;
    if (number == CONFIGURED && configured != NULL)
        take_configured(registrar, configured);
    if (ident != NULL && payload != NULL)
        take_row(registrar, number, ident, payload, (uint32_t)generation);
    json_decref(row);
}

struct registrar *registrar_new(const struct registrar_parts *parts) {
    struct registrar *registrar = must_have(calloc(1, sizeof *registrar));
    registrar->parts = *parts;
    registrar->rules = listing_rules();
    registrar->limiter = must_have(calloc(1, sizeof *registrar->limiter));
    registrar->limiter->per_second = REFUSALS;
    uv_idle_init(parts->loop, &registrar->idle);
    uv_timer_init(parts->loop, &registrar->timer);
    registrar->idle.data = registrar->timer.data = registrar;
    publisher_add(parts->publisher, publish, registrar);
    if (parts->store != NULL)
        store_each_device(parts->store, take_stored, registrar);
    if (registry_count_adopted(parts->registry) > 0)
        log_info("%zu devices of the broker's registry are known from the last run",
                 registry_count_adopted(parts->registry));
    return registrar;
}

void registrar_stop(struct registrar *registrar) {
    uv_close((uv_handle_t *)&registrar->idle, NULL);
    uv_close((uv_handle_t *)&registrar->timer, NULL);
}

void registrar_free(struct registrar *registrar) {
    while (registrar->records != NULL)
        drop(registrar, registrar->records);
    json_decref(registrar->rules);
    free(registrar->limiter);
    free(registrar);
}
