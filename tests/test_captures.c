// Captures: which devices they want, and how much work it is to know that, in counts.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/channels/captures.h"
#include "gateway/channels/session.h"
#include "gateway/channels/tap.h"
#include "tests/carrier.h"

#define CAPTURES 64
#define DEVICES  1000 // behind a relay
#define CHUNKS   1000

static struct carrier carrier;
static struct bus *bus;
static struct config config = {.mqtt = {.topic_prefix = "t"}};
static struct config_channel channel = {.id = 1, .name = "mictrack"};
static struct channel_parts parts; // large: it has the limiters
static struct session_table sessions;
static struct stream_counters counters;
static const struct stream_sink sink;

static void ignore_bytes(struct peer *peer, const uint8_t *bytes, size_t length) {
}

static void ignore_end(struct peer *peer, enum close_code code) {
}

static void ignore_arrival(void *context, const struct session *session, const struct config_channel *at) {
}

static void ignore_session(void *context, const struct session *session) {
}

static const struct peer_transport transport = {.send = ignore_bytes, .close = ignore_end};
static const struct channel_observer observer = {
    .arrived = ignore_arrival, .left = ignore_session, .talks = ignore_session};

// Of one device, or of none. Whoever gets it frees it.
static struct config_devices *list(const char *ident, int64_t id, const char *name) {
    struct config_devices *devices = calloc(1, sizeof *devices);
    devices->list = calloc(1, sizeof *devices->list);
    devices->list[0] = (struct config_device){.ident = ident, .id = id, .name = name};
    devices->count = ident != NULL;
    return devices;
}

static void set_up(void) {
    carrier_open_as(&carrier, "t");
    bus = bus_new("t", "me", carrier.outbox, &carrier.carrier);
    channel.codec = codec_find("mictrack");
    parts = (struct channel_parts){.loop = &carrier.loop,
                                   .config = &config,
                                   .outbox = carrier.outbox,
                                   .bus = bus,
                                   .sessions = &sessions,
                                   .observer = &observer,
                                   .registry = registry_new(list(NULL, 0, NULL), UNKNOWN_ACCEPT, 1000000),
                                   .captures = captures_new(&carrier.loop, bus)};
}

static void tear_down(void) {
    captures_stop(parts.captures);
    carrier_close(&carrier);
    captures_free(parts.captures);
    registry_free(parts.registry);
    bus_free(bus);
}

TestSuite(captures, .init = set_up, .fini = tear_down);

static void open_peer(struct peer *peer) {
    *peer = (struct peer){.parts = &parts, .channel = &channel, .transport = &transport};
    stream_init(&peer->stream, channel.codec, &sink, peer, &counters);
}

static void close_peer(struct peer *peer) {
    tap_forget(peer);
    session_detach(peer);
    stream_free(&peer->stream);
}

static void ask(const char *device, const char *by, unsigned seconds) {
    char request[256];
    snprintf(request, sizeof request, "{\"device\":\"%s\",\"by\":\"%s\",\"seconds\":%u}", device, by,
             seconds);
    captures_request(parts.captures, request, strlen(request));
}

static void say(struct peer *peer, const char *ident, int64_t id, const char *name) {
    struct device device = {.known = id != 0, .allowed = true, .name = name, .id = id};
    session_attach(peer, ident, &device);
}

static bool is_wanted(struct peer *peer) {
    session_find_captured(peer);
    return captures_by_device(parts.captures, peer) != 0;
}

// Who wants it, by their names: "a b".
static const char *who_wants(struct peer *peer) {
    static char text[64];
    size_t i;
    json_t *name;
    session_find_captured(peer);
    json_t *names = captures_names(parts.captures, captures_by_device(parts.captures, peer));
    text[0] = '\0';
    json_array_foreach(names, i, name) {
        size_t length = strlen(text);
        snprintf(text + length, sizeof text - length, "%s%s", i > 0 ? " " : "", json_string_value(name));
    }
    json_decref(names);
    return text;
}

static void receive(struct peer *peer, const char *bytes) {
    tap_received(peer, (const uint8_t *)bytes, strlen(bytes));
    tap_taken(peer);
}

// As many captures as there may be look for devices that are not there, beside a relay whose bytes come one by one.
Test(captures, a_chunk_of_a_relay_costs_no_look_at_each_of_its_devices) {
    struct peer peer;
    char text[32];
    open_peer(&peer);
    for (unsigned i = 0; i < CAPTURES; i++) {
        snprintf(text, sizeof text, "nobody%u", i);
        ask(text, "me", 60);
    }
    for (unsigned i = 1; i <= DEVICES; i++) {
        snprintf(text, sizeof text, "8664250313%05u", i);
        say(&peer, text, i, "Van");
        receive(&peer, ".");
    }
    for (unsigned i = 0; i < CHUNKS; i++)
        receive(&peer, ".");
    size_t looks = captures_looks(parts.captures);
    cr_expect(looks <= 4 * DEVICES, "%zu looks at a device for %u devices and %u chunks", looks, DEVICES,
              DEVICES + CHUNKS);
    close_peer(&peer);
}

// It begins and ends with the first and the last of its devices that is asked for, whatever that is called.
Test(captures, follow_devices_that_come_and_go_at_a_relay) {
    struct peer peer;
    open_peer(&peer);
    ask("42", "id", 60);
    ask("Van 1", "name", 60);
    ask("866425031361423", "ident", 60);
    say(&peer, "866425031361400", 1, "Car");
    cr_expect(!is_wanted(&peer));
    say(&peer, "866425031361423", 42, "Van 1");
    cr_expect_str_eq(who_wants(&peer), "id name ident");
    say(&peer, "866425031361424", 43, "Van 1");
    session_leave(&peer, "866425031361423");
    cr_expect_str_eq(who_wants(&peer), "name");
    session_leave(&peer, "866425031361424");
    cr_expect(!is_wanted(&peer));
    close_peer(&peer);
}

// One that begins later does not get what is another's.
Test(captures, that_end_leave_nothing_to_those_that_begin) {
    struct peer peer;
    open_peer(&peer);
    say(&peer, "866425031361423", 42, "Van 1");
    ask("Van 1", "a", 60);
    ask("Van 1", "b", 60);
    cr_expect_str_eq(who_wants(&peer), "a b");
    ask("Van 1", "a", 0);
    ask("Van 2", "c", 60);
    cr_expect_str_eq(who_wants(&peer), "b");
    ask("Van 1", "b", 0);
    cr_expect(!is_wanted(&peer));
    close_peer(&peer);
}

// The registry gives a device another name and id while it is here.
Test(captures, know_a_device_by_its_new_name) {
    struct peer peer;
    open_peer(&peer);
    say(&peer, "866425031361423", 42, "Van 1");
    ask("Van 1", "old", 60);
    ask("Van 2", "new", 60);
    cr_expect_str_eq(who_wants(&peer), "old");
    struct registry_index *before =
        registry_swap(parts.registry, registry_index_new(list("866425031361423", 7, "Van 2")));
    session_reload(session_by_ident(&sessions, "866425031361423"));
    cr_expect_str_eq(who_wants(&peer), "new");
    close_peer(&peer);
    registry_index_free(before);
}
