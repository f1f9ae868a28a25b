// What the broker's absence, refusal and return do, and how the gateway begins and ends.
#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/e2e/rig.h"

TestSuite(broker, .fini = rig_clean);

#define REPORTS "message/gw/devices/" VAN

static void expect_reports(struct rig *rig, int first, int last) {
    for (int i = first; i <= last; i++) {
        char subset[48];
        snprintf(subset, sizeof subset, "{'message.seqnum':%d}", i);
        rig_expect(rig, REPORTS, subset);
    }
}

// 0 to last have come, none is missing, and none came for the first time after a later one.
static void expect_all_in_order(struct rig *rig, int last) {
    const struct rig_message *message;
    int highest = -1;
    expect_reports(rig, 0, last);
    for (size_t next = 0; (message = rig_next(rig, REPORTS, &next)) != NULL;) {
        int seqnum = seqnum_of(message);
        cr_assert(seqnum <= highest + 1, "%d came after %d", seqnum, highest);
        highest = seqnum > highest ? seqnum : highest;
    }
}

Test(broker, killed_in_mid_stream_loses_nothing) {
    struct rig *rig = rig_with_broker(RIG_BROKER_KEEPS);
    rig_gateway_start(rig, "{'mqtt':{'inflight':8}}");
    int device = rig_tcp(rig);
    for (int i = 0; i < 250; i++) {
        device_send(device, report(VAN, i));
        if (i == 60)
            rig_expect(rig, "message/gw/channels/1/" VAN, "{'message.seqnum':3}"); // and more are under way
        if (i == 60)
            rig_broker_kill(rig);
        if (i == 120)
            rig_expect_log(rig, "retrying in");
        if (i == 120)
            rig_broker_start(rig, RIG_BROKER_KEEPS);
    }
    expect_all_in_order(rig, 249);
    rig_finish(rig);
}

Test(broker, killed_twice) {
    struct rig *rig = rig_with_broker(RIG_BROKER_KEEPS);
    rig_gateway_start(rig, NULL);
    int device = rig_tcp(rig);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 20; i++)
            device_send(device, report(VAN, round * 20 + i));
        rig_expect_log_times(rig, ": connected", (size_t)round + 1);
        if (round == 2)
            break;
        rig_broker_kill(rig);
        rig_broker_start(rig, RIG_BROKER_KEEPS);
    }
    expect_all_in_order(rig, 59);
    rig_finish(rig);
}

Test(broker, away_at_the_start) {
    struct rig *rig = rig_new();
    rig_broker_reserve(rig);
    rig_gateway_start(rig, NULL);
    int device = rig_tcp(rig), datagrams = rig_udp(rig);
    for (int i = 0; i < 10; i++)
        device_send(device, report(VAN, i));
    rig_expect_log(rig, "device " VAN ": identified");
    device_send(datagrams, report(VAN, 10));
    rig_expect_log(rig, "Connection refused; retrying in");
    rig_broker_start(rig, RIG_BROKER_KEEPS);
    rig_client_start(rig);
    rig_expect(rig, INSTANCE, "{'state':'online'}");
    device_send(device, report(VAN, 11));
    rig_expect(rig, REPORTS, "{'message.seqnum':11}");
    rig_finish(rig);
}

// As above, but the broker knows its subscriber from before, so that it misses nothing.
Test(broker, away_for_a_while_gets_what_came_meanwhile) {
    struct rig *rig = rig_with_broker(RIG_BROKER_KEEPS);
    rig_broker_kill(rig);
    rig_gateway_start(rig, NULL);
    int device = rig_tcp(rig);
    for (int i = 0; i < 100; i++)
        device_send(device, report(VAN, i));
    rig_expect_log(rig, "retrying in");
    rig_broker_start(rig, RIG_BROKER_KEEPS);
    expect_all_in_order(rig, 99);
    cr_assert(rig_count(rig, REPORTS) == 100); // and none twice
    rig_finish(rig);
}

Test(broker, that_refuses_is_asked_again) {
    struct rig *rig = rig_new();
    const char *password = rig_broker_password_lines(rig);
    rig_broker_start(rig, password);
    rig_client_start(rig);
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, "uthori"); // "not authorised"
    cr_assert(!rig_log_has(rig, ": connected"));
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect_log(rig, "device " VAN ": identified");
    rig_broker_kill(rig);
    rig_broker_start(rig, NULL);
    rig_expect_log(rig, ": connected");
    device_send(rig_tcp(rig), report(VAN, 2));
    expect_reports(rig, 2, 2);
    rig_finish(rig);
}

Test(broker, that_asks_for_a_password) {
    struct rig *rig = rig_new();
    char config[256];
    const char *password = rig_broker_password_lines(rig);
    rig_broker_start(rig, password);
    rig_client_start(rig);
    rig_write_file(rig, "password", RIG_PASSWORD "\n");
    snprintf(config, sizeof config, "{'mqtt':{'username':'" RIG_USER "','password_file':'%s/password'}}",
             rig->directory);
    rig_gateway_start(rig, config);
    device_send(rig_tcp(rig), report(VAN, 1));
    expect_reports(rig, 1, 1);
    cr_assert(!rig_log_has(rig, RIG_PASSWORD));
    rig_finish(rig);
}

// --- acknowledgements over UDP ---

#define WITH_ACK                                                                                             \
    "{'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','tcp':'127.0.0.1:0','udp':'127.0.0.1:0',"  \
    "'udp_ack':'ACK,{ident},{type},{seq}#'}]}"

Test(broker, has_the_message_before_a_datagram_is_acknowledged) {
    struct rig *rig = rig_with_broker(NULL);
    rig_gateway_start(rig, WITH_ACK);
    int device = rig_udp(rig);
    device_send(device, report(VAN, 17));
    device_expect_datagram(device, "ACK," VAN ",R0,17#");
    rig_broker_freeze(rig); // it takes bytes, and says nothing
    device_send(device, report(VAN, 18));
    rig_expect_counters(rig, " 2 messages, ");
    cr_assert(!device_has_bytes(device));
    rig_broker_thaw(rig);
    device_expect_datagram(device, "ACK," VAN ",R0,18#");
    expect_reports(rig, 17, 18);
    rig_finish(rig);
}

Test(broker, down_means_no_acknowledgement_until_it_is_back) {
    struct rig *rig = rig_new();
    rig_broker_reserve(rig);
    rig_gateway_start(rig, WITH_ACK);
    int device = rig_udp(rig);
    device_send(device, "MT;6;" VAN ";R9;what\r\nMT;6;12;R0;x");
    device_send(device, report(VAN, 18));
    rig_expect_log(rig, "retrying in");
    rig_expect_counters(rig, " 2 messages, ");
    cr_assert(!device_has_bytes(device));
    rig_broker_start(rig, NULL);
    device_expect_datagram(device, "ACK," VAN ",R9,#");
    device_expect_datagram(device, "ACK," VAN ",R0,18#");
    rig_finish(rig);
}

Test(broker, rejected_datagrams_are_not_acknowledged) {
    struct rig *rig = rig_up(WITH_ACK);
    int device = rig_udp(rig);
    device_send(device, "junk");
    device_send(device, "MT;6;" VAN ";R0;1+2+3\r\n");
    device_send(device, "mode=Success!");
    device_send(device, report(VAN, 19));
    device_expect_datagram(device, "ACK," VAN ",R0,19#");
    rig_finish(rig);
}

// A broker that accepts the messages of CAR and rejects those of VAN. more: further configuration.
static struct rig *denying_up(const char *more) {
    struct rig *rig = rig_new();
    char extra[256];
    snprintf(extra, sizeof extra, "acl_file %s/acl\n%s", rig->directory, more);
    rig_write_file(rig, "acl",
                   "topic read #\n" // of the gateway, which has no name
                   "topic write trackbus/state/#\n"
                   "topic write trackbus/log/#\n"
                   "topic write trackbus/message/gw/channels/#\n"
                   "topic write trackbus/message/gw/devices/" CAR "\n"
                   "user " RIG_USER "\n"
                   "topic read #\n");
    rig_broker_start(rig, extra);
    rig_client_start(rig);
    rig_gateway_start(rig, WITH_ACK);
    return rig;
}

#define DENIED "set aside, the broker rejected it: Not authorized"

Test(broker, that_refuses_a_message_for_good_does_not_have_it_acknowledged) {
    struct rig *rig = denying_up(RIG_BROKER_LIMITS);
    int van = rig_udp(rig), car = rig_udp(rig);
    rig_expect_log(rig, ": connected");
    for (int i = 0; i < 3; i++) {
        char acknowledgement[48];
        device_send(van, report(VAN, 0)); // and again
        device_send(car, report(CAR, i));
        snprintf(acknowledgement, sizeof acknowledgement, "ACK," CAR ",R0,%d#", i);
        device_expect_datagram(car, acknowledgement);
    }
    rig_expect_log(rig, DENIED);
    rig_finish(rig);
    device_expect_no_more(van);
}

// Mosquitto without a queue limit closes the connection when more is in flight, and its answer is lost.
Test(broker, that_closes_the_connection_after_a_refusal_takes_what_is_behind_it) {
    struct rig *rig = denying_up("");
    int van = rig_tcp(rig), car = rig_tcp(rig);
    for (int i = 0; i < 5; i++) {
        device_send(van, report(VAN, i));
        device_send(car, report(CAR, i));
    }
    rig_expect_message(rig, "message/gw/devices/" CAR, "{'message.seqnum':4}", 60000); // some reconnections
    rig_expect_log(rig, DENIED);
    rig_expect_counters(rig, "outbox: 0 messages");
    rig_finish(rig);
}

// Few messages wait, so all are handed to the broker; it does not answer, so new ones go to disk all the
// same.
Test(broker, that_freezes_is_not_trusted_until_it_answers) {
    struct rig *rig = rig_with_broker(NULL);
    rig_gateway_start(rig, WITH_ACK);
    int device = rig_udp(rig);
    device_send(device, report(VAN, 0));
    device_expect_datagram(device, "ACK," VAN ",R0,0#");
    rig_broker_freeze(rig);
    for (int i = 1; i < 5; i++) {
        char acknowledgement[48];
        snprintf(acknowledgement, sizeof acknowledgement, "ACK," VAN ",R0,%d#", i);
        device_send(device, report(VAN, i));
        device_expect_datagram(device, acknowledgement);
    }
    cr_assert(rig_log_count(rig, "writing them to disk") == 1);
    cr_assert(!rig_log_has(rig, "the broker is keeping up again"));
    rig_broker_thaw(rig);
    rig_expect_log(rig, "the broker is keeping up again");
    expect_reports(rig, 0, 4);
    rig_finish(rig);
}

// --- the instance's state ---

Test(broker, keeps_the_state_of_the_instance) {
    struct rig *rig = rig_up(NULL);
    rig_expect(rig, INSTANCE, "{'state':'online'}");
    json_t *json = rig_expect_standing_json(rig, INSTANCE, "{'state':'online'}");
    cr_assert(json_is_string(json_object_get(json, "version")));
    cr_assert(json_number_value(json_object_get(json, "started")) > 1.7e9);
    json_decref(json);
    rig_gateway_stop(rig);
    rig_expect_standing(rig, INSTANCE, "{\"state\":\"offline\"}");
    rig->finished = true;
}

Test(broker, publishes_the_last_will_when_the_gateway_is_killed) {
    struct rig *rig = rig_up(NULL);
    rig_expect(rig, INSTANCE, "{'state':'online'}");
    rig_gateway_kill(rig);
    rig_expect(rig, INSTANCE, "{'state':'offline'}");
    rig_expect_standing(rig, INSTANCE, "{\"state\":\"offline\"}");
    rig->finished = true;
}

// --- the end ---

Test(broker, gets_what_waits_when_the_gateway_is_told_to_stop) {
    struct rig *rig = rig_up(NULL);
    static const char rest[] =
        "MT;4;866425031379169;RH;5+190116112648+0+0+0+0+11+3954+1"; // ended by the stop
    int device = rig_tcp(rig), unended = rig_tcp(rig);
    size_t length = strlen(rest);
    char all[32];
    rig_broker_freeze(rig);
    for (int i = 0; i < 200; i++) {
        device_send(device, report(VAN, i));
        length += strlen(report(VAN, i));
    }
    device_send(unended, rest);
    snprintf(all, sizeof all, " %zu bytes, ", length);
    rig_expect_counters(rig, all);
    rig_gateway_signal(rig, SIGTERM);
    rig_expect_log(rig, "stopping: no more connections");
    device_expect_closed(device);
    rig_broker_thaw(rig);
    cr_assert(rig_gateway_wait(rig) == 0);
    expect_all_in_order(rig, 199);
    rig_expect(rig, "message/gw/devices/866425031379169", "{'message.type':'RH'}");
    rig_expect(rig, INSTANCE, "{'state':'offline'}");
    cr_assert(!rig_log_has(rig, "stay on disk"));
    rig->finished = true;
}

// So many reports that the gateway leaves some unread, and stops reading in the middle of one.
static pid_t send_without_end(int device) {
    static char text[65536];
    size_t length = 0;
    for (int i = 0; length + 128 < sizeof text; i++)
        length += strlen(strcpy(text + length, report(VAN, i)));
    pid_t child = fork();
    if (child != 0)
        return child;
    for (size_t at = 0;; at = at + 2000 < length ? at + 1000 : 0)
        device_send_bytes(device, text + at, at + 2000 < length ? 1000 : length - at);
}

#define BEHIND 5000 // messages at which the gateway lets devices wait

struct backlog {
    struct rig *rig;
    int device;
};

// How many bytes of the connection the system holds that the gateway has not read.
static unsigned unread_bytes(const struct backlog *backlog) {
    FILE *sockets = fopen("/proc/net/tcp", "r");
    unsigned unread = 0, local, remote, bytes;
    unsigned wanted = (unsigned)rig_tcp_port(backlog->rig, "mictrack");
    char line[256];
    while (fgets(line, sizeof line, sockets) != NULL)
        if (sscanf(line, " %*[0-9]: %*8[0-9A-F]:%x %*8[0-9A-F]:%x %*x %*x:%x", &local, &remote, &bytes) ==
                3 &&
            local == wanted && remote == (unsigned)device_port(backlog->device))
            unread = bytes;
    fclose(sockets);
    return unread;
}

// So many messages wait that the gateway reads no more. A slow machine may come as far as the disk, and then
// all is read.
static bool is_behind(void *context) {
    const struct backlog *backlog = context;
    FILE *log = fopen(backlog->rig->log_path, "r");
    char line[1024];
    const char *count;
    bool behind = false;
    while (fgets(line, sizeof line, log) != NULL)
        behind = behind || ((count = strstr(line, "outbox: ")) != NULL && atol(count + 8) > BEHIND);
    fclose(log);
    rig_gateway_signal(backlog->rig, SIGUSR1);
    return (behind && unread_bytes(backlog) > 2000) || rig_log_has(backlog->rig, "writing them to disk");
}

Test(broker, that_is_behind_at_the_end_gets_whole_reports) {
    struct rig *rig = rig_up("{'telemetry':'off'}");
    struct backlog backlog = {.rig = rig, .device = rig_tcp(rig)};
    rig_broker_freeze(rig);
    pid_t child = send_without_end(backlog.device);
    bool behind = rig_wait(is_behind, &backlog, RIG_DEADLINE);
    bool unread = !rig_log_has(rig, "writing them to disk");
    rig_gateway_signal(rig, SIGTERM);
    rig_expect_log(rig, "stopping: no more connections");
    kill(child, SIGKILL);
    rig_broker_thaw(rig);
    cr_assert(behind && rig_gateway_wait(rig) == 0);
    cr_assert(!unread || (!rig_log_has(rig, "BAD_VALUE") && !rig_log_has(rig, "JUNK")));
    rig->finished = true;
}

Test(broker, away_at_the_end) {
    struct rig *rig = rig_new();
    rig_broker_reserve(rig);
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, "retrying in");
    rig_finish(rig);
}

Test(broker, silent_at_the_end_does_not_hold_up_one_told_twice) {
    struct rig *rig = rig_up(NULL);
    rig_broker_freeze(rig);
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect_log(rig, "device " VAN ": identified");
    rig_gateway_signal(rig, SIGINT);
    rig_expect_log(rig, "stopping: no more connections");
    rig_gateway_signal(rig, SIGINT);
    rig_expect_log(rig, "that the broker has not taken stay on disk for the next start");
    cr_assert(rig_gateway_wait(rig) == 0);
    rig_broker_thaw(rig);
    rig_gateway_start(rig, NULL);
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':1}");
    rig_finish(rig);
}

// A port that accepts nobody: its queue is full, and further attempts wait for minutes.
static int fill_port(int *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    bind(listener, (struct sockaddr *)&address, sizeof address);
    listen(listener, 0);
    *port = device_port(listener);
    address.sin_port = htons((uint16_t)*port);
    for (int i = 0; i < 4; i++)
        connect(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), (struct sockaddr *)&address, sizeof address);
    return listener;
}

Test(broker, that_cannot_be_reached_does_not_hold_up_the_end) {
    struct rig *rig = rig_new();
    fill_port(&rig->broker_port);
    rig_gateway_start(rig, NULL);
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect_log(rig, "device " VAN ": identified");
    rig_finish(rig);
}

Test(broker, that_speaks_no_mqtt_is_left_and_asked_again) {
    struct rig *rig = rig_new();
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    bind(listener, (struct sockaddr *)&address, sizeof address);
    listen(listener, 4);
    rig->broker_port = device_port(listener);
    rig_gateway_start(rig, NULL);
    device_send(accept(listener, NULL, NULL),
                "HTTP/1.1 400 Bad Request\r\nContent-Type: text/html; charset=utf-8\r\n"
                "Content-Length: 0\r\nServer: none\r\nConnection: close\r\n\r\n");
    rig_expect_log(rig, "retrying in");
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect_log(rig, "device " VAN ": identified");
    rig_finish(rig);
}

// --- many connections ---

#define IDLE_CONNECTIONS 1500

// Sets the soft limit, which is what the gateway begins with; the hard one must allow more.
static void allow_descriptors(rlim_t count) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < 4 * IDLE_CONNECTIONS)
        cr_skip_test("only %lu descriptors", (unsigned long)limit.rlim_max);
    limit.rlim_cur = count;
    setrlimit(RLIMIT_NOFILE, &limit);
}

// The rig's own client cannot use high descriptors; idle connections can.
static void open_idle(struct rig *rig) {
    int port = rig_tcp_port(rig, "mictrack");
    for (int i = 0; i < IDLE_CONNECTIONS; i++) {
        int low = rig_tcp_at("127.0.0.1", port);
        cr_assert(fcntl(low, F_DUPFD, 2 * IDLE_CONNECTIONS) >= 0);
        close(low);
    }
}

Test(broker, is_reached_with_1500_connections_open) {
    allow_descriptors(256);
    struct rig *rig = rig_new();
    char last[64];
    rig_broker_reserve(rig);
    rig_gateway_start(rig, "{'limits':{'connections_per_address':2000}}");
    allow_descriptors(4 * IDLE_CONNECTIONS);
    open_idle(rig);
    snprintf(last, sizeof last, ": %d connections, ", IDLE_CONNECTIONS);
    rig_expect_counters(rig, last);
    rig_broker_start(rig, NULL);
    rig_client_start(rig);
    rig_expect_log(rig, ": connected");
    int device = rig_tcp(rig);
    for (int i = 0; i < 20; i++)
        device_send(device, report(VAN, i));
    expect_all_in_order(rig, 19);
    rig_publish(rig, "command/gw/devices/" VAN, "mode,6,60#");
    device_expect(device, "mode,6,60#");
    rig_finish(rig);
}
