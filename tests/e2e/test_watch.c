// `trackbus watch` against a real broker: as lines, and on a terminal.
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "tests/e2e/rig.h"

#define OTHER "866425031361424"
#define FLEET                                                                                                \
    "{'devices':[{'ident':'" VAN "','id':42,'name':'Van 1'},{'ident':'" OTHER "','id':43,'name':'Van "       \
    "2'}]}"

// A watch that runs, and all that it has said.
static struct viewer {
    pid_t pid;
    int output;
    char text[1 << 20];
    size_t length;
} viewer;

static void clean(void) {
    if (viewer.pid > 0) {
        kill(viewer.pid, SIGKILL);
        waitpid(viewer.pid, NULL, 0);
    }
    rig_clean();
}

TestSuite(watch, .fini = clean);

static void become_watch(struct rig *rig, pid_t parent, const char *config, const char *ident) {
    char path[128];
    snprintf(path, sizeof path, "%s/gateway.log", rig->directory); // is shown when the test fails
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
    if (!isatty(STDOUT_FILENO))
        dup2(log, STDERR_FILENO);
    close_range(3, ~0U, 0);
    setenv("TERM", "xterm", 1);
    execl(TRACKBUS_BINARY, TRACKBUS_BINARY, "watch", "-c", config, ident, NULL);
    _exit(127);
}

// Its standard error goes to the rig's log, beside the gateway's.
static void watch_lines(struct rig *rig, const char *changes, const char *ident) {
    char config[96];
    int ends[2];
    pid_t parent = getpid();
    rig_write_config(rig, changes, config, sizeof config);
    cr_assert(pipe(ends) == 0);
    viewer.output = ends[0];
    viewer.pid = fork();
    if (viewer.pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        become_watch(rig, parent, config, ident);
    }
    close(ends[1]);
    fcntl(viewer.output, F_SETFL, O_NONBLOCK);
}

static void watch_terminal(struct rig *rig, const char *changes, const char *ident) {
    char config[96];
    struct winsize size = {.ws_row = 10, .ws_col = 120};
    pid_t parent = getpid();
    rig_write_config(rig, changes, config, sizeof config);
    viewer.pid = forkpty(&viewer.output, NULL, NULL, &size);
    if (viewer.pid == 0)
        become_watch(rig, parent, config, ident);
    fcntl(viewer.output, F_SETFL, O_NONBLOCK);
}

static void read_output(void) {
    ssize_t got;
    while ((got = read(viewer.output, viewer.text + viewer.length, sizeof viewer.text - 1 - viewer.length)) >
           0)
        viewer.length += (size_t)got;
    viewer.text[viewer.length] = '\0';
}

static bool has_line(void *text) {
    read_output();
    return strstr(viewer.text, text) != NULL;
}

static void expect_line(const char *text) {
    cr_assert(rig_wait(has_line, (void *)text, RIG_DEADLINE), "no '%s' in:\n%s", text, viewer.text);
}

static size_t count(const char *text) {
    size_t found = 0;
    for (const char *at = viewer.text; (at = strstr(at, text)) != NULL; at += strlen(text))
        found++;
    return found;
}

static const char *last_screen(void) {
    const char *screen = viewer.text;
    read_output();
    for (const char *at = viewer.text; (at = strstr(at, "\033[H")) != NULL; at++)
        screen = at;
    return screen;
}

static bool shows(void *text) {
    return strstr(last_screen(), text) != NULL;
}

static void expect_shown(const char *text) {
    cr_assert(rig_wait(shows, (void *)text, RIG_DEADLINE), "the screen has no '%s':\n%s", text,
              last_screen());
}

struct ending {
    int status;
};

static bool has_ended(void *context) {
    read_output(); // or a full terminal would hold it
    return waitpid(viewer.pid, &((struct ending *)context)->status, WNOHANG) == viewer.pid;
}

static void expect_end(void) {
    struct ending ending = {0};
    cr_assert(rig_wait(has_ended, &ending, RIG_DEADLINE), "watch does not end");
    viewer.pid = 0;
    read_output();
    cr_assert(WIFEXITED(ending.status) && WEXITSTATUS(ending.status) == 0, "status %d", ending.status);
}

static void end(struct rig *rig, int signal_number) {
    kill(viewer.pid, signal_number);
    expect_end();
    cr_assert(!rig_log_has(rig, "runtime error: ") && count("runtime error: ") == 0, "undefined behaviour");
}

// The gateway and the watch write the same log.
static bool both_connected(void *rig) {
    return rig_log_count(rig, ": connected") == 2;
}

static struct rig *fleet_and_lines(const char *ident) {
    struct rig *rig = rig_up(FLEET);
    watch_lines(rig, FLEET, ident);
    cr_assert(rig_wait(both_connected, rig, RIG_DEADLINE), "watch does not connect");
    return rig;
}

static void send_report(int device, const char *ident, int seqnum) {
    device_send(device, report(ident, seqnum));
}

// --- lines ---

Test(watch, a_line_for_each_message_and_connection) {
    struct rig *rig = fleet_and_lines(NULL);
    int device = rig_tcp(rig);
    send_report(device, VAN, 1);
    expect_line("  " VAN "  Van 1         22.63827,114.02922 ");
    expect_line("  connected, 127.0.0.1:");
    close(device);
    expect_line("  disconnected, 127.0.0.1:");
    cr_assert_eq(count("22.63827,114.02922"), 1, "it came on two topics:\n%s", viewer.text);
    cr_assert_eq(count("\n"), 3, "%s", viewer.text);
    cr_assert_eq(rig_log_count(rig, ": connected"), 2, "gateway and watch do not push each other out");
    end(rig, SIGTERM);
    rig_finish(rig);
}

Test(watch, one_ident_only) {
    struct rig *rig = fleet_and_lines(VAN);
    int device = rig_tcp(rig), other = rig_tcp(rig);
    send_report(other, OTHER, 1);
    rig_expect(rig, "message/gw/devices/43", NULL);
    rig_publish(rig, "message/gw/devices/44", "{'ident':'x'}");
    send_report(device, VAN, 2);
    expect_line("22.63827,114.02922");
    cr_assert(strstr(viewer.text, OTHER) == NULL, "%s", viewer.text);
    end(rig, SIGINT);
    rig_finish(rig);
}

static struct rig *broker_and_lines(void) {
    struct rig *rig = rig_with_broker(NULL);
    watch_lines(rig, NULL, NULL);
    rig_expect_log(rig, ": connected");
    return rig;
}

Test(watch, what_is_not_understood_is_logged_and_harmless) {
    struct rig *rig = broker_and_lines();
    static const char *const wrong[] = {
        "", "nope", "[1]", "{}", "{\"ident\":7}", "{\"ident\":\"a\\u001b\"}", "\"\xff\""};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        rig_publish_soon(rig, "message/gw/devices/1", wrong[i]);
        rig_publish_soon(rig, "log/gw/devices/1/connected", wrong[i]);
        rig_publish_soon(rig, "state/gw/devices/1", wrong[i]);
        rig_publish_soon(rig, "state/gw/devices/x", wrong[i]);
    }
    rig_publish(rig, "message/gw/devices/1",
                "{\"ident\":\"a\",\"device.name\":\"\\u001b]0;x\\u0007\\u009b2J\\n\",\"timestamp\":[],"
                "\"position.latitude\":\"1\",\"battery.voltage\":{},\"message.type\":\"\\r\\u202e\"}");
    expect_line("  a                \\x1b]0;x\\x07\\u009b2J\\x0a  -                            -        -  "
                "\\x0d\\u202e\n");
    cr_assert_eq(count("\n"), 1, "%s", viewer.text);
    rig_expect_log(rig, "cannot understand the message on trackbus/message/gw/devices/1");
    end(rig, SIGTERM);
    rig->finished = true;
}

Test(watch, the_broker_comes_later) {
    struct rig *rig = rig_new();
    rig_broker_reserve(rig);
    watch_lines(rig, NULL, NULL);
    rig_expect_log(rig, "Connection refused");
    rig_broker_start(rig, NULL);
    rig_client_start(rig);
    rig_expect_log(rig, ": connected");
    rig_publish(rig, "message/gw/channels/1/a", "{\"ident\":\"a\"}");
    expect_line("  a  ");
    end(rig, SIGTERM);
    rig->finished = true;
}

Test(watch, ends_when_nobody_reads) {
    struct rig *rig = broker_and_lines();
    close(viewer.output);
    rig_publish(rig, "message/gw/channels/1/a", "{\"ident\":\"a\"}");
    expect_end();
    rig->finished = true;
}

Test(watch, the_environment_overrides_the_file) {
    struct rig *rig = rig_with_broker(NULL);
    setenv("TRACKBUS_TOPIC_PREFIX", "my/fleet", 1);
    watch_lines(rig, "{'mqtt':{'topic_prefix':'other'}}", NULL);
    rig_expect_log(rig, ": connected");
    rig_publish(rig, "/other/message/gw/channels/1/a", "{\"ident\":\"a\"}");
    rig_publish(rig, "/my/fleet/message/gw/channels/1/b", "{\"ident\":\"b\"}");
    expect_line("  b  ");
    cr_assert(strstr(viewer.text, "  a  ") == NULL);
    end(rig, SIGTERM);
    rig->finished = true;
}

// --- on a terminal ---

static void expect_given_back(void) {
    static const char back[] = "\033[?1049l";
    const char *last = strstr(viewer.text, back);
    cr_assert(last != NULL, "the terminal is not given back");
    cr_assert(strstr(viewer.text, "\033[?25h") != NULL, "the cursor stays hidden");
    cr_assert_str_eq(last, back);
}

static tcflag_t modes(void) {
    struct termios now;
    cr_assert(tcgetattr(viewer.output, &now) == 0);
    return now.c_lflag & (ICANON | ECHO);
}

Test(watch, the_fleet_as_it_is_and_as_it_goes_on) {
    struct rig *rig = rig_up(FLEET);
    int device = rig_tcp(rig);
    send_report(device, VAN, 1);
    rig_expect(rig, "message/gw/devices/42", NULL);
    rig_expect(rig, "state/gw/devices/42/telemetry/position", NULL);
    rig_expect(rig, "state/gw/devices/43", NULL);
    watch_terminal(rig, FLEET, NULL);
    // All of this is retained.
    expect_shown(": connected  2 devices, 1 connected");
    expect_shown(VAN "  Van 1  on ");
    expect_shown("  22.63827,114.02922 ");
    int other = rig_tcp(rig);
    send_report(other, OTHER, 1);
    expect_shown("2 devices, 2 connected");
    expect_shown(OTHER "  Van 2  on ");
    expect_shown("R0");
    const char *screen = last_screen();
    cr_assert(strstr(screen, OTHER) < strstr(screen, VAN), "not the newest first:\n%s", screen);
    close(other);
    expect_shown(OTHER "  Van 2  off ");
    cr_assert_eq(modes(), 0);
    cr_assert(write(viewer.output, "q", 1) == 1);
    expect_end();
    expect_given_back();
    cr_assert_eq(modes(), ICANON | ECHO);
    rig_finish(rig);
}

// With a registry that changes in the broker; by is the gateway that has the device.
static void expect_to_follow(struct rig *rig, struct rig *by) {
    static const char entry[] = "registry/gw/devices/" VAN;
    int device = rig_tcp(by);
    send_report(device, VAN, 1);
    rig_expect(rig, "message/gw/devices/" VAN, NULL);
    watch_terminal(rig, NULL, NULL);
    expect_shown(": connected  1 device, 1 connected");
    expect_shown(VAN "  on ");
    rig_publish_retained(rig, entry, "{\"name\":\"Lorry 7\",\"id\":42}");
    expect_shown(VAN "  Lorry 7  on ");
    rig_publish_retained(rig, entry, "{\"name\":\"Van 9\",\"id\":42}");
    expect_shown(VAN "  Van 9  on ");
    close(device);
    expect_shown(VAN "  Van 9  off ");
    rig_publish_retained(rig, entry, "");
    expect_shown(": connected  0 devices, 0 connected");
    end(rig, SIGTERM);
    rig_finish(rig);
}

Test(watch, a_device_that_is_adopted_renamed_and_removed) {
    struct rig *rig = rig_up(NULL);
    expect_to_follow(rig, rig);
}

Test(watch, a_device_that_is_adopted_renamed_and_removed_with_three_gateways) {
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig), *third = rig_beside(second);
    rig_gateway_start(second, "{'mqtt':{'client_id':'second'},'commands':{'intake':false}}");
    rig_gateway_start(third, "{'mqtt':{'client_id':'third'},'commands':{'intake':false}}");
    rig_expect(rig, "state/gw/instances/second", "{'state':'online'}");
    rig_expect(rig, "state/gw/instances/third", "{'state':'online'}");
    expect_to_follow(rig, third);
}

Test(watch, one_ident_on_the_screen) {
    struct rig *rig = rig_up(FLEET);
    int device = rig_tcp(rig), other = rig_tcp(rig);
    watch_terminal(rig, FLEET, OTHER);
    expect_shown(": connected  1 device, 0 connected");
    send_report(device, VAN, 1);
    rig_expect(rig, "message/gw/devices/42", NULL);
    send_report(other, OTHER, 1);
    expect_shown("R0");
    cr_assert(strstr(viewer.text, VAN) == NULL);
    end(rig, SIGTERM);
    expect_given_back();
    rig_finish(rig);
}

Test(watch, the_broker_goes_and_comes) {
    struct rig *rig = rig_new();
    rig_broker_reserve(rig);
    watch_terminal(rig, NULL, NULL);
    expect_shown(": connecting ");
    expect_shown("Connection refused; retrying in ");
    rig_broker_start(rig, NULL);
    rig_client_start(rig);
    expect_shown(": connected ");
    rig_publish(rig, "message/gw/channels/1/a", "{\"ident\":\"a\",\"message.type\":\"R0\"}");
    expect_shown("R0");
    rig_broker_kill(rig);
    expect_shown(": reconnecting  1 device,");
    rig_broker_start(rig, NULL);
    expect_shown(": connected  1 device,");
    cr_assert(strstr(last_screen(), "retrying in") == NULL);
    end(rig, SIGINT);
    expect_given_back();
    rig->finished = true;
}

// The only escape sequences are our own, none come from a device.
Test(watch, nothing_reaches_the_terminal_raw) {
    struct rig *rig = rig_with_broker(NULL);
    rig_publish_retained(rig, "state/gw/devices/5",
                         "{\"id\":5,\"ident\":\"five\",\"name\":\"\\u001b]0;x\\u0007\"}");
    watch_terminal(rig, NULL, NULL);
    expect_shown("\\x1b]0;x\\x07");
    rig_publish(rig, "message/gw/devices/1",
                "{\"ident\":\"a\",\"device.name\":\"\\u009b2J\",\"message.type\":\"\\u001b[5m\\n\"}");
    rig_publish(rig, "message/gw/devices/1", "nope");
    rig_publish(rig, "state/gw/devices/five", "{}");
    expect_shown("\\u009b2J");
    expect_shown("\\x1b[5m\\x0a");
    expect_shown("  2 not understood");
    cr_assert(strstr(viewer.text, "\033]") == NULL && strchr(viewer.text, '\a') == NULL &&
              strstr(viewer.text, "\xc2\x9b") == NULL && strstr(viewer.text, "\033[5m") == NULL);
    end(rig, SIGTERM);
    rig->finished = true;
}

Test(watch, the_screen_follows_the_size_of_the_terminal) {
    struct rig *rig = rig_with_broker(NULL);
    struct winsize small = {.ws_row = 4, .ws_col = 20};
    char ident[32], message[64];
    watch_terminal(rig, NULL, NULL);
    expect_shown(": connected ");
    for (int i = 0; i < 20; i++) {
        snprintf(ident, sizeof ident, "message/gw/channels/1/d%d", i);
        snprintf(message, sizeof message, "{\"ident\":\"d%d\"}", i);
        rig_publish_soon(rig, ident, message);
    }
    expect_shown(" 20 devices");
    expect_shown("1 to 7 of 20; ? shows the keys");
    cr_assert(ioctl(viewer.output, TIOCSWINSZ, &small) == 0);
    expect_shown("\r\n\033[0;m1 to 1 of 20; ? show"); // 20 columns
    cr_assert(strstr(last_screen(), "shows") == NULL);
    end(rig, SIGTERM);
    rig->finished = true;
}

static void press(const char *keys) {
    cr_assert(write(viewer.output, keys, strlen(keys)) == (ssize_t)strlen(keys));
}

Test(watch, scrolls_and_sorts) {
    struct rig *rig = rig_with_broker(NULL);
    char topic[32], message[80];
    watch_terminal(rig, NULL, NULL);
    expect_shown(": connected ");
    for (int i = 10; i < 30; i++) {
        snprintf(topic, sizeof topic, "message/gw/channels/1/d%d", i);
        snprintf(message, sizeof message, "{\"ident\":\"d%d\",\"battery.voltage\":%d}", i, 40 - i);
        rig_publish_soon(rig, topic, message);
    }
    expect_shown("1 to 7 of 20; ? shows the keys");
    press("s"); // by ident
    expect_shown("  by IDENT");
    expect_shown("d10 ");
    press("\033[B\033[6~");
    expect_shown("9 to 15 of 20");
    expect_shown("d18 ");
    press("G");
    expect_shown("14 to 20 of 20");
    press("ssssr"); // the fullest battery
    expect_shown("  by BATTERY, reversed");
    expect_shown("1 to 7 of 20");
    expect_shown("30.00 V");
    press("?");
    expect_shown("reverse the order");
    press("x");
    expect_shown("  by BATTERY, reversed");
    press("q");
    expect_end();
    expect_given_back();
    rig->finished = true;
}

Test(watch, a_device_by_its_name_on_the_screen) {
    struct rig *rig = rig_up(FLEET);
    int device = rig_tcp(rig), other = rig_tcp(rig);
    watch_terminal(rig, FLEET, "Van 2");
    expect_shown(": connected  1 device, 0 connected");
    send_report(device, VAN, 1);
    rig_expect(rig, "message/gw/devices/42", NULL);
    send_report(other, OTHER, 1);
    expect_shown(OTHER "  Van 2  on ");
    cr_assert(strstr(viewer.text, VAN) == NULL);
    end(rig, SIGTERM);
    rig_finish(rig);
}
