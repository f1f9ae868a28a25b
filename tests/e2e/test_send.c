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

// It says a line that begins with this.
static void await_line(FILE *process, const char *begin) {
    while (fgets(said, sizeof said, process) != NULL)
        if (strncmp(said, begin, strlen(begin)) == 0)
            return;
    cr_assert(false, "it does not say '%s'", begin);
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
    expect_said("queued     custom, id 1",
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

// With the id that it prints.
Test(send, prints_the_id_with_which_it_is_canceled) {
    struct rig *rig = rig_up(NULL);
    FILE *process = start(rig, VAN " rconf,1#");
    int64_t id = expect_step(rig, VAN, "custom", "queued", NULL);
    char line[64], topic[128];
    snprintf(line, sizeof line, "queued     custom, id %lld,", (long long)id);
    snprintf(topic, sizeof topic, "state/gw/devices/" VAN "/commands-queue/%lld", (long long)id);
    rig_publish_retained(rig, topic, "");
    expect_end(process, 1);
    expect_said(line, "canceled   custom, not executed", NULL);
    rig_finish(rig);
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
    wake(rig, VAN); // now its protocol is known
    json_decref(rig_expect_standing_json(rig, "state/gw/devices/" VAN, "{'protocol_id':1}"));
    expect_end(start(rig, VAN " '[{\"name\":\"where?\"},{\"name\":\"fly\"}]'"), 1);
    expect_said("not published: mictrack has no command \"fly\"; it has ", "reboot", NULL);
    cr_assert(rig_count(rig, "command/gw/devices/" VAN) == 2, "%s", said);
    rig_finish(rig);
}

Test(send, says_what_it_is_still_waiting_for) {
    struct rig *rig = rig_up(NULL);
    expect_end(start(rig, "--wait 3 " VAN " rconf,1#"), 3);
    expect_said("queued     custom", "still waiting: 0 of 1 command has ended", NULL);
    rig_gateway_stop(rig);
    expect_end(start(rig, "--wait 3 " VAN " rconf,1#"), 3);
    expect_said("no gateway has taken it in yet", NULL);
    expect_end(start(rig, "--wait 0 " VAN " rconf,1#"), 3);
    expect_said("published; with --wait 0 nothing is waited for", NULL);
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
                                        VAN " '{\"name\":\"rconf\",\"meta\":5}'",
                                        VAN " '{\"name\":\"\"}'",
                                        VAN " '{\"properties\":{}}'"};
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
    expect_end(start(rig, "--wait 5 " VAN " rconf,1#"), 3);
    expect_said("the broker has not confirmed the command: it may have arrived", NULL);
    cr_assert(scripted_broker_publishes(broker, "trackbus/command/#", NULL) == 1);
    scripted_broker_finish(broker);
}

// The answer comes while the broker is away, or the way to it.
static struct scripted_broker *answer_while_away(struct rig *rig, unsigned memory, FILE **process) {
    struct scripted_broker *broker = scripted_broker_start(rig);
    rig_client_start(rig);
    rig_gateway_start(rig, NULL);
    rig_expect_state(rig);
    int device = wake(rig, VAN);
    *process = start(rig, "--wait 6 " VAN " 'mode,6,60#'");
    device_expect(device, "mode,6,60#");
    await_line(*process, "sent ");
    scripted_broker_stop(broker);
    device_send(device, "mode=Success!\r\n");
    scripted_broker_restart(broker, memory);
    return broker;
}

Test(send, hears_the_end_after_the_broker_was_away) {
    FILE *process;
    struct rig *rig = rig_new();
    struct scripted_broker *broker = answer_while_away(rig, SCRIPTED_RETAINED | SCRIPTED_SESSIONS, &process);
    expect_end(process, 0);
    expect_said("processed  custom, executed", "mode=Success!", NULL);
    scripted_broker_finish(broker);
}

// It is back first, as it tries five times a second: also where the broker forgot its session.
Test(send, hears_the_end_from_a_broker_that_forgot_its_session) {
    FILE *process;
    struct rig *rig = rig_new();
    struct scripted_broker *broker = answer_while_away(rig, SCRIPTED_RETAINED, &process);
    scripted_broker_set(broker,
                        (struct scripted_rule){.on = SCRIPTED_CONNECT, .client = "trackbus", .delay = 500});
    expect_end(process, 0);
    expect_said("processed  custom, executed", NULL);
    scripted_broker_finish(broker);
}

// What it cannot have heard it does not make up.
Test(send, says_when_a_command_ended_unheard) {
    FILE *process;
    struct rig *rig = rig_new();
    struct scripted_broker *broker = answer_while_away(rig, SCRIPTED_RETAINED, &process);
    scripted_broker_set(broker,
                        (struct scripted_rule){.on = SCRIPTED_CONNECT, .client = "*-send-*", .delay = 3000});
    expect_end(process, 3);
    expect_said(
        "1 of 1 commands no longer stand at the broker: they ended while the connection was broken, or",
        NULL);
    scripted_broker_finish(broker);
}

// A broker that complains of too many messages is given time, and then the command goes out.
Test(send, publishes_when_the_broker_wants_it_slower) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    int complains = scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_SUBSCRIBE,
                                                                       .client = "*-send-*",
                                                                       .topic = "trackbus/state/gw/devices/+",
                                                                       .times = 2,
                                                                       .disconnect = 0x97});
    expect_end(start(rig, "--wait 8 " VAN " rconf,1#"), 3);
    expect_said("published, but no gateway has taken it in yet", NULL);
    scripted_expect_hits(broker, complains, 2);
    cr_assert(scripted_broker_publishes(broker, "trackbus/command/#", NULL) == 1);
    scripted_broker_finish(broker);
}

// One that lets it do nothing: it may neither ask what there is nor publish the command.
Test(send, says_that_it_is_not_authorized) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    scripted_broker_set(broker,
                        (struct scripted_rule){.on = SCRIPTED_PUBLISH, .client = "*-send-*", .reason = 0x87});
    expect_end(start(rig, "--wait 2 " VAN " rconf,1#"), 1);
    expect_said("the broker does not take the command: Not authorized", NULL);
    scripted_broker_finish(broker);
}
