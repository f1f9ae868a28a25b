// Conversations: what becomes of what a peer says, with a protocol of the tests' own, which can do what no tracker
// here does: break the protocol, and call itself what is no ident.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/channels/conversation.h"
#include "gateway/channels/gate.h"
#include "gateway/channels/session.h"
#include "tests/carrier.h"

static struct carrier broker;
static struct config *config;
static struct registry *registry;
static struct bus *bus;
static struct channel_parts parts; // large: it has the limiters
static struct session_table sessions;
static struct stream_counters counters;
static char sent[256];

// --- a protocol: lines. "!" breaks it, "=IDENT" says who speaks from now on, all else is a report or an answer. It is said
// again at once and when it is safe, "~TEXT" only then ---

static struct codec_frame frame(const uint8_t *bytes, size_t length, enum codec_follow follow) {
    const uint8_t *end = memchr(bytes, '\n', length);
    size_t size = end != NULL ? (size_t)(end - bytes) + 1 : length;
    return (struct codec_frame){.kind = end != NULL || follow != CODEC_OPEN ? CODEC_READY : CODEC_MORE,
                                .length = size};
}

static enum codec_verdict decode(void *session, const uint8_t *bytes, size_t length, struct codec_out *out) {
    char ident[64] = "";
    if (*bytes == '!')
        return codec_reject(out, CODEC_VIOLATION, 0, "it broke the protocol");
    if (*bytes == '=') {
        memcpy(ident, bytes + 1, length - 2);
        out->identify(out->context, ident);
        return CODEC_OK;
    }
    message_reset(out->scratch);
    message_set_text(out->scratch, FIELD_MESSAGE_TYPE, "R", 1);
    out->message(out->context, out->scratch);
    if (*bytes != '~')
        out->reply(out->context, bytes, length, CODEC_NOW);
    out->reply(out->context, bytes, length, CODEC_WHEN_SAFE);
    return CODEC_OK;
}

static const struct codec lines = {.name = "lines",
                                   .id = 99,
                                   .title = "Lines",
                                   .session_size = 1,
                                   .frame_max = 64,
                                   .junk_max = 64,
                                   .frame = frame,
                                   .decode = decode};

static const struct config_channel channel = {.id = 1, .name = "lines", .codec = &lines};

// --- around it ---

static void send_bytes(struct peer *peer, const uint8_t *bytes, size_t length) {
    strncat(sent, (const char *)bytes, length);
}

static void close_peer(struct peer *peer, enum close_code code) {
    peer->close_code = code; // as the next turn of the loop would find it
}

static const struct peer_transport stream_of_bytes = {.send = send_bytes, .close = close_peer};

static void note_session(void *context, const struct session *session) {
}

static void note_arrival(void *context, const struct session *session, const struct config_channel *at) {
}

static void note_report(void *context, const struct session *session, const struct channel_report *report) {
}

static const struct channel_observer observer = {
    .arrived = note_arrival, .left = note_session, .reported = note_report, .talks = note_session};

static void note_fault(void *context, const char *path, const char *problem) {
    cr_assert_fail("%s: %s", path, problem);
}

static struct gate *gate;

static void configure(const char *text) {
    config = config_parse(text, strlen(text), note_fault, NULL);
    registry = registry_new(config->devices, config->unknown_devices, 1000);
    config->devices = NULL;
    parts.config = config;
    parts.registry = registry;
}

static void set_up(void) {
    carrier_open(&broker);
    carrier_go_up(&broker);
    bus = bus_new("t", "gateway", broker.outbox, &broker.carrier);
    gate = gate_new(&broker.loop, NULL, NULL);
    parts = (struct channel_parts){.loop = &broker.loop,
                                   .gate = gate,
                                   .outbox = broker.outbox,
                                   .bus = bus,
                                   .sessions = &sessions,
                                   .observer = &observer,
                                   .log_limiter = {.per_second = 20}};
}

static void tear_down(void) {
    registry_free(registry);
    config_free(config);
    bus_free(bus);
    gate_stop(gate);
    carrier_close(&broker);
    gate_free(gate);
}

TestSuite(conversation, .init = set_up, .fini = tear_down);

static void begin(struct peer *peer) {
    struct sockaddr_storage address;
    cr_assert(address_parse("192.0.2.1:4000", &address));
    *peer = (struct peer){.parts = NULL};
    conversation_begin(peer, &parts, &channel, &counters, &stream_of_bytes,
                       (const struct sockaddr *)&address);
}

static enum close_code say(struct peer *peer, const char *text) {
    return conversation_take(peer, (const uint8_t *)text, strlen(text), CODEC_OPEN);
}

static size_t count_on(const char *topic) {
    size_t count = 0;
    for (size_t i = 0; i < broker.count; i++)
        count += strcmp(broker.carried[i].topic, topic) == 0;
    return count;
}

#define REPORTS(ident) "trackbus/message/gw/channels/1/" ident

Test(conversation, that_breaks_the_protocol_ends_with_code_4) {
    struct peer peer;
    configure("{}");
    begin(&peer);
    cr_expect_eq(say(&peer, "=A\nreport\n!\nreport\n"), CLOSE_VIOLATION);
    cr_expect_eq((int)CLOSE_VIOLATION, 4);
    cr_expect_eq(count_on(REPORTS("A")), 1, "what comes after it is not taken");
    conversation_end(&peer);
}

Test(conversation, of_nobody_but_an_impossible_ident_ends_with_code_4) {
    struct peer peer;
    configure("{}");
    begin(&peer);
    cr_expect_eq(say(&peer, "=A/B\nreport\n"), CLOSE_VIOLATION);
    cr_expect_str_eq(sent, "report\n", "only what goes out at once");
    conversation_end(&peer);
}

// Of what comes at once, it does not matter who is first.
Test(conversation, goes_on_for_others_when_a_device_is_turned_away) {
    struct peer peer;
    configure("{\"unknown_devices\":\"reject\",\"devices\":[{\"ident\":\"A\",\"id\":1}]}");
    begin(&peer);
    cr_expect_eq(say(&peer, "=X\nlost\n=A\nfirst\n"), CLOSE_NONE);
    cr_expect_eq(say(&peer, "=A/B\nlost\n"), CLOSE_NONE);
    cr_expect_eq(say(&peer, "=X\nlost\n"), CLOSE_NONE);
    cr_expect(peer.session == NULL && strcmp(peer.turned_away, "X") == 0, "nobody is known to speak");
    cr_expect_eq(say(&peer, "=A\nsecond\n"), CLOSE_NONE);
    carrier_answer_all(&broker);
    cr_expect_eq(count_on(REPORTS("A")), 2);
    cr_expect_eq(count_on(REPORTS("X")), 0);
    cr_expect_str_eq(sent, "lost\nfirst\nlost\nlost\nsecond\nfirst\nsecond\n", "'%s'", sent);
    conversation_end(&peer);
}

Test(conversation, of_a_device_that_is_turned_away_alone_ends) {
    struct peer peer;
    configure("{\"unknown_devices\":\"reject\"}");
    begin(&peer);
    cr_expect_eq(say(&peer, "=X\n"), CLOSE_REJECTED);
    conversation_end(&peer);
}

// A codec need not say twice who speaks. A device that has moved meanwhile, and may not come back, is not told that
// its report was taken.
Test(conversation, does_not_acknowledge_what_it_does_not_take) {
    struct peer here, there;
    configure("{\"limits\":{\"takeover\":\"keep\"}}");
    begin(&here);
    begin(&there);
    cr_expect_eq(say(&here, "=A\n=B\n=A\nfirst\n"), CLOSE_NONE);
    session_leave(&here, "A");
    cr_expect_eq(say(&there, "=A\nsecond\n"), CLOSE_NONE);
    carrier_answer_all(&broker);
    sent[0] = '\0';
    cr_expect_eq(say(&here, "third\n"), CLOSE_NONE);
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "third\n", "only what goes out at once, and not '%s'", sent);
    cr_expect_eq(count_on(REPORTS("A")), 2);
    conversation_end(&here);
    conversation_end(&there);
}

// --- two who say the same ident ---

static bool behind;

static bool is_behind(const struct peer *peer) {
    return behind;
}

static const struct peer_transport that_is_behind = {
    .is_behind = is_behind, .send = send_bytes, .close = close_peer};

static void again(struct peer *peer) {
    conversation_take(peer, NULL, 0, CODEC_OPEN);
}

// Nothing of what it says is lost, or comes twice.
Test(conversation, with_a_device_that_was_just_taken_over_waits) {
    struct peer peers[3];
    configure("{}");
    for (size_t i = 0; i < 3; i++) {
        begin(&peers[i]);
        peers[i].may_wait = true;
    }
    say(&peers[0], "=A\nfirst\n");
    say(&peers[1], "=A\nsecond\n");
    cr_expect_eq(peers[0].close_code, CLOSE_SAME_IDENT, "the first time it need not wait");
    cr_expect_eq(say(&peers[2], "=A\nthird\nfour"), CLOSE_NONE);
    cr_expect(peers[2].stream.postponed && peers[1].close_code == CLOSE_NONE);
    broker.loop.time += 999;
    again(&peers[2]);
    cr_expect(peers[2].stream.postponed && count_on(REPORTS("A")) == 2);
    cr_expect_str_eq(sent, "first\nsecond\n", "nothing is answered yet");
    broker.loop.time += 1;
    again(&peers[2]);
    cr_expect(!peers[2].stream.postponed && peers[1].close_code == CLOSE_SAME_IDENT);
    say(&peers[2], "th\n");
    cr_expect_eq(count_on(REPORTS("A")), 4);
    cr_expect_str_eq(sent, "first\nsecond\nthird\nfourth\n", "'%s'", sent);
    cr_expect_eq(counters.verdicts[CODEC_OK], 7, "each line counts once");
    for (size_t i = 0; i < 3; i++)
        conversation_end(&peers[i]);
}

Test(conversation, waits_until_the_other_connection_is_read_up_or_gone) {
    struct peer old, next;
    configure("{}");
    begin(&old);
    begin(&next);
    old.transport = &that_is_behind;
    next.may_wait = behind = true;
    say(&old, "=A\n");
    say(&next, "=A\nsecond\n");
    cr_expect(next.stream.postponed && old.close_code == CLOSE_NONE);
    say(&old, "first\n");
    again(&next);
    cr_expect(next.stream.postponed);
    conversation_end(&old);
    again(&next);
    cr_expect(!next.stream.postponed && count_on(REPORTS("A")) == 2);
    conversation_end(&next);
}

// The others there would wait as well; and datagrams cannot.
Test(conversation, of_several_devices_or_of_datagrams_does_not_wait) {
    struct peer alone, relay, address;
    configure("{}");
    begin(&alone);
    begin(&relay);
    begin(&address);
    alone.may_wait = relay.may_wait = true;
    say(&alone, "=A\n=B\n");
    say(&relay, "=C\n=A\nfirst\n");
    say(&alone, "=A\nsecond\n");
    say(&relay, "=A\nthird\n");
    say(&address, "=A\nfourth\n");
    cr_expect_eq(count_on(REPORTS("A")), 4);
    conversation_end(&alone);
    conversation_end(&relay);
    conversation_end(&address);
}

// The first, or an empty text.
static const char *payload_on(const char *topic) {
    for (size_t i = 0; i < broker.count; i++)
        if (strcmp(broker.carried[i].topic, topic) == 0)
            return broker.carried[i].payload;
    return "";
}

// What another gateway is told of late must not undo what happened since: this one says so itself, since the clocks of
// the two need not agree.
Test(conversation, tells_of_a_device_late_only_without_the_broker) {
    struct peer peers[2];
    configure("{\"devices\":[{\"ident\":\"A\",\"id\":1},{\"ident\":\"B\",\"id\":2}]}");
    begin(&peers[0]);
    begin(&peers[1]);
    say(&peers[0], "=A\n");
    const char *entry = payload_on("t/log/gw/devices/1/connected");
    cr_expect(*entry != '\0' && strstr(entry, "late") == NULL, "'%s'", entry);
    carrier_go_down(&broker);
    say(&peers[1], "=B\n");
    carrier_go_up(&broker);
    carrier_answer_all(&broker);
    cr_expect(strstr(payload_on("t/log/gw/devices/2/connected"), "\"late\":true") != NULL);
    conversation_end(&peers[0]);
    conversation_end(&peers[1]);
}

// --- devices outside the registry ---

#define STRANGERS 12

static const char *name_of(size_t number) {
    static char ident[8];
    snprintf(ident, sizeof ident, "S%zu", number);
    return ident;
}

static void say_of(struct peer *peer, const char *ident) {
    char line[48];
    snprintf(line, sizeof line, "=%s\n", ident);
    say(peer, line);
}

static void all_say(struct peer peers[STRANGERS]) {
    for (size_t i = 0; i < STRANGERS; i++)
        say_of(&peers[i], name_of(i));
}

static size_t count_known(void) {
    size_t known = 0;
    for (size_t i = 0; i < STRANGERS; i++)
        known += session_by_ident(&sessions, name_of(i))->device.known;
    return known;
}

static void begin_all(struct peer peers[STRANGERS]) {
    broker.loop.time = 600000;
    parts.stranger_limiter.per_second = 10;
    for (size_t i = 0; i < STRANGERS; i++)
        begin(&peers[i]);
}

static void end_all(struct peer peers[STRANGERS]) {
    for (size_t i = 0; i < STRANGERS; i++)
        conversation_end(&peers[i]);
}

static void say_all(struct peer *relay) {
    for (size_t i = 0; i < STRANGERS; i++)
        say_of(relay, name_of(i));
}

// The others of their relay report all the time, but only who is new counts against the limit of its address.
Test(conversation, of_a_stranger_without_a_place_gets_one_in_the_next_minute) {
    struct peer relay;
    configure("{}");
    broker.loop.time = 600000;
    parts.stranger_limiter.per_second = 10;
    begin(&relay);
    say_all(&relay);
    cr_expect_eq(count_known(), 10);
    broker.loop.time += 60000;
    for (int i = 0; i < 10; i++)
        say_all(&relay);
    sessions_admit_begin(parts.sessions);
    while (!sessions_admit_some(&parts))
        ;
    cr_expect_eq(count_known(), STRANGERS, "%zu", count_known());
    conversation_end(&relay);
}

static const struct peer_transport datagrams = {.is_udp = true, .send = send_bytes, .close = close_peer};

// What so many addresses say in a datagram each; returns how many reports of it are taken.
static size_t say_by_datagrams(bool strangers, size_t addresses, const char *reports) {
    size_t taken = 0;
    for (size_t i = 0; i < addresses; i++) {
        struct sockaddr_storage address;
        struct peer peer = {.parts = NULL};
        char text[32], line[96];
        snprintf(text, sizeof text, "192.0.2.%zu:4000", i + 1);
        cr_assert(address_parse(text, &address));
        conversation_begin(&peer, &parts, &channel, &counters, &datagrams, (const struct sockaddr *)&address);
        snprintf(line, sizeof line, "=%s\n%s", strangers ? name_of(i) : "A", reports);
        say(&peer, line);
        taken += (size_t)peer.messages;
        conversation_end(&peer);
    }
    return taken;
}

// Addresses can be forged, and limits by address do not count them together. A new one counts as a report more.
Test(conversation, of_all_strangers_over_udp_has_a_bound) {
    configure("{\"devices\":[{\"ident\":\"A\",\"id\":1}]}");
    parts.stranger_limiter.per_second = 1000;
    parts.records_limiter.per_second = 12;
    size_t taken = say_by_datagrams(true, 6, "r\nr\n");
    cr_expect_eq(taken, 8, "%zu", taken);
    cr_expect_eq(say_by_datagrams(false, 2, "r\nr\n"), 4, "not of a device of the registry");
    *sent = '\0';
    cr_expect_eq(say_by_datagrams(true, 1, "~\n"), 0);
    cr_expect_str_eq(sent, "", "what was not taken is acknowledged");
    broker.loop.time += 1000;
    cr_expect_eq(say_by_datagrams(true, 1, "r\nr\n"), 2, "in the next second");
}

static size_t count_told(const char *text) {
    size_t told = 0;
    carrier_answer_all(&broker);
    for (size_t i = 0; i < broker.count; i++)
        told += strstr(broker.carried[i].payload, text) != NULL;
    return told;
}

// Entries of the log as many as there are addresses would take the place of reports.
Test(conversation, of_all_strangers_over_udp_that_is_too_much_is_told_once_a_minute) {
    configure("{}");
    carrier_go_up(&broker);
    broker.loop.time = 600000;
    parts.stranger_limiter.per_second = 1000;
    parts.records_limiter.per_second = 1;
    say_by_datagrams(true, 10, "r\n");
    cr_expect_eq(count_told("too much over UDP"), 1, "%zu", count_told("too much over UDP"));
    broker.loop.time += 59000;
    say_by_datagrams(true, 3, "r\n");
    cr_expect_eq(count_told("too much over UDP"), 1);
    broker.loop.time += 1000;
    say_by_datagrams(true, 3, "r\n");
    cr_expect_eq(count_told("too much over UDP"), 2);
    cr_expect_eq(count_told("\"suppressed\":"), 1, "those that nobody was told of are counted");
}

// Its id is that of a listed one, so that it never gets an identity.
Test(conversation, of_who_can_have_no_identity_takes_no_place_of_others) {
    struct peer peer;
    configure("{\"devices\":[{\"ident\":\"A\",\"id\":42}]}");
    parts.stranger_limiter.per_second = 1;
    for (int i = 0; i < 3; i++) {
        begin(&peer);
        say_of(&peer, "42");
        cr_expect(!peer.session->device.known);
        conversation_end(&peer);
    }
    begin(&peer);
    say_of(&peer, "43");
    cr_expect(peer.session->device.known);
    conversation_end(&peer);
}

// A changed configuration lets no more of them in at once than come by themselves.
Test(conversation, of_strangers_that_may_have_an_identity_from_now_on) {
    struct peer peers[STRANGERS];
    configure("{\"unknown_devices\":\"channel\"}");
    begin_all(peers);
    all_say(peers);
    cr_expect_eq(count_known(), 0);
    registry_set_unknown(registry, UNKNOWN_ACCEPT, 1000);
    sessions_reload_begin(&sessions);
    while (!sessions_reload_some(&sessions, 5)) {
    }
    cr_expect_eq(count_known(), 10, "%zu", count_known());
    broker.loop.time += 60000;
    sessions_admit_begin(parts.sessions);
    while (!sessions_admit_some(&parts))
        ;
    cr_expect_eq(count_known(), STRANGERS);
    end_all(peers);
}
