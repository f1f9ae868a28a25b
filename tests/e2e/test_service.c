// The gateway under a service manager: what it tells systemd, and what systemd thinks of its unit.
#include <criterion/criterion.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "gateway/run/service.h"
#include "tests/e2e/rig.h"

TestSuite(service, .fini = rig_clean);

#define LISTENS "listening for"

// Where the gateway tells; watchdog: how often it has to, in microseconds, or NULL.
static int be_manager(struct rig *rig, const char *watchdog) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/notify", rig->directory);
    cr_assert_eq(bind(manager, (struct sockaddr *)&address, sizeof address), 0);
    setenv("NOTIFY_SOCKET", address.sun_path, 1);
    if (watchdog != NULL)
        setenv("WATCHDOG_USEC", watchdog, 1);
    return manager;
}

// The next line that the gateway tells; none: NULL, at once when patience is 0.
static const char *hear(int manager, int patience) {
    static char line[64];
    struct pollfd waiting = {.fd = manager, .events = POLLIN};
    if (poll(&waiting, 1, patience) != 1)
        return NULL;
    ssize_t length = recv(manager, line, sizeof line - 1, 0);
    line[length > 0 ? length : 0] = '\0';
    return line;
}

static void expect_line(int manager, const char *expected) {
    const char *line = hear(manager, RIG_DEADLINE);
    cr_assert(line != NULL && strcmp(line, expected) == 0, "'%s', expected '%s'", line, expected);
}

// After signs of life, of which some are under way.
static void expect_line_at_last(int manager, const char *expected) {
    const char *line;
    do
        line = hear(manager, RIG_DEADLINE);
    while (line != NULL && strcmp(line, "WATCHDOG=1") == 0);
    cr_assert(line != NULL && strcmp(line, expected) == 0, "'%s', expected '%s'", line, expected);
}

Test(service, a_manager_hears_when_the_gateway_is_ready_and_lives_and_stops) {
    struct rig *rig = rig_with_broker(NULL);
    int manager = be_manager(rig, "200000");
    rig_gateway_spawn(rig, NULL);
    expect_line(manager, "READY=1");
    cr_assert(rig_log_has(rig, LISTENS), "ready before a device can connect");
    for (unsigned i = 0; i < 3; i++)
        expect_line(manager, "WATCHDOG=1");
    rig_gateway_signal(rig, SIGTERM);
    expect_line_at_last(manager, "STOPPING=1");
    cr_assert_eq(rig_gateway_wait(rig), 0);
    rig->finished = true;
}

Test(service, a_manager_that_wants_no_signs_of_life_hears_none) {
    struct rig *rig = rig_with_broker(NULL);
    int manager = be_manager(rig, "200000");
    setenv("WATCHDOG_PID", "1", 1); // of another process
    rig_gateway_spawn(rig, NULL);
    expect_line(manager, "READY=1");
    rig_wait_until(rig_clock() + 1000); // ten times as long as it takes until one would come
    rig_gateway_signal(rig, SIGTERM);
    expect_line(manager, "STOPPING=1");
    cr_assert_eq(rig_gateway_wait(rig), 0);
    cr_assert_null(hear(manager, 0));
    rig->finished = true;
}

Test(service, nothing_is_ready_that_cannot_start) {
    struct rig *rig = rig_new();
    int manager = be_manager(rig, NULL);
    rig_expect_no_start(rig, "{'channels':[{'id':1,'protocol':'mictrack','tcp':'203.0.113.7:7700'}]}",
                        "no channel could be opened");
    cr_assert_null(hear(manager, 0));
    rig->finished = true;
}

static bool has_ended(void *context) {
    const struct rig *rig = context;
    char path[128];
    struct stat file;
    snprintf(path, sizeof path, "%s/status", rig->directory);
    return stat(path, &file) == 0 && file.st_size > 0;
}

// What is opened first would take its place, and libuv aborts when that is closed.
Test(service, the_gateway_starts_and_stops_without_a_standard_error) {
    struct rig *rig = rig_with_broker(NULL);
    char config[96], call[512];
    rig_write_config(rig, "{}", config, sizeof config);
    snprintf(call, sizeof call,
             "cd %s && { " TRACKBUS_BINARY
             " run -c %s <&- >&- 2>&- & echo $! >pid; wait $!; echo $? >status; } >/dev/null 2>&1 &",
             rig->directory, config);
    cr_assert_eq(system(call), 0);
    rig_expect_state(rig);
    snprintf(call, sizeof call, "kill -TERM $(cat %s/pid)", rig->directory);
    cr_assert_eq(system(call), 0);
    cr_assert(rig_wait(has_ended, rig, RIG_DEADLINE), "it does not end");
    snprintf(call, sizeof call, "test $(cat %s/status) = 0", rig->directory);
    cr_expect_eq(system(call), 0, "it has not ended well");
    rig->finished = true;
}

// It signs while its supervisor, which has looked at the clock, does not run.
Test(service, a_worker_that_signs_after_the_supervisor_looked_at_the_clock_is_not_silent) {
    struct sign sign = {.last = 1000};
    cr_expect_eq(service_silence(&sign, 999), 0);
    cr_expect_eq(service_silence(&sign, 1000), 0);
    cr_expect_eq(service_silence(&sign, 1500), 500);
    sign.last = UINT32_MAX; // the clock begins again
    cr_expect_eq(service_silence(&sign, 4), 5);
    cr_expect_eq(service_silence(&sign, UINT32_MAX - 1), 0);
}

struct restart {
    struct rig *rig;
    pid_t before;
};

static bool is_another(void *context) {
    struct restart *restart = context;
    return rig_worker(restart->rig, 2) != restart->before;
}

// A worker that stands still is killed and started again, while the manager hears that all is well.
Test(service, the_supervisor_tells_for_its_workers_and_ends_one_that_stands_still) {
    struct rig *rig = rig_with_broker(NULL);
    int manager = be_manager(rig, "5000000"); // so long no worker stands still on a busy machine
    rig->workers = 2;
    rig_gateway_spawn(rig, NULL);
    expect_line_at_last(manager, "READY=1"); // the supervisor itself gives signs of life before
    cr_assert_geq(rig_log_count(rig, LISTENS), 4, "ready before all workers are");
    expect_line(manager, "WATCHDOG=1");
    struct restart restart = {rig, rig_worker(rig, 2)};
    kill(restart.before, SIGSTOP);
    rig_expect_log(rig, "worker 2 gives no sign of life");
    rig_expect_log(rig, "worker 2 was killed by signal 9");
    cr_assert(rig_wait(is_another, &restart, RIG_DEADLINE));
    rig_gateway_signal(rig, SIGTERM);
    expect_line_at_last(manager, "STOPPING=1");
    cr_assert_eq(rig_gateway_wait(rig), 0);
    rig->finished = true;
}

// The password of the broker is a credential of the service.
Test(service, credentials_of_the_service_are_files_of_the_configuration) {
    struct rig *rig = rig_new();
    rig_broker_start(rig, rig_broker_password_lines(rig));
    rig_write_file(rig, "secrets_mqtt", RIG_PASSWORD "\n");
    setenv("CREDENTIALS_DIRECTORY", rig->directory, 1);
    rig_gateway_start(rig, "{'mqtt':{'username':'" RIG_USER "','password_file':'%d/secrets_mqtt'}}");
    rig_expect_log(rig, ": connected");
    rig_finish(rig);
}

// 24 stands for an exposure of 2.4.
Test(service, systemd_finds_the_unit_well_closed) {
    cr_assert_eq(system("cd '" TEST_ROOT "/docker' && "
                        "systemd-analyze security --offline=true --no-pager --threshold=24 trackbus.service"),
                 0);
}
