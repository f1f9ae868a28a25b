// What is retained for each device; see devices.h.
#include "gateway/state/devices.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/clock.h"
#include "gateway/base/hash.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/table.h"
#include "gateway/base/text.h"
#include "gateway/broker/mqtt_link.h"
#include "gateway/channels/event.h"
#include "gateway/state/alarms.h"
#include "gateway/state/change.h"
#include "gateway/state/newest.h"
#include "gateway/state/owntracks.h"
#include "gateway/state/position.h"
#include "gateway/state/set_back.h"
#include "gateway/state/together.h"
#include "gateway/state/values.h"

// Devices that we do not know and of which the broker tells something; of more, nothing is heard.
#define ELSEWHERE_MAX 400000 // devices of other gateways that are remembered
#define CLAIMS_MAX    400000

// Parts of a device's state that can be due.
enum device_state_part {
    STATE_IDENTITY = 1,
    STATE_CONNECTED = 2,
    STATE_VALUES = 4,    // those that are marked
    STATE_DISCOVERY = 8, // for Home Assistant
    STATE_ACTIVE = 16,   // when its last report came
    STATE_LOCATION = 32, // for OwnTracks
    STATE_CARD = 64,     // the same: what it is called
    STATE_ALARMS = 128,  // for Home Assistant
    STATE_ALL = 255,
    STATE_OF_REPORTS = STATE_VALUES | STATE_ACTIVE | STATE_LOCATION |
                       STATE_ALARMS, // they change with each, and keep to telemetry_interval
};

// Which list a device is in, of those that have something due.
enum waiting {
    WAITING_FOR_NOTHING,
    WAITING_FOR_ITS_TURN,   // in due
    WAITING_FOR_THE_BROKER, // in held
};

struct device_state {
    int64_t id;
    char ident[CODEC_IDENT_MAX + 1];
    char *name;
    int64_t type_id;
    const struct codec *codec; // NULL until it was heard
    uint32_t
        left;    // protocols whose entities may still be at Home Assistant: a bit each, as codec_at() counts
    bool listed; // in the registry
    bool fresh;  // nobody has said yet that it was created
    int64_t heard;         // by clock_ticks()
    char *location;        // for OwnTracks; NULL: none is known
    int64_t located;       // the time of it, by which reports are ordered: microseconds since 1970
    struct alarms alarms;  // for Home Assistant
    int64_t active;        // Unix seconds: when its last report came; 0: none has in this run
    bool undated;          // an earlier run heard it, and the broker has not said when
    int64_t renewed;       // of a stranger: all values, which expire at the broker; by clock_ticks()
    bool connected;        // here, or when another gateway has it, there
    int64_t since;         // no report from before it counts (high-water mark): microseconds since 1970
    struct set_back clock; // the device's
    bool confirmed;        // it came here, or the broker has said what it retains as "connected"
    bool heard_connected;  // live, in this connection: what is read on another connection may be older
    bool heard_holder;     // the same
    bool elsewhere;        // another gateway had it last, and announces it
    uint32_t holder;       // which instance has, or had it, as {id}/instance says: holder_of(); 0: not known
    uint8_t due;           // of enum device_state_part
    enum waiting waiting;
    bool rests;            // STATE_OF_REPORTS was published within telemetry_interval, and waits
    int64_t rests_until;   // by clock_ticks()
    uint64_t last;         // number in the outbox of what was published for it last
    uint32_t stated;       // generation in which identity, instance and connected were; 0: never
    uint32_t active_in;    // the same for active
    uint32_t located_in;   // and location
    uint32_t alarms_in;    // and alarms
    uint32_t carded_in;    // and the card
    uint32_t announced_in; // and what is for Home Assistant
    bool watched;          // its telemetry is, by itself
    uint32_t round;        // that last came by
    struct values values;
    uint32_t reported; // Home Assistant's entities that have a value
    struct home_assistant_announced announced;
    bool settles;       // Home Assistant was told something, and nothing more is said until then:
    int64_t settled_at; // by clock_ticks()
    bool comes_again;   // what was announced is announced once more after that
    bool is_again;      // which is what is due
    struct device_state *prev, *next;
    struct device_state *prev_due, *next_due;
    struct device_state *prev_resting, *next_resting;
    struct device_state *prev_settling, *next_settling;
    UT_hash_handle hh; // by id
};

// What the broker says of a device that we do not know.
struct claim {
    int64_t id;
    bool ours;       // that it was ours
    bool identified; // who it is
    bool reported;   // that it has telemetry
    UT_hash_handle hh;
};

// A device that we do not know, and that the broker says is connected here.
struct denied {
    int64_t id;
    UT_hash_handle hh;
};

// A device that we do not have, and of which another gateway has said whether it is connected.
struct foreign {
    int64_t id;
    uint32_t holder; // which gateway; 0: not known
    bool connected;
    UT_hash_handle hh;
};

// A registry that has changed: first the devices that we have are compared with it, then those that it has are taken.
struct reload {
    enum { RELOAD_NONE, RELOAD_COMPARES, RELOAD_TAKES, RELOAD_TAKES_ADOPTED } phase;
    struct device_state *next; // to be compared
    int64_t *moved;            // ids that devices have no longer
    size_t moved_count, moved_capacity;
    size_t taken;                        // of the configuration
    const struct config_device *adopted; // the last that was taken of the broker's registry
};

// What is to be done for all devices, in portions: what the broker has lost becomes due again, and so does what is for Home
// Assistant; those that are silent for long are forgotten. One that begins while another is under way begins with that anew.
struct round {
    enum {
        ROUND_NONE,
        ROUND_RESTORES = 1,
        ROUND_ANNOUNCES = 2,
        ROUND_ASSERTS = 4,
        ROUND_SWEEPS = 8
    } tasks; // one or more
    struct generation_span lost;
    uint32_t number;
    struct device_state *next; // by age
};

struct devices {
    struct devices_parts parts;
    struct round round;
    struct changes *changes;
    struct newest *newest;
    struct reload reload;
    uint32_t us; // as a holder
    struct device_state *by_id;
    struct device_state *by_age; // in the order in which they were heard, the last at the end (LRU)
    struct device_state *due;    // those with something to publish, the longest first
    struct device_state *held;   // the same, but the broker has not taken yet what was published before
    struct device_state
        *resting; // those whose telemetry was published within telemetry_interval, the longest first
    struct device_state *settling; // those that settle, the longest first
    int64_t interval;              // telemetry_interval in microseconds
    uint64_t removed;              // number in the outbox of what was cleared last
    bool watches_each;             // what others write to telemetry is heard device by device
    struct device_state *to_watch; // those of which that is still to be done begin here
    bool watched_any;              // or was decided to be heard otherwise
    struct device_state *to_leave; // those that are still announced where the last run did begin here
    bool leaves;                   // that has begun
    bool all_read;                 // what the broker retained when we started
    struct claim *claims;          // while we hear what the broker retains
    struct denied *denied;         // those of which it is due to say that they are not
    struct foreign *foreign;
    bool strangers_announced; // to Home Assistant
};

// --- the table ---

static uint32_t holder_of(const char *client_id) {
    uint32_t hash = (uint32_t)hash_fnv1a(client_id, strlen(client_id));
    return hash != 0 ? hash : 1;
}

static struct device_state *find(const struct devices *devices, int64_t id) {
    struct device_state *state;
    HASH_FIND(hh, devices->by_id, &id, sizeof id, state);
    return state;
}

// Parts of what it reported that wait: for telemetry_interval, or until it is known that another gateway has nothing newer. An
// alarm that goes on or off does not rest. And what is for Home Assistant, while that settles.
static unsigned parts_that_wait(const struct devices *devices, const struct device_state *state) {
    unsigned discovery = state->settles ? STATE_DISCOVERY : 0;
    if (newest_is_asked(devices->newest, state->id))
        return discovery | STATE_OF_REPORTS;
    if (!state->rests)
        return discovery;
    return discovery |
           (alarms_are_urgent(&state->alarms) ? STATE_OF_REPORTS & ~STATE_ALARMS : STATE_OF_REPORTS);
}

// It is due, unless all that it has waits.
static void wait_for_turn(struct devices *devices, struct device_state *state) {
    bool may = (state->due & ~parts_that_wait(devices, state)) != 0;
    if (!may || state->waiting != WAITING_FOR_NOTHING)
        return;
    DL_APPEND2(devices->due, state, prev_due, next_due);
    state->waiting = WAITING_FOR_ITS_TURN;
    publisher_wake(devices->parts.publisher);
}

static void mark_due(struct devices *devices, struct device_state *state, unsigned parts) {
    if (!devices->parts.config->home_assistant.enabled)
        parts &= ~(unsigned)(STATE_DISCOVERY | STATE_ALARMS);
    if (!devices->parts.config->owntracks.enabled)
        parts &= ~(unsigned)(STATE_LOCATION | STATE_CARD);
    if (parts == 0)
        return;
    state->due |= (uint8_t)parts;
    wait_for_turn(devices, state);
}

// What was announced is no longer right. Another gateway announces what it has.
static void announce_anew(struct devices *devices, struct device_state *state) {
    state->announced = (struct home_assistant_announced){0};
    if (!state->elsewhere)
        mark_due(devices, state, STATE_DISCOVERY);
}

// --- watching telemetry ---

static const char *telemetry_filter(const struct devices *devices, int64_t id, char filter[TOPIC_MAX]) {
    return bus_topic(devices->parts.bus, filter, TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_TELEMETRY "#",
                     (long long)id);
}

static void watch(struct devices *devices, struct device_state *state) {
    const struct mqtt_asker *asker = &devices->parts.asker;
    char filter[TOPIC_MAX];
    if (state->watched || !devices->watches_each || state->elsewhere || state->values.length == 0)
        return;
    state->watched = true;
    asker->listen(asker->context, telemetry_filter(devices, state->id, filter));
}

static void unwatch(const struct devices *devices, struct device_state *state) {
    const struct mqtt_asker *asker = &devices->parts.asker;
    char filter[TOPIC_MAX];
    if (state->watched)
        asker->drop(asker->context, telemetry_filter(devices, state->id, filter));
    state->watched = false;
}

// An earlier run may have watched those that this one does not.
static void drop_inherited(const struct devices *devices, const struct device_state *state) {
    const struct mqtt_asker *asker = &devices->parts.asker;
    char filter[TOPIC_MAX];
    if (!state->watched)
        asker->drop_inherited(asker->context, telemetry_filter(devices, state->id, filter));
}

void devices_watch_each(struct devices *devices, bool each) {
    devices->watches_each = each;
    devices->to_watch = devices->by_id;
}

bool devices_watch_some(struct devices *devices, size_t count) {
    struct device_state *state;
    for (; count > 0 && (state = devices->to_watch) != NULL; count--) {
        devices->to_watch = state->hh.next;
        if (devices->watches_each)
            watch(devices, state);
        else
            unwatch(devices, state);
        if (!devices->watched_any)
            drop_inherited(devices, state);
    }
    devices->watched_any = devices->watched_any || devices->to_watch == NULL;
    return devices->to_watch == NULL;
}

void devices_link_down(struct devices *devices) {
    struct device_state *state;
    newest_link_down(devices->newest);
    DL_FOREACH(devices->by_age, state) {
        state->heard_connected = state->heard_holder = false;
    }
}

// --- the table: going ---

static void leave_list(struct devices *devices, struct device_state *state) {
    if (state->waiting == WAITING_FOR_THE_BROKER)
        DL_DELETE2(devices->held, state, prev_due, next_due);
    else if (state->waiting == WAITING_FOR_ITS_TURN)
        DL_DELETE2(devices->due, state, prev_due, next_due);
    state->waiting = WAITING_FOR_NOTHING;
}

static void end_rest(struct devices *devices, struct device_state *state) {
    if (state->rests)
        DL_DELETE2(devices->resting, state, prev_resting, next_resting);
    state->rests = false;
}

static void end_settling(struct devices *devices, struct device_state *state) {
    if (state->settles)
        DL_DELETE2(devices->settling, state, prev_settling, next_settling);
    state->settles = false;
}

// What the broker should have already does not wait for telemetry_interval.
static void mark_due_now(struct devices *devices, struct device_state *state, unsigned parts) {
    end_rest(devices, state);
    mark_due(devices, state, parts);
}

static void leave_table(struct devices *devices, struct device_state *state) {
    if (devices->reload.next == state)
        devices->reload.next = state->hh.next;
    if (devices->to_watch == state)
        devices->to_watch = state->hh.next;
    if (devices->to_leave == state)
        devices->to_leave = state->hh.next;
    newest_end(devices->newest, state->id);
    HASH_DEL(devices->by_id, state);
}

static void forget_location(struct device_state *state) {
    free(state->location);
    state->location = NULL;
}

static void forget(struct devices *devices, struct device_state *state) {
    leave_list(devices, state);
    end_rest(devices, state);
    end_settling(devices, state);
    unwatch(devices, state);
    registry_dismiss(devices->parts.registry, state->ident);
    if (devices->round.next == state)
        devices->round.next = state->next;
    DL_DELETE(devices->by_age, state);
    leave_table(devices, state);
    free(state->name);
    values_free(&state->values);
    forget_location(state);
    free(state);
}

static struct device_state *find_or_make(struct devices *devices, int64_t id, const char *ident) {
    struct device_state *state = find(devices, id);
    if (state != NULL)
        return state;
    state = must_have(calloc(1, sizeof *state));
    state->id = id;
    state->fresh = true;
    state->heard = state->renewed = clock_ticks();
    snprintf(state->ident, sizeof state->ident, "%s", ident);
    HASH_ADD(hh, devices->by_id, id, sizeof state->id, state);
    DL_APPEND(devices->by_age, state);
    return state;
}

// --- values ---

// What strangers have said the broker forgets by itself, also when no gateway is there to clear it.
static enum mqtt_retain retention_of(const struct device_state *state) {
    return state->listed ? MQTT_RETAINED : MQTT_RETAINED_FOR_A_WHILE;
}

static uint64_t publish_value(const struct devices *devices, const struct device_state *state,
                              const struct message_member *member, int64_t timestamp) {
    char topic[TOPIC_MAX];
    bus_topic(devices->parts.bus, topic, TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_TELEMETRY "%s%s%.*s",
              (long long)state->id, value_name(member->field), member->index_length > 0 ? "." : "",
              (int)member->index_length, member->index);
    return bus_publish_measured(devices->parts.bus, topic, member->value, member->length, retention_of(state),
                                timestamp);
}

// What memory has no room for goes out each time, if the broker takes it now.
static void publish_at_once(const struct devices *devices, const struct device_state *state,
                            const struct message_member *member, int64_t timestamp) {
    if (bus_keeps_up(devices->parts.bus))
        publish_value(devices, state, member, timestamp);
}

// A field that is not in memory may be one that was never there before.
static void note_field(struct devices *devices, struct device_state *state, enum field field) {
    uint32_t entity = home_assistant_entity_of(field);
    if ((entity & ~state->reported) == 0)
        return;
    state->reported |= entity;
    mark_due(devices, state, STATE_DISCOVERY);
}

static void take_value(struct devices *devices, struct device_state *state,
                       const struct message_member *member, int64_t timestamp, size_t *hint) {
    if (timestamp < state->since)
        return;
    struct value *value = values_find(&state->values, member, hint);
    if (value == NULL)
        note_field(devices, state, member->field);
    switch (values_put(&state->values, value, member, timestamp, hint)) {
    case VALUE_KEPT:
        break;
    case VALUE_CHANGED:
        mark_due(devices, state, STATE_VALUES);
        break;
    case VALUE_NO_ROOM:
        publish_at_once(devices, state, member, timestamp);
        break;
    }
}

static struct value *value_of(const struct device_state *state, enum field field) {
    const struct message_member wanted = {.field = field, .index = ""};
    size_t hint = 0;
    return values_find(&state->values, &wanted, &hint);
}

static void merge_known(const struct device_state *state, struct position *position) {
    const struct value *known = value_of(state, FIELD_NONE);
    position_merge(position, known != NULL ? value_text(known) : NULL, known != NULL ? known->length : 0);
}

static void take_position(struct devices *devices, struct device_state *state,
                          const struct channel_report *report, int64_t timestamp) {
    struct position position;
    position_collect(&position, report->members, report->count);
    if (position.length == 0)
        return;
    if (!position.has_place)
        merge_known(state, &position);
    const struct message_member member = {
        .field = FIELD_NONE, .index = "", .value = position.text, .length = position.length};
    size_t hint = 0;
    take_value(devices, state, &member, timestamp, &hint);
}

// What the report has replaced without saying it is empty from now on, which its topic is told like any value.
static void empty_what_ended(struct devices *devices, struct device_state *state,
                             const struct channel_report *report, int64_t timestamp) {
    struct together together;
    together_read(&together, report);
    struct value *value =
        timestamp >= state->since && together.any ? values_next(&state->values, NULL) : NULL;
    for (; value != NULL; value = values_next(&state->values, value)) {
        const struct message_member nothing = {.field = (enum field)value->field, .index = "", .value = ""};
        size_t hint = 0;
        if (together_ends(&together, nothing.field) &&
            values_put(&state->values, value, &nothing, timestamp, &hint) == VALUE_CHANGED)
            mark_due(devices, state, STATE_VALUES);
    }
}

// --- identity ---

// Telemetry has the identity too, as it was in the last message.
static void renew_value(struct devices *devices, struct device_state *state, enum field field,
                        json_t *value) {
    char *text = text_of_json(value, TEXT_VALUE_DIGITS);
    const struct message_member member = {.field = field, .index = "", .value = text, .length = strlen(text)};
    const struct value *known = value_of(state, field);
    size_t hint = 0;
    if (known != NULL)
        take_value(devices, state, &member, known->timestamp, &hint);
    free(text);
    json_decref(value);
}

// Of the registry one gateway speaks for all, as of commands; of others who hears them.
static void tell_change(const struct devices *devices, const struct device_state *state, enum change change) {
    if (!state->listed || devices->parts.config->commands.intake)
        changes_tell(devices->changes, change, state->id, state->type_id, state->ident, state->name);
}

static bool is_to_be_announced(const struct devices *devices, const struct device_state *state) {
    return state->listed || devices->parts.config->home_assistant.unknown_devices;
}

static void mark_all_of_reports(struct devices *devices, struct device_state *state) {
    values_mark(&state->values);
    if (state->values.length > 0 || state->active != 0)
        mark_due(devices, state, STATE_OF_REPORTS & ~STATE_ALARMS);
    if (state->alarms.known && is_to_be_announced(devices, state))
        mark_due(devices, state, STATE_ALARMS);
    mark_due(devices, state, STATE_CARD);
}

// It is announced no longer: it goes from Home Assistant, with what only that reads.
static void withdraw(struct devices *devices, struct device_state *state) {
    home_assistant_remove(devices->parts.home_assistant, state->id);
    mark_due(devices, state, STATE_ALARMS);
}

static void take_listing(struct devices *devices, struct device_state *state, bool listed) {
    bool before = is_to_be_announced(devices, state);
    bool changed = state->listed != listed;
    state->listed = listed;
    if (changed && before && !is_to_be_announced(devices, state))
        withdraw(devices, state);
    if (!changed)
        return;
    announce_anew(devices, state);
    mark_all_of_reports(devices, state); // it expires now, or does so no more
}

// Once it is known that it is: an earlier run may have said so.
static void tell_created(const struct devices *devices, struct device_state *state) {
    if (!state->fresh)
        return;
    state->fresh = false;
    tell_change(devices, state, CHANGE_CREATED);
    if (devices->parts.config->home_assistant.enabled && !is_to_be_announced(devices, state))
        log_about(
            "adopt", LOG_INFO,
            "device %s is not in the registry, and so not announced to Home Assistant: to adopt it, add "
            "{\"ident\":\"%s\",\"name\":\"…\"} to devices and send SIGHUP, or publish {\"name\":\"…\"} "
            "retained to "
            "%s/" TOPIC_REGISTRY TOPIC_DEVICES "%s",
            state->ident, state->ident, bus_prefix(devices->parts.bus), state->ident);
}

// Another gateway has it, and says who it is.
static bool is_held_elsewhere(const struct device_state *state) {
    return state->elsewhere && state->connected;
}

static void rename_device(struct devices *devices, struct device_state *state, const struct device *device,
                          const char *ident) {
    if (ident != state->ident) // which snprintf() would empty
        snprintf(state->ident, sizeof state->ident, "%s", ident);
    free(state->name);
    state->name = must_have(strdup(device->name));
    state->type_id = device->type_id;
    announce_anew(devices, state);
    renew_value(devices, state, FIELD_DEVICE_ID, json_integer((json_int_t)state->id));
    renew_value(devices, state, FIELD_DEVICE_NAME, json_string(state->name));
    renew_value(devices, state, FIELD_DEVICE_TYPE_ID, json_integer((json_int_t)state->type_id));
    if (!is_held_elsewhere(state))
        mark_due(devices, state, STATE_IDENTITY | STATE_CARD);
}

// Takes over what the registry says. All of a device that is new, or has got another ident, is due.
static void identify(struct devices *devices, struct device_state *state, const struct device *device,
                     const char *ident) {
    bool same = state->name != NULL && strcmp(state->name, device->name) == 0 &&
                state->type_id == device->type_id && strcmp(state->ident, ident) == 0;
    bool told = state->name != NULL && !state->fresh, came = device->listed && !state->listed;
    take_listing(devices, state, device->listed);
    if (!same)
        rename_device(devices, state, device, ident);
    if (told && (came || !same))
        tell_change(devices, state, came ? CHANGE_CREATED : CHANGE_UPDATED);
}

// --- publishing ---

// Of the one that ends first.
static void wake_at_end_of_rest(struct devices *devices) {
    int64_t left = devices->resting != NULL ? devices->resting->rests_until - clock_ticks() : 0;
    if (devices->resting != NULL)
        publisher_wake_in(devices->parts.publisher, left > 0 ? (uint64_t)left / 1000 + 1 : 0);
}

// Telemetry of a device goes out once in telemetry_interval: a change is published at once, and what changes after
// that when the interval is over, as it then is.
static void begin_rest(struct devices *devices, struct device_state *state) {
    if (devices->interval == 0 || state->rests)
        return;
    state->rests_until = clock_ticks() + devices->interval;
    state->rests = true;
    DL_APPEND2(devices->resting, state, prev_resting, next_resting);
    wake_at_end_of_rest(devices);
}

// Those that have rested long enough.
static void wake_rested(struct devices *devices) {
    int64_t now = devices->resting != NULL ? clock_ticks() : 0;
    struct device_state *state;
    while ((state = devices->resting) != NULL && (devices->interval == 0 || state->rests_until <= now)) {
        end_rest(devices, state);
        wait_for_turn(devices, state);
    }
}

void devices_rest_no_more(struct devices *devices) {
    devices->interval = 0;
    wake_rested(devices);
}

// Another gateway that has the device says it.
static void publish_active(struct devices *devices, struct device_state *state) {
    if (state->active == 0 || state->elsewhere)
        return;
    char topic[TOPIC_MAX], text[24];
    bus_topic(devices->parts.bus, topic, TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_ACTIVE, (long long)state->id);
    int length = snprintf(text, sizeof text, "%lld", (long long)state->active);
    bus_publish_measured(devices->parts.bus, topic, text, (size_t)length, retention_of(state),
                         state->clock.newest);
    state->active_in = generation_write(devices->parts.generation);
}

static bool publish_values(struct devices *devices, struct device_state *state) {
    for (struct value *value = NULL; (value = values_next(&state->values, value)) != NULL;) {
        if (value->generation != 0)
            continue;
        if (!bus_keeps_up(devices->parts.bus))
            return false;
        const struct message_member member = value_member(value);
        publish_value(devices, state, &member, value->timestamp);
        value->generation = generation_write(devices->parts.generation);
    }
    return true;
}

static struct owntracks_device describe_for_owntracks(const struct device_state *state) {
    return (struct owntracks_device){.ident = state->ident, .name = state->name, .codec = state->codec};
}

static void publish_location(struct devices *devices, struct device_state *state) {
    if (state->location == NULL || state->elsewhere)
        return;
    owntracks_publish_location(devices->parts.config, devices->parts.bus, state->ident, state->location,
                               retention_of(state));
    state->located_in = generation_write(devices->parts.generation);
}

static void publish_text_of_alarms(const struct devices *devices, const struct device_state *state) {
    bool any = state->alarms.known && is_to_be_announced(devices, state);
    char topic[TOPIC_MAX], *text = any ? alarms_write(&state->alarms, state->codec) : NULL;
    bus_topic(devices->parts.bus, topic, TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_ALARMS, (long long)state->id);
    bus_publish_text(devices->parts.bus, topic, text, any ? strlen(text) : 0,
                     any ? retention_of(state) : MQTT_RETAINED);
    free(text);
}

// Of a device that has none any more, or is announced no longer, the topic is emptied. What is over already, but nobody was
// told, is published first, and then this is due again.
static void publish_alarms(struct devices *devices, struct device_state *state) {
    state->due &= (uint8_t)~STATE_ALARMS;
    if (!state->elsewhere) {
        publish_text_of_alarms(devices, state);
        state->alarms_in = generation_write(devices->parts.generation);
    }
    alarms_note_told(&state->alarms);
    if (alarms_are_urgent(&state->alarms))
        state->due |= STATE_ALARMS;
}

static void publish_card(struct devices *devices, struct device_state *state) {
    struct owntracks_device device = describe_for_owntracks(state);
    if (state->elsewhere)
        return;
    owntracks_publish_card(devices->parts.config, devices->parts.bus, state->ident, &device,
                           retention_of(state));
    state->carded_in = generation_write(devices->parts.generation);
}

// False when the broker does not keep up any more.
static bool publish_of_reports(struct devices *devices, struct device_state *state, unsigned due) {
    due &= STATE_OF_REPORTS & ~parts_that_wait(devices, state);
    if (due == 0)
        return true;
    if ((due & STATE_ACTIVE) != 0)
        publish_active(devices, state);
    if ((due & STATE_LOCATION) != 0)
        publish_location(devices, state);
    if ((due & STATE_ALARMS) != 0)
        publish_alarms(devices, state);
    state->due &= (uint8_t) ~(due & (STATE_ACTIVE | STATE_LOCATION));
    if ((due & STATE_VALUES) != 0 && !publish_values(devices, state))
        return false;
    state->due &= (uint8_t) ~(due & STATE_VALUES);
    begin_rest(devices, state);
    return true;
}

static json_t *identity_of(const struct device_state *state) {
    json_t *protocol = state->codec != NULL ? json_integer((json_int_t)state->codec->id) : json_null();
    return json_pack("{s:I, s:s, s:s, s:I, s:o}", "id", (json_int_t)state->id, "name", state->name, "ident",
                     state->ident, "device_type_id", (json_int_t)state->type_id, "protocol_id", protocol);
}

static void publish_identity(struct devices *devices, const struct device_state *state) {
    json_t *json = identity_of(state);
    bus_publish(devices->parts.bus, json, MQTT_RETAINED_SIGNED, TOPIC_STATE TOPIC_DEVICES "%lld",
                (long long)state->id);
    json_decref(json);
}

// The instance goes first: who reads "connected" after it knows whose word that is. Brokers drop the signature of
// what they retain, and MQTT 3.1.1 has none.
static void publish_connected(struct devices *devices, int64_t id, bool connected) {
    json_t *instance = json_string(bus_client_id(devices->parts.bus));
    bus_publish(devices->parts.bus, instance, MQTT_RETAINED, TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_HOLDER,
                (long long)id);
    json_decref(instance);
    bus_publish(devices->parts.bus, connected ? json_true() : json_false(), MQTT_RETAINED_SIGNED,
                TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_CONNECTED, (long long)id);
}

// Several gateways on one broker would each announce a device with themselves as what it depends on, so only
// the one that had it last does. The broker says whether another had it.
static bool is_ours_to_announce(const struct devices *devices, const struct device_state *state) {
    return state->confirmed && !state->elsewhere && is_to_be_announced(devices, state);
}

static struct home_assistant_device describe_for_home_assistant(const struct device_state *state) {
    return (struct home_assistant_device){.id = state->id,
                                          .ident = state->ident,
                                          .name = state->name,
                                          .type_id = state->type_id,
                                          .codec = state->codec,
                                          .reported = state->reported,
                                          .announced = state->announced};
}

static uint32_t bit_of(const struct codec *codec) {
    for (unsigned i = 0; codec_at(i) != NULL; i++)
        if (codec_at(i) == codec)
            return UINT32_C(1) << i;
    return 0;
}

// Also of a device that is elsewhere by now: what we have announced the other gateway may not know.
static bool leave_protocols(const struct devices *devices, struct device_state *state) {
    state->left &= ~bit_of(state->codec);
    for (unsigned i = 0; state->left != 0; i++) {
        uint32_t bit = UINT32_C(1) << i;
        if ((state->left & bit) == 0)
            continue;
        if (!home_assistant_leave_protocol(devices->parts.home_assistant, state->id, codec_at(i),
                                           state->codec))
            return false;
        state->left &= ~bit;
    }
    return true;
}

static void settle(struct devices *devices, struct device_state *state) {
    end_settling(devices, state);
    state->settled_at = clock_ticks() + DISCOVERY_SETTLES;
    state->settles = true;
    DL_APPEND2(devices->settling, state, prev_settling, next_settling);
    publisher_wake_in(devices->parts.publisher, DISCOVERY_SETTLES / 1000);
}

// before: the last number in the outbox before it was announced, unless it was already.
static void settle_if_announced(struct devices *devices, struct device_state *state, uint64_t before) {
    if (bus_last_number(devices->parts.bus) == before)
        return;
    state->comes_again = !state->is_again;
    state->is_again = false;
    settle(devices, state);
}

// Home Assistant has had its time. What has become due meanwhile is no repetition.
static void end_settled(struct devices *devices) {
    int64_t now = devices->settling != NULL ? clock_ticks() : 0;
    struct device_state *state;
    while ((state = devices->settling) != NULL && state->settled_at <= now) {
        end_settling(devices, state);
        state->is_again = state->comes_again && (state->due & STATE_DISCOVERY) == 0;
        state->comes_again = false;
        if (state->is_again)
            announce_anew(devices, state);
        wait_for_turn(devices, state);
    }
    if (state != NULL)
        publisher_wake_in(devices->parts.publisher, (uint64_t)(state->settled_at - now) / 1000 + 1);
}

// What becomes of something that was due. One that goes on does so once the broker has taken what was published.
enum published { PUBLISHED_ALL, PUBLISHED_SOME, PUBLISHED_GOES_ON };

// Whatever makes a device ours to announce makes this due again.
static enum published publish_discovery(struct devices *devices, struct device_state *state) {
    if (!leave_protocols(devices, state))
        return PUBLISHED_SOME;
    if (!is_ours_to_announce(devices, state))
        return PUBLISHED_ALL;
    enum home_assistant_move move = home_assistant_move(devices->parts.home_assistant, state->id);
    if (move == MOVE_ENDS)
        settle(devices, state);
    if (move != MOVE_NONE)
        return PUBLISHED_GOES_ON;
    struct home_assistant_device device = describe_for_home_assistant(state);
    uint64_t number = bus_last_number(devices->parts.bus);
    bool all = home_assistant_announce(devices->parts.home_assistant, &device);
    state->announced = device.announced;
    state->announced_in = generation_write(devices->parts.generation);
    if (all && devices->parts.config->home_assistant.discovery == DISCOVERY_DEVICE)
        settle_if_announced(devices, state, number);
    return all ? PUBLISHED_ALL : PUBLISHED_SOME;
}

static void publish_statement(struct devices *devices, struct device_state *state, unsigned due) {
    if ((due & (STATE_IDENTITY | STATE_CONNECTED)) == 0)
        return;
    if ((due & STATE_IDENTITY) != 0)
        publish_identity(devices, state);
    if ((due & STATE_CONNECTED) != 0) {
        publish_connected(devices, state->id, state->connected);
        state->holder = devices->us;
    }
    state->stated = generation_write(devices->parts.generation);
    state->due &= (uint8_t) ~(STATE_IDENTITY | STATE_CONNECTED);
}

// False when the broker does not keep up any more.
static bool publish_parts(struct devices *devices, struct device_state *state) {
    unsigned due = state->due;
    watch(devices, state);
    publish_statement(devices, state, due);
    if ((due & STATE_CARD) != 0)
        publish_card(devices, state);
    state->due &= (uint8_t)~STATE_CARD;
    if (!publish_of_reports(devices, state, due))
        return false;
    due &= ~parts_that_wait(devices, state);
    enum published discovery =
        (due & STATE_DISCOVERY) != 0 ? publish_discovery(devices, state) : PUBLISHED_GOES_ON;
    if (discovery == PUBLISHED_ALL)
        state->due &= (uint8_t)~STATE_DISCOVERY;
    return discovery != PUBLISHED_SOME;
}

static void hold(struct devices *devices, struct device_state *state) {
    DL_DELETE2(devices->due, state, prev_due, next_due);
    DL_APPEND2(devices->held, state, prev_due, next_due);
    state->waiting = WAITING_FOR_THE_BROKER;
}

// Not every broker keeps the order of two writes to one topic that are under way at once. So what is due of a
// device waits until all that was published for it before is taken, and goes out with its latest values.
static bool publish_device(struct devices *devices, struct device_state *state) {
    if (!bus_has_taken(devices->parts.bus, state->last)) {
        hold(devices, state);
        return true;
    }
    bool all = publish_parts(devices, state);
    state->last = bus_last_number(devices->parts.bus);
    if (!all)
        return false;
    leave_list(devices, state);
    wait_for_turn(devices, state);
    return true;
}

bool devices_are_removed(const struct devices *devices) {
    return clearing_is_clear(devices->parts.clearing) && bus_has_taken(devices->parts.bus, devices->removed);
}

static void publish_due(struct devices *devices) {
    const struct bus *bus = devices->parts.bus;
    // Otherwise clearing would remove what was published in its place.
    bool may = publisher_is_open(devices->parts.publisher) && devices_are_removed(devices);
    while (may && devices->due != NULL && bus_keeps_up(bus) && publisher_goes_on(devices->parts.publisher))
        if (!publish_device(devices, devices->due))
            break;
}

// Those that were held are due again once the broker has what was published for them.
static void release(struct devices *devices) {
    struct device_state *state;
    while ((state = devices->held) != NULL && bus_has_taken(devices->parts.bus, state->last)) {
        leave_list(devices, state);
        wait_for_turn(devices, state);
    }
}

static struct foreign *find_foreign(const struct devices *devices, int64_t id) {
    struct foreign *foreign;
    HASH_FIND(hh, devices->foreign, &id, sizeof id, foreign);
    return foreign;
}

static void forget_foreign(struct devices *devices, struct foreign *foreign) {
    HASH_DEL(devices->foreign, foreign);
    free(foreign);
}

// NULL when there are too many.
static struct foreign *find_or_make_foreign(struct devices *devices, int64_t id) {
    struct foreign *foreign = find_foreign(devices, id);
    if (foreign != NULL || HASH_COUNT(devices->foreign) >= ELSEWHERE_MAX)
        return foreign;
    foreign = must_have(calloc(1, sizeof *foreign));
    foreign->id = id;
    HASH_ADD(hh, devices->foreign, id, sizeof foreign->id, foreign);
    return foreign;
}

static void note_foreign(struct devices *devices, const struct device_state *state) {
    struct foreign *foreign = find_or_make_foreign(devices, state->id);
    if (foreign == NULL)
        return;
    foreign->holder = state->holder;
    foreign->connected = true;
}

// It is one that we have now.
static void take_foreign(struct devices *devices, struct device_state *state) {
    struct foreign *foreign = find_foreign(devices, state->id);
    if (foreign == NULL)
        return;
    state->holder = foreign->holder;
    state->elsewhere = state->confirmed = foreign->connected;
    state->connected = foreign->connected;
    forget_foreign(devices, foreign);
}

static void forget_denied(struct devices *devices, int64_t id) {
    struct denied *denied;
    HASH_FIND(hh, devices->denied, &id, sizeof id, denied);
    if (denied == NULL)
        return;
    HASH_DEL(devices->denied, denied);
    free(denied);
}

static void deny(struct devices *devices, int64_t id) {
    struct denied *denied = must_have(calloc(1, sizeof *denied));
    forget_denied(devices, id);
    denied->id = id;
    HASH_ADD(hh, devices->denied, id, sizeof denied->id, denied);
    publisher_wake(devices->parts.publisher);
}

// Of those that have become known it is said with the rest. Of those that are removed nothing is said any more.
static void publish_denied(struct devices *devices) {
    while (devices->denied != NULL && publisher_is_open(devices->parts.publisher) &&
           bus_keeps_up(devices->parts.bus) && publisher_goes_on(devices->parts.publisher)) {
        int64_t id = devices->denied->id;
        if (find(devices, id) == NULL && !clearing_is_under_way(devices->parts.clearing, id))
            publish_connected(devices, id, false);
        forget_denied(devices, id);
    }
}

// What they reported goes out now.
static void end_questions(struct devices *devices) {
    struct device_state *state;
    int64_t id;
    while (newest_ends_one(devices->newest, &id))
        if ((state = find(devices, id)) != NULL)
            wait_for_turn(devices, state);
    if (newest_wait(devices->newest) > 0)
        publisher_wake_in(devices->parts.publisher, newest_wait(devices->newest));
}

static bool publish_again(void *context) {
    struct devices *devices = context;
    publish_denied(devices);
    end_questions(devices);
    wake_rested(devices);
    wake_at_end_of_rest(devices);
    end_settled(devices);
    release(devices);
    publish_due(devices);
    return devices->due == NULL && devices->held == NULL && devices->denied == NULL;
}

void devices_taken(struct devices *devices) {
    if (devices->held == NULL && devices->due == NULL)
        return;
    release(devices);
    publish_due(devices);
}

// --- what happens to devices ---

static void take_codec(struct devices *devices, struct device_state *state, const struct codec *codec) {
    if (state->codec == codec)
        return;
    state->left |= bit_of(state->codec);
    state->codec = codec;
    if (state->alarms.known)
        mark_due(devices, state, STATE_ALARMS);
    alarms_forget(&state->alarms);
    mark_due(devices, state, STATE_IDENTITY);
    announce_anew(devices, state);
}

// What another gateway announced is announced by us.
static void take_back(struct devices *devices, struct device_state *state) {
    bool was_elsewhere = state->elsewhere;
    state->elsewhere = false;
    if (was_elsewhere)
        announce_anew(devices, state);
}

// The reports of a device that another gateway had until now may be older than what that one has published. With telemetry
// the time of the last report is that of its field; without, last_active carries it.
static void ask_how_new(struct devices *devices, const struct device_state *state) {
    enum config_telemetry telemetry = devices->parts.config->telemetry;
    bool was_elsewhere = state->elsewhere || find_foreign(devices, state->id) != NULL;
    if (!was_elsewhere || (telemetry == TELEMETRY_OFF && !devices->parts.config->owntracks.enabled))
        return;
    newest_ask(devices->newest, state->id,
               telemetry == TELEMETRY_PARAMETERS ? TOPIC_TELEMETRY "timestamp" : TOPIC_ACTIVE);
    publisher_wake(devices->parts.publisher);
}

static size_t compare_some(struct devices *devices, size_t count);

// Its id may still be that of another one that the registry has given a new id: then it gets that at once.
static void let_it_have_its_id(struct devices *devices, const struct session *session) {
    const struct device_state *holder = find(devices, session->device.id);
    if (holder != NULL && strcmp(holder->ident, session->ident) != 0)
        compare_some(devices, SIZE_MAX);
}

void devices_arrived(struct devices *devices, const struct session *session,
                     const struct config_channel *channel) {
    if (!session->device.known)
        return;
    let_it_have_its_id(devices, session);
    struct device_state *state = find_or_make(devices, session->device.id, session->ident);
    if (state->name == NULL && find_foreign(devices, state->id) != NULL)
        state->fresh = false; // another gateway has told of it
    identify(devices, state, &session->device, session->ident);
    take_codec(devices, state, channel->codec);
    ask_how_new(devices, state);
    take_back(devices, state);
    state->confirmed = true; // also when it sleeps: a broker that has lost all is to be told
    state->connected = true;
    state->heard = clock_ticks();
    state->heard_connected = state->heard_holder = true; // what is still to be read is from before
    mark_due(devices, state, STATE_CONNECTED);
    if (devices->all_read)
        tell_created(devices, state);
}

// While the registry changes, its id may be another's already.
static struct device_state *state_of(const struct devices *devices, const struct session *session) {
    struct device_state *state = session->device.known ? find(devices, session->device.id) : NULL;
    return state != NULL && strcmp(state->ident, session->ident) == 0 ? state : NULL;
}

// When a device has gone to another gateway, that gateway says so itself.
void devices_left(struct devices *devices, const struct session *session) {
    struct device_state *state = state_of(devices, session);
    if (state == NULL)
        return;
    state->elsewhere = session->elsewhere;
    state->heard = clock_ticks();
    if (session->elsewhere) {
        newest_end(devices->newest, state->id);
        unwatch(devices, state);
        return;
    }
    state->connected = false;
    mark_due(devices, state, STATE_CONNECTED);
}

// What was shown until now is in clock, which has just been recognised.
static void tell_set_back(const struct device_state *state, const struct session *session, int64_t shown,
                          const struct channel_report *report) {
    char text[160];
    const struct peer *peer = session_any_peer(session);
    snprintf(text, sizeof text,
             "the device's clock was set back: its reports are %.0f s behind; its last values move again",
             (double)(shown - report->timestamp) / 1e6);
    log_warning("channel %s, %s, device %s: %s", peer->channel->name, peer->address, state->ident, text);
    event_error(peer,
                &(struct event_error){.code = EVENT_DEVICE_ERROR, .text = text, .verdict = "clock set back"});
}

// By which time a report is ordered among the device's.
static int64_t order_of(struct device_state *state, const struct session *session,
                        const struct channel_report *report) {
    bool recognised = state->clock.recognised;
    int64_t shown = state->clock.newest;
    int64_t at = set_back_order(&state->clock, report->timestamp, report->received);
    if (state->clock.recognised && !recognised)
        tell_set_back(state, session, shown, report);
    return at;
}

static void take_location(struct devices *devices, struct device_state *state,
                          const struct channel_report *report, int64_t timestamp) {
    struct owntracks_device device = describe_for_owntracks(state);
    if (!devices->parts.config->owntracks.enabled || timestamp < state->since ||
        (state->location != NULL && timestamp < state->located))
        return;
    char *location = owntracks_location(devices->parts.config, &device, report, timestamp);
    if (location == NULL)
        return;
    free(state->location);
    state->location = location;
    state->located = timestamp;
    mark_due(devices, state, STATE_LOCATION);
}

// Those of the newest report. One that comes from the tracker's memory raises none, and ends none.
static void take_alarms(struct devices *devices, struct device_state *state,
                        const struct channel_report *report, int64_t timestamp) {
    const struct config *config = devices->parts.config;
    struct alarms *alarms = &state->alarms;
    if (!config->home_assistant.enabled || state->codec == NULL || state->codec->alarms == NULL)
        return;
    bool old = alarms_are_old(&alarms->punctual, report, timestamp, config->home_assistant.alarm_hold);
    uint32_t raised = alarms_raised(state->codec, config_battery(config, state->codec), report);
    bool news = timestamp >= state->since &&
                (old ? alarms_take_late(alarms, state->codec, raised, timestamp, report->received)
                     : alarms_take(alarms, raised, timestamp, report->received));
    if (news && is_to_be_announced(devices, state))
        mark_due(devices, state, STATE_ALARMS);
    else if (news)
        alarms_note_told(alarms);
}

static void take_report(struct devices *devices, struct device_state *state, const struct session *session,
                        const struct channel_report *report) {
    enum config_telemetry wanted = devices->parts.config->telemetry;
    int64_t timestamp = order_of(state, session, report);
    size_t hint = 0;
    if (wanted == TELEMETRY_PARAMETERS)
        for (size_t i = 0; i < report->count; i++)
            take_value(devices, state, &report->members[i], timestamp, &hint);
    if (wanted == TELEMETRY_PARAMETERS)
        empty_what_ended(devices, state, report, timestamp);
    if (wanted != TELEMETRY_OFF)
        take_position(devices, state, report, timestamp);
    take_location(devices, state, report, timestamp);
    take_alarms(devices, state, report, timestamp);
}

// Those that do not change would expire while the device goes on reporting, or sleeps.
static void renew_values(struct devices *devices, struct device_state *state) {
    int64_t half = (int64_t)mqtt_link_expiry(devices->parts.config) * 1000000 / 2, now = clock_ticks();
    if (state->listed || now - state->renewed < half)
        return;
    state->renewed = now;
    mark_all_of_reports(devices, state);
}

// Where no telemetry says how new the last report is, this does, after a restart and to other gateways.
static void note_active(struct devices *devices, struct device_state *state, int64_t received,
                        int64_t newest_before) {
    bool newer = devices->parts.config->telemetry != TELEMETRY_PARAMETERS &&
                 state->clock.newest / 1000000 != newest_before / 1000000;
    if (state->active == received / 1000000 && !newer)
        return;
    state->active = received / 1000000;
    mark_due(devices, state, STATE_ACTIVE);
}

static bool speaks(const struct session *session, const struct codec *codec) {
    return (session->tcp != NULL && session->tcp->peer->channel->codec == codec) ||
           (session->udp != NULL && session->udp->peer->channel->codec == codec);
}

// Whom a round has not reached yet it reaches there.
static void to_the_end(struct devices *devices, struct device_state *state) {
    if (devices->round.next == state && state->next != NULL)
        devices->round.next = state->next;
    DL_DELETE(devices->by_age, state);
    DL_APPEND(devices->by_age, state);
}

void devices_reported(struct devices *devices, const struct session *session,
                      const struct channel_report *report) {
    struct device_state *state = state_of(devices, session);
    if (state == NULL)
        return;
    if (!speaks(session, state->codec)) // of two channels that it was on, the later one has ended
        take_codec(devices, state, session_any_peer(session)->channel->codec);
    to_the_end(devices, state);
    state->heard = clock_ticks();
    state->undated = false;
    renew_values(devices, state);
    int64_t newest_before = state->clock.newest;
    take_report(devices, state, session, report);
    note_active(devices, state, report->received, newest_before);
    publish_due(devices);
}

static bool is_here(const struct devices *devices, int64_t id) {
    return session_by_device_id(devices->parts.sessions, id) != NULL;
}

// Where another gateway has the device, that one remembers what is newer.
static bool is_ours(const struct devices *devices, const struct device_state *state) {
    return !state->elsewhere || is_here(devices, state->id);
}

static void restore(struct devices *devices, struct device_state *state) {
    struct generation_span lost = devices->round.lost;
    if (!is_ours(devices, state))
        return;
    if (values_mark_between(&state->values, lost.after, lost.before))
        mark_due_now(devices, state, STATE_VALUES);
    if (state->active_in > lost.after && state->active_in < lost.before)
        mark_due_now(devices, state, STATE_ACTIVE);
    if (state->located_in > lost.after && state->located_in < lost.before)
        mark_due_now(devices, state, STATE_LOCATION);
    if (state->alarms_in > lost.after && state->alarms_in < lost.before)
        mark_due_now(devices, state, STATE_ALARMS);
    if (state->carded_in > lost.after)
        mark_due(devices, state, STATE_CARD);
    // Each of these is the latest generation of several topics, some of which may be older.
    if (state->stated > lost.after)
        mark_due(devices, state, STATE_IDENTITY | STATE_CONNECTED);
    if (state->announced_in > lost.after)
        announce_anew(devices, state);
}

// --- what is done for all ---

// What another gateway has is that one's to clear.
static void forget_silent(struct devices *devices, struct device_state *state) {
    if (!state->elsewhere) {
        tell_change(devices, state, CHANGE_DELETED);
        clearing_begin(devices->parts.clearing, state->id, state->ident);
    }
    forget(devices, state);
}

// Whether it was forgotten.
static bool sweep(struct devices *devices, struct device_state *state) {
    int64_t limit = (int64_t)devices->parts.config->limits.forget_unknown_after * 1000000;
    bool silent = !state->listed && clock_ticks() - state->heard >= limit && !is_here(devices, state->id);
    if (silent)
        forget_silent(devices, state);
    else if (!state->elsewhere)
        renew_values(devices, state);
    return silent;
}

static void come_by(struct devices *devices, struct device_state *state) {
    unsigned tasks = devices->round.tasks;
    if (state->round == devices->round.number)
        return; // it reported meanwhile, and went to the end
    state->round = devices->round.number;
    if ((tasks & ROUND_SWEEPS) != 0 && sweep(devices, state))
        return;
    if ((tasks & ROUND_RESTORES) != 0)
        restore(devices, state);
    if ((tasks & ROUND_ASSERTS) != 0 && is_here(devices, state->id))
        mark_due(devices, state, STATE_CONNECTED);
    if ((tasks & ROUND_ANNOUNCES) != 0 || ((tasks & ROUND_ASSERTS) != 0 && is_here(devices, state->id)))
        announce_anew(devices, state);
}

static bool go_round(void *context) {
    struct devices *devices = context;
    struct round *round = &devices->round;
    while (round->next != NULL && publisher_goes_on(devices->parts.publisher)) {
        struct device_state *state = round->next;
        round->next = state->next;
        come_by(devices, state);
    }
    if (round->next == NULL)
        round->tasks = ROUND_NONE;
    return round->next == NULL;
}

static void begin_round(struct devices *devices, unsigned task) {
    struct round *round = &devices->round;
    round->tasks |= task;
    round->number++;
    round->next = devices->by_age;
    publisher_wake(devices->parts.publisher);
}

// What an earlier round has not reached the broker has lost as well, whatever it says now.
void devices_restore(struct devices *devices, struct generation_span lost) {
    struct generation_span *all = &devices->round.lost;
    bool both = (devices->round.tasks & ROUND_RESTORES) != 0;
    all->after = both && all->after < lost.after ? all->after : lost.after;
    all->before = both && all->before > lost.before ? all->before : lost.before;
    begin_round(devices, ROUND_RESTORES);
}

bool devices_are_forgetting(const struct devices *devices) {
    return (devices->round.tasks & ROUND_SWEEPS) != 0;
}

void devices_forget_silent(struct devices *devices) {
    if (!devices_are_forgetting(devices)) // otherwise none would ever come to the last ones
        begin_round(devices, ROUND_SWEEPS);
}

void devices_announce(struct devices *devices) {
    begin_round(devices, ROUND_ANNOUNCES);
}

void devices_assert_connected(struct devices *devices) {
    begin_round(devices, ROUND_ASSERTS);
}

// --- what is removed ---

// The device may be there under another id.
static void remove_from_owntracks(struct devices *devices, const char *ident) {
    const struct devices_parts *parts = &devices->parts;
    if (!parts->config->owntracks.enabled)
        return;
    struct device device = registry_device(parts->registry, ident);
    struct device_state *state = device.known ? find(devices, device.id) : NULL;
    bool there = state != NULL && strcmp(state->ident, ident) == 0;
    if (there)
        mark_due(devices, state, STATE_CARD | STATE_LOCATION);
    else
        owntracks_publish_card(parts->config, parts->bus, ident, NULL, MQTT_RETAINED);
    if (!there || state->location == NULL)
        owntracks_publish_location(parts->config, parts->bus, ident, NULL, MQTT_RETAINED);
}

void devices_remove(struct devices *devices, int64_t id, const char *ident) {
    struct device_state *state = find(devices, id);
    if (ident != NULL)
        remove_from_owntracks(devices, ident);
    home_assistant_remove(devices->parts.home_assistant, id); // before what its entities read
    if (devices->parts.config->home_assistant.enabled &&
        (state == NULL || !state->alarms.known || !is_to_be_announced(devices, state)))
        bus_publish(devices->parts.bus, NULL, MQTT_RETAINED, TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_ALARMS,
                    (long long)id);
    // Early, as the identity tells the next run that there is something to be removed.
    if (state == NULL || state->active == 0)
        bus_publish(devices->parts.bus, NULL, MQTT_RETAINED, TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_ACTIVE,
                    (long long)id);
    if (state == NULL) {
        bus_publish(devices->parts.bus, NULL, MQTT_RETAINED, TOPIC_STATE TOPIC_DEVICES "%lld", (long long)id);
        bus_publish(devices->parts.bus, NULL, MQTT_RETAINED, TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_CONNECTED,
                    (long long)id);
        bus_publish(devices->parts.bus, NULL, MQTT_RETAINED, TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_HOLDER,
                    (long long)id);
    }
    if (state != NULL)
        announce_anew(devices, state);
    devices->removed = bus_last_number(devices->parts.bus);
}

// --- the registry ---

// Makes or updates the state of a listed device; new_now: it has just come into the registry, and did not stand there
// when we started. Whether it is connected is said once it is known that no
// other gateway has it.
static struct device_state *take_listed(struct devices *devices, const struct config_device *listed,
                                        bool new_now) {
    struct device device = registry_device(devices->parts.registry, listed->ident);
    struct device_state *state = find_or_make(devices, device.id, listed->ident);
    if (state->name == NULL)
        take_foreign(devices, state);
    identify(devices, state, &device, listed->ident);
    state->fresh = state->fresh && new_now;
    return state;
}

// The broker has said all that it retains: what it did not have of this one is due.
static void confirm(struct devices *devices, struct device_state *state) {
    if (!state->confirmed)
        mark_due(devices, state, STATE_CONNECTED | STATE_DISCOVERY);
    state->confirmed = true;
}

static void take_registry(struct devices *devices) {
    const struct registry *registry = devices->parts.registry;
    const struct config_device *device;
    for (size_t i = 0; (device = registry_at(registry, i)) != NULL; i++)
        take_listed(devices, device, false);
    for (device = NULL; (device = registry_next_adopted(registry, device)) != NULL;)
        if (registry_is_in_force(registry, device->ident))
            take_listed(devices, device, false);
}

static void tell_all_created(struct devices *devices) {
    struct device_state *state;
    DL_FOREACH(devices->by_age, state) {
        tell_created(devices, state);
    }
}

static void end_commands(const struct devices *devices, const struct device_state *state) {
    if (state->listed && devices->parts.gone != NULL)
        devices->parts.gone(devices->parts.context, state->id);
}

static void tell_gone(const struct devices *devices, const struct device_state *state) {
    tell_change(devices, state, CHANGE_DELETED);
    end_commands(devices, state);
}

// Another gateway has it, where it stays under its id as a stranger. That one tells both, so that they come in this order.
static bool begins_anew_elsewhere(const struct devices *devices, const struct device_state *state) {
    struct device device = registry_device(devices->parts.registry, state->ident);
    return is_held_elsewhere(state) && state->listed && device.known && !device.listed &&
           device.id == state->id;
}

// What is retained under the id of one that is gone, and not its next holder's, is removed: by the gateway that has it, if
// any does.
static void remove_state(struct devices *devices, struct device_state *state) {
    if (!begins_anew_elsewhere(devices, state))
        tell_change(devices, state, CHANGE_DELETED);
    end_commands(devices, state);
    if (is_held_elsewhere(state))
        note_foreign(devices, state);
    else
        clearing_begin(devices->parts.clearing, state->id, state->ident);
    forget(devices, state);
}

// Gives a device the id that the registry has for it now, which is returned, with its last values. Whoever has that id
// by then goes: by default, "042" and "42" have the same.
static int64_t move(struct devices *devices, struct device_state *state) {
    struct device device = registry_device(devices->parts.registry, state->ident);
    struct device_state *there = find(devices, device.id);
    if (there != NULL)
        remove_state(devices, there);
    unwatch(devices, state);
    state->fresh = true;
    state->id = device.id;
    state->announced = (struct home_assistant_announced){0};
    free(state->name); // its identity is another one, whatever it is called
    state->name = NULL;
    HASH_ADD(hh, devices->by_id, id, sizeof state->id, state);
    values_mark(&state->values);
    end_rest(devices, state);
    if (!is_held_elsewhere(state))
        mark_due(devices, state, STATE_ALL);
    identify(devices, state, &device, state->ident);
    return state->id;
}

// Whether the device of a state still has one, now that the registry says what device is.
static bool stays(const struct devices *devices, const struct device_state *state,
                  const struct device *device) {
    return device->known && (device->listed || !state->listed ||
                             session_by_ident(devices->parts.sessions, state->ident) != NULL);
}

static void note_moved(struct reload *reload, int64_t id) {
    if (reload->moved_count == reload->moved_capacity) {
        reload->moved_capacity = reload->moved_capacity * 2 + 64;
        reload->moved = must_have(realloc(reload->moved, reload->moved_capacity * sizeof(int64_t)));
    }
    reload->moved[reload->moved_count++] = id;
}

// It is in the registry no longer, and is here under the same id, as a device that has just come.
static void begin_anew(struct devices *devices, struct device_state *state) {
    changes_tell(devices->changes, CHANGE_DELETED, state->id, state->type_id, state->ident, state->name);
    end_commands(devices, state);
    clearing_begin(devices->parts.clearing, state->id, state->ident);
    end_rest(devices, state);
    values_free(&state->values);
    state->values = (struct values){0};
    forget_location(state);
    alarms_forget(&state->alarms);
    state->active = 0;
    state->reported = 0;
    free(state->name);
    state->name = NULL;
    state->fresh = true;
    mark_due(devices, state, STATE_CONNECTED | STATE_DISCOVERY);
}

static void compare_one(struct devices *devices, struct device_state *state) {
    struct device device = registry_device(devices->parts.registry, state->ident);
    if (!stays(devices, state, &device)) {
        remove_state(devices, state);
        return;
    }
    if (device.id != state->id) {
        tell_gone(devices, state);
        note_moved(&devices->reload, state->id);
        return;
    }
    if (state->listed && !device.listed)
        begin_anew(devices, state);
    identify(devices, state, &device, state->ident);
    if (devices->all_read && !device.listed)
        tell_created(devices, state);
}

static void compare_next(struct devices *devices) {
    struct device_state *state = devices->reload.next;
    devices->reload.next = state->hh.next;
    compare_one(devices, state);
}

// Its messages carry the new id from now on.
static void tell_session(const struct devices *devices, const struct device_state *state) {
    struct session *session = session_by_ident(devices->parts.sessions, state->ident);
    if (session != NULL)
        session_reload(session);
}

// NULL: it has gone meanwhile.
static void tell_moved(const struct devices *devices, struct device_state *state) {
    if (state == NULL)
        return;
    tell_session(devices, state);
    if (devices->all_read)
        tell_created(devices, state);
}

// All at once: ids may be exchanged, so that first all are taken out, and nobody may come in between.
static void move_all(struct devices *devices) {
    const struct reload *reload = &devices->reload;
    struct device_state **states = must_have(calloc(reload->moved_count + 1, sizeof(struct device_state *)));
    int64_t *ids = must_have(calloc(reload->moved_count + 1, sizeof *ids)); // that they have now
    size_t count = 0;
    for (size_t i = 0; i < reload->moved_count; i++) {
        struct device_state *state = find(devices, reload->moved[i]);
        if (state == NULL || !is_held_elsewhere(state))
            clearing_begin(devices->parts.clearing, reload->moved[i], NULL);
        if (state == NULL)
            continue;
        leave_table(devices, state);
        states[count++] = state;
    }
    for (size_t i = 0; i < count; i++)
        ids[i] = move(devices, states[i]);
    for (size_t i = 0; i < count; i++)
        tell_moved(devices, find(devices, ids[i]));
    free(ids);
    free(states);
}

static void end_moves(struct devices *devices) {
    struct reload *reload = &devices->reload;
    move_all(devices);
    free(reload->moved);
    reload->moved = NULL;
    reload->moved_count = reload->moved_capacity = 0;
}

static void end_comparing(struct devices *devices) {
    devices->reload.phase = RELOAD_TAKES;
    end_moves(devices);
}

// Returns how many it has compared; no more when all are.
static size_t compare_some(struct devices *devices, size_t count) {
    size_t done = 0;
    for (; devices->reload.phase == RELOAD_COMPARES && done < count; done++) {
        if (devices->reload.next != NULL)
            compare_next(devices);
        else
            end_comparing(devices);
    }
    return done;
}

bool devices_know(const struct devices *devices, int64_t id) {
    return find(devices, id) != NULL || find_foreign(devices, id) != NULL;
}

// home_assistant.unknown_devices may have changed.
static void take_whether_strangers_are_announced(struct devices *devices) {
    bool announced = devices->parts.config->home_assistant.unknown_devices;
    struct device_state *state;
    if (announced == devices->strangers_announced)
        return;
    devices->strangers_announced = announced;
    DL_FOREACH(devices->by_age, state) {
        if (state->listed)
            continue;
        if (!announced)
            withdraw(devices, state);
        else if (state->alarms.known)
            mark_due(devices, state, STATE_ALARMS);
        if (announced)
            announce_anew(devices, state);
    }
}

void devices_reload_begin(struct devices *devices) {
    devices->interval = devices->parts.config->telemetry_interval;
    take_whether_strangers_are_announced(devices);
    devices->reload = (struct reload){.phase = RELOAD_COMPARES, .next = devices->by_id};
}

// It is in the registry now, perhaps as a new one.
static void take_now(struct devices *devices, const struct config_device *listed, bool new_now) {
    struct device_state *state = take_listed(devices, listed, new_now);
    if (publisher_is_open(devices->parts.publisher))
        confirm(devices, state);
    if (devices->all_read)
        tell_created(devices, state);
}

// Those of the broker's registry that the configuration has hidden until now, or hides now.
static void take_next_adopted(struct devices *devices) {
    const struct registry *registry = devices->parts.registry;
    const struct config_device *adopted = devices->reload.adopted =
        registry_next_adopted(registry, devices->reload.adopted);
    if (adopted == NULL)
        devices->reload.phase = RELOAD_NONE;
    else if (registry_is_in_force(registry, adopted->ident))
        take_now(devices, adopted, true);
    else
        log_about(
            adopted->ident, LOG_WARNING,
            "device %s of the broker's registry is not in force: the configuration has its ident or its id",
            adopted->ident);
}

static void take_next(struct devices *devices) {
    struct reload *reload = &devices->reload;
    const struct config_device *listed = registry_at(devices->parts.registry, reload->taken);
    if (listed == NULL) {
        reload->phase = RELOAD_TAKES_ADOPTED;
        return;
    }
    reload->taken++;
    take_now(devices, listed, true);
}

bool devices_reload_some(struct devices *devices, size_t count) {
    size_t done = compare_some(devices, count);
    for (; devices->reload.phase == RELOAD_TAKES && done < count; done++)
        take_next(devices);
    for (; devices->reload.phase == RELOAD_TAKES_ADOPTED && done < count; done++)
        take_next_adopted(devices);
    return devices->reload.phase == RELOAD_NONE;
}

bool devices_are_reloading(const struct devices *devices) {
    return devices->reload.phase != RELOAD_NONE;
}

// A device outside the registry that has the id which is now a listed one's.
static void push_out(struct devices *devices, int64_t id, const char *ident) {
    struct device_state *there = find(devices, id);
    char other[CODEC_IDENT_MAX + 1];
    if (there == NULL || strcmp(there->ident, ident) == 0)
        return;
    strcpy(other, there->ident);
    compare_one(devices, there);
    sessions_reload_ident(devices->parts.sessions, other);
}

void devices_relist(struct devices *devices, const char *ident, const struct device *before, bool stood) {
    struct device device = registry_device(devices->parts.registry, ident);
    struct device_state *state = find(devices, before->id);
    const struct config_device listed = {
        .ident = ident, .id = device.id, .name = device.name, .type_id = device.type_id};
    if (device.listed)
        push_out(devices, device.id, ident);
    if (state != NULL && strcmp(state->ident, ident) == 0)
        compare_one(devices, state);
    end_moves(devices);
    if (device.listed)
        take_now(devices, &listed, !stood);
    sessions_reload_ident(devices->parts.sessions, ident);
}

// --- what the broker has ---

static struct claim *find_claim(const struct devices *devices, int64_t id) {
    struct claim *claim;
    HASH_FIND(hh, devices->claims, &id, sizeof id, claim);
    return claim;
}

// NULL when there are too many.
static struct claim *find_or_make_claim(struct devices *devices, int64_t id) {
    struct claim *claim = find_claim(devices, id);
    if (claim != NULL || HASH_COUNT(devices->claims) >= CLAIMS_MAX)
        return claim;
    claim = must_have(calloc(1, sizeof *claim));
    claim->id = id;
    HASH_ADD(hh, devices->claims, id, sizeof claim->id, claim);
    return claim;
}

enum claim_kind { CLAIM_OURS, CLAIM_IDENTIFIED, CLAIM_REPORTED };

static void note_claim(struct devices *devices, int64_t id, enum claim_kind kind) {
    struct claim *claim = find_or_make_claim(devices, id);
    if (claim == NULL)
        return;
    claim->ours = claim->ours || kind == CLAIM_OURS;
    claim->identified = claim->identified || kind == CLAIM_IDENTIFIED;
    claim->reported = claim->reported || kind == CLAIM_REPORTED;
}

static bool is_claimed(const struct devices *devices, int64_t id) {
    const struct claim *claim = find_claim(devices, id);
    return claim != NULL && claim->ours;
}

static void drop_claims(struct devices *devices) {
    struct claim *claim, *next;
    HASH_ITER(hh, devices->claims, claim, next) {
        HASH_DEL(devices->claims, claim);
        free(claim);
    }
}

// Whether we have said it, in this run or an earlier one: the message is signed, or {id}/instance tells.
static bool is_by_us(const struct devices *devices, int64_t id, const struct mqtt_received *received) {
    const struct device_state *state = find(devices, id);
    if (received->instance != NULL)
        return bus_is_own(devices->parts.bus, received->instance);
    return state != NULL ? state->holder == devices->us : is_claimed(devices, id);
}

// What has come is not what we have for that topic. Of a device that is nowhere, another gateway may know
// better.
static void note_wrong(struct devices *devices, const struct device_state *state, const char *topic,
                       const struct mqtt_received *received) {
    bool contested = state->holder != 0 && state->holder != devices->us && received->length > 0;
    if (is_ours(devices, state) && (is_here(devices, state->id) || !contested))
        guard_wrong(devices->parts.guard, topic);
}

static void compare(struct devices *devices, const struct device_state *state, bool same, const char *topic,
                    const struct mqtt_received *received) {
    if (same)
        guard_right(devices->parts.guard, topic);
    else
        note_wrong(devices, state, topic, received);
}

// Whether the configuration of the last run had it, and this one does not: nobody has said so yet.
static bool has_left(const struct devices *devices, const char *ident, const struct device *device) {
    return !device->listed && registry_has_left(devices->parts.registry, ident);
}

// A device as an identity says who it is. Texts are those of the JSON.
struct identity {
    const char *ident, *name; // NULL: it does not say so
    int64_t type_id;
    const struct codec *codec; // or NULL
};

static struct identity read_identity(const json_t *json) {
    return (struct identity){
        .ident = json_string_value(json_object_get(json, "ident")),
        .name = json_string_value(json_object_get(json, "name")),
        .type_id = json_integer_value(json_object_get(json, "device_type_id")),
        .codec = codec_by_id((unsigned)json_integer_value(json_object_get(json, "protocol_id")))};
}

static void tell_former_gone(const struct devices *devices, int64_t id, const struct identity *it) {
    changes_tell(devices->changes, CHANGE_DELETED, id, it->type_id, it->ident, it->name);
}

// It goes as one does that a configuration has lost which is read again: if it comes, then as a new one.
static void end_listing(struct devices *devices, int64_t id, const struct identity *it) {
    tell_former_gone(devices, id, it);
    if (devices->parts.gone != NULL)
        devices->parts.gone(devices->parts.context, id);
    clearing_begin(devices->parts.clearing, id, it->ident);
}

// An identity that we published in an earlier run. What the registry says now may be another one.
static void hear_unknown(struct devices *devices, int64_t id, const struct identity *it) {
    const char *ident = it->ident;
    struct device device = registry_device(devices->parts.registry, ident);
    if (clearing_is_under_way(devices->parts.clearing, id))
        return; // it has been removed before this came
    if (has_left(devices, ident, &device)) {
        end_listing(devices, id, it);
        return;
    }
    if (!device.known || device.id != id) {
        if (device.id == id)
            tell_former_gone(devices, id, it);
        clearing_begin(devices->parts.clearing, id, ident);
        return;
    }
    registry_admit(devices->parts.registry, ident);
    struct device_state *state = find_or_make(devices, id, ident);
    state->fresh = false;
    state->undated = true;
    state->codec = it->codec;
    state->holder = is_claimed(devices, id) ? devices->us : 0;
    identify(devices, state, &device, ident);
}

// It has come as a stranger before the broker told that it was one of the registry.
static void begin_as_a_stranger(struct devices *devices, struct device_state *state,
                                const struct identity *it) {
    end_listing(devices, state->id, it);
    state->fresh = true;
    mark_all_of_reports(devices, state);
    mark_due(devices, state, STATE_CONNECTED | STATE_IDENTITY);
}

// The id is that of a listed device: which protocol it has may be known from before; or it was another's.
static void hear_known(struct devices *devices, struct device_state *state, const struct identity *it,
                       bool earlier) {
    const char *ident = it->ident;
    const struct codec *codec = it->codec;
    bool same = strcmp(state->ident, ident) == 0;
    struct device device = registry_device(devices->parts.registry, state->ident);
    state->fresh = state->fresh && !same;
    if (same && earlier && has_left(devices, ident, &device) &&
        !clearing_is_under_way(devices->parts.clearing, state->id))
        begin_as_a_stranger(devices, state, it);
    if (same && state->codec == NULL)
        take_codec(devices, state, codec);
    if (same && earlier && state->codec != codec) { // it spoke another one in an earlier run
        state->left |= bit_of(codec);
        announce_anew(devices, state);
    }
    if (same || !earlier)
        return;
    clearing_begin(devices->parts.clearing, state->id, ident);
    announce_anew(devices, state);
}

static void compare_identity(struct devices *devices, const struct device_state *state, const json_t *json,
                             const char *topic, const struct mqtt_received *received) {
    json_t *ours = identity_of(state);
    compare(devices, state, json_equal(json, ours), topic, received);
    json_decref(ours);
}

static void take_identity(struct devices *devices, int64_t id, const json_t *json, bool own) {
    struct device_state *state = find(devices, id);
    const struct identity it = read_identity(json);
    if (it.ident == NULL || !device_ident_valid(it.ident))
        return;
    if (state != NULL)
        hear_known(devices, state, &it, own);
    else if (own)
        hear_unknown(devices, id, &it);
}

// The gateway that has it says which protocol it speaks. Who takes the device over later announces it with that.
static void hear_identity_elsewhere(struct devices *devices, struct device_state *state, const json_t *json) {
    const struct identity it = read_identity(json);
    if (it.codec == NULL || it.codec == state->codec || it.ident == NULL ||
        strcmp(it.ident, state->ident) != 0)
        return;
    if (state->announced.own > 0)
        state->left |= bit_of(state->codec);
    state->codec = it.codec;
    state->announced = (struct home_assistant_announced){0};
    mark_due(devices, state, STATE_DISCOVERY);
}

static bool is_by_another(const struct devices *devices, const struct mqtt_received *received) {
    return received->instance != NULL && !bus_is_own(devices->parts.bus, received->instance);
}

// While what is retained is being read, also of a device of another gateway.
static void note_identified(struct devices *devices, int64_t id) {
    clearing_heard_identity(devices->parts.clearing, id);
    if (!devices->all_read && find(devices, id) == NULL)
        note_claim(devices, id, CLAIM_IDENTIFIED);
}

static void hear_identity(struct devices *devices, int64_t id, const char *topic,
                          const struct mqtt_received *received) {
    struct device_state *state = find(devices, id);
    json_t *json = json_loadb(received->payload, received->length, 0, NULL);
    if (received->retain)
        take_identity(devices, id, json, is_by_us(devices, id, received));
    if (!received->retain && state != NULL && is_by_another(devices, received) && !is_here(devices, id))
        hear_identity_elsewhere(devices, state, json);
    if (!received->retain && state != NULL)
        compare_identity(devices, state, json, topic, received);
    if (received->length > 0)
        note_identified(devices, id);
    json_decref(json);
}

static bool is_true(const struct mqtt_received *received) {
    return received->length == 4 && memcmp(received->payload, "true", 4) == 0;
}

static bool is_false(const struct mqtt_received *received) {
    return received->length == 5 && memcmp(received->payload, "false", 5) == 0;
}

// What is not right is so from an earlier run; or somebody has just written it.
static void correct_connected(struct devices *devices, struct device_state *state, bool right,
                              const char *topic, const struct mqtt_received *received) {
    if (!received->retain)
        compare(devices, state, right, topic, received);
    else if (!right)
        mark_due(devices, state, STATE_CONNECTED);
}

static void hear_connected_elsewhere(struct devices *devices, struct device_state *state,
                                     const struct mqtt_received *received) {
    bool others = state->holder != 0 && state->holder != devices->us;
    if (is_true(received) || received->retain || others) // it may have come and gone at once
        state->elsewhere = true;
    if (state->elsewhere)
        unwatch(devices, state);
    state->connected = is_true(received);
}

// Of a device that is not here: we have said it in an earlier run, or somebody in our place.
static void hear_connected_of_ours(struct devices *devices, struct device_state *state, const char *topic,
                                   const struct mqtt_received *received) {
    if (received->retain)
        take_back(devices, state);
    if (received->retain && state->stated == 0)
        state->stated = generation_write(devices->parts.generation);
    state->connected = false;
    correct_connected(devices, state, is_false(received), topic, received);
}

// Whether it was overtaken by what came live on the main connection, which nothing that is newer misses.
static bool is_overtaken(bool *heard, const struct mqtt_received *received) {
    *heard = *heard || !received->retain;
    return received->retain && *heard;
}

// Another gateway has it; or whoever had it has cleared what it said.
static void hear_connected_of_foreign(struct devices *devices, int64_t id,
                                      const struct mqtt_received *received) {
    struct foreign *foreign =
        received->length > 0 ? find_or_make_foreign(devices, id) : find_foreign(devices, id);
    if (foreign != NULL && received->length == 0) {
        forget_foreign(devices, foreign);
    } else if (foreign != NULL) {
        foreign->connected = is_true(received);
        if (received->instance != NULL)
            foreign->holder = holder_of(received->instance);
    }
}

static void hear_connected(struct devices *devices, int64_t id, const char *topic,
                           const struct mqtt_received *received) {
    struct device_state *state = find(devices, id);
    bool own = is_by_us(devices, id, received), here = is_here(devices, id);
    if (state == NULL && own && is_true(received) && !here) // another gateway has said last who it is
        deny(devices, id);
    else if (state == NULL) // it has said that, too, or has it
        forget_denied(devices, id);
    if (state == NULL && !own)
        hear_connected_of_foreign(devices, id, received);
    if (state == NULL)
        return;
    if (!state->confirmed)
        mark_due(devices, state, STATE_DISCOVERY);
    state->confirmed = true;
    if (is_overtaken(&state->heard_connected, received))
        return;
    if (here)
        correct_connected(devices, state, is_true(received), topic, received);
    else if (received->length == 0)
        note_wrong(devices, state, topic, received);
    else if (own)
        hear_connected_of_ours(devices, state, topic, received);
    else
        hear_connected_elsewhere(devices, state, received);
}

// A broker may tell it behind "connected".
static void hear_retained_holder(struct devices *devices, struct device_state *state) {
    if (state->holder != devices->us || is_here(devices, state->id))
        return;
    take_back(devices, state);
    if (state->connected)
        mark_due(devices, state, STATE_CONNECTED);
    state->connected = false;
}

static void hear_holder_of(struct devices *devices, struct device_state *state, const char *instance,
                           const char *topic, const struct mqtt_received *received) {
    if (instance != NULL)
        state->holder = holder_of(instance);
    if (received->retain)
        hear_retained_holder(devices, state);
    else if (is_here(devices, state->id) || instance == NULL)
        compare(devices, state, bus_is_own(devices->parts.bus, instance), topic, received);
}

static void hear_holder_of_foreign(struct devices *devices, int64_t id, const char *instance) {
    struct foreign *foreign = find_or_make_foreign(devices, id);
    if (foreign != NULL)
        foreign->holder = holder_of(instance);
}

static void hear_holder(struct devices *devices, int64_t id, const char *topic,
                        const struct mqtt_received *received) {
    struct device_state *state = find(devices, id);
    json_t *json = json_loadb(received->payload, received->length, JSON_DECODE_ANY, NULL);
    const char *instance = json_string_value(json);
    if (state != NULL && !is_overtaken(&state->heard_holder, received))
        hear_holder_of(devices, state, instance, topic, received);
    else if (state == NULL && bus_is_own(devices->parts.bus, instance) && received->retain)
        note_claim(devices, id, CLAIM_OURS);
    else if (state == NULL && instance != NULL)
        hear_holder_of_foreign(devices, id, instance);
    json_decref(json);
}

// Those that we do not have are not connected either.
static void deny_foreign_of(struct devices *devices, uint32_t holder) {
    struct foreign *foreign, *next;
    HASH_ITER(hh, devices->foreign, foreign, next) {
        if (foreign->holder != holder || !foreign->connected)
            continue;
        foreign->connected = false;
        if (find(devices, foreign->id) == NULL)
            deny(devices, foreign->id);
    }
}

void devices_take_over(struct devices *devices, const char *client_id) {
    struct device_state *state;
    uint32_t holder = holder_of(client_id);
    bool announces = devices->parts.config->home_assistant.enabled;
    DL_FOREACH(devices->by_age, state) {
        if (state->holder != holder || is_here(devices, state->id) ||
            !(state->connected || (announces && state->elsewhere)))
            continue;
        state->holder = devices->us;
        state->connected = state->elsewhere = false;
        mark_due(devices, state, STATE_CONNECTED);
        announce_anew(devices, state);
    }
    deny_foreign_of(devices, holder);
}

// Two gateways may each announce a device that neither has: what is merely not the same is wrong only where it is known
// that the device is ours.
void devices_heard_discovery(struct devices *devices, int64_t id, const struct mqtt_received *received) {
    char topic[sizeof TOPIC_DEVICES TOPIC_DISCOVERY + 20];
    const struct device_state *state = find(devices, id);
    if (state == NULL || !is_ours_to_announce(devices, state) || received->retain)
        return;
    bool ours = received->length == 0 || state->holder == devices->us || is_here(devices, id);
    struct home_assistant_device device = describe_for_home_assistant(state);
    snprintf(topic, sizeof topic, TOPIC_DEVICES "%lld" TOPIC_DISCOVERY, (long long)id);
    if (ours && !home_assistant_is_right(devices->parts.home_assistant, &device, received))
        guard_wrong(devices->parts.guard, topic);
}

bool devices_found_discovery(struct devices *devices, const struct mqtt_received *received) {
    int64_t id;
    uint32_t reported;
    if (!home_assistant_found(devices->parts.home_assistant, received, &id, &reported))
        return false;
    struct device_state *state = find(devices, id);
    if (state == NULL)
        return true;
    state->reported |= reported;
    mark_due(devices, state, STATE_DISCOVERY);
    return true;
}

// What only Home Assistant reads goes with it.
static void leave_former(const struct devices *devices, const struct device_state *state) {
    home_assistant_remove_former(devices->parts.home_assistant, state->id);
    if (!devices->parts.config->home_assistant.enabled)
        publish_text_of_alarms(devices, state);
}

bool devices_leave_former(struct devices *devices) {
    if (!devices->leaves)
        devices->to_leave = devices->by_id;
    devices->leaves = true;
    while (devices->to_leave != NULL && bus_keeps_up(devices->parts.bus) &&
           publisher_goes_on(devices->parts.publisher)) {
        const struct device_state *state = devices->to_leave;
        devices->to_leave = state->hh.next;
        if (is_ours(devices, state))
            leave_former(devices, state);
    }
    return devices->to_leave == NULL;
}

// Microseconds since 1970; 0 when it is none, or a clock that was ahead.
static int64_t time_of(const struct mqtt_received *received) {
    char text[DECIMAL_TEXT_MAX];
    if (received->length >= sizeof text)
        return 0;
    memcpy(text, received->payload, received->length);
    text[received->length] = '\0';
    double time = strtod(text, NULL) * 1e6;
    return time > 0 && time <= (double)clock_now() ? (int64_t)time : 0;
}

// When the last report of an earlier run, or to another gateway, came, by a gateway's clock.
static void hear_arrival(struct device_state *state, const struct mqtt_received *received) {
    int64_t arrived = time_of(received);
    if (arrived != 0 && received->measured != 0)
        alarms_recall(&state->alarms, received->measured, arrived);
    if (state->undated && arrived != 0)
        state->heard = clock_ticks() - (clock_now() - arrived);
    state->undated = false;
}

// The time by which the last report of an earlier run, or to another gateway, was ordered. What has come since and is older
// does not count.
static void hear_newest(struct devices *devices, struct device_state *state, int64_t newest) {
    newest_end(devices->newest, state->id);
    wait_for_turn(devices, state);
    if (newest <= state->since)
        return;
    state->since = newest;
    if (state->clock.newest < state->since)
        state->clock.newest = state->since;
    values_remove_before(&state->values, state->since);
    if (state->located < state->since)
        forget_location(state);
    if (state->alarms.timestamp < state->since && state->alarms.known) {
        alarms_forget(&state->alarms);
        state->due &= (uint8_t)~STATE_ALARMS;
    }
}

// MQTT 3.1.1 has the device's word alone.
static void hear_retained_timestamp(struct devices *devices, int64_t id, struct device_state *state,
                                    const struct mqtt_received *received) {
    if (state != NULL)
        hear_newest(devices, state, received->measured != 0 ? received->measured : time_of(received));
    else if (!devices->all_read)
        note_claim(devices, id, CLAIM_REPORTED);
}

static void hear_active(struct devices *devices, int64_t id, const struct mqtt_received *received) {
    struct device_state *state = find(devices, id);
    if (state == NULL || !received->retain || received->length == 0 ||
        clearing_is_under_way(devices->parts.clearing, id))
        return;
    hear_arrival(state, received);
    if (received->measured != 0)
        hear_newest(devices, state, received->measured);
}

// Of an earlier run, so that the report that replaces it empties it; one that has come already does so now.
static void hear_retained_part(struct devices *devices, struct device_state *state, const char *field,
                               const struct mqtt_received *received) {
    bool replaced = value_of(state, FIELD_POSITION_LATITUDE) != NULL;
    for (size_t i = 0; i < TOGETHER_FOUND_COUNT; i++) {
        const struct message_member member = {.field = together_found[i],
                                              .index = "",
                                              .value = received->payload,
                                              .length = replaced ? 0 : received->length};
        size_t hint = 0;
        if (strcmp(field, field_table[member.field].key) != 0 ||
            values_named(&state->values, field) != NULL ||
            values_put(&state->values, NULL, &member, state->since, &hint) != VALUE_CHANGED)
            continue;
        struct value *value = values_named(&state->values, field);
        if (replaced)
            mark_due(devices, state, STATE_VALUES);
        else
            value->generation = generation_write(devices->parts.generation);
    }
}

// A device that is announced as a whole is so with all that it has ever reported, also to an earlier run.
static void hear_retained_field(struct devices *devices, struct device_state *state, const char *name) {
    for (enum field field = FIELD_NONE + 1; field < FIELD_COUNT; field++)
        if (home_assistant_entity_of(field) != 0 && strcmp(field_table[field].key, name) == 0)
            note_field(devices, state, field);
}

// Somebody has written a value of ours. What is due goes out anyway, but if it waits for telemetry_interval it may take
// long. Where what we publish comes back, that would be taken for somebody else's while it waits.
static void compare_telemetry(struct devices *devices, const struct device_state *state, const char *field,
                              const char *topic, const struct mqtt_received *received) {
    const struct value *value = values_named(&state->values, field);
    bool waits = state->rests && !devices->parts.asker.echoes(devices->parts.asker.context);
    if (value == NULL || (value->generation == 0 && !waits))
        return;
    bool same = value->generation != 0 && value->length == received->length &&
                memcmp(value_text(value), received->payload, received->length) == 0;
    compare(devices, state, same, topic, received);
}

// field is what follows telemetry/. Values of a device that is being removed, or that it does not have, are
// cleared.
static void hear_telemetry(struct devices *devices, int64_t id, const char *field, const char *topic,
                           const struct mqtt_received *received) {
    struct device_state *state = find(devices, id);
    bool goes = clearing_is_under_way(devices->parts.clearing, id);
    bool retained = received->retain && received->length > 0;
    if (received->retain)
        clearing_goes_on(devices->parts.clearing);
    if (retained && !goes && strcmp(field, "timestamp") == 0)
        hear_retained_timestamp(devices, id, state, received);
    if (retained && !goes && state != NULL)
        hear_retained_part(devices, state, field, received);
    if (retained && !goes && state != NULL &&
        devices->parts.config->home_assistant.discovery == DISCOVERY_DEVICE)
        hear_retained_field(devices, state, field);
    if (retained && goes && (state == NULL || values_named(&state->values, field) == NULL))
        clearing_heard_telemetry(devices->parts.clearing, id, field);
    if (!received->retain && !goes && state != NULL)
        compare_telemetry(devices, state, field, topic, received);
}

// Reads the id that text begins with; *rest is what follows it.
static bool read_id(const char *text, int64_t *id, const char **rest) {
    char *end;
    *id = strtoll(text, &end, 10);
    *rest = end;
    return end != text;
}

void devices_received(struct devices *devices, const char *topic, const struct mqtt_received *received) {
    int64_t id;
    const char *rest, *device = topic_after(topic, TOPIC_DEVICES);
    if (device == NULL || !read_id(device, &id, &rest))
        return;
    const char *field = topic_after(rest, TOPIC_TELEMETRY);
    if (*rest == '\0')
        hear_identity(devices, id, topic, received);
    else if (strcmp(rest, TOPIC_HOLDER) == 0)
        hear_holder(devices, id, topic, received);
    else if (strcmp(rest, TOPIC_CONNECTED) == 0)
        hear_connected(devices, id, topic, received);
    else if (strcmp(rest, TOPIC_ACTIVE) == 0)
        hear_active(devices, id, received);
    else if (field != NULL)
        hear_telemetry(devices, id, field, topic, received);
}

// --- what somebody else has changed ---

static void renew_field(struct devices *devices, struct device_state *state, const char *field) {
    struct value *value = values_named(&state->values, field);
    if (value == NULL)
        return;
    value->generation = 0;
    mark_due_now(devices, state, STATE_VALUES);
}

void devices_emptied(struct devices *devices, int64_t id, const char *field) {
    struct device_state *state = find(devices, id);
    if (state != NULL && is_ours(devices, state))
        renew_field(devices, state, field);
}

void devices_again(struct devices *devices, const char *topic) {
    int64_t id;
    const char *rest;
    struct device_state *state =
        read_id(topic + strlen(TOPIC_DEVICES), &id, &rest) ? find(devices, id) : NULL;
    const char *field = topic_after(rest, TOPIC_TELEMETRY);
    if (state == NULL || !is_ours(devices, state))
        return;
    if (*rest == '\0')
        mark_due(devices, state, STATE_IDENTITY);
    else if (field != NULL)
        renew_field(devices, state, field);
    else if (strcmp(rest, TOPIC_DISCOVERY) == 0)
        announce_anew(devices, state);
    else
        mark_due(devices, state, STATE_CONNECTED);
}

static void clear_orphans(struct devices *devices) {
    const struct claim *claim;
    for (claim = devices->claims; claim != NULL; claim = claim->hh.next)
        if (claim->reported && !claim->identified && find(devices, claim->id) == NULL)
            clearing_begin_orphan(devices->parts.clearing, claim->id);
}

// What the broker retained of it has expired: at least so long is it silent.
static void date(const struct devices *devices, struct device_state *state) {
    if (state->undated)
        state->heard -= (int64_t)mqtt_link_expiry(devices->parts.config) * 1000000;
    state->undated = false;
}

void devices_all_read(struct devices *devices) {
    struct device_state *state;
    clear_orphans(devices);
    drop_claims(devices);
    registry_forget_left(devices->parts.registry);
    devices->all_read = true;
    DL_FOREACH(devices->by_age, state) {
        date(devices, state);
        confirm(devices, state);
    }
    tell_all_created(devices);
}

struct devices *devices_new(const struct devices_parts *parts) {
    struct devices *devices = must_have(calloc(1, sizeof *devices));
    devices->parts = *parts;
    devices->us = holder_of(bus_client_id(parts->bus));
    devices->interval = parts->config->telemetry_interval;
    devices->strangers_announced = parts->config->home_assistant.unknown_devices;
    devices->newest = newest_new(parts->bus, &parts->asker);
    take_registry(devices);
    publisher_add(parts->publisher, go_round, devices);
    publisher_add(parts->publisher, publish_again, devices);
    devices->changes = changes_new(parts->bus, parts->publisher);
    return devices;
}

size_t devices_count(const struct devices *devices) {
    return HASH_COUNT(devices->by_id);
}

void devices_free(struct devices *devices) {
    while (devices->foreign != NULL)
        forget_foreign(devices, devices->foreign);
    drop_claims(devices);
    while (devices->denied != NULL)
        forget_denied(devices, devices->denied->id);
    free(devices->reload.moved);
    while (devices->by_age != NULL)
        forget(devices, devices->by_age);
    changes_free(devices->changes);
    newest_free(devices->newest);
    free(devices);
}
