// Trackers over TCP: how much is done in one turn of the loop, in counts, with a protocol of the test's own.
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "gateway/channels/session.h"
#include "gateway/channels/tcp.h"
#include "tests/carrier.h"

#define CONNECTIONS 100
#define MOST        4 // of those that wait, in one turn
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
static size_t tries, before_turn, most; // times that somebody said who it is, in all and in one turn
static int sockets[CONNECTIONS];

// --- a protocol: lines that say who speaks ---

static struct codec_frame frame(const uint8_t *bytes, size_t length, enum codec_follow follow) {
    const uint8_t *end = memchr(bytes, '\n', length);
    return (struct codec_frame){.kind = end != NULL ? CODEC_READY : CODEC_MORE,
                                .length = end != NULL ? (size_t)(end - bytes) + 1 : length};
}

static enum codec_verdict decode(void *session, const uint8_t *bytes, size_t length, struct codec_out *out) {
    tries++;
    out->identify(out->context, "A");
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
}

static void note_change(void *context, const struct config_channel *at) {
}

static const struct channel_observer observer = {
    .arrived = note_arrival, .left = note_session, .talks = note_session, .changed = note_change};

static void note_fault(void *context, const char *path, const char *problem) {
    cr_assert_fail("%s: %s", path, problem);
}

static size_t resume(void *context, size_t count) {
    return tcp_resume(&listener, count);
}

static void count_turn(uv_prepare_t *prepare) {
    most = tries - before_turn > most ? tries - before_turn : most;
    before_turn = tries;
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
    cr_assert_eq(tcp_listen(&listener, &parts, &channel, &counters), 0);
}

static void tear_down(void) {
    tcp_close(&listener);
    gate_stop(gate);
    carrier_close(&broker);
    gate_free(gate);
    registry_free(registry);
    config_free(config);
    bus_free(bus);
}

TestSuite(tcp, .init = set_up, .fini = tear_down);

// --- many that say the same ident ---

static void run_until_tried(size_t times) {
    time_t end = time(NULL) + DEADLINE;
    while (tries < times) {
        cr_assert(time(NULL) < end, "tried %zu times, and not %zu", tries, times);
        uv_run(&broker.loop, UV_RUN_ONCE);
    }
}

static void say_all(const char *line) {
    struct sockaddr_in address;
    int length = sizeof address;
    cr_assert_eq(uv_tcp_getsockname(&listener.socket, (struct sockaddr *)&address, &length), 0);
    for (size_t i = 0; i < CONNECTIONS; i++) {
        sockets[i] = socket(AF_INET, SOCK_STREAM, 0);
        cr_assert_eq(connect(sockets[i], (struct sockaddr *)&address, (socklen_t)length), 0);
        cr_assert_eq(write(sockets[i], line, strlen(line)), (ssize_t)strlen(line));
        run_until_tried(i + 1);
    }
}

// All but the first wait, and are due at about the same time.
Test(tcp, of_many_that_wait_for_their_device_a_few_are_tried_in_a_turn) {
    static uv_prepare_t turn; // it is closed when the test has ended
    say_all("A\n");
    uv_prepare_init(&broker.loop, &turn);
    uv_prepare_start(&turn, count_turn);
    before_turn = tries;
    usleep(200000); // as long as the loop may stand still: now all of them are due
    run_until_tried(CONNECTIONS + CONNECTIONS - 1);
    cr_expect(most <= MOST, "%zu in one turn", most);
    uv_close((uv_handle_t *)&turn, NULL);
    for (size_t i = 0; i < CONNECTIONS; i++)
        close(sockets[i]);
}
