// Reports that wait for their position: their order, and the replies to them. A protocol of the tests' own, a service that
// answers when the test says so.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/channels/conversation.h"
#include "gateway/channels/held.h"
#include "gateway/channels/session.h"
#include "gateway/geolocation/locator.h"
#include "tests/carrier.h"
#include "tests/geo_service.h"

static struct carrier broker;
static struct geo_service *service;
static struct config *config;
static struct registry *registry;
static struct bus *bus;
static struct locator *locator;
static struct channel_parts parts; // large: it has the limiters
static struct session_table sessions;
static struct stream_counters counters;
static char sent[256], reported[256];

// --- a protocol: lines. "=IDENT" says who speaks, "?TEXT" is a report of somebody who sees the access point TEXT, all else a
// report of somebody who sees none. Each is acknowledged by itself, but for "-TEXT". ---

static struct codec_frame frame(const uint8_t *bytes, size_t length, enum codec_follow follow) {
    const uint8_t *end = memchr(bytes, '\n', length);
    size_t size = end != NULL ? (size_t)(end - bytes) + 1 : length;
    return (struct codec_frame){.kind = end != NULL ? CODEC_READY : CODEC_MORE, .length = size};
}

static void see(struct message *message, char letter) {
    char mac[18] = "02:00:00:00:00:00";
    snprintf(mac, sizeof mac, "02:00:00:00:00:%02x", (unsigned char)letter);
    message_add_list(message, FIELD_WIFI_ACCESS_POINTS);
    message_add_row(message, FIELD_WIFI_ACCESS_POINTS);
    message_set_text(message, FIELD_WIFI_ACCESS_POINTS_MAC, mac, strlen(mac));
}

static enum codec_verdict decode(void *session, const uint8_t *bytes, size_t length, struct codec_out *out) {
    char ident[64] = "";
    if (*bytes == '=') {
        memcpy(ident, bytes + 1, length - 2);
        out->identify(out->context, ident);
        return CODEC_OK;
    }
    message_reset(out->scratch);
    message_set_text(out->scratch, FIELD_MESSAGE_TYPE, (const char *)bytes, length - 1);
    if (*bytes == '?')
        see(out->scratch, (char)bytes[1]);
    if (*bytes != '!') // a repeat: no message
        out->message(out->context, out->scratch);
    if (*bytes != '-') {
        out->reply(out->context, bytes, length - 1, CODEC_WHEN_SAFE);
        out->reply(out->context, (const uint8_t *)"#", 1, CODEC_WHEN_REFUSED);
    }
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
    strcat(sent, " ");
}

static void close_peer(struct peer *peer, enum close_code code) {
    peer->close_code = code;
}

static unsigned all_out;

static void note_all_out(struct peer *peer) {
    all_out++;
}

static const struct peer_transport by_tcp = {
    .send = send_bytes, .close = close_peer, .all_out = note_all_out};
static const struct peer_transport by_udp = {.is_udp = true, .send = send_bytes, .close = close_peer};

static void note_session(void *context, const struct session *session) {
}

static void note_left(void *context, const struct session *session) {
    strcat(reported, "left ");
}

static void note_arrival(void *context, const struct session *session, const struct config_channel *at) {
}

// Its type, with a * when it has a position.
static void note_report(void *context, const struct session *session, const struct channel_report *report) {
    const char *mark = " ";
    for (size_t i = 0; i < report->count; i++) {
        const struct message_member *member = &report->members[i];
        if (member->field == FIELD_MESSAGE_TYPE)
            strncat(reported, member->value + 1, member->length - 2);
        if (member->field == FIELD_POSITION_LATITUDE)
            mark = "* ";
    }
    strcat(reported, mark);
    cr_expect(session_any_peer(session) != NULL, "who listens counts on it");
}

static void ignore_report(void *context, const struct session *session, const struct channel_report *report) {
}

static const struct channel_observer observer = {
    .arrived = note_arrival, .left = note_left, .reported = note_report, .talks = note_session};

static void note_fault(void *context, const char *path, const char *problem) {
    cr_assert_fail("%s: %s", path, problem);
}

static void configure(int port, unsigned timeout) {
    char text[256];
    snprintf(
        text, sizeof text,
        "{\"geolocation\":{\"url\":\"http://127.0.0.1:%d/v1\",\"timeout\":%u},\"messages\":[\"devices\"]}",
        port, timeout);
    config = config_parse(text, strlen(text), note_fault, NULL);
    registry = registry_new(config->devices, config->unknown_devices, 1000);
    config->devices = NULL;
}

static void set_up(void) {
    carrier_open(&broker);
    carrier_go_up(&broker);
    service = geo_service_start(NULL, NULL);
    geo_service_fall_silent(service);
    configure(geo_service_port(service), 60);
    bus = bus_new("t", "gateway", broker.outbox, &broker.carrier);
    locator = locator_new(&broker.loop, config, broker.store);
    parts = (struct channel_parts){.loop = &broker.loop,
                                   .config = config,
                                   .registry = registry,
                                   .outbox = broker.outbox,
                                   .bus = bus,
                                   .sessions = &sessions,
                                   .observer = &observer,
                                   .log_limiter = {.per_second = 20},
                                   .datagram_limiter = {.per_second = 1000},
                                   .records_limiter = {.per_second = 1000},
                                   .stranger_limiter = {.per_second = 100}};
    parts.held = held_new(&parts, locator);
    sent[0] = reported[0] = '\0';
}

static void tear_down(void) {
    cr_expect_eq(held_count(parts.held), 0);
    held_stop(parts.held);
    locator_stop(locator);
    uv_run(&broker.loop, UV_RUN_NOWAIT);
    bus_free(bus);
    registry_free(registry);
    carrier_close(&broker);
    held_free(parts.held);
    locator_free(locator);
    config_free(config);
    geo_service_stop(service);
}

TestSuite(held, .init = set_up, .fini = tear_down);

static void begin(struct peer *peer, const struct peer_transport *transport) {
    struct sockaddr_storage address;
    cr_assert(address_parse("192.0.2.1:4000", &address));
    *peer = (struct peer){.parts = NULL};
    conversation_begin(peer, &parts, &channel, &counters, transport, (const struct sockaddr *)&address);
}

static void say(struct peer *peer, const char *text) {
    cr_assert_eq(conversation_take(peer, (const uint8_t *)text, strlen(text), CODEC_OPEN), CLOSE_NONE);
}

static void give_up(uv_timer_t *timer) {
    cr_assert_fail("it does not come to '%s', but to '%s'", (const char *)timer->data, reported);
}

static bool are_all_out(const char *text) {
    return held_count(parts.held) == 0;
}

static bool are_reported(const char *text) {
    return strcmp(reported, text) == 0;
}

static void turn_until(bool (*condition)(const char *text), const char *text) {
    uv_timer_t deadline;
    uv_timer_init(&broker.loop, &deadline);
    deadline.data = (void *)text;
    uv_timer_start(&deadline, give_up, 15000, 0);
    while (!condition(text))
        uv_run(&broker.loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&deadline, NULL);
    uv_run(&broker.loop, UV_RUN_NOWAIT);
}

static void run_until(const char *text) {
    turn_until(are_reported, text);
}

static void speak_until(const char *text) {
    geo_service_speak(service);
    run_until(text);
}

static void speak_until_all_are_out(void) {
    geo_service_speak(service);
    turn_until(are_all_out, "all");
}

// Its later reports wait behind it, those of others do not.
Test(held, reports_keep_the_order_of_their_device) {
    struct peer one, other;
    begin(&one, &by_tcp);
    begin(&other, &by_tcp);
    say(&one, "=A\n?1\nB\n");
    say(&other, "=C\nD\n");
    cr_expect_str_eq(reported, "D ");
    cr_expect_eq(held_count(parts.held), 2);
    speak_until("D ?1* B ");
    say(&one, "?1\n");
    cr_expect_str_eq(reported, "D ?1* B ?1* ", "what is known need not wait");
    cr_expect_eq(geo_service_count(service), 1);
    conversation_end(&one);
    conversation_end(&other);
}

Test(held, reports_with_the_same_surroundings_ask_once) {
    struct peer one;
    begin(&one, &by_tcp);
    say(&one, "=A\n?1\n=B\n?1\n=C\n?1\n");
    cr_expect_eq(held_count(parts.held), 3);
    speak_until("?1* ?1* ?1* ");
    cr_expect_eq(geo_service_count(service), 1);
    cr_expect_eq(locator_counts(locator)->found, 3);
    conversation_end(&one);
}

Test(held, reports_are_acknowledged_once_they_are_safe) {
    struct peer one;
    begin(&one, &by_tcp);
    say(&one, "=A\n?1\nB\n!1\n");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "", "not before they are out");
    speak_until("?1* B ");
    cr_expect_str_eq(sent, "", "nor before the broker has them");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "?1 B !1 ");
    cr_expect(one.holds == NULL && all_out > 0);
    conversation_end(&one);
}

// What a device says after it waits for nobody else's.
Test(held, reports_of_one_device_delay_no_acknowledgement_of_another) {
    struct peer one;
    begin(&one, &by_tcp);
    say(&one, "=A\n?1\n=B\nC\n");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "C ");
    speak_until("C ?1* ");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "C ?1 ");
    conversation_end(&one);
}

// A repeat has no message of its own, and waits for all that was said before.
Test(held, a_repeat_is_not_acknowledged_before_what_it_repeats) {
    struct peer one;
    begin(&one, &by_tcp);
    say(&one, "=A\n-0\n?1\n=B\n?2\n!1\n");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "");
    speak_until_all_are_out();
    carrier_answer_all(&broker);
    const char *repeat = strstr(sent, "!1 ");
    cr_expect(repeat != NULL && repeat[3] == '\0', "'%s'", sent);
    cr_expect_eq(strlen(sent), strlen("?1 ?2 !1 "));
    conversation_end(&one);
}

// So does one behind what another device has said, and nobody has acknowledged.
Test(held, a_repeat_behind_another_device_waits_for_what_it_repeats) {
    struct peer one;
    begin(&one, &by_tcp);
    say(&one, "=A\n?1\n=B\n-0\n=A\n!1\n");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "");
    speak_until("-0 ?1* ");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "?1 !1 ");
    conversation_end(&one);
}

// In one datagram with what another device says.
Test(held, a_repeat_in_a_datagram_waits_for_what_it_repeats) {
    struct peer one;
    begin(&one, &by_udp);
    say(&one, "=A\n?1\n");
    say(&one, "=B\n?2\n=A\n!1\n");
    say(&one, "=B\n");
    held_release(parts.held, &one.session->held);
    carrier_answer_all(&broker);
    cr_expect_str_eq(reported, "?2 ");
    cr_expect_str_eq(sent, "");
    speak_until("?2 ?1* ");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "?1 ?2!1 ");
    conversation_end(&one);
}

// An acknowledgement that covers several, of which the first goes out before it is written.
Test(held, an_acknowledgement_covers_all_before_it) {
    struct peer one;
    begin(&one, &by_tcp);
    say(&one, "=A\n?1\n");
    speak_until("?1* ");
    geo_service_fall_silent(service);
    say(&one, "-?\n?2\n");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "?1 ");
    geo_service_speak(service);
    run_until("?1* -? ?2* ");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "?1 ?2 ");
    conversation_end(&one);
}

Test(held, a_datagram_is_acknowledged_as_a_whole) {
    struct peer one;
    begin(&one, &by_udp);
    say(&one, "=A\n?1\nB\n=C\nD\n");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "");
    say(&one, "E\n");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "E ", "the next one by itself");
    speak_until("D E ?1* B ");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "E ?1BD ");
    conversation_end(&one);
}

static void refuse_first_report(void) {
    for (size_t i = 0; i < broker.count; i++) {
        if (strstr(broker.carried[i].topic, "/message/") == NULL)
            continue;
        outbox_published(broker.outbox, (int)i + 1, MQTT_NEVER_TAKEN, "no");
        return;
    }
}

Test(held, a_report_that_the_broker_refuses_is_not_acknowledged) {
    struct peer one;
    begin(&one, &by_tcp);
    say(&one, "=A\n?1\nB\n");
    speak_until("?1* B ");
    refuse_first_report();
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "# B ");
    conversation_end(&one);
}

Test(held, reports_go_out_before_their_device_leaves) {
    struct peer one;
    begin(&one, &by_tcp);
    say(&one, "=A\n?1\nB\n");
    conversation_end(&one);
    cr_expect_str_eq(reported, "?1 B left ");
    cr_expect_str_eq(sent, "");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "", "nobody is there to hear it");
}

// Out, and not safe yet, when the device goes.
Test(held, a_device_may_leave_before_its_reports_are_safe) {
    struct peer one;
    begin(&one, &by_tcp);
    say(&one, "=A\n?1\n?2\n");
    speak_until("?1* ?2* ");
    conversation_end(&one);
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "");
}

Test(held, reports_of_a_device_that_has_moved_wait_on) {
    struct peer one, other;
    begin(&one, &by_tcp);
    begin(&other, &by_tcp);
    say(&one, "=A\n?1\n");
    say(&other, "=A\nB\n");
    cr_expect_eq(one.close_code, CLOSE_SAME_IDENT);
    conversation_end(&one);
    cr_expect_str_eq(reported, "");
    speak_until("?1* B ");
    conversation_end(&other);
}

Test(held, reports_wait_no_longer_than_they_should) {
    struct peer one;
    config->geolocation.timeout = 200;
    begin(&one, &by_tcp);
    say(&one, "=A\n?1\nB\n");
    run_until("?1 B ");
    carrier_answer_all(&broker);
    cr_expect_str_eq(sent, "?1 B ");
    cr_expect_eq(locator_counts(locator)->without, 1);
    conversation_end(&one);
}

// message is a report of it without a position, and with an access point.
static struct report_origin begin_with_wifi(struct peer *one, struct message *message) {
    begin(one, &by_tcp);
    say(one, "=A\n");
    message_set_text(message, FIELD_MESSAGE_TYPE, "F", 1);
    message_set_integer(message, FIELD_TIMESTAMP, 1);
    see(message, '1');
    return (struct report_origin){.session = one->session, .ident = "A", .channel_id = 1};
}

#define MANY    1000
#define PORTION 200

static size_t went_out;

static void count_report(void *context, const struct session *session, const struct channel_report *report) {
    went_out++;
}

Test(held, of_many_that_have_waited_long_enough_a_portion_goes_out_in_a_turn) {
    static struct message message;
    struct held_report *queue = NULL;
    struct peer one;
    size_t most = 0;
    config->geolocation.timeout = 50;
    const struct report_origin origin = begin_with_wifi(&one, &message);
    for (size_t i = 0; i < MANY; i++)
        cr_assert(held_take(parts.held, &one, &queue, &origin, &message));
    carrier_go_down(&broker); // it has room for a few only
    parts.observer = &(struct channel_observer){.left = note_session, .reported = count_report};
    for (size_t before = 0; held_count(parts.held) > 0; before = went_out) {
        uv_run(&broker.loop, UV_RUN_NOWAIT);
        most = went_out - before > most ? went_out - before : most;
    }
    cr_expect_eq(went_out, MANY);
    cr_expect_leq(most, PORTION, "%zu in one turn", most);
    conversation_end(&one);
}

// Those that wait of the device go out too, in front of it.
Test(held, reports_have_a_bound) {
    struct held_report *queues[2] = {NULL, NULL};
    static struct message message;
    struct peer one;
    const struct report_origin origin = begin_with_wifi(&one, &message);
    for (size_t i = 0; i < HELD_MAX - 2; i++)
        cr_assert(held_take(parts.held, &one, &queues[0], &origin, &message));
    for (size_t i = 0; i < 2; i++)
        cr_assert(held_take(parts.held, &one, &queues[1], &origin, &message));
    cr_expect(!held_take(parts.held, &one, &queues[1], &origin, &message));
    cr_expect_str_eq(reported, "F F ");
    cr_expect_eq(held_count(parts.held), HELD_MAX - 2);
    cr_expect_eq(locator_counts(locator)->without, 3);
    carrier_go_down(&broker); // it has room for a few only
    parts.observer = &(struct channel_observer){.left = note_session, .reported = ignore_report};
    held_release(parts.held, &queues[0]);
    conversation_end(&one);
}
