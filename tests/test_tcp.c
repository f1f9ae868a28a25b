// Trackers over TCP: how much is done in one turn of the loop, in counts, with a protocol of the test's own.
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "gateway/channels/session.h"
#include "gateway/channels/tcp.h"
#include "gateway/channels/udp.h"
#include "tests/carrier.h"

#define CONNECTIONS 100
#define TRIED       4  // of those that wait, at most, in one turn
#define ACCEPTED    65 // at most in one turn, with the one that was postponed
#define READ        9  // at most in one turn, where each takes a millisecond
#define DONE        6  // the same of what is due, with one that each channel does at least
#define DATAGRAMS   5  // the same of datagrams
#define DEADLINE    15

static struct carrier broker;
static struct config *config;
static struct registry *registry;
static struct bus *bus;
static struct gate *gate;
static struct channel_parts parts; // large: it has the limiters
static struct session_table sessions;
static struct stream_counters counters;
static struct tcp_listener listener;
static struct udp_socket datagrams;
static bool slow; // each that speaks, or ends, takes a millisecond
static size_t arrived;
static size_t told, left; // times that somebody said who it is; those that are gone
static uv_prepare_t turn;
static const size_t *counted; // one of the two above, or the listener's count
static size_t before_turn, most;
static int sockets[CONNECTIONS];

static void take_a_while(void) {
    uint64_t end = uv_hrtime() + 1000000;
    while (slow && uv_hrtime() < end)
        ;
}

// --- a protocol: lines that say who speaks ---

static struct codec_frame frame(const uint8_t *bytes, size_t length, enum codec_follow follow) {
    const uint8_t *end = memchr(bytes, '\n', length);
    return (struct codec_frame){.kind = end != NULL ? CODEC_READY : CODEC_MORE,
                                .length = end != NULL ? (size_t)(end - bytes) + 1 : length};
}

static enum codec_verdict decode(void *session, const uint8_t *bytes, size_t length, struct codec_out *out) {
    char ident[8];
    snprintf(ident, sizeof ident, "%.*s", (int)length - 1, (const char *)bytes);
    told++;
    take_a_while();
    out->identify(out->context, ident);
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

static struct config_channel channel = {.id = 1, .name = "lines", .codec = &lines};

// --- around it ---

static void note_session(void *context, const struct session *session) {
}

static void note_arrival(void *context, const struct session *session, const struct config_channel *at) {
    arrived++;
    take_a_while();
}

static void note_left(void *context, const struct session *session) {
    left++;
    take_a_while();
}

static void note_change(void *context, const struct config_channel *at) {
}

static const struct channel_observer observer = {
    .arrived = note_arrival, .left = note_left, .talks = note_session, .changed = note_change};

static void note_fault(void *context, const char *path, const char *problem) {
    cr_assert_fail("%s: %s", path, problem);
}

static size_t resume(void *context, size_t count) {
    return tcp_resume(&listener, count);
}

static void on_turn(uv_prepare_t *prepare) {
    most = *counted - before_turn > most ? *counted - before_turn : most;
    before_turn = *counted;
}

// From now on most is how often in one turn, at most.
static void count_turns(const size_t *what) {
    counted = what;
    before_turn = *what;
    uv_prepare_start(&turn, on_turn);
}

static void set_up(void) {
    carrier_open(&broker);
    bus = bus_new("t", "gateway", broker.outbox, &broker.carrier);
    config = config_parse("{}", 2, note_fault, NULL);
    registry = registry_new(config->devices, config->unknown_devices, 1000);
    config->devices = NULL;
    gate = gate_new(&broker.loop, resume, NULL);
    gate_allow_connections(gate, CONNECTIONS + 1);
    parts = (struct channel_parts){.loop = &broker.loop,
                                   .config = config,
                                   .registry = registry,
                                   .outbox = broker.outbox,
                                   .bus = bus,
                                   .gate = gate,
                                   .sessions = &sessions,
                                   .observer = &observer,
                                   .log_limiter = {.per_second = 20}};
    cr_assert(address_parse("127.0.0.1:0", &channel.tcp));
    cr_assert(address_parse("127.0.0.1:0", &channel.udp));
    cr_assert_eq(tcp_listen(&listener, &parts, &channel, &counters), 0);
    cr_assert_eq(udp_bind(&datagrams, &parts, &channel, &counters), 0);
    uv_prepare_init(&broker.loop, &turn);
}

static void tear_down(void) {
    uv_close((uv_handle_t *)&turn, NULL);
    tcp_close(&listener);
    udp_close(&datagrams);
    gate_stop(gate);
    carrier_close(&broker);
    gate_free(gate);
    registry_free(registry);
    config_free(config);
    bus_free(bus);
}

TestSuite(tcp, .init = set_up, .fini = tear_down);

// --- many at once ---

static void run_until(const size_t *what, size_t times) {
    time_t end = time(NULL) + DEADLINE;
    while (*what < times) {
        cr_assert(time(NULL) < end, "%zu times, and not %zu", *what, times);
        uv_run(&broker.loop, UV_RUN_ONCE);
    }
}

// The turn in which the last ones come counts too.
static void expect_at_most(size_t in_a_turn, size_t times) {
    run_until(counted, times);
    on_turn(&turn);
    cr_expect(most <= in_a_turn, "%zu in one turn", most);
}

// i: which of the sockets. Each has an address of its own, as datagrams of one have a limit.
static void open_socket(size_t i, int type, const uv_handle_t *to) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int descriptor;
    cr_assert_eq(uv_fileno(to, &descriptor), 0);
    cr_assert_eq(getsockname(descriptor, (struct sockaddr *)&address, &length), 0);
    sockets[i] = socket(AF_INET, type, 0);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f010001 + (uint32_t)i)};
    cr_assert_eq(bind(sockets[i], (struct sockaddr *)&own, sizeof own), 0);
    cr_assert_eq(connect(sockets[i], (struct sockaddr *)&address, length), 0);
}

static void connect_all(void) {
    for (size_t i = 0; i < CONNECTIONS; i++)
        open_socket(i, SOCK_STREAM, (uv_handle_t *)&listener.socket);
}

static void say(size_t i, const char *line) {
    cr_assert_eq(write(sockets[i], line, strlen(line)), (ssize_t)strlen(line));
}

// Each is a device of its own.
static void say_all(void) {
    for (size_t i = 0; i < CONNECTIONS; i++) {
        char line[16];
        snprintf(line, sizeof line, "D%zu\n", i);
        say(i, line);
    }
}

static void arrive_all(void) {
    connect_all();
    say_all();
    run_until(&told, CONNECTIONS);
}

static void say_all_in_datagrams(void) {
    parts.datagram_limiter.per_second = parts.records_limiter.per_second = CONNECTIONS;
    for (size_t i = 0; i < CONNECTIONS; i++)
        open_socket(i, SOCK_DGRAM, (uv_handle_t *)&datagrams.socket);
    say_all();
}

static void close_all(void) {
    for (size_t i = 0; i < CONNECTIONS; i++)
        close(sockets[i]);
}

// All but the first wait, and are due at about the same time.
Test(tcp, of_many_that_wait_for_their_device_a_few_are_tried_in_a_turn) {
    for (size_t i = 0; i < CONNECTIONS; i++) {
        open_socket(i, SOCK_STREAM, (uv_handle_t *)&listener.socket);
        say(i, "A\n");
        run_until(&told, i + 1);
    }
    count_turns(&told);
    usleep(200000); // as long as the loop may stand still: now all of them are due
    expect_at_most(TRIED, CONNECTIONS + CONNECTIONS - 1);
    close_all();
}

Test(tcp, of_many_that_connect_a_part_is_accepted_in_a_turn) {
    connect_all();
    count_turns(&listener.count);
    expect_at_most(ACCEPTED, CONNECTIONS);
    close_all();
}

Test(tcp, of_many_that_speak_those_are_read_that_a_turn_has_time_for) {
    connect_all();
    run_until(&listener.count, CONNECTIONS);
    say_all();
    slow = true;
    count_turns(&told);
    expect_at_most(READ, CONNECTIONS);
    close_all();
}

// More than a turn has time for.
static void speak_long(size_t count) {
    for (size_t i = 0; i < count; i++) {
        char line[16];
        snprintf(line, sizeof line, "A%zu\n", i);
        for (size_t lines_left = 10; lines_left > 0; lines_left--)
            say(i, line);
    }
}

static void expect_another_is_read_beside(size_t talkers) {
    size_t turns = 0;
    connect_all();
    run_until(&listener.count, CONNECTIONS);
    slow = true;
    speak_long(talkers);
    run_until(&told, 1);
    say(talkers, "B\n");
    for (; session_by_ident(&sessions, "B") == NULL && turns < 100; turns++) {
        speak_long(talkers);
        uv_run(&broker.loop, UV_RUN_ONCE);
    }
    cr_expect(turns <= 2 * talkers + 2, "%zu turns", turns);
    close_all();
}

Test(tcp, one_that_speaks_all_the_time_keeps_none_from_being_read) {
    expect_another_is_read_beside(1);
}

Test(tcp, some_that_speak_all_the_time_keep_none_from_being_read) {
    expect_another_is_read_beside(6);
}

Test(tcp, of_many_that_end_those_are_closed_that_a_turn_has_time_for) {
    arrive_all();
    close_all();
    slow = true;
    count_turns(&left);
    expect_at_most(READ, CONNECTIONS);
}

Test(tcp, of_many_that_are_silent_those_are_closed_that_a_turn_has_time_for) {
    config->limits.idle_timeout = 1;
    arrive_all();
    usleep(1100000); // as long as the loop may stand still: now all of them are due
    slow = true;
    count_turns(&left);
    expect_at_most(DONE, CONNECTIONS);
    close_all();
}

static void count_if_soon(uv_handle_t *handle, void *count) {
    bool is_timer = handle->type == UV_TIMER && uv_is_active(handle);
    *(size_t *)count += is_timer && uv_timer_get_due_in((uv_timer_t *)handle) <= 1;
}

// A timer for each of them would cost more than what is done in a turn.
Test(tcp, many_that_are_due_and_wait_for_time_are_not_all_looked_at_in_each_turn) {
    size_t soon = 0;
    config->limits.idle_timeout = 1;
    arrive_all();
    usleep(1100000);
    slow = true;
    run_until(&left, 1);
    cr_assert(left < CONNECTIONS / 2);
    uv_walk(&broker.loop, count_if_soon, &soon);
    cr_expect(soon < CONNECTIONS / 4, "%zu timers", soon);
    run_until(&left, CONNECTIONS);
    close_all();
}

// The gateway ends before the loop comes to them.
Test(tcp, what_nobody_has_read_is_taken_when_the_channel_closes) {
    connect_all();
    run_until(&listener.count, CONNECTIONS);
    say_all();
    tcp_close(&listener);
    cr_expect_eq(told, CONNECTIONS, "%zu were taken", told);
    uv_run(&broker.loop, UV_RUN_NOWAIT); // its handles are closed then
    cr_assert_eq(tcp_listen(&listener, &parts, &channel, &counters),
                 0); // it is closed when the test has ended
    close_all();
}

Test(tcp, all_get_the_timeouts_of_a_new_configuration) {
    arrive_all();
    config->limits.idle_timeout = 1;
    while (gate_does_more(gate)) // this turn has no more time
        ;
    tcp_set_timeouts(&listener);
    run_until(&left, CONNECTIONS);
    close_all();
}

// At first none of them has: its limiter is empty.
Test(tcp, of_many_that_there_is_a_place_for_now_those_get_it_that_a_turn_has_time_for) {
    arrive_all();
    cr_assert(!session_by_ident(&sessions, "D0")->device.known);
    parts.stranger_limiter.per_second = CONNECTIONS;
    arrived = 0;
    slow = true;
    sessions_admit_begin(&sessions);
    cr_expect(!sessions_admit_some(&parts));
    cr_expect(arrived > 0 && arrived <= DONE, "%zu in one turn", arrived);
    while (!sessions_admit_some(&parts))
        uv_run(&broker.loop, UV_RUN_NOWAIT);
    cr_expect(session_by_ident(&sessions, "D99")->device.known);
    close_all();
}

Test(tcp, of_many_datagrams_those_are_taken_that_a_turn_has_time_for) {
    say_all_in_datagrams();
    slow = true;
    count_turns(&told);
    expect_at_most(DATAGRAMS, CONNECTIONS);
    close_all();
}

Test(tcp, of_many_that_are_silent_over_udp_those_are_forgotten_that_a_turn_has_time_for) {
    config->limits.idle_timeout = 1;
    say_all_in_datagrams();
    run_until(&told, CONNECTIONS);
    usleep(1100000); // now all of them are due
    slow = true;
    count_turns(&left);
    expect_at_most(DONE, CONNECTIONS);
    close_all();
}
