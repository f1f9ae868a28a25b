// trackbus send, end to end: what it prints of a command's life, and how it ends.
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/e2e/command_life.h"
#include "tests/e2e/scripted_broker.h"

TestSuite(send, .fini = rig_clean, .timeout = 120);

static char said[8192]; // by the last one that ended

// Starts it with these arguments, of a shell.
__attribute__((format(printf, 2, 3))) static FILE *start(struct rig *rig, const char *format, ...) {
    char arguments[512], call[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(arguments, sizeof arguments, format, list);
    va_end(list);
    snprintf(call, sizeof call, "TRACKBUS_MQTT_URL=mqtt://127.0.0.1:%d " TRACKBUS_BINARY " send %s 2>&1",
             rig->broker_port, arguments);
    FILE *process = popen(call, "r");
    cr_assert(process != NULL);
    return process;
}

static void expect_end(FILE *process, int code) {
    size_t length = fread(said, 1, sizeof said - 1, process);
    said[length] = '\0';
    int status = pclose(process);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == code, "exit code %d, expected %d: %s",
              WEXITSTATUS(status), code, said);
}

// The texts stand in what it said, in this order.
static void expect_said(const char *first, ...) {
    const char *at = said, *text = first;
    va_list list;
    va_start(list, first);
    for (; text != NULL; text = va_arg(list, const char *)) {
        at = strstr(at, text);
        cr_assert(at != NULL, "it does not say '%s' (in its place): %s", text, said);
        at += strlen(text);
    }
    va_end(list);
}

static void execute(struct rig *rig, FILE *process, int device) {
    device_expect(device, "mode,6,60#");
    device_send(device, "mode=Success!\r\n");
    expect_end(process, 0);
    expect_said("queued     custom",
                "sent       custom, attempt 1, tcp 127.0.0.1:", "processed  custom, executed",
                "mode=Success!", NULL);
    (void)rig;
}

Test(send, prints_each_step_and_the_answer) {
    struct rig *rig = rig_up(NULL);
    int device = wake(rig, VAN);
    execute(rig, start(rig, VAN " 'mode,6,60#'"), device);
    cr_assert(strstr(said, "neither") == NULL, "%s", said);
    finish(rig);
}

Test(send, waits_for_a_device_that_sleeps) {
    struct rig *rig = rig_up(NULL);
    FILE *process = start(rig, VAN " 'mode,6,60#'");
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/custom/queued", NULL);
    execute(rig, process, wake(rig, VAN));
    expect_said("neither in the registry nor was ever heard", NULL);
    finish(rig);
}

Test(send, finds_a_device_by_ident_id_and_name) {
    static const char *const calls[] = {VAN, "42", "'Van 1'"};
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42,'name':'Van 1'},"
                             "{'ident':'42x','id':43,'name':'" CAR "'}]}");
    int device = wake(rig, VAN);
    for (size_t i = 0; i < 3; i++)
        execute(rig, start(rig, "%s 'mode,6,60#'", calls[i]), device);
    expect_end(start(rig, "'Van 2' where?"), 1);
    expect_said("there is no device 'Van 2'", NULL);
    rig_finish(rig);
}

Test(send, takes_json_and_prints_the_parts_of_an_answer) {
    struct rig *rig = rig_up(NULL);
    int device = wake(rig, VAN);
    FILE *process =
        start(rig, "-w 30 " VAN " '[{\"name\":\"rconf\",\"meta\":{\"by\":\"me\"}},{\"name\":\"reboot\"}]'");
    device_expect(device, "rconf,1#");
    device_send(device, "rconf=a,b,c,1,6,30,V1,GSM\r\n");
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Fail!\r\n");
    expect_end(process, 1);
    expect_said("processed  rconf, executed", "\"network\":\"GSM\"",
                "processed  reboot, not executed: the device said", "reboot=Fail!", NULL);
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/rconf/processed", "{'meta':{'by':'me'}}");
    finish(rig);
}

Test(send, fails_with_the_reason) {
    struct rig *rig = rig_up(NULL);
    expect_end(start(rig, VAN " '{\"name\":\"fly\"}'"), 1);
    expect_said("processed  fly, not executed: mictrack has no command \"fly\"", NULL);
    expect_end(start(rig, VAN " '{\"name\":\"rconf\",\"ttl\":1}'"), 1);
    expect_said("queued     rconf", "expired    rconf, not executed: the device did not talk in time", NULL);
    rig_finish(rig);
}

Test(send, says_what_it_is_still_waiting_for) {
    struct rig *rig = rig_up(NULL);
    expect_end(start(rig, "--wait 3 " VAN " rconf,1#"), 3);
    expect_said("queued     custom", "still waiting: 0 of 1 commands have ended", NULL);
    rig_gateway_stop(rig);
    expect_end(start(rig, "--wait 3 " VAN " rconf,1#"), 3);
    expect_said("no gateway has taken it in yet", NULL);
    rig_broker_kill(rig);
    expect_end(start(rig, "--wait 2 " VAN " rconf,1#"), 1);
    expect_said("not published: the broker cannot be reached", NULL);
    rig->finished = true;
}

Test(send, tells_wrong_usage) {
    static const char *const calls[] = {"",
                                        VAN,
                                        VAN " a b",
                                        "--wait x " VAN " a",
                                        "--fly a b",
                                        VAN " '{\"a'",
                                        VAN " '[5]'",
                                        VAN " ''",
                                        VAN " '{\"name\":\"rconf\",\"meta\":5}'"};
    struct rig *rig = rig_new();
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
        expect_end(start(rig, "%s", calls[i]), 2);
    expect_end(start(rig, "--help"), 0);
    expect_said("trackbus send [-c FILE] DEVICE COMMAND [--wait SECONDS]", NULL);
    rig->finished = true;
}

// It follows the log alone: there is no response topic.
Test(send, works_with_a_broker_of_mqtt_3_1_1) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    scripted_broker_set(broker,
                        (struct scripted_rule){.on = SCRIPTED_CONNECT, .version = 5, .answer = SCRIPTED_OLD});
    rig_gateway_start(rig, NULL);
    scripted_expect_publishes(broker, "trackbus/state/gw/instances/trackbus", "online", 1);
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    scripted_expect_publishes(broker, "trackbus/message/gw/devices/" VAN, NULL, 1);
    execute(rig, start(rig, VAN " 'mode,6,60#'"), device);
    scripted_broker_finish(broker);
}

// Nothing that a device says reaches the terminal as it is.
Test(send, escapes_what_the_device_says) {
    struct rig *rig = rig_up(NULL);
    int device = wake(rig, VAN);
    FILE *process = start(rig, VAN " 'mode,6,60#'");
    device_expect(device, "mode,6,60#");
    device_send(device, "mode=Success!\x1b[2J\r\n");
    expect_end(process, 0);
    cr_assert(strchr(said, '\x1b') == NULL, "%s", said);
    finish(rig);
}

// A broker that closes the connection at what it does not let the user publish, as Mosquitto does with
// max_queued_messages 0.
Test(send, says_that_it_does_not_know_when_the_broker_closes) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    scripted_broker_set(broker, (struct scripted_rule){
                                    .on = SCRIPTED_PUBLISH, .client = "*-send-*", .answer = SCRIPTED_CLOSES});
    expect_end(start(rig, VAN " rconf,1#"), 1);
    expect_said("the connection broke before the broker confirmed", NULL);
    cr_assert(scripted_broker_publishes(broker, "trackbus/command/#", NULL) == 1);
    scripted_broker_finish(broker);
}
