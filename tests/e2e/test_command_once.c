// Commands that must not happen twice, end to end: a device that acts before it can answer, which cuts it off.
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/command_life.h"

TestSuite(command_once, .init = rig_share_key, .fini = rig_clean, .timeout = 120);

#define OTASTART                                                                                             \
    "{\"name\":\"otastart\",\"properties\":{\"host\":\"10.0.0.1\",\"port\":21,\"username\":\"u\","           \
    "\"password\":\"p\",\"firmware\":\"f\"}}"
#define UNCERTAIN(what)                                                                                      \
    "{'event_code':332,'executed':false,'response':null,'uncertain':true,'attempts':1,'reason':'" what       \
    ": it may have been executed'}"
#define CAME_BACK UNCERTAIN("the device came back without having answered")

// Of the gateway: it waits five seconds for a late answer.
#define FAST  5
#define CLOCK "+0 x5"

static const struct once {
    const char *command, *name, *bytes;
} onces[] = {
    {REBOOT, "reboot", "reboot,0#"},
    {"{\"name\":\"factoryreset\"}", "factoryreset", "factoryreset,1#"},
    {OTASTART, "otastart", "otastart,10.0.0.1:21,u,p,f,1#"},
    {"reboot,0#", "custom", "reboot,0#"},
    {"REBOOT", "custom", "REBOOT"},
    {" factoryreset,1#", "custom", " factoryreset,1#"},
    {"otastart,10.0.0.1:21,u,p,f,1#", "custom", "otastart,10.0.0.1:21,u,p,f,1#"},
};
#define ONCES (sizeof onces / sizeof onces[0])

ParameterizedTestParameters(command_once, are_sent_once) {
    return cr_make_param_array(size_t, rig_rows(ONCES), ONCES);
}

// It does it at once, and comes back without a word about it.
static int act(struct rig *rig, int device, const char *bytes) {
    device_expect(device, bytes);
    expect_step(rig, VAN, "+", "sent", NULL);
    close(device);
    rig_expect(rig, "log/gw/devices/" VAN "/disconnected", NULL);
    return wake(rig, VAN);
}

ParameterizedTest(size_t *row, command_once, are_sent_once) {
    const struct once *it = &onces[*row];
    struct rig *rig = rig_up_at(CLOCK, NULL);
    int device = wake(rig, VAN);
    rig_publish(rig, TO_VAN, it->command);
    device = act(rig, device, it->bytes);
    rig_publish(rig, TO_VAN, "rconf,1#"); // goes out when it has ended
    device_expect(device, "rconf,1#");
    expect_step(rig, VAN, it->name, "processed", CAME_BACK);
    device_send(device, "rconf=a,b,c,1,6,30,V1,GSM\r\n");
    finish(rig);
}

Test(command_once, are_answered_by_a_device_that_comes_back) {
    struct rig *rig = rig_up(NULL);
    rig_publish(rig, TO_VAN, REBOOT);
    int device = act(rig, wake(rig, VAN), "reboot,0#");
    device_send(device, "reboot=Success!\r\n");
    expect_step(rig, VAN, "reboot", "processed", "{'executed':true,'response':'reboot=Success!'}");
    finish(rig);
}

Test(command_once, end_when_the_device_stays_and_is_silent) {
    struct rig *rig = rig_up("{'commands':{'timeout':1}}");
    int device = wake(rig, VAN);
    rig_publish(rig, TO_VAN, "reboot,0#");
    device_expect(device, "reboot,0#");
    expect_step(rig, VAN, "custom", "processed", UNCERTAIN("the device did not answer in time"));
    talk(rig, device, VAN);
    finish(rig);
    device_expect_no_more(device);
}

Test(command_once, wait_for_a_device_that_is_away_longer_than_the_timeout) {
    struct rig *rig = rig_up_at(CLOCK, "{'commands':{'timeout':2}}");
    int device = wake(rig, VAN);
    rig_publish(rig, TO_VAN, REBOOT);
    device_expect(device, "reboot,0#");
    close(device);
    rig_expect(rig, "log/gw/devices/" VAN "/disconnected", NULL);
    rig_wait_until(rig_clock() + 5000 / FAST); // the time is out
    expect_steps(rig, VAN, "processed", 0);
    device = wake(rig, VAN);
    device_send(device, "reboot=Success!\r\n");
    expect_step(rig, VAN, "reboot", "processed", "{'executed':true}");
    finish(rig);
}

Test(command_once, end_when_the_device_never_comes_back) {
    struct rig *rig = rig_up("{'commands':{'timeout':1}}");
    int device = wake(rig, VAN);
    rig_publish(rig, TO_VAN, "{\"name\":\"reboot\",\"ttl\":2}");
    device_expect(device, "reboot,0#");
    close(device);
    expect_step(rig, VAN, "reboot", "processed", UNCERTAIN("the device did not come back in time"));
    finish(rig);
}

Test(command_once, are_sent_more_often_by_who_says_so) {
    struct rig *rig = rig_up(NULL);
    rig_publish(rig, TO_VAN, "{\"name\":\"reboot\",\"max_attempts\":2}");
    int device = act(rig, wake(rig, VAN), "reboot,0#");
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!\r\n");
    expect_step(rig, VAN, "reboot", "processed", "{'executed':true,'attempts':2}");
    finish(rig);
}

static const bool killings[] = {true, false};

ParameterizedTestParameters(command_once, are_sent_once_by_a_gateway_that_restarts) {
    static size_t rows[] = {0, 1};
    return cr_make_param_array(size_t, rows, 2);
}

// Even when it is killed in the moment in which the device has the bytes.
ParameterizedTest(size_t *row, command_once, are_sent_once_by_a_gateway_that_restarts) {
    struct rig *rig = rig_up_at(CLOCK, NULL);
    int device = wake(rig, VAN);
    rig_publish(rig, TO_VAN, REBOOT);
    device_expect(device, "reboot,0#");
    if (killings[*row])
        rig_gateway_kill(rig);
    else
        rig_gateway_stop(rig);
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, ": connected");
    device = wake(rig, VAN);
    expect_step(rig, VAN, "reboot", "processed", CAME_BACK);
    talk(rig, device, VAN);
    rig_finish(rig);
    device_expect_no_more(device);
}

// It moves to another gateway, which knows only the retained entry.
Test(command_once, are_sent_once_to_a_device_that_moves) {
    struct rig *rig = rig_up(NULL);
    struct rig *other = rig_beside(rig);
    other->clock = CLOCK;
    rig_gateway_start(other, "{'mqtt':{'client_id':'other'},'commands':{'intake':false}}");
    rig_expect_log(other, ": connected");
    int device = wake(rig, VAN);
    rig_publish(rig, TO_VAN, REBOOT);
    device_expect(device, "reboot,0#");
    close(device);
    rig_expect(rig, "log/gw/devices/" VAN "/disconnected", NULL);
    device = rig_tcp(other);
    device_send(device, report(VAN, 7));
    expect_step(rig, VAN, "reboot", "processed", CAME_BACK);
    finish(rig);
    device_expect_no_more(device);
}

Test(command_once, that_have_begun_are_waited_for) {
    struct rig *rig = rig_up_at(CLOCK, NULL);
    int device = wake(rig, VAN);
    rig_publish(rig, TO_VAN, OTASTART);
    device_expect(device, "otastart,10.0.0.1:21,u,p,f,1#");
    device_send(device, "otastart =Success!\r\n");
    rig_expect_log(rig, "command otastart started");
    close(device);
    device = wake(rig, VAN);
    rig_wait_until(rig_clock() + 6000 / FAST); // longer than an answer may be late
    expect_steps(rig, VAN, "processed", 0);
    device_send(device, "OTADONE\r\n");
    expect_step(rig, VAN, "otastart", "processed", "{'executed':true,'response':'OTADONE'}");
    finish(rig);
}
