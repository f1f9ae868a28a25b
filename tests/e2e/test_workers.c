// Several processes that share the ports: trackbus run --workers N.
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/e2e/command_life.h"

TestSuite(workers, .fini = rig_clean);

#define FIRST   INSTANCE
#define SECOND  "state/gw/instances/trackbus-2"
#define THIRD   "state/gw/instances/trackbus-3"
#define TRIES   100 // to reach one worker of two: more than chance needs
#define REPORTS "message/gw/devices/" VAN
// A datagram's answer says that its message is safe: with the broker away, on disk.
#define WITH_ACK                                                                                             \
    "{'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','tcp':'127.0.0.1:0','udp':'127.0.0.1:0',"  \
    "'udp_ack':'ok {seq}'}]}"
#define KEEPS RIG_BROKER_KEEPS

static void start(struct rig *rig, unsigned workers, const char *changes) {
    rig->workers = workers;
    rig_gateway_start(rig, changes);
    rig_expect_log_times(rig, ": connected", workers > 0 ? workers : 1);
}

static struct rig *up(unsigned workers, const char *changes) {
    struct rig *rig = rig_with_broker(KEEPS);
    start(rig, workers, changes);
    return rig;
}

struct placing {
    struct rig *rig;
    int port;
    unsigned worker;
};

// A worker says each connection, and each device over UDP, with the address of the device.
static bool is_placed(void *context) {
    struct placing *placing = context;
    for (unsigned i = 1; i <= placing->rig->workers; i++) {
        char text[96];
        snprintf(text, sizeof text, "worker %u: channel mictrack, 127.0.0.1:%d,", i, placing->port);
        if (rig_log_has(placing->rig, text))
            placing->worker = i;
    }
    return placing->worker != 0;
}

// Which worker has the connection of this device, or has heard its datagram.
static unsigned worker_of(struct rig *rig, int device) {
    struct placing placing = {.rig = rig, .port = device_port(device)};
    cr_assert(rig_wait(is_placed, &placing, RIG_DEADLINE), "no worker has the device");
    return placing.worker;
}

static int tcp_at(struct rig *rig, unsigned worker) {
    for (int i = 0; i < TRIES; i++) {
        int device = rig_tcp(rig);
        if (worker_of(rig, device) == worker)
            return device;
        close(device);
    }
    cr_assert_fail("no connection came to worker %u", worker);
    return -1;
}

static int wake_at(struct rig *rig, unsigned worker, const char *ident) {
    int device = tcp_at(rig, worker);
    talk(rig, device, ident);
    return device;
}

static int udp_at(struct rig *rig, unsigned worker, const char *ident) {
    for (int i = 0; i < TRIES; i++) {
        int device = rig_udp(rig);
        device_send(device, report(ident, 1));
        unsigned came_to = worker_of(rig, device);
        // The broker's order says which worker has the device: that of the last try is to be the last.
        rig_expect(rig, "log/gw/channels/+/connections/+/identified", NULL);
        if (came_to == worker)
            return device;
        close(device);
    }
    cr_assert_fail("no datagram came to worker %u", worker);
    return -1;
}

static void kill_worker(struct rig *rig, unsigned worker) {
    cr_assert(kill(rig_worker(rig, worker), SIGKILL) == 0);
}

static void path_of(const struct rig *rig, const char *name, char *path, size_t capacity) {
    snprintf(path, capacity, "%s/%s", rig->directory, name);
}

static bool has_file(const struct rig *rig, const char *name) {
    char path[128];
    path_of(rig, name, path, sizeof path);
    return access(path, F_OK) == 0;
}

// --- sharing ---

static void expect_one_port(struct rig *rig, const char *channel, const char *transport, int port,
                            size_t times) {
    char text[128];
    snprintf(text, sizeof text, "channel %s: listening for %s devices on %s 127.0.0.1:%d\n", channel, channel,
             transport, port);
    size_t count = rig_log_count(rig, text);
    cr_assert(count == times, "%zu workers say: %s", count, text);
}

Test(workers, share_the_ports) {
    struct rig *rig =
        up(3, "{'channels':["
              "{'id':1,'name':'mictrack','protocol':'mictrack','tcp':'127.0.0.1:0','udp':'127.0.0.1:0'},"
              "{'id':2,'name':'magicyo','protocol':'magicyo','tcp':'127.0.0.1:0','udp':'127.0.0.1:0'}]}");
    expect_one_port(rig, "mictrack", "tcp", rig_tcp_port(rig, "mictrack"), 3);
    expect_one_port(rig, "mictrack", "udp", rig_udp_port(rig, "mictrack"), 3);
    expect_one_port(rig, "magicyo", "tcp", rig_tcp_port(rig, "magicyo"), 3);
    expect_one_port(rig, "magicyo", "udp", rig_udp_port(rig, "magicyo"), 3);
    cr_assert(rig_tcp_port(rig, "mictrack") != rig_tcp_port(rig, "magicyo"));
    for (unsigned i = 1; i <= 3; i++)
        close(wake_at(rig, i, VAN));
    rig_finish(rig);
}

Test(workers, are_instances_of_their_own) {
    struct rig *rig = up(2, NULL);
    rig_expect(rig, FIRST, "{'state':'online'}");
    rig_expect(rig, SECOND, "{'state':'online'}");
    cr_assert(has_file(rig, "store.db") && has_file(rig, "store.db-2") && !has_file(rig, "store.db-1"));
    rig_expect(rig, FIRST "/queue", NULL); // the marker of the one that takes commands in
    cr_assert(rig_count_retained(rig, "state/gw/instances/+/queue") == 1);
    rig_gateway_stop(rig);
    rig_expect(rig, FIRST, "{'state':'offline'}");
    rig_expect(rig, SECOND, "{'state':'offline'}");
    cr_assert(rig_count_retained(rig, "behind") == 0); // all that came before the answer is here
    cr_assert(rig_count(rig, FIRST) == 2 && rig_count(rig, SECOND) == 2); // no Last Will besides
    rig_expect_standing(rig, FIRST, "{\"state\":\"offline\"}");
    rig_expect_standing(rig, SECOND, "{\"state\":\"offline\"}");
    rig->finished = true;
}

Test(workers, say_together_how_many_connections_there_are) {
    struct rig *rig = up(2, NULL);
    int devices[] = {tcp_at(rig, 1), tcp_at(rig, 2), tcp_at(rig, 2)};
    json_decref(rig_expect_standing_json(rig, "state/gw/channels/1", "{'id':1,'connections':3}"));
    json_decref(rig_expect_standing_json(rig, SECOND "/channels/1", "{'id':1,'connections':2}"));
    kill_worker(rig, 2);
    json_decref(rig_expect_standing_json(rig, "state/gw/channels/1", "{'id':1,'connections':1}"));
    for (size_t i = 0; i < 3; i++)
        close(devices[i]);
    json_decref(rig_expect_standing_json(rig, "state/gw/channels/1", "{'id':1,'connections':0}"));
    rig_finish(rig);
}

// Each counts its connections from 1.
Test(workers, log_whose_connection_it_is) {
    struct rig *rig = up(2, NULL);
    int van = wake_at(rig, 1, VAN), car = wake_at(rig, 2, CAR);
    rig_expect(rig, "log/gw/channels/1/connections/+/identified",
               "{'ident':'" VAN "','instance':'trackbus'}");
    rig_expect(rig, "log/gw/channels/1/connections/+/identified",
               "{'ident':'" CAR "','instance':'trackbus-2'}");
    close(van);
    close(car);
    rig_expect(rig, "log/gw/channels/1/connections/+/closed", "{'ident':'" VAN "','instance':'trackbus'}");
    rig_expect(rig, "log/gw/channels/1/connections/+/closed", "{'ident':'" CAR "','instance':'trackbus-2'}");
    rig_finish(rig);
}

Test(workers, one_is_possible) {
    struct rig *rig = up(1, NULL);
    close(wake_at(rig, 1, VAN));
    kill_worker(rig, 1);
    rig_expect_log_times(rig, ": connected", 2);
    close(wake_at(rig, 1, VAN));
    cr_assert(!has_file(rig, "store.db-1"));
    rig_finish(rig);
}

#define DEVICES 40
#define ROUNDS  5

static void expect_each_once(struct rig *rig) {
    const struct rig_message *message;
    json_t *seen = json_object();
    for (size_t next = 0; (message = rig_next(rig, "message/gw/devices/+", &next)) != NULL;) {
        char key[96];
        json_t *json = json_of(message);
        snprintf(key, sizeof key, "%s %d", json_string_value(json_object_get(json, "ident")),
                 (int)json_integer_value(json_object_get(json, "message.seqnum")));
        cr_assert(json_object_get(seen, key) == NULL, "%s came twice", key);
        json_object_set_new(seen, key, json_true());
        json_decref(json);
    }
    cr_assert(json_object_size(seen) == (size_t)2 * DEVICES * ROUNDS);
    json_decref(seen);
}

// Half of them over TCP, half over UDP. That chance gives all of one kind to the same worker is as good as
// impossible.
Test(workers, divide_many_devices_and_lose_nothing) {
    struct rig *rig = up(2, NULL);
    int devices[2 * DEVICES];
    bool used[2][3] = {{false}};
    for (size_t i = 0; i < 2 * (size_t)DEVICES; i++)
        devices[i] = i < DEVICES ? rig_tcp(rig) : rig_udp(rig);
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < 2 * DEVICES; i++) {
            char ident[24];
            snprintf(ident, sizeof ident, "8664250313%05d", i);
            device_send(devices[i], report(ident, round));
        }
    rig_expect_count(rig, "message/gw/devices/+", (size_t)2 * DEVICES * ROUNDS);
    for (size_t i = 0; i < 2 * (size_t)DEVICES; i++)
        used[i / DEVICES][worker_of(rig, devices[i])] = true;
    cr_assert(used[0][1] && used[0][2] && used[1][1] && used[1][2]);
    rig_gateway_stop(rig);
    expect_each_once(rig);
    rig->finished = true;
}

// --- commands ---

static void expect_reboot(struct rig *rig, int device, const char *ident) {
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!\r\n");
    expect_step(rig, ident, "reboot", "processed", "{'executed':true}");
}

Test(workers, deliver_commands_to_the_devices_they_hold) {
    struct rig *rig = up(2, NULL);
    int van = wake_at(rig, 1, VAN), car = wake_at(rig, 2, CAR);
    rig_publish(rig, TO_VAN, REBOOT);
    rig_publish(rig, TO_CAR, REBOOT);
    expect_reboot(rig, van, VAN);
    expect_reboot(rig, car, CAR);
    expect_steps(rig, VAN, "queued", 1);
    expect_steps(rig, VAN, "sent", 1);
    expect_steps(rig, CAR, "queued", 1);
    expect_steps(rig, CAR, "sent", 1);
    finish(rig);
}

Test(workers, deliver_over_udp) {
    struct rig *rig = up(2, NULL);
    for (unsigned worker = 1; worker <= 2; worker++) {
        int device = udp_at(rig, worker, VAN);
        talk(rig, device, VAN);
        rig_publish(rig, TO_VAN, REBOOT);
        device_expect_datagram(device, "reboot,0#");
        device_send(device, "reboot=Success!");
        expect_step(rig, VAN, "reboot", "processed", "{'executed':true}");
    }
    expect_steps(rig, VAN, "sent", 2);
    finish(rig);
}

// Several times each way, so that a command that went to the wrong place would show.
Test(workers, a_device_that_moves_gets_each_command_once) {
    struct rig *rig = up(2, NULL);
    int before = wake_at(rig, 1, VAN);
    for (int i = 0; i < 6; i++) {
        int device = wake_at(rig, i % 2 == 0 ? 2 : 1, VAN);
        device_expect_closed(before);
        close(before);
        before = device;
        rig_publish(rig, TO_VAN, REBOOT);
        expect_reboot(rig, device, VAN);
        cr_assert(!device_has_bytes(device));
    }
    expect_steps(rig, VAN, "queued", 6);
    expect_steps(rig, VAN, "sent", 6);
    finish(rig);
}

Test(workers, a_device_that_is_away_gets_its_command_where_it_wakes) {
    struct rig *rig = up(2, NULL);
    for (unsigned worker = 2; worker >= 1; worker--) {
        rig_publish(rig, TO_VAN, REBOOT);
        expect_step(rig, VAN, "reboot", "queued", NULL);
        int device = wake_at(rig, worker, VAN);
        expect_reboot(rig, device, VAN);
        close(device);
        rig_expect(rig, "log/gw/devices/" VAN "/disconnected", NULL);
    }
    expect_steps(rig, VAN, "sent", 2);
    finish(rig);
}

// --- a worker that dies ---

static double started_of(struct rig *rig, const char *topic, size_t nth) {
    const struct rig_message *message = rig_message_at(rig, topic, nth);
    json_t *state = message != NULL ? json_of(message) : NULL;
    double started = json_number_value(json_object_get(state, "started"));
    json_decref(state);
    return started;
}

struct running {
    struct rig *rig;
    const char *topic;
};

// Another run than the first one is online.
static bool runs_again(void *context) {
    const struct running *running = context;
    size_t count = rig_count(running->rig, running->topic);
    double first = started_of(running->rig, running->topic, 0);
    double last = started_of(running->rig, running->topic, count - 1);
    return last != 0 && last != first;
}

static void expect_another_run(struct rig *rig, const char *topic) {
    struct running running = {.rig = rig, .topic = topic};
    cr_assert(rig_wait(runs_again, &running, RIG_DEADLINE), "no other run on %s", topic);
}

Test(workers, one_that_is_killed_is_started_again) {
    struct rig *rig = up(2, NULL);
    int device = wake_at(rig, 2, VAN);
    pid_t before = rig_worker(rig, 2);
    rig_expect(rig, SECOND, "{'state':'online'}");
    kill_worker(rig, 2);
    device_expect_closed(device);
    close(device);
    rig_expect_log(rig, "worker 2 was killed by signal 9 (Killed); restarting in 1 s");
    expect_another_run(rig, SECOND); // perhaps before the Last Will, which comes a second late, was due
    cr_assert(rig_worker(rig, 2) != before);
    device = wake_at(rig, 2, VAN);
    rig_publish(rig, TO_VAN, REBOOT);
    expect_reboot(rig, device, VAN);
    kill_worker(rig, 2); // again, so soon
    rig_expect_log(rig, "worker 2 was killed by signal 9 (Killed); restarting in 2 s");
    rig_expect(rig, SECOND, "{'state':'online'}");
    cr_assert(rig_log_count(rig, "restarting in") == 2, "the other one was ended, too");
    check_lives(rig, true); // it may have said the end, and been killed before it knew that it was heard
    rig_finish(rig);
}

Test(workers, the_intake_that_is_killed_misses_no_command) {
    struct rig *rig = up(2, NULL);
    int device = wake_at(rig, 2, VAN);
    kill_worker(rig, 1);
    rig_expect_log(rig, "worker 1 was killed by signal 9");
    rig_publish(rig, TO_VAN, REBOOT);
    expect_reboot(rig, device, VAN);
    expect_steps(rig, VAN, "sent", 1);
    finish(rig);
}

// What a worker acknowledged stands on its disk, and its successor sends it.
static int on_disk_of(struct rig *rig, unsigned worker) {
    char instance[32];
    int device = udp_at(rig, worker, VAN);
    device_expect_datagram(device, "ok 1");
    snprintf(instance, sizeof instance, "\"trackbus-%u\"", worker);
    rig_expect_standing(rig, "state/gw/devices/" VAN "/instance", instance); // all of them know it
    rig_broker_kill(rig);
    for (int i = 2; i < 20; i++) {
        char answer[16];
        snprintf(answer, sizeof answer, "ok %d", i);
        device_send(device, report(VAN, i));
        device_expect_datagram(device, answer);
    }
    return device;
}

static void expect_from_disk(struct rig *rig) {
    for (int i = 2; i < 20; i++) {
        char subset[32];
        snprintf(subset, sizeof subset, "{'message.seqnum':%d}", i);
        rig_expect(rig, REPORTS, subset);
    }
}

Test(workers, what_a_killed_one_acknowledged_is_not_lost) {
    struct rig *rig = up(2, WITH_ACK);
    on_disk_of(rig, 2);
    kill_worker(rig, 2);
    rig_expect_log(rig, "worker 2 was killed by signal 9");
    rig_broker_start(rig, KEEPS);
    expect_from_disk(rig);
    rig_finish(rig);
}

// --- signals ---

static void write_devices(struct rig *rig, const char *name) {
    char text[128];
    snprintf(text, sizeof text, "[{\"ident\":\"" VAN "\",\"id\":" VAN ",\"name\":\"%s\"}]", name);
    rig_write_file(rig, "devices.json", text);
}

// Two workers, and a registry in a file in which VAN has that name.
static struct rig *up_with_name(const char *name) {
    struct rig *rig = rig_with_broker(NULL);
    char changes[160];
    write_devices(rig, name);
    snprintf(changes, sizeof changes, "{'devices_file':'%s/devices.json'}", rig->directory);
    start(rig, 2, changes);
    return rig;
}

static void expect_name(struct rig *rig, unsigned worker, int seqnum, const char *name) {
    char subset[64];
    int device = tcp_at(rig, worker);
    device_send(device, report(VAN, seqnum));
    snprintf(subset, sizeof subset, "{'message.seqnum':%d,'device.name':'%s'}", seqnum, name);
    rig_expect(rig, REPORTS, subset);
    close(device);
}

Test(workers, all_read_the_registry_again) {
    struct rig *rig = up_with_name("one");
    expect_name(rig, 1, 1, "one");
    expect_name(rig, 2, 2, "one");
    write_devices(rig, "two");
    kill_worker(rig, 2); // one that is started has what the others have
    rig_expect_log_times(rig, ": connected", 3);
    expect_name(rig, 2, 3, "one");
    rig_gateway_signal(rig, SIGHUP);
    rig_expect_log_times(rig, ": the registry has 1 device", 2);
    expect_name(rig, 1, 4, "two");
    expect_name(rig, 2, 5, "two");
    kill_worker(rig, 2);
    rig_expect_log_times(rig, ": connected", 4);
    expect_name(rig, 2, 6, "two");
    rig_finish(rig);
}

Test(workers, a_faulty_registry_changes_nothing) {
    struct rig *rig = up_with_name("one");
    write_devices(rig, "\",");
    rig_gateway_signal(rig, SIGHUP);
    rig_expect_log_times(rig, "the configuration is unchanged", 2);
    kill_worker(rig, 2);
    rig_expect_log_times(rig, ": connected", 3);
    expect_name(rig, 1, 1, "one");
    expect_name(rig, 2, 2, "one");
    rig_finish(rig);
}

Test(workers, all_log_their_counters) {
    struct rig *rig = up(2, NULL);
    rig_gateway_signal(rig, SIGUSR1);
    rig_expect_log(rig, "worker 1: outbox: ");
    rig_expect_log(rig, "worker 2: outbox: ");
    rig_finish(rig);
}

static bool signal_and_look(void *context) {
    struct rig *rig = context;
    rig_gateway_signal(rig, SIGHUP);
    rig_gateway_signal(rig, SIGUSR1);
    return rig_log_count(rig, ": connected") >= 2;
}

// A signal does not end a worker that is not ready for it yet.
Test(workers, signals_may_come_early) {
    struct rig *rig = rig_with_broker(NULL);
    rig->workers = 2;
    rig_gateway_spawn(rig, NULL);
    rig_expect_log(rig, "worker 1 is process");
    cr_assert(rig_wait(signal_and_look, rig, RIG_DEADLINE));
    cr_assert(!rig_log_has(rig, "was killed by signal"));
    rig_finish(rig);
}

Test(workers, told_to_stop_at_once_they_stop_well) {
    struct rig *rig = rig_with_broker(NULL);
    rig->workers = 2;
    rig_gateway_spawn(rig, NULL);
    rig_expect_log(rig, "worker 2 is process");
    rig_gateway_stop(rig);
    cr_assert(!rig_log_has(rig, "restarting in"));
    rig->finished = true;
}

static void expect_gone(pid_t process) {
    cr_assert(kill(process, 0) == -1 && errno == ESRCH, "process %d runs", (int)process);
}

// The worker has read its device's first report and fifty more.
static void expect_read(struct rig *rig, unsigned worker) {
    char text[96];
    snprintf(text, sizeof text, "worker %u: channel mictrack: 1 connections, %zu bytes, 51 messages", worker,
             strlen(report(VAN, 100)) + 50 * strlen(report(VAN, 1000)));
    rig_expect_counters(rig, text);
}

// A service manager may tell all processes, a terminal all of a group: the workers hear it twice.
Test(workers, stop_hands_over_what_waits) {
    struct rig *rig = up(2, NULL);
    pid_t processes[] = {rig_worker(rig, 1), rig_worker(rig, 2)};
    int first = wake_at(rig, 1, VAN), second = wake_at(rig, 2, CAR);
    rig_broker_freeze(rig);
    for (int i = 0; i < 50; i++) {
        device_send(first, report(VAN, 1000 + i));
        device_send(second, report(CAR, 1000 + i));
    }
    expect_read(rig, 1);
    expect_read(rig, 2);
    kill(processes[0], SIGTERM);
    kill(processes[1], SIGTERM);
    rig_expect_log(rig, "worker 1: stopping");
    rig_expect_log(rig, "worker 2: stopping");
    rig_gateway_signal(rig, SIGTERM);
    device_expect_closed(first);
    device_expect_closed(second);
    rig_broker_thaw(rig);
    cr_assert(rig_gateway_wait(rig) == 0);
    expect_gone(processes[0]);
    expect_gone(processes[1]);
    cr_assert(!rig_log_has(rig, "stay on disk"));
    rig_expect(rig, REPORTS, "{'message.seqnum':1049}");
    rig_expect(rig, "message/gw/devices/" CAR, "{'message.seqnum':1049}");
    cr_assert(rig_count(rig, REPORTS) == 51 && rig_count(rig, "message/gw/devices/" CAR) == 51);
    rig->finished = true;
}

Test(workers, told_twice_they_do_not_wait) {
    struct rig *rig = up(2, NULL);
    int first = wake_at(rig, 1, VAN), second = wake_at(rig, 2, CAR);
    rig_broker_freeze(rig);
    device_send(first, report(VAN, 1000));
    device_send(second, report(CAR, 1000));
    rig_gateway_signal(rig, SIGTERM);
    rig_expect_log(rig, "worker 1: stopping");
    rig_expect_log(rig, "worker 2: stopping");
    rig_gateway_signal(rig, SIGTERM);
    cr_assert(rig_gateway_wait(rig) == 0);
    cr_assert(rig_log_has(rig, "worker 1: stopped") && rig_log_has(rig, "worker 2: stopped"));
    rig_broker_thaw(rig);
    rig->finished = true;
}

Test(workers, stop_when_the_supervisor_is_killed) {
    struct rig *rig = up(2, NULL);
    pid_t processes[] = {rig_worker(rig, 1), rig_worker(rig, 2)};
    rig_gateway_kill(rig);
    cr_assert(rig_orphan_wait(processes[0]) == 0);
    cr_assert(rig_orphan_wait(processes[1]) == 0);
    rig_expect_standing(rig, FIRST, "{\"state\":\"offline\"}");
    rig_expect_standing(rig, SECOND, "{\"state\":\"offline\"}");
    rig->finished = true;
}

// --- what does not work ---

static int hold(int type, int *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int on = 1, handle = socket(AF_INET, type, 0);
    // Even when the holder would share it.
    setsockopt(handle, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    cr_assert(bind(handle, (struct sockaddr *)&address, length) == 0);
    cr_assert(type != SOCK_STREAM || listen(handle, 8) == 0);
    cr_assert(getsockname(handle, (struct sockaddr *)&address, &length) == 0);
    *port = ntohs(address.sin_port);
    return handle;
}

static void expect_port_in_use(const char *transport, int type) {
    struct rig *rig = rig_new();
    char changes[160], reason[96];
    int port, held = hold(type, &port);
    rig->workers = 2;
    snprintf(changes, sizeof changes,
             "{'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','%s':'127.0.0.1:%d'}]}", transport,
             port);
    snprintf(reason, sizeof reason,
             "channel mictrack: cannot listen on %s 127.0.0.1:%d: Address already in use", transport, port);
    rig_expect_no_start(rig, changes, reason);
    cr_assert(!rig_log_has(rig, "is process"));
    close(held);
    rig->finished = true;
}

Test(workers, need_a_free_tcp_port) {
    expect_port_in_use("tcp", SOCK_STREAM);
}

Test(workers, need_a_free_udp_port) {
    expect_port_in_use("udp", SOCK_DGRAM);
}

// Two channels on one port would each get some of the devices.
Test(workers, need_a_port_for_each_channel) {
    struct rig *rig = rig_new();
    char changes[256], reason[96];
    int port, held_port;
    close(hold(SOCK_STREAM, &port));
    int held = hold(SOCK_STREAM, &held_port);
    rig->workers = 2;
    snprintf(changes, sizeof changes,
             "{'channels':[{'id':1,'name':'one','protocol':'mictrack','tcp':'127.0.0.1:%d'},"
             "{'id':2,'name':'two','protocol':'magicyo','tcp':'127.0.0.1:%d'}]}",
             port, held_port);
    snprintf(reason, sizeof reason, "channel two: cannot listen on tcp 127.0.0.1:%d: Address already in use",
             held_port);
    rig_expect_no_start(rig, changes, reason);
    close(held);
    rig->finished = true;
}

Test(workers, need_a_store_each) {
    struct rig *rig = rig_new();
    char path[128];
    rig->workers = 2;
    path_of(rig, "store.db-2", path, sizeof path);
    cr_assert(mkdir(path, 0700) == 0);
    rig_expect_no_start(rig, NULL, "/store.db-2 cannot be used: ");
    cr_assert(rig_log_has(rig, "worker 2 failed to start (code 1); stopping all workers"));
    cr_assert(!rig_log_has(rig, "restarting in"));
    rig->finished = true;
}

// Connections that the gateway closed linger at its port.
Test(workers, start_again_on_the_same_port) {
    struct rig *rig = up(2, NULL);
    char changes[160];
    int port = rig_tcp_port(rig, "mictrack"), first = wake_at(rig, 1, VAN), second = wake_at(rig, 2, CAR);
    rig_gateway_stop(rig);
    device_expect_closed(first);
    device_expect_closed(second);
    close(first);
    close(second);
    snprintf(changes, sizeof changes,
             "{'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','tcp':'127.0.0.1:%d'}]}", port);
    start(rig, 2, changes);
    cr_assert(!rig_log_has(rig, "cannot listen"));
    close(wake_at(rig, 2, VAN));
    rig_finish(rig);
}

// --- stores that more workers have left behind ---

static struct rig *with_leftover(void) {
    struct rig *rig = up(3, WITH_ACK);
    on_disk_of(rig, 3);
    rig_gateway_stop(rig);
    cr_assert(has_file(rig, "store.db-3"));
    rig_broker_start(rig, KEEPS);
    return rig;
}

static bool is_removed(void *context) {
    return !has_file(context, "store.db-3");
}

// Nothing may be retained at all: the device came and went while there was no broker.
static bool is_not_connected(void *context) {
    json_t *standing = rig_retained(context, "state/gw/devices/" VAN "/connected");
    const char *topic;
    json_t *value;
    bool connected = false;
    json_object_foreach(standing, topic, value) {
        connected = connected || strcmp(json_string_value(value), "true") == 0;
    }
    json_decref(standing);
    return !connected;
}

Test(workers, fewer_send_what_more_have_left) {
    struct rig *rig = with_leftover();
    rig->workers = 2;
    rig_gateway_start(rig, WITH_ACK);
    cr_assert(rig_log_has(rig, "/store.db-3 is left over from a run with more workers"));
    expect_from_disk(rig);
    cr_assert(rig_wait(is_removed, rig, RIG_DEADLINE), "the store is not removed");
    rig_expect_standing(rig, THIRD, NULL); // there is no such instance any more
    rig_expect_standing(rig, THIRD "/channels/1", NULL);
    cr_assert(rig_wait(is_not_connected, rig, RIG_DEADLINE), "the device still stands as connected");
    close(wake_at(rig, 2, VAN));
    cr_assert(!rig_log_has(rig, "cannot send what is left over"));
    cr_assert(!rig_log_has(rig, "restarting in"));
    rig_finish(rig);
}

// Home Assistant would show a gateway that is away for ever.
Test(workers, fewer_take_away_what_home_assistant_has_of_more) {
    const char *third = "/homeassistant/sensor/trackbus_gateway_trackbus-3_version/config";
    struct rig *rig = up(3, "{'home_assistant':{'enabled':true}}");
    json_decref(rig_expect_standing_json(rig, third, "{'name':'Version'}"));
    rig_gateway_stop(rig);
    rig->workers = 2;
    rig_gateway_start(rig, "{'home_assistant':{'enabled':true}}");
    cr_assert(rig_wait(is_removed, rig, RIG_DEADLINE), "the store is not removed");
    rig_expect_none_retained(rig, "/homeassistant/+/trackbus_gateway_trackbus-3_version/config");
    rig_expect_none_retained(rig, "/homeassistant/+/trackbus_gateway_trackbus-3_link/config");
    json_decref(rig_expect_standing_json(
        rig, "/homeassistant/sensor/trackbus_gateway_trackbus-2_version/config", "{'name':'Version'}"));
    rig_finish(rig);
}

Test(workers, what_is_left_waits_for_the_broker) {
    struct rig *rig = with_leftover();
    rig_broker_kill(rig);
    rig->workers = 1;
    rig_gateway_start(rig, WITH_ACK);
    rig_expect_log(rig, "worker 3: broker 127.0.0.1");
    rig_gateway_stop(rig);
    cr_assert(has_file(rig, "store.db-3")); // still
    rig_broker_start(rig, KEEPS);
    rig_gateway_start(rig, WITH_ACK);
    expect_from_disk(rig);
    cr_assert(rig_wait(is_removed, rig, RIG_DEADLINE), "the store is not removed");
    rig_finish(rig);
}

Test(workers, what_is_left_and_unreadable_harms_nobody) {
    struct rig *rig = rig_with_broker(NULL);
    char path[128];
    path_of(rig, "store.db-3", path, sizeof path);
    cr_assert(mkdir(path, 0700) == 0);
    start(rig, 2, NULL);
    rig_expect_log(rig, "worker 3 cannot send what is left over from an earlier run");
    close(wake_at(rig, 2, VAN));
    rig_finish(rig);
}

Test(workers, without_workers_what_is_left_is_named) {
    struct rig *rig = up(2, NULL);
    rig_gateway_stop(rig);
    start(rig, 0, NULL);
    cr_assert(rig_log_has(rig, "/store.db-2 is left over from a run with more workers"));
    cr_assert(has_file(rig, "store.db-2"));
    rig_finish(rig);
}
