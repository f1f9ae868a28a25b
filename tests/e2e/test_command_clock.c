// Commands while the wall clock jumps, end to end: a machine that starts in 1970 and hears the time later, a step
// back. Only the gateway sees it.
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/command_life.h"

TestSuite(command_clock, .fini = rig_clean, .timeout = 120);

#define SECOND 1000000LL // microseconds

static volatile int64_t *step;

static int64_t since_1970(void) {
    return -(time(NULL) - 100) * SECOND;
}

static void start_gateway(struct rig *rig, const char *changes) {
    setenv("LD_PRELOAD", STEP_CLOCK, 1);
    setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
    rig_gateway_start(rig, changes);
    unsetenv("LD_PRELOAD");
    unsetenv("ASAN_OPTIONS");
    rig_expect_state(rig);
}

// A rig whose gateway has a clock that is off by so much.
static struct rig *up(int64_t offset, const char *changes) {
    struct rig *rig = rig_with_broker(NULL);
    char path[96];
    snprintf(path, sizeof path, "%s/step", rig->directory);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    cr_assert(file >= 0 && ftruncate(file, sizeof *step) == 0);
    step = mmap(NULL, sizeof *step, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    *step = offset;
    setenv("STEP_CLOCK_FILE", path, 1);
    start_gateway(rig, changes);
    return rig;
}

static int64_t queue(struct rig *rig, const char *command) {
    return queue_command(rig, VAN, "rconf", command);
}

static void execute(struct rig *rig, int device) {
    device_expect(device, "rconf,1#");
    device_send(device, "rconf=a,b,c,1,6,30,V1,GSM\r\n");
    expect_step(rig, VAN, "rconf", "processed", "{'executed':true}");
}

// The gateway has looked at its deadlines.
static void wait_for_looks(void) {
    rig_wait_until(rig_clock() + 1500);
}

Test(command_clock, that_is_heard_late_expires_nothing) {
    struct rig *rig = up(since_1970(), NULL);
    queue(rig, "{\"name\":\"rconf\",\"ttl\":3600}");
    cr_assert(rig_log_has(rig, "1970-"), "the gateway has another clock than the test says");
    *step = 0;
    wait_for_looks();
    expect_steps(rig, VAN, "expired", 0);
    execute(rig, wake(rig, VAN));
    finish(rig);
}

// The time that it was given in 1970 does not end when it starts again with the right clock.
Test(command_clock, that_is_right_after_a_restart_expires_nothing) {
    struct rig *rig = up(since_1970(), NULL);
    queue(rig, "{\"name\":\"rconf\",\"ttl\":3600}");
    rig_gateway_kill(rig);
    *step = 0;
    start_gateway(rig, NULL);
    wait_for_looks();
    expect_steps(rig, VAN, "expired", 0);
    execute(rig, wake(rig, VAN));
    finish(rig);
}

Test(command_clock, that_steps_back_does_not_keep_a_command) {
    struct rig *rig = up(0, NULL);
    queue(rig, "{\"name\":\"rconf\",\"ttl\":3}");
    *step = -3600 * SECOND;
    expect_step(rig, VAN, "rconf", "expired", NULL);
    finish(rig);
}

// An answer that does not come is waited for as long as the configuration says, and no longer.
Test(command_clock, that_steps_back_does_not_stop_the_queue) {
    struct rig *rig = up(0, "{'commands':{'timeout':2}}");
    int device = wake(rig, VAN);
    rig_publish(rig, TO_VAN, "mode,4,0#");
    device_expect(device, "mode,4,0#");
    *step = -3600 * SECOND;
    device_expect(device, "mode,4,0#mode,4,0#");
    rig_publish(rig, TO_VAN, "{\"name\":\"rconf\"}");
    execute(rig, device);
    finish(rig);
}

Test(command_clock, that_steps_forward_does_not_hurry_a_command) {
    struct rig *rig = up(0, NULL);
    int device = wake(rig, VAN);
    rig_publish(rig, TO_VAN, "{\"name\":\"rconf\",\"timeout\":60}");
    expect_step(rig, VAN, "rconf", "sent", NULL);
    *step = 86400 * SECOND;
    wait_for_looks();
    expect_steps(rig, VAN, "sent", 1);
    execute(rig, device);
    finish(rig);
}
