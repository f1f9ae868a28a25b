// Radio links that are down for a while: the gateway and the device stand in network namespaces of their own, and
// the link between them loses everything in silence, as a mobile network does. Nothing is told to either end.
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/e2e/rig.h"

TestSuite(radio, .fini = rig_clean, .timeout = 900);

#define REPORTS     "message/gw/devices/" VAN
#define GATEWAY_MAC "02:00:00:00:00:01"
#define DEVICE_MAC  "02:00:00:00:00:02"
#define NOBODYS_MAC "02:00:00:00:00:09"
#define CHANNEL     "'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','tcp':'10.77.0.1:0'}]"

// --- the link ---

static struct {
    int gateway, device; // their namespaces
} space;

static void enter(int namespace) {
    cr_assert(setns(namespace, CLONE_NEWNET) == 0, "setns: %s", strerror(errno));
}

__attribute__((format(printf, 2, 3))) static void do_in(int namespace, const char *format, ...) {
    char command[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    enter(namespace);
    cr_assert(system(command) == 0, "'%s' fails", command);
    enter(space.gateway);
}

static int new_space(void) {
    if (unshare(CLONE_NEWNET) != 0)
        cr_skip_test("no network namespaces here (%s): run as root to test radio links", strerror(errno));
    return open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

// Frames to a wrong address go nowhere.
static void set_link(bool up) {
    do_in(space.gateway, "ip neigh replace 10.77.0.2 dev air lladdr %s nud permanent",
          up ? DEVICE_MAC : NOBODYS_MAC);
    do_in(space.device, "ip neigh replace 10.77.0.1 dev air lladdr %s nud permanent",
          up ? GATEWAY_MAC : NOBODYS_MAC);
}

// The rest of the test runs in the gateway's namespace.
static void make_link(void) {
    if (system("ip -V >/dev/null 2>&1") != 0)
        cr_skip_test("there is no ip command (iproute2) to test radio links with");
    space.device = new_space();
    space.gateway = new_space();
    do_in(space.gateway, "ip link set lo up");
    do_in(space.device,
          "ip link add air address " DEVICE_MAC " type veth peer name air address " GATEWAY_MAC
          " netns /proc/%d/fd/%d",
          (int)getpid(), space.gateway);
    do_in(space.gateway, "ip addr add 10.77.0.1/24 dev air && ip link set air up");
    do_in(space.device, "ip addr add 10.77.0.2/24 dev air && ip link set air up");
    set_link(true);
}

static int device_behind_link(struct rig *rig) {
    enter(space.device);
    int device = rig_tcp_at("10.77.0.1", rig_tcp_port(rig, "mictrack"));
    enter(space.gateway);
    return device;
}

// A device that has said who it is.
static int known_device(struct rig *rig) {
    int device = device_behind_link(rig);
    device_send(device, report(VAN, 0));
    rig_expect(rig, REPORTS, "{'message.seqnum':0}");
    return device;
}

static void pass_seconds(int seconds) {
    rig_wait_until(rig_clock() + seconds * 1000);
}

// --- the tests ---

// Seconds that the link is down. The gateway's system would give up after 3 of them, ours after 10; with the
// system's defaults it is 80 s and a quarter of an hour.
static int seconds_down(void) {
    const char *text = getenv("TRACKBUS_RADIO_SECONDS");
    return text != NULL ? atoi(text) : 12;
}

// What the device could not send is in its socket, and a command of ours is on its way: all of it comes.
static void expect_nothing_lost(const char *changes) {
    make_link();
    do_in(space.gateway, "echo 3 >/proc/sys/net/ipv4/tcp_retries2");
    struct rig *rig = rig_up(changes);
    int device = known_device(rig);
    set_link(false);
    rig_publish(rig, "command/gw/devices/" VAN, "mode,6,60#");
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/+/sent", NULL);
    for (int i = 1; i <= 3; i++)
        device_send(device, report(VAN, i));
    pass_seconds(seconds_down());
    cr_assert(rig_count(rig, REPORTS) == 1, "the link is not down");
    set_link(true);
    for (int i = 1; i <= 3; i++) {
        char subset[48];
        snprintf(subset, sizeof subset, "{'message.seqnum':%d}", i);
        rig_expect_message(rig, REPORTS, subset, 150000); // the device tries again after so long
    }
    device_expect(device, "mode,6,60#");
    fprintf(stderr, "radio: the link was down for %d s: sent 4 reports, %zu came\n", seconds_down(),
            rig_count(rig, REPORTS));
    cr_assert(rig_log_count(rig, "accepted") == 1 && !rig_log_has(rig, "(code "), "the connection was cut");
    rig_finish(rig);
}

Test(radio, link_that_is_down_for_a_while_loses_nothing) {
    expect_nothing_lost("{" CHANNEL "}");
}

Test(radio, link_that_is_down_for_a_while_loses_nothing_although_it_is_probed) {
    expect_nothing_lost("{" CHANNEL ",'limits':{'tcp_keepalive':1}}");
}

// Probes would wake the radio of a device that sleeps.
Test(radio, connections_are_not_probed_unless_asked_for) {
    make_link();
    struct rig *rig = rig_up("{" CHANNEL "}");
    known_device(rig);
    do_in(space.gateway, "test -z \"$(ss -tnoH src 10.77.0.1 | grep keepalive)\"");
    rig_gateway_stop(rig);
    rig_gateway_start(rig, "{" CHANNEL ",'limits':{'tcp_keepalive':300}}");
    known_device(rig);
    do_in(space.gateway, "ss -tnoH src 10.77.0.1 | grep -q 'keepalive,[245]'");
    rig_finish(rig);
}

Test(radio, idle_timeout_alone_ends_a_connection_that_is_out_of_reach) {
    make_link();
    do_in(space.gateway, "echo 3 >/proc/sys/net/ipv4/tcp_retries2");
    struct rig *rig = rig_up("{" CHANNEL ",'limits':{'tcp_keepalive':1,'idle_timeout':8}}");
    known_device(rig);
    set_link(false);
    rig_publish(rig, "command/gw/devices/" VAN, "mode,6,60#");
    rig_expect_log(rig, "silent for too long (code 17)");
    rig_expect(rig, "log/gw/channels/1/connections/+/closed", "{'close_code':17,'ident':'" VAN "'}");
    cr_assert(!rig_log_has(rig, "lost: "));
    rig_finish(rig);
}

Test(radio, connection_that_ends_with_an_error_was_not_closed_by_the_device) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    char both[512]; // the second one has no end yet
    snprintf(both, sizeof both, "%s", report(VAN, 100));
    strcat(both, report(VAN, 11));
    both[strcspn(both, "\n") + 1 + strcspn(strchr(both, '\n') + 1, "\r\n")] = '\0';
    device_send(device, both);
    rig_expect(rig, REPORTS, "{'message.seqnum':100}");
    struct linger reset = {.l_onoff = 1};
    setsockopt(device, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(device);
    rig_expect(rig, REPORTS, "{'message.seqnum':11}"); // nothing more can come, so it was whole
    rig_expect_log(rig, "lost: connection reset by peer (code 17)");
    rig_expect(rig, "log/gw/channels/1/connections/+/closed",
               "{'close_code':17,'error_text':'connection reset by peer','ident':'" VAN "'}");
    rig_finish(rig);
}
