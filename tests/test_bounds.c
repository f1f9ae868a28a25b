// The bounds of what a device, a client of the broker or the broker itself can make the gateway keep: the table is in
// gateway/README.md. What other tests show is not shown here again.
#include <criterion/criterion.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "codecs/codec.h"
#include "gateway/broker/lanes.h"
#include "gateway/broker/refusals.h"
#include "gateway/broker/sideline.h"
#include "gateway/channels/captures.h"
#include "gateway/channels/peer.h"
#include "gateway/channels/session.h"
#include "gateway/channels/udp.h"
#include "gateway/commands/table.h"
#include "gateway/commands/voice.h"
#include "gateway/state/change.h"
#include "gateway/state/devices.h"
#include "gateway/state/instances.h"
#include "tests/allocations.h"
#include "tests/carrier.h"

static struct carrier carrier;
static struct bus *bus;
static struct config config;
static struct outbox *second; // or NULL

static void set_up(void) {
    carrier_open(&carrier);
    bus = bus_new("trackbus", "me", carrier.outbox, &carrier.carrier);
}

static void tear_down(void) {
    carrier_close(&carrier);
    if (second != NULL)
        outbox_free(second);
    bus_free(bus);
}

TestSuite(bounds, .init = set_up, .fini = tear_down);

// --- what devices say ---

static void ignore_send(struct peer *peer, const uint8_t *bytes, size_t length) {
}

static void ignore_close(struct peer *peer, enum close_code code) {
}

static void ignore_arrived(void *context, const struct session *session,
                           const struct config_channel *channel) {
}

static void ignore_left(void *context, const struct session *session) {
}

static const struct peer_transport transport = {.send = ignore_send, .close = ignore_close};
static const struct channel_observer observer = {.arrived = ignore_arrived, .left = ignore_left};
static struct config_channel channel = {.id = 1, .name = "magicyo"};
static struct session_table sessions;
static struct channel_parts parts; // large: it has the limiters
static struct stream_counters counters;
static const struct stream_sink sink;

static void open_peer(struct peer *peer) {
    channel.codec = codec_find("magicyo");
    parts.loop = &carrier.loop;
    parts.config = &config;
    parts.outbox = carrier.outbox;
    parts.bus = bus;
    parts.sessions = &sessions;
    parts.observer = &observer;
    *peer = (struct peer){.parts = &parts, .channel = &channel, .transport = &transport};
    stream_init(&peer->stream, channel.codec, &sink, peer, &counters);
}

// A message that is not safe, and behind it one reply after the other to what holds no message, no two alike.
static void send_replies(struct peer *peer, unsigned count) {
    peer->last_number = outbox_put(carrier.outbox, &(struct mqtt_publish){.topic = "t", .qos = 1});
    for (unsigned i = 0; i < count; i++) {
        peer_send_when_safe(peer, (const uint8_t *)&i, sizeof i);
        peer_settle_replies(peer, sizeof i);
    }
}

Test(bounds, replies_without_a_message_wait_up_to_a_bound) {
    struct peer peer;
    open_peer(&peer);
    send_replies(&peer, PEER_REPLIES_MAX + 10);
    cr_assert(peer.reply_count == PEER_REPLIES_MAX, "%zu wait", peer.reply_count);
    peer_drop_replies(&peer);
    cr_assert(peer.reply_count == 0 && parts.reply_count == 0);
}

Test(bounds, replies_of_all_devices_wait_up_to_a_bound) {
    struct peer peer;
    open_peer(&peer);
    parts.reply_count = PEER_REPLIES_ALL_MAX - 2; // as if others had them
    send_replies(&peer, 10);
    cr_assert(peer.reply_count == 2, "%zu wait", peer.reply_count);
    peer_drop_replies(&peer);
}

// One that goes with messages is bounded by them.
Test(bounds, a_reply_to_a_message_is_never_left_out) {
    struct peer peer;
    open_peer(&peer);
    parts.reply_count = PEER_REPLIES_ALL_MAX;
    peer.first_number = peer.last_number =
        outbox_put(carrier.outbox, &(struct mqtt_publish){.topic = "t", .qos = 1});
    peer_send_when_safe(&peer, (const uint8_t *)"ok", 2);
    peer_settle_replies(&peer, 2);
    cr_assert(peer.reply_count == 1);
    peer_drop_replies(&peer);
}

static void say(struct peer *peer, const char *ident) {
    struct device device = {.allowed = true, .name = ident, .id = 1};
    cr_assert(session_attach(peer, ident, &device) == SESSION_NEW_HERE);
}

Test(bounds, devices_at_all_connections_have_a_bound) {
    struct peer peer;
    open_peer(&peer);
    say(&peer, "1");
    parts.place_count = PLACES_ALL_MAX; // as if others had the rest
    say(&peer, "2");
    cr_assert(peer.place_count == 1 && parts.place_count == PLACES_ALL_MAX);
    cr_assert(session_by_ident(&sessions, "1") == NULL && session_by_ident(&sessions, "2") != NULL);
    session_detach(&peer);
    stream_free(&peer.stream);
}

Test(bounds, what_codecs_remember_at_all_connections_has_a_bound) {
    struct peer peer;
    open_peer(&peer);
    void *first = stream_session(&peer.stream, "1");
    counters.sessions = STREAM_DEVICES_ALL_MAX; // as if others had the rest
    cr_assert(stream_session(&peer.stream, "2") != first);
    cr_assert(peer.stream.session_count == 1 && counters.sessions == STREAM_DEVICES_ALL_MAX);
    stream_free(&peer.stream);
    cr_assert(counters.sessions == STREAM_DEVICES_ALL_MAX - 1);
}

// Each reading of a registry whose devices have other names now tells of all of them, also while the broker is away.
Test(bounds, changes_of_devices_wait_up_to_a_bound) {
    struct publisher *publisher = publisher_new(&carrier.loop);
    struct changes *changes = changes_new(bus, publisher);
    for (int i = 0; i < CHANGES_MAX; i++)
        changes_tell(changes, CHANGE_UPDATED, i, 0, "866425031361423", "Van 1");
    size_t before = allocations_count();
    for (int i = 0; i < 10; i++)
        changes_tell(changes, CHANGE_UPDATED, i, 0, "866425031361423", "Van 2");
    cr_assert(allocations_count() < before + 10, "%zu taken", allocations_count() - before);
    changes_free(changes);
    publisher_stop(publisher);
    uv_run(&carrier.loop, UV_RUN_NOWAIT);
    publisher_free(publisher);
}

// --- addresses over UDP ---

static void ignore_talks(void *context, const struct session *session) {
}

static void ignore_report(void *context, const struct session *session, const struct channel_report *report) {
}

static void ignore_answer(void *context, const struct road *from, const struct codec_answer *answer) {
}

static void open_channel(struct udp_socket *udp) {
    static const struct channel_observer quiet = {.arrived = ignore_arrived,
                                                  .left = ignore_left,
                                                  .talks = ignore_talks,
                                                  .reported = ignore_report,
                                                  .answered = ignore_answer};
    static struct config_devices none;
    static struct peer peer; // whose parts are those of the channel
    open_peer(&peer);
    config.limits.idle_timeout = 1800;
    config.on_channels = true;
    config.mqtt.topic_prefix = "trackbus";
    parts.observer = &quiet;
    parts.registry = registry_new(&none, UNKNOWN_ACCEPT, 1000000);
    parts.gate = gate_new(&carrier.loop, NULL, NULL);
    parts.captures = captures_new(&carrier.loop, bus);
    parts.log_limiter.per_second = parts.datagram_limiter.per_second = parts.records_limiter.per_second =
        1000;
    channel.codec = codec_find("mictrack");
    struct sockaddr_in *address = (struct sockaddr_in *)&channel.udp;
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    cr_assert(udp_bind(udp, &parts, &channel, &counters) == 0);
}

// From a socket of its own.
static void send_report(const struct udp_socket *udp, unsigned number) {
    char report[128];
    struct sockaddr_in to;
    socklen_t length = sizeof to;
    int device = socket(AF_INET, SOCK_DGRAM, 0);
    snprintf(report, sizeof report,
             "MT;6;8664250313614%02u;R0;10+261125091803+22.63827+114.02922+2.14+69+2+3744+113", number);
    cr_assert(getsockname(udp->descriptor, (struct sockaddr *)&to, &length) == 0);
    cr_assert(sendto(device, report, strlen(report), 0, (struct sockaddr *)&to, length) > 0);
    close(device);
}

static unsigned count_sessions(void) {
    return HASH_CNT(by_ident, sessions.by_ident);
}

Test(bounds, addresses_over_udp_have_a_bound) {
    struct udp_socket udp;
    open_channel(&udp);
    udp.peers_max = 2;
    for (unsigned i = 0; i < 3; i++) {
        send_report(&udp, i);
        while (counters.messages <= i)
            uv_run(&carrier.loop, UV_RUN_ONCE);
        cr_assert(count_sessions() == (i < 2 ? i + 1 : 2));
    }
    cr_assert(session_by_ident(&sessions, "866425031361400") == NULL, "it was heard longest ago");
    udp_close(&udp);
    gate_stop(parts.gate);
    captures_stop(parts.captures);
    uv_run(&carrier.loop, UV_RUN_NOWAIT);
    gate_free(parts.gate);
    captures_free(parts.captures);
}

// --- what clients of the broker publish ---

static struct command *new_command(int64_t id, enum command_state state) {
    struct command *command = calloc(1, sizeof *command);
    command->id = id;
    command->key = strdup("devices/1");
    command->state = state;
    return command;
}

Test(bounds, commands_that_wait_have_a_bound_in_bytes) {
    struct command_table table = {0};
    struct command *command = new_command(1, COMMAND_QUEUED);
    command->definition = json_pack("{s:s, s:s}", "name", "custom", "meta", "0123456789");
    command_table_add(&table, command);
    size_t bytes = table.bytes;
    cr_assert(bytes >= strlen("{\"name\":\"custom\",\"meta\":\"0123456789\"}"));
    cr_assert(command_table_full(&table, "devices/1") == NULL);
    table.bytes += COMMANDS_BYTES_MAX; // as if there were others
    cr_assert(strstr(command_table_full(&table, "devices/1"), "256 MiB") != NULL);
    command_table_drop(&table, command);
    cr_assert(table.bytes == COMMANDS_BYTES_MAX);
}

// Ends that cannot be published, because the outbox is full, are no tombstones yet.
Test(bounds, commands_that_have_ended_count_too) {
    struct command_table table = {0};
    for (int64_t id = 1; id < COMMANDS_KNOWN_MAX; id++)
        command_table_add(&table, new_command(id, COMMAND_CANCELED));
    cr_assert(command_table_full(&table, "devices/1") == NULL);
    command_table_add(&table, new_command(COMMANDS_KNOWN_MAX, COMMAND_CANCELED));
    cr_assert(command_table_full(&table, "devices/1") != NULL);
    command_table_clear(&table);
}

static void count_instance(void *context, const char *client_id) {
    size_t *count = context;
    ++*count;
}

static void count_channel(void *context, int64_t channel_id) {
    size_t *count = context;
    ++*count;
}

static void hear_instance(struct instances *instances, const char *format, int number, const char *payload) {
    char topic[64];
    snprintf(topic, sizeof topic, format, number);
    instances_received(
        instances, topic,
        &(struct mqtt_received){.topic = topic, .payload = payload, .length = strlen(payload)});
}

Test(bounds, other_gateways_have_a_bound) {
    struct instances *instances = instances_new(bus, true);
    size_t count = 0, channels = 0;
    for (int i = 0; i < INSTANCES_MAX + 10; i++)
        hear_instance(instances, "gateway-%d", i, "{\"state\":\"offline\"}");
    instances_each_offline(instances, count_instance, &count);
    cr_assert(count == INSTANCES_MAX, "%zu are known", count);
    for (int i = 1; i < INSTANCES_CHANNELS_MAX + 10; i++)
        hear_instance(instances, "gateway-7/channels/%d", i, "{\"connections\":1}");
    instances_each_channel(instances, count_channel, &channels);
    cr_assert(channels == INSTANCES_CHANNELS_MAX, "%zu channels are known", channels);
    instances_begin(instances); // there is room again
    hear_instance(instances, "gateway-7/channels/%d", 1, "{\"connections\":1}");
    cr_assert(instances_channel(instances, 1) != NULL);
    instances_free(instances);
}

// --- results, to topics that a client chooses ---

static void put_result(size_t length) {
    char *payload = calloc(1, length + 1);
    outbox_put_result(
        carrier.outbox,
        &(struct mqtt_publish){.topic = "answers/1", .payload = payload, .length = length, .qos = 1});
    free(payload);
}

Test(bounds, results_that_wait_have_a_bound) {
    for (int i = 0; i < SIDELINE_RESULTS_MAX + 50; i++)
        put_result(10);
    cr_assert(outbox_count(carrier.outbox) == SIDELINE_RESULTS_MAX, "%zu wait", outbox_count(carrier.outbox));
}

Test(bounds, results_that_wait_have_a_bound_in_bytes) {
    for (int i = 0; i < 10; i++)
        put_result(1000000);
    cr_assert(outbox_count(carrier.outbox) == SIDELINE_BYTES_MAX / 1000000, "%zu wait",
              outbox_count(carrier.outbox));
}

// --- messages ---

// A minute later they are forgotten anyway.
Test(bounds, topics_that_were_refused_are_remembered_up_to_a_bound) {
    struct lanes lanes = {0};
    char topic[32];
    for (int i = 0; i < LANES_IDLE_MAX + 100; i++) {
        snprintf(topic, sizeof topic, "%d", i);
        lanes_defer(&lanes, lanes_get(&lanes, topic, true), 1000, 0, false);
    }
    lanes_wake(&lanes, 2000, (const uint64_t[]){0, 0});
    cr_expect(lanes_find(&lanes, "99") == NULL && lanes_find(&lanes, "100") != NULL);
    cr_expect_eq(lanes.idle_count, LANES_IDLE_MAX);
    lanes_wake(&lanes, 70000, (const uint64_t[]){0, 0});
    lanes_wake(&lanes, 70000, (const uint64_t[]){0, 0});
    cr_expect(lanes.idle == NULL && lanes_find(&lanes, "100") == NULL);
    lanes_free(&lanes);
}

static void put_many(struct outbox *outbox, unsigned count, size_t length) {
    char *payload = calloc(1, length + 1);
    for (unsigned i = 0; i < count; i++)
        outbox_put(outbox,
                   &(struct mqtt_publish){.topic = "t", .payload = payload, .length = length, .qos = 1});
    free(payload);
}

static void note_written(void *context, bool ok) {
    *(bool *)context = ok;
}

// Only what is on disk, or on its way there, counts for store.max_bytes, which is 1 MiB here.
Test(bounds, messages_go_to_disk_beyond_a_count) {
    put_many(carrier.outbox, 10000, 100);
    cr_assert(!outbox_is_full(carrier.outbox));
    put_many(carrier.outbox, 1, 100);
    cr_assert(outbox_is_full(carrier.outbox));
}

Test(bounds, messages_go_to_disk_beyond_so_many_bytes) {
    put_many(carrier.outbox, 31, 1 << 20);
    cr_assert(!outbox_is_full(carrier.outbox));
    put_many(carrier.outbox, 1, 1 << 20);
    cr_assert(outbox_is_full(carrier.outbox));
}

static void ignore_intake(void *context, enum outbox_intake intake) {
}

// The disk does not answer, because the loop does not go on. Nor does it take anything, so that nobody has to wait for it
// at the end; this outbox is freed then.
Test(bounds, messages_on_their_way_to_the_disk_fill_the_store) {
    second = outbox_new(&carrier.loop, carrier.store, "trackbus", 10, 1 << 30,
                        &(struct outbox_handlers){.intake = ignore_intake});
    outbox_set_carrier(second, &carrier.carrier);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = 0, .rlim_max = RLIM_INFINITY});
    put_many(second, 63, 1 << 20);
    cr_assert(!outbox_is_full(second));
    put_many(second, 1, 1 << 20);
    cr_assert(outbox_is_full(second));
    outbox_stop(second);
}

// --- what the broker does not take ---

static void note_aside(void *context, const struct store_aside *aside) {
    int64_t *first_and_count = context;
    if (first_and_count[1]++ == 0)
        first_and_count[0] = aside->number;
}

Test(bounds, the_oldest_of_too_many_set_aside_is_dropped) {
    int64_t first_and_count[2] = {0};
    bool written = false;
    char *payload = calloc(1, 1 << 20);
    const struct mqtt_publish publish = {.topic = "t", .payload = payload, .length = 1 << 20};
    for (int i = 0; i < 12; i++) {
        payload[0] = (char)('a' + i); // no repeat
        cr_assert(store_set_aside(carrier.store, &publish, "because"));
    }
    store_when_written(carrier.store, note_written, &written);
    carrier_run_until(&carrier, &written);
    store_each_aside(carrier.store, note_aside, first_and_count);
    cr_assert(first_and_count[0] == 4 && first_and_count[1] == 9, "%lld are there, from %lld",
              (long long)first_and_count[1], (long long)first_and_count[0]);
    free(payload);
}

Test(bounds, kinds_that_are_refused_have_a_bound) {
    struct refusals refusals = {0};
    char topic[32];
    for (int i = 0; i <= REFUSALS_KINDS; i++) {
        snprintf(topic, sizeof topic, "answers/%d", i);
        refusals_note(&refusals, topic, &refusals_of_reports, 1000 + (uint64_t)i);
    }
    cr_assert(refusals.count == REFUSALS_KINDS);
    cr_assert(!refusals_has(&refusals, "answers/0", &refusals_of_reports, 1020));
    cr_assert(refusals_has(&refusals, topic, &refusals_of_reports, 1020));
}

// --- what waits for a disk that does not answer ---

Test(bounds, what_is_to_be_set_aside_has_a_bound_while_the_disk_hangs) {
    size_t length = 1 << 20, taken = 0;
    char *payload = calloc(1, length);
    const struct mqtt_publish publish = {.topic = "t", .payload = payload, .length = length};
    while (taken < 100 && store_set_aside(carrier.store, &publish, "because")) // the loop does not go on
        taken++;
    cr_assert(taken == 15, "%zu MiB wait", taken);
    free(payload);
}

// From how many addresses datagrams come is the sender's to choose.
static size_t allocations_for(struct peer *peer, unsigned addresses) {
    size_t before = allocations_count();
    for (unsigned i = 0; i < addresses; i++) {
        memcpy(peer->ip + 12, &i, sizeof i);
        captures_allow(parts.captures, peer, 1, 1);
    }
    return allocations_count() - before;
}

// Without the broker nothing is published, and so of no one.
Test(bounds, whose_bytes_a_capture_counts_has_a_bound) {
    static const struct peer_transport udp = {.is_udp = true, .send = ignore_send, .close = ignore_close};
    static const char request[] = "{\"channel\":\"magicyo\",\"seconds\":60}";
    struct peer peer;
    open_peer(&peer);
    peer.transport = &udp;
    parts.captures = captures_new(&carrier.loop, bus);
    captures_request(parts.captures, request, strlen(request));
    size_t away = allocations_for(&peer, 2 * CAPTURE_CHUNKS_MAX);
    cr_expect(away < 1000, "%zu allocations", away);
    carrier_go_up(&carrier);
    size_t up = allocations_for(&peer, 5 * CAPTURE_CHUNKS_MAX);
    cr_expect(up >= CAPTURE_CHUNKS_MAX && up < CAPTURE_CHUNKS_MAX + 1000, "%zu allocations", up);
    captures_stop(parts.captures);
    uv_run(&carrier.loop, UV_RUN_NOWAIT);
    captures_free(parts.captures);
    parts.captures = NULL;
}

// --- "not now" is not "done" ---

static struct command *stale_of(int64_t id) {
    struct command *stale = new_command(id, COMMAND_SENT);
    stale->definition = json_pack("{s:s}", "name", "reboot");
    return stale;
}

// The state of the ended command fills the outbox, so that the entry is not emptied.
Test(bounds, an_entry_is_cleared_when_it_is_emptied_and_not_before) {
    struct command_voice voice = {.bus = bus, .outbox = carrier.outbox, .store = carrier.store};
    struct command *ended = new_command(7, COMMAND_PROCESSED), *stale = stale_of(7);
    ended->forget_at = 1;
    carrier_fill(&carrier, 200);
    cr_assert(!command_voice_clear_stale(&voice, ended, stale));
    cr_assert(bus_is_full(bus));
    command_free(ended);
    command_free(stale);
}

// --- the page ---

// Each bound in its table names the tests that show it.
Test(bounds, stand_on_the_page_with_tests_that_are_there) {
    static const char find[] =
        "cd " TEST_ROOT
        " && sed -n '/^### What can grow/,/^## /p' gateway/README.md | grep '^|' | tail -n +3 | "
        "{ rows=0; while read -r row; do rows=$((rows + 1)); "
        "names=$(echo \"${row##*| \\`}\" | grep -o '[a-z_0-9]*/[a-z_0-9]*'); "
        "[ -n \"$names\" ] || echo \"no test in $row\"; "
        "for name in $names; do "
        "grep -rqE \"^Test\\(${name%/*}, ${name#*/}[,)]\" tests || echo \"$name\"; "
        "done; done; [ $rows -gt 50 ] || echo \"only $rows rows\"; }";
    char line[400] = "";
    FILE *output = popen(find, "r");
    bool any = fgets(line, sizeof line, output) != NULL;
    cr_assert(pclose(output) == 0 && !any, "not there: %s", line);
}
