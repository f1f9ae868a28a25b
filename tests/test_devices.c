// Devices of a registry that changes while the gateway runs: in portions, and what comes in between.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/broker/mqtt_link.h"
#include "gateway/channels/session.h"
#include "gateway/state/devices.h"
#include "tests/allocations.h"
#include "tests/carrier.h"

#define MANY      20000
#define PORTION   500
#define NAMES_MAX 32

static struct carrier carrier;
static struct config config;
static struct config_channel channel = {.id = 1, .name = "mictrack"};
static struct bus *bus;
static struct publisher *publisher;
static struct generation *generation;
static struct clearing *clearing;
static struct guard *guard;
static struct home_assistant *home_assistant;
static struct registry *registry;
static struct session_table sessions;
static struct devices *devices;
static size_t forgotten; // filters that are heard no longer
static size_t asked;     // filters that are asked for
static char asked_last[80];
static int64_t gone; // the last one of which it was said that nothing is for it any more

// --- a registry ---

// Its texts are the test's, so that the list alone is freed with it.
static char (*texts)[NAMES_MAX];

static const char *text(size_t i, const char *format, int number) {
    snprintf(texts[i], NAMES_MAX, format, number);
    return texts[i];
}

// Devices "1" to "count", with ids that begin at first; each list has texts of its own.
static struct config_devices *list_of(size_t count, int64_t first, const char *name) {
    struct config_devices *list = calloc(1, sizeof *list);
    list->list = calloc(count + 1, sizeof *list->list);
    list->count = count;
    texts = calloc(2 * count + 1, sizeof *texts);
    for (size_t i = 0; i < count; i++)
        list->list[i] = (struct config_device){.ident = text(2 * i, "%d", (int)i + 1),
                                               .name = text(2 * i + 1, name, (int)i + 1),
                                               .id = first + (int64_t)i};
    return list;
}

static struct registry_index *old_index;
static void *old_texts;

static void swap(struct config_devices *list, void *texts_before) {
    old_index = registry_swap(registry, registry_index_new(list));
    old_texts = texts_before;
}

// --- around it ---

static bool ask(void *context, const char *filter) {
    asked++;
    snprintf(asked_last, sizeof asked_last, "%s", filter);
    return true;
}

static void note_gone(void *context, int64_t id) {
    gone = id;
}

static void forget(void *context, const char *filter) {
    forgotten++;
}

static bool no(void *context) {
    return false;
}

static void remove_device(void *context, int64_t id, const char *ident) {
    devices_remove(devices, id, ident);
}

static void emptied(void *context, int64_t id, const char *field) {
}

static void again(void *context, const char *topic) {
}

static void all_again(void *context) {
}

static void open_devices(struct config_devices *list) {
    const struct mqtt_asker asker = {NULL, ask, forget, forget, forget, forget, no};
    channel.codec = codec_find("mictrack");
    registry = registry_new(list, UNKNOWN_ACCEPT, 1000000);
    bus = bus_new("trackbus", "me", carrier.outbox, &carrier.carrier);
    publisher = publisher_new(&carrier.loop);
    guard = guard_new(&carrier.loop, &(struct guard_handlers){NULL, again, all_again});
    generation = generation_new(&carrier.loop, bus, publisher);
    clearing = clearing_new(&carrier.loop, bus, &asker, publisher, generation, remove_device, emptied, NULL);
    home_assistant = home_assistant_new(&config, bus);
    devices = devices_new(&(struct devices_parts){.config = &config,
                                                  .registry = registry,
                                                  .bus = bus,
                                                  .asker = asker,
                                                  .publisher = publisher,
                                                  .clearing = clearing,
                                                  .generation = generation,
                                                  .guard = guard,
                                                  .home_assistant = home_assistant,
                                                  .sessions = &sessions,
                                                  .gone = note_gone});
}

static void set_up(void) {
    carrier_open(&carrier);
}

static void tear_down(void) {
    publisher_stop(publisher);
    guard_stop(guard);
    clearing_stop(clearing);
    carrier_close(&carrier);
    devices_free(devices);
    clearing_free(clearing);
    guard_free(guard);
    generation_free(generation);
    publisher_free(publisher);
    home_assistant_free(home_assistant);
    registry_free(registry);
    registry_index_free(old_index);
    bus_free(bus);
    free(texts);
    free(old_texts);
}

TestSuite(devices, .init = set_up, .fini = tear_down);

// Returns how many portions it took. Each takes from the heap no more than so many devices need.
static size_t reload(void) {
    size_t portions = 0, most = 0, before;
    bool all;
    devices_reload_begin(devices);
    do {
        before = allocations_count();
        all = devices_reload_some(devices, PORTION);
        size_t taken = allocations_count() - before;
        most = taken > most ? taken : most;
        portions++;
    } while (!all);
    cr_assert(most < 50 * PORTION, "%zu allocations in a portion", most);
    return portions;
}

// --- many ---

// Each is compared, and then taken from the registry.
#define PORTIONS_EXPECTED (2 * MANY / PORTION + 1)

Test(devices, that_are_renamed_are_taken_in_portions) {
    open_devices(list_of(MANY, 1, "Van %d"));
    void *before = texts;
    swap(list_of(MANY, 1, "Lorry %d"), before);
    cr_assert(reload() == PORTIONS_EXPECTED);
    cr_assert(devices_know(devices, 1) && devices_know(devices, MANY));
}

Test(devices, that_are_gone_are_removed_in_portions) {
    open_devices(list_of(MANY, 1, "Van %d"));
    void *before = texts;
    swap(list_of(1, 1, "Van %d"), before);
    size_t portions = reload();
    cr_assert(portions > MANY / PORTION && portions <= PORTIONS_EXPECTED, "%zu portions", portions);
    cr_assert(devices_know(devices, 1) && !devices_know(devices, 2) && !devices_know(devices, MANY));
    cr_assert(clearing_is_under_way(clearing, 2) && clearing_is_under_way(clearing, MANY));
}

Test(devices, that_are_new_are_taken_in_portions) {
    open_devices(list_of(1, 1, "Van %d"));
    void *before = texts;
    swap(list_of(MANY, 1, "Van %d"), before);
    size_t portions = reload();
    cr_assert(portions > MANY / PORTION && portions <= PORTIONS_EXPECTED, "%zu portions", portions);
    cr_assert(devices_know(devices, MANY));
}

// What an earlier run may have heard of each.
Test(devices, that_are_many_are_watched_no_longer_in_portions) {
    size_t portions = 1, most = 0, before;
    open_devices(list_of(MANY, 1, "Van %d"));
    devices_watch_each(devices, false);
    cr_assert(forgotten == 0);
    for (before = 0; !devices_watch_some(devices, PORTION); before = forgotten, portions++)
        most = forgotten - before > most ? forgotten - before : most;
    cr_assert(forgotten == MANY && most == PORTION && portions == MANY / PORTION, "%zu in %zu portions", most,
              portions);
}

// --- ids ---

static const char *ident_said(int64_t id) {
    static char ident[NAMES_MAX];
    char topic[64];
    snprintf(topic, sizeof topic, "trackbus/state/gw/devices/%lld", (long long)id);
    strcpy(ident, "none");
    for (size_t i = 0; i < carrier.count; i++) {
        json_t *json = json_loads(carrier.carried[i].payload, 0, NULL);
        if (strcmp(carrier.carried[i].topic, topic) == 0)
            snprintf(ident, sizeof ident, "%s", json_string_value(json_object_get(json, "ident")));
        json_decref(json);
    }
    return ident;
}

static size_t count_of(const char *topic) {
    size_t count = 0;
    for (size_t i = 0; i < carrier.count; i++)
        count += strcmp(carrier.carried[i].topic, topic) == 0;
    return count;
}

static void publish(void) {
    carrier_go_up(&carrier);
    publisher_open(publisher);
    for (int i = 0; i < 5; i++) {             // what is removed is published first, and taken
        uv_run(&carrier.loop, UV_RUN_NOWAIT); // each turn has its own time
        publisher_publish(publisher);
        carrier_answer_all(&carrier);
    }
}

// Two devices whose ids are exchanged.
static void exchange(void) {
    open_devices(list_of(2, 1, "Van %d"));
    void *before = texts;
    struct config_devices *list = list_of(2, 1, "Van %d");
    list->list[0].id = 2;
    list->list[1].id = 1;
    swap(list, before);
}

Test(devices, that_exchange_their_ids_both_have_the_others) {
    exchange();
    reload();
    publish();
    cr_assert_str_eq(ident_said(1), "2");
    cr_assert_str_eq(ident_said(2), "1");
}

// A device comes with the id that is still another one's: both have theirs at once.
Test(devices, that_come_while_ids_are_exchanged_push_nobody_out) {
    struct session session = {.ident = "1",
                              .device = {.known = true, .listed = true, .id = 2, .name = "Van 1"}};
    exchange();
    devices_reload_begin(devices);
    devices_arrived(devices, &session, &channel);
    cr_assert(devices_know(devices, 1) && devices_know(devices, 2));
    publish();
    cr_assert_str_eq(ident_said(1), "2");
    cr_assert_str_eq(ident_said(2), "1");
    cr_assert(devices_reload_some(devices, 10));
}

// One that is forgotten is not looked at any more.
Test(devices, that_leave_in_between_do_no_harm) {
    open_devices(list_of(3, 1, "Van %d"));
    void *before = texts;
    swap(list_of(1, 1, "Van %d"), before);
    devices_reload_begin(devices);
    while (!devices_reload_some(devices, 1)) {
    }
    cr_assert(devices_know(devices, 1) && !devices_know(devices, 2) && !devices_know(devices, 3));
}

// Two that are connected, and listed no more: by default both have the same id, and one of them goes.
Test(devices, that_come_to_share_an_id_push_one_out) {
    static const char *const idents[] = {"042", "42"};
    struct session here[2];
    struct place places[2];
    struct peer peer = {.channel = &channel,
                        .parts = &(struct channel_parts){.loop = &carrier.loop, .sessions = &sessions}};
    open_devices(list_of(0, 1, ""));
    void *before = texts;
    struct config_devices *list = list_of(2, 1, "Van %d");
    for (int i = 0; i < 2; i++)
        list->list[i].ident = idents[i];
    registry_index_free(registry_swap(registry, registry_index_new(list)));
    reload();
    peer.parts->registry = registry;
    for (int i = 0; i < 2; i++) {
        here[i] = (struct session){.tcp = &places[i], .device = {.id = 42}};
        strcpy(here[i].ident, idents[i]);
        places[i] = (struct place){.peer = &peer, .session = &here[i]};
        HASH_ADD_KEYPTR(by_ident, sessions.by_ident, here[i].ident, strlen(here[i].ident), &here[i]);
    }
    free(before);
    before = texts;
    swap(list_of(0, 1, ""), before);
    registry_set_unknown(registry, UNKNOWN_ACCEPT, 10);
    peer.parts->stranger_limiter.per_second = 0;
    reload();
    cr_assert(devices_know(devices, 42) && !devices_know(devices, 1) && !devices_know(devices, 2));
    publish();
    cr_assert_eq(count_of("trackbus/log/gw/devices/42/deleted"), 1, "what the first one left is cleared");
    HASH_CLEAR(by_ident, sessions.by_ident);
}

// --- what the broker tells of devices that nobody knows ---

#define CLAIMS 400000 // that are remembered

static void hear(int64_t id, const char *rest, const char *payload) {
    char topic[64];
    snprintf(topic, sizeof topic, "devices/%lld%s", (long long)id, rest);
    devices_received(
        devices, topic,
        &(struct mqtt_received){
            .topic = topic, .payload = payload, .length = strlen(payload), .retain = true, .instance = "me"});
}

Test(devices, that_nobody_knows_are_remembered_up_to_a_bound) {
    open_devices(list_of(0, 1, ""));
    for (int64_t id = 1; id <= CLAIMS + 1; id++)
        hear(id, "/telemetry/timestamp", "1795243067");
    devices_all_read(devices);
    cr_assert(clearing_is_under_way(clearing, CLAIMS) && !clearing_is_under_way(clearing, CLAIMS + 1));
}

// --- devices outside the registry ---

#define STRANGERS 1000 // that may have an identity

Test(devices, outside_the_registry_have_an_identity_up_to_a_bound) {
    open_devices(list_of(1, 1, "Van %d"));
    registry_set_unknown(registry, UNKNOWN_ACCEPT, STRANGERS);
    for (int i = 0; i <= STRANGERS; i++) {
        char ident[16];
        snprintf(ident, sizeof ident, "%d", 1000 + i);
        registry_admit(registry, ident);
    }
    cr_assert(registry_device(registry, "1000").known && registry_device(registry, "1999").known);
    cr_assert(registry_is_full(registry) && !registry_device(registry, "2000").known);
    registry_dismiss(registry, "1000");
    cr_assert(registry_device(registry, "2000").known, "it has the place of one that is gone");
}

#define ELEVEN "{\"ident\":\"11\",\"protocol_id\":1}"
#define GONE   "trackbus/log/gw/devices/11/deleted"

static const char *seconds_ago(int seconds) {
    static char text[32];
    snprintf(text, sizeof text, "%lld", (long long)(clock_now() / 1000000 - seconds));
    return text;
}

// After a restart, of a stranger that an earlier run has published.
static void hear_stranger(int arrived_ago, const char *timestamp) {
    open_devices(list_of(0, 1, ""));
    config.limits.forget_unknown_after = 1000;
    config.telemetry = TELEMETRY_PARAMETERS;
    hear(11, "", ELEVEN);
    if (timestamp != NULL) {
        hear(11, "/telemetry/timestamp", timestamp);
        hear(11, "/last_active", seconds_ago(arrived_ago));
    }
    devices_all_read(devices);
    devices_forget_silent(devices);
    publish();
}

// A minute's work for all devices must not hold the loop.
Test(devices, that_are_silent_for_long_are_forgotten_in_portions) {
    char identity[64];
    size_t turns = 0;
    open_devices(list_of(0, 1, ""));
    config.limits.forget_unknown_after = 0;
    config.limits.unknown_devices = MANY;
    registry_set_unknown(registry, UNKNOWN_ACCEPT, MANY);
    for (int64_t id = 1; id <= MANY; id++) {
        snprintf(identity, sizeof identity, "{\"ident\":\"%lld\",\"protocol_id\":1}", (long long)id);
        hear(id, "", identity);
    }
    devices_all_read(devices);
    publisher_open(publisher);
    cr_assert_eq(devices_count(devices), MANY);
    devices_forget_silent(devices);
    for (; devices_count(devices) > 0; turns++) {
        uv_run(&carrier.loop, UV_RUN_NOWAIT); // each turn has its own time
        publisher_publish(publisher);
    }
    cr_assert_gt(turns, 1, "all in one turn");
}

// What its own clock says is not when it was heard.
Test(devices, whose_clock_is_wrong_are_remembered_by_when_they_were_heard) {
    hear_stranger(500, "1546300800");
    cr_assert(devices_know(devices, 11));
}

Test(devices, whose_clock_is_ahead_are_forgotten_by_when_they_were_heard) {
    hear_stranger(1500, strdup(seconds_ago(1)));
    cr_assert(!devices_know(devices, 11));
}

// The broker has forgotten what it said: so long is it silent.
Test(devices, whose_telemetry_has_expired_are_forgotten_after_a_restart) {
    hear_stranger(0, NULL);
    cr_assert(!devices_know(devices, 11));
}

// With fewer places than before there is none for it: it is forgotten, and that is told.
Test(devices, without_a_place_after_a_restart_are_told_of) {
    open_devices(list_of(0, 1, ""));
    registry_set_unknown(registry, UNKNOWN_ACCEPT, 0);
    hear(11, "", ELEVEN);
    devices_all_read(devices);
    publish();
    cr_assert(!devices_know(devices, 11) && clearing_is_under_way(clearing, 11));
    cr_assert_eq(count_of(GONE), 1);
}

// --- those that left the configuration while nobody looked ---

// They would be strangers that nobody has changed anything of.
Test(devices, that_have_left_the_configuration_go_as_if_it_were_read_again) {
    open_devices(list_of(0, 1, ""));
    registry_note_left(registry, "11");
    hear(11, "", ELEVEN);
    hear(12, "", "{\"ident\":\"12\",\"protocol_id\":1}");
    devices_all_read(devices);
    publish();
    cr_expect(!devices_know(devices, 11) && clearing_is_under_way(clearing, 11));
    cr_expect(devices_know(devices, 12) && !clearing_is_under_way(clearing, 12));
    cr_expect_eq(count_of(GONE), 1);
    cr_expect_eq(gone, 11, "its commands are not for it any more");
    cr_expect(!registry_has_left(registry, "11"), "once is enough");
}

// --- one that reports ---

static struct peer its_peer = {.channel = &channel};
static struct session eleven = {.ident = "11", .device = {.known = true, .id = 11, .name = "11"}};
static struct place its_place = {.session = &eleven, .peer = &its_peer};

// It comes before the broker has told what it retains: it was one of the registry.
Test(devices, that_have_left_the_configuration_and_come_are_new) {
    open_devices(list_of(0, 1, ""));
    registry_note_left(registry, "11");
    eleven.tcp = &its_place;
    HASH_ADD(by_id, sessions.by_id, device.id, sizeof eleven.device.id, &eleven);
    devices_arrived(devices, &eleven, &channel);
    hear(11, "", ELEVEN);
    devices_all_read(devices);
    publish();
    cr_expect(devices_know(devices, 11) && clearing_is_under_way(clearing, 11));
    cr_expect_eq(count_of(GONE), 1);
    cr_expect_eq(count_of("trackbus/log/gw/devices/11/created"), 1);
    cr_expect_eq(gone, 11);
    HASH_CLEAR(by_id, sessions.by_id);
}

// It is outside the registry.
static void arrive(void) {
    open_devices(list_of(0, 1, ""));
    config.limits.forget_unknown_after = 1;
    eleven.tcp = &its_place;
    HASH_ADD(by_id, sessions.by_id, device.id, sizeof eleven.device.id, &eleven);
    devices_arrived(devices, &eleven, &channel);
    devices_all_read(devices);
    publish();
}

static void report_that_came(double seconds, int64_t received) {
    const struct message_member said[] = {
        {.field = FIELD_IDENT, .index = "", .value = "\"11\"", .length = 4},
        {.field = FIELD_POSITION_LATITUDE, .index = "", .value = "1.5", .length = 3},
        {.field = FIELD_POSITION_LONGITUDE, .index = "", .value = "2.5", .length = 3},
    };
    const struct channel_report report = {
        .members = said, .count = 3, .timestamp = (int64_t)(seconds * 1e6), .received = received};
    uv_run(&carrier.loop, UV_RUN_NOWAIT); // another turn
    devices_reported(devices, &eleven, &report);
    publish();
}

static void report_at(double seconds) {
    report_that_came(seconds, (int64_t)(seconds * 1e6));
}

// By the device's clock, whenever it came.
static void report_of(double seconds) {
    report_that_came(seconds, clock_now());
}

#define IDENT_11  "trackbus/state/gw/devices/11/telemetry/ident"
#define ACTIVE_11 "trackbus/state/gw/devices/11/last_active"

static void report_members(const struct message_member *said, size_t count, int64_t at) {
    uv_run(&carrier.loop, UV_RUN_NOWAIT); // another turn
    devices_reported(
        devices, &eleven,
        &(struct channel_report){
            .members = said, .count = count, .timestamp = at * 1000000, .received = clock_now()});
    publish();
}

static const char *last_on(const char *topic) {
    const char *payload = "none";
    for (size_t i = 0; i < carrier.count; i++)
        if (strcmp(carrier.carried[i].topic, topic) == 0)
            payload = carrier.carried[i].payload;
    return payload;
}

#define CELLS_11 "trackbus/state/gw/devices/11/telemetry/gsm.cells"
#define LAC_11   "trackbus/state/gw/devices/11/telemetry/gsm.lac"

// What is said of one serving cell is not said of the next. A report of nothing of the kind changes nothing, nor does one from
// before.
Test(devices, that_report_another_cell_leave_nothing_of_the_last_one) {
    const struct message_member said[] = {
        {.field = FIELD_GSM_CELLID, .index = "", .value = "1", .length = 1},
        {.field = FIELD_GSM_LAC, .index = "", .value = "2", .length = 1},
        {.field = FIELD_GSM_CELLS, .index = "", .value = "[{}]", .length = 4},
    };
    config.telemetry = TELEMETRY_PARAMETERS;
    config.telemetry_interval = 0;
    arrive();
    report_members(said, 3, 1600000005);
    report_members(said, 0, 1600000006);
    report_members(said, 2, 1600000004);
    cr_expect_str_eq(last_on(CELLS_11), "[{}]");
    report_members(said, 2, 1600000007);
    cr_expect_str_eq(last_on(CELLS_11), "");
    cr_expect_str_eq(last_on(LAC_11), "2");
    size_t count = count_of(CELLS_11);
    report_members(said, 2, 1600000008);
    cr_expect_eq(count_of(CELLS_11), count, "once is enough");
    HASH_CLEAR(by_id, sessions.by_id);
}

// --- one that another gateway had ---

static char prefix[] = "owntracks";

static void hear_measured(int64_t id, const char *rest, const char *payload, int64_t measured) {
    char topic[64];
    snprintf(topic, sizeof topic, "devices/%lld%s", (long long)id, rest);
    devices_received(devices, topic,
                     &(struct mqtt_received){.topic = topic,
                                             .payload = payload,
                                             .length = strlen(payload),
                                             .retain = true,
                                             .measured = measured});
}

static void arrive_from_another(enum config_telemetry telemetry) {
    static const char said[] = "devices/11/connected";
    config.telemetry = telemetry;
    config.owntracks.enabled = telemetry != TELEMETRY_PARAMETERS;
    config.owntracks.prefix = prefix;
    config.telemetry_interval = 0;
    open_devices(list_of(0, 1, ""));
    devices_all_read(devices);
    devices_received(
        devices, said,
        &(struct mqtt_received){.topic = said, .payload = "true", .length = 4, .instance = "other"});
    eleven.tcp = &its_place;
    HASH_ADD(by_id, sessions.by_id, device.id, sizeof eleven.device.id, &eleven);
    devices_arrived(devices, &eleven, &channel);
    publish();
}

// It kept reports, and the other gateway has published a later one.
Test(devices, from_another_gateway_do_not_go_back) {
    arrive_from_another(TELEMETRY_PARAMETERS);
    cr_assert_str_eq(asked_last, "trackbus/state/gw/devices/11/telemetry/timestamp");
    report_of(1600000005);
    cr_expect_eq(count_of(IDENT_11), 0, "it is not known yet whether that is the latest");
    hear(11, "/telemetry/timestamp", "1600000007");
    cr_expect_eq(forgotten, 1, "nothing more is asked");
    report_of(1600000006);
    cr_expect_eq(count_of(IDENT_11), 0, "both are older");
    report_of(1600000008);
    cr_expect_eq(count_of(IDENT_11), 1);
    HASH_CLEAR(by_id, sessions.by_id);
}

// Without telemetry last_active says how new the last report was.
Test(devices, from_another_gateway_do_not_go_back_for_owntracks) {
    arrive_from_another(TELEMETRY_OFF);
    cr_assert_str_eq(asked_last, ACTIVE_11);
    report_of(1600000005);
    hear_measured(11, "/last_active", "1600000020", 1600000007000000);
    publish();
    report_of(1600000006);
    cr_expect_eq(count_of("owntracks/trackbus/11"), 0, "both are older");
    report_of(1600000008);
    cr_expect_eq(count_of("owntracks/trackbus/11"), 1);
    cr_expect(count_of(ACTIVE_11) > 0, "that it reported is said in any case");
    HASH_CLEAR(by_id, sessions.by_id);
}

// A broker that has nothing of it does not answer.
Test(devices, from_another_gateway_of_which_nothing_is_retained_wait_for_a_while) {
    arrive_from_another(TELEMETRY_PARAMETERS);
    report_of(1600000005);
    int64_t end = clock_ticks() + 15000000;
    while (count_of(IDENT_11) == 0 && clock_ticks() < end) {
        uv_sleep(50);
        publish();
    }
    cr_expect_eq(count_of(IDENT_11), 1);
    HASH_CLEAR(by_id, sessions.by_id);
}

// After a restart; also of one whose clock was ahead.
Test(devices, without_telemetry_do_not_go_back_after_a_restart) {
    config.telemetry = TELEMETRY_OFF;
    config.owntracks.enabled = true;
    config.owntracks.prefix = prefix;
    open_devices(list_of(0, 1, ""));
    hear(11, "", ELEVEN);
    hear_measured(11, "/last_active", "1600000020", 1600000007000000);
    eleven.tcp = &its_place;
    HASH_ADD(by_id, sessions.by_id, device.id, sizeof eleven.device.id, &eleven);
    devices_arrived(devices, &eleven, &channel);
    devices_all_read(devices);
    publish();
    report_of(1600000006);
    cr_expect_eq(count_of("owntracks/trackbus/11"), 0);
    report_of(1600000008);
    cr_expect_eq(count_of("owntracks/trackbus/11"), 1);
    HASH_CLEAR(by_id, sessions.by_id);
}

Test(devices, whose_clock_is_ahead_do_not_go_back_after_a_restart) {
    int64_t now = clock_now() / 1000000;
    char ahead[24]; // by its clock; its report counts as of when it came
    config.telemetry = TELEMETRY_PARAMETERS;
    snprintf(ahead, sizeof ahead, "%lld", (long long)now + 3600);
    open_devices(list_of(0, 1, ""));
    hear(11, "", ELEVEN);
    hear_measured(11, "/telemetry/timestamp", ahead, (now - 10) * 1000000);
    eleven.tcp = &its_place;
    HASH_ADD(by_id, sessions.by_id, device.id, sizeof eleven.device.id, &eleven);
    devices_arrived(devices, &eleven, &channel);
    devices_all_read(devices);
    publish();
    report_of((double)now - 3600);
    cr_expect_eq(count_of(IDENT_11), 0);
    report_of((double)now + 3601);
    cr_expect_eq(count_of(IDENT_11), 1);
    HASH_CLEAR(by_id, sessions.by_id);
}

// What it has said would expire at the broker while it sleeps.
Test(devices, outside_the_registry_that_sleep_have_their_state_renewed) {
    config.telemetry = TELEMETRY_PARAMETERS;
    arrive();
    int64_t start = clock_ticks();
    report_at(1);
    size_t before = count_of(IDENT_11) + count_of(ACTIVE_11);
    while (clock_ticks() - start < 600000)
        uv_sleep(10);
    uv_run(&carrier.loop, UV_RUN_NOWAIT); // another turn
    devices_forget_silent(devices);
    publish();
    cr_assert(before == 2 && count_of(IDENT_11) == 2 && count_of(ACTIVE_11) == 2);
    cr_assert_eq(carrier_last(&carrier)->retain, MQTT_RETAINED_FOR_A_WHILE);
    HASH_CLEAR(by_id, sessions.by_id);
}

static void expect_active(size_t count, const char *payload) {
    const struct carried *last = NULL;
    for (size_t i = 0; i < carrier.count; i++)
        if (strcmp(carrier.carried[i].topic, ACTIVE_11) == 0)
            last = &carrier.carried[i];
    cr_assert_eq(count_of(ACTIVE_11), count, "%zu times, not %zu", count_of(ACTIVE_11), count);
    cr_assert(last != NULL && strcmp(last->payload, payload) == 0, "%s", last->payload);
}

// Also without telemetry; once a second, and in telemetry_interval, at most.
Test(devices, are_last_active_when_they_report) {
    config.telemetry = TELEMETRY_OFF;
    config.telemetry_interval = 0;
    arrive();
    cr_assert_eq(count_of(ACTIVE_11), 0, "it has connected, and said nothing");
    report_at(1800000005.75);
    expect_active(1, "1800000005");
    report_at(1800000005.875);
    expect_active(1, "1800000005");
    report_at(1800000006);
    expect_active(2, "1800000006");
    devices_restore(devices, (struct generation_span){0, UINT32_MAX});
    publish();
    expect_active(3, "1800000006");
    HASH_CLEAR(by_id, sessions.by_id);
}

// A connection that broke before all was looked at: what the next broker has does not say that it has the rest.
Test(devices, what_the_broker_lost_twice_is_due_again) {
    config.telemetry = TELEMETRY_OFF;
    config.telemetry_interval = 0;
    arrive();
    report_at(1800000005);
    expect_active(1, "1800000005");
    devices_restore(devices, (struct generation_span){0, UINT32_MAX});
    devices_restore(devices, (struct generation_span){UINT32_MAX - 1, UINT32_MAX});
    publish();
    expect_active(2, "1800000005");
    devices_restore(devices, (struct generation_span){UINT32_MAX - 1, UINT32_MAX});
    publish();
    expect_active(2, "1800000005");
    HASH_CLEAR(by_id, sessions.by_id);
}

Test(devices, are_last_active_once_in_the_interval) {
    config.telemetry = TELEMETRY_OFF;
    config.telemetry_interval = 3600000000;
    arrive();
    for (int i = 0; i < 10; i++)
        report_at(1800000005 + i);
    expect_active(1, "1800000005");
    devices_rest_no_more(devices);
    publish();
    expect_active(2, "1800000014");
    clearing_begin(clearing, 11, NULL);
    publish();
    expect_active(2, "1800000014"); // it is still here
    devices_remove(devices, 12, NULL);
    publish();
    cr_assert_eq(count_of("trackbus/state/gw/devices/12/last_active"), 1, "an earlier run may have said it");
    HASH_CLEAR(by_id, sessions.by_id);
}

// --- alarms ---

#define ALARMS_11 "trackbus/state/gw/devices/11/alarms"

static char discovery_prefix[] = "homeassistant";

static void arrive_with_alarms(int64_t interval) {
    config.home_assistant.enabled = config.home_assistant.unknown_devices = true;
    config.home_assistant.prefix = discovery_prefix;
    config.home_assistant.alarm_hold = 600;
    config.telemetry = TELEMETRY_PARAMETERS;
    config.telemetry_interval = interval;
    arrive();
    carrier.count = 0; // it was announced
}

// Does not publish what waits for the broker.
static void report_alarm(bool raised, int seconds_ago) {
    const struct message_member said[] = {
        {.field = FIELD_IDENT, .index = "", .value = "\"11\"", .length = 4},
        {.field = FIELD_ALARM_EVENT, .index = "", .value = "true", .length = 4},
    };
    int64_t now = clock_now(), then = (now / 1000000 - seconds_ago) * 1000000;
    uv_run(&carrier.loop, UV_RUN_NOWAIT); // another turn
    devices_reported(devices, &eleven,
                     &(struct channel_report){
                         .members = said, .count = raised ? 2 : 1, .timestamp = then, .received = now});
}

// "on off" as it was published, and "-" where the topic was emptied.
static const char *alarms_published(void) {
    static char said[128];
    said[0] = '\0';
    publish();
    for (size_t i = 0; i < carrier.count; i++) {
        const char *payload = carrier.carried[i].payload;
        if (strcmp(carrier.carried[i].topic, ALARMS_11) == 0)
            strcat(said, *payload == '\0' ? "- " : strstr(payload, "alarm.event") != NULL ? "on " : "off ");
    }
    return said;
}

// Also when it is over before the interval is.
Test(devices, whose_alarms_go_on_and_off_tell_it_within_the_interval) {
    arrive_with_alarms(3600000000);
    report_alarm(false, 3);
    cr_expect_str_eq(alarms_published(), "off ");
    report_alarm(true, 2);
    cr_expect_str_eq(alarms_published(), "off on ");
    report_alarm(true, 1);
    cr_expect_str_eq(alarms_published(), "off on ", "that it goes on can wait");
    report_alarm(false, 0);
    cr_expect_str_eq(alarms_published(), "off on off ");
    cr_expect_eq(count_of(IDENT_11), 1);
    HASH_CLEAR(by_id, sessions.by_id);
}

// While the broker has not taken what came before, or is away.
Test(devices, whose_alarms_are_over_before_they_are_published_tell_them) {
    arrive_with_alarms(0);
    report_alarm(false, 3);
    report_alarm(true, 2);
    report_alarm(false, 1);
    cr_expect_str_eq(alarms_published(), "off on off ");
    carrier_go_down(&carrier);
    report_alarm(true, 1);
    report_alarm(false, 0);
    cr_expect_str_eq(alarms_published(), "off on off on off ");
    HASH_CLEAR(by_id, sessions.by_id);
}

// Newer than the alarm, but stored by the tracker since.
Test(devices, whose_reports_come_late_neither_raise_nor_end_alarms) {
    arrive_with_alarms(0);
    hear_measured(11, "/last_active", seconds_ago(3000), (clock_now() / 1000000 - 3001) * 1000000);
    report_alarm(true, 2000);
    cr_expect_str_eq(alarms_published(), "", "its clock was right before we started");
    report_alarm(true, 1000);
    cr_expect_str_eq(alarms_published(), "");
    report_alarm(false, 500);
    cr_expect_str_eq(alarms_published(), "off ");
    report_alarm(true, 400);
    cr_expect_str_eq(alarms_published(), "off on ");
    config.home_assistant.alarm_hold = 100;
    report_alarm(false, 300);
    cr_expect_str_eq(alarms_published(), "off on ", "it ends with one that does not come late");
    report_alarm(false, 0);
    cr_expect_str_eq(alarms_published(), "off on off ");
    HASH_CLEAR(by_id, sessions.by_id);
}

// Nothing would empty the topic any more.
Test(devices, that_are_announced_no_longer_leave_no_alarms) {
    arrive_with_alarms(0);
    report_alarm(true, 0);
    cr_expect_str_eq(alarms_published(), "on ");
    config.home_assistant.unknown_devices = false;
    reload();
    cr_expect_str_eq(alarms_published(), "on - ");
    report_alarm(true, 0);
    report_alarm(false, 0);
    cr_expect_str_eq(alarms_published(), "on - ");
    config.home_assistant.unknown_devices = true;
    reload();
    cr_expect_str_eq(alarms_published(), "on - off ", "it is announced again");
    config.home_assistant.unknown_devices = false;
    reload();
    publish();
    carrier.count = 0;
    clearing_begin(clearing, 11, "11"); // an earlier run had it in the registry
    cr_expect_str_eq(alarms_published(), "- ");
    HASH_CLEAR(by_id, sessions.by_id);
}

Test(devices, outside_the_registry_expire_in_a_time_that_brokers_can_count) {
    config.limits.forget_unknown_after = 3600;
    cr_assert_eq(mqtt_link_expiry(&config), 3600);
    config.limits.forget_unknown_after = 315360000;
    cr_assert_eq(mqtt_link_expiry(&config), 2147483);
    open_devices(list_of(0, 1, ""));
}

// --- what another gateway says of devices that only it has ---

static void hear_from(const char *instance, int64_t id, const char *rest, const char *payload) {
    char topic[64];
    snprintf(topic, sizeof topic, "devices/%lld%s", (long long)id, rest);
    devices_received(
        devices, topic,
        &(struct mqtt_received){
            .topic = topic, .payload = payload, .length = strlen(payload), .instance = instance});
}

// How often it was said that one is not connected.
static size_t count_denied(void) {
    size_t count = 0;
    do { // a slow machine needs several turns
        uv_run(&carrier.loop, UV_RUN_NOWAIT);
        carrier_answer_all(&carrier);
    } while (!publisher_publish(publisher));
    carrier_answer_all(&carrier);
    for (size_t i = 0; i < carrier.count; i++)
        count += strstr(carrier.carried[i].topic, "/connected") != NULL &&
                 strcmp(carrier.carried[i].payload, "false") == 0;
    return count;
}

Test(devices, of_another_gateway_are_known_and_not_connected_once_it_is_gone) {
    open_devices(list_of(0, 1, ""));
    carrier_go_up(&carrier);
    publisher_open(publisher);
    devices_all_read(devices);
    hear_from("B", 42, "/connected", "true");
    hear_from(NULL, 43, "/connected", "true"); // MQTT 3.1.1
    hear_from(NULL, 43, "/instance", "\"B\"");
    hear_from("C", 44, "/connected", "true");
    hear_from("B", 45, "/connected", "true");
    hear_from("B", 45, "/connected", ""); // it has forgotten that one
    cr_expect(devices_know(devices, 42) && devices_know(devices, 43) && !devices_know(devices, 45));
    cr_expect_eq(count_denied(), 0);
    devices_take_over(devices, "B");
    cr_expect_eq(count_denied(), 2, "42 and 43");
    devices_take_over(devices, "B");
    cr_expect_eq(count_denied(), 2, "once is enough");
}

Test(devices, of_another_gateway_are_remembered_up_to_a_bound) {
    open_devices(list_of(0, 1, ""));
    for (int64_t id = 1; id <= CLAIMS + 1; id++)
        hear_from("B", id, "/connected", "true");
    cr_expect(devices_know(devices, CLAIMS) && !devices_know(devices, CLAIMS + 1));
}
