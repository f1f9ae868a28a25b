// Commands for devices that are away, end to end: how they wait, go out, and end, whatever happens meanwhile
// to the device, the gateway or the broker.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/command_life.h"

TestSuite(command_queue, .fini = rig_clean, .timeout = 200);

#define ENTRY_OF_VAN "state/gw/devices/" VAN "/commands-queue"

// For a device that is away.
static int64_t queue(struct rig *rig, const char *ident, const char *name, const char *command) {
    return queue_command(rig, ident, name, command);
}

static void cancel(struct rig *rig, const char *ident, int64_t id) {
    char topic[128];
    snprintf(topic, sizeof topic, "state/gw/devices/%s/commands-queue/%lld", ident, (long long)id);
    rig_publish_retained(rig, topic, "");
}

static struct rig *up_with(const char *broker, const char *changes) {
    struct rig *rig = rig_with_broker(broker);
    rig_gateway_start(rig, changes);
    rig_expect_log(rig, ": connected");
    return rig;
}

static void start_gateway(struct rig *rig) {
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, ": connected");
}

static void restart_broker(struct rig *rig, const char *lines, bool wiped) {
    if (rig->gateway != 0)
        expect_handed_over(rig);
    rig_broker_kill(rig);
    if (wiped)
        rig_broker_wipe(rig);
    rig_broker_start(rig, lines);
}

static void answer(struct rig *rig, int device, const char *ident, const char *text) {
    device_send(device, text);
    expect_step(rig, ident, "+", "processed", "{'executed':true}");
}

// --- waiting and waking ---

Test(command_queue, waits_until_the_device_wakes) {
    struct rig *rig = rig_up(NULL);
    rig_publish(rig, TO_VAN,
                "{\"name\":\"mode\",\"properties\":{\"mode\":6,\"interval\":60},\"ttl\":600,\"priority\":2,"
                "\"timeout\":20,\"max_attempts\":2,\"meta\":{\"order\":17}}");
    int64_t id = expect_step(rig, VAN, "mode", "queued", "{'event_code':330,'meta':{'order':17}}");
    char topic[128];
    snprintf(topic, sizeof topic, ENTRY_OF_VAN "/%lld", (long long)id);
    json_decref(rig_expect_standing_json(
        rig, topic,
        "{'name':'mode','properties':{'mode':6,'interval':60},'meta':{'order':17},'priority':2,"
        "'timeout':20,'max_attempts':2,'state':'queued','attempts':0,'device_id':" VAN "}"));
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    device_expect(device, "mode,6,60#");
    expect_step(rig, VAN, "mode", "sent",
                "{'event_code':334,'attempts':1,'ident':'" VAN "','transport':'tcp','channel_id':1}");
    expect_entry(rig, VAN, id, "{'state':'sent','attempts':1,'answer_key':'mode'}");
    device_send(device, "mode=Success!\r\n");
    expect_step(rig, VAN, "mode", "processed",
                "{'event_code':332,'executed':true,'response':'mode=Success!','meta':{'order':17}}");
    expect_entry(rig, VAN, id, NULL);
    finish(rig);
}

Test(command_queue, waits_until_the_device_wakes_over_udp) {
    struct rig *rig = rig_up(NULL);
    queue(rig, VAN, "reboot", REBOOT);
    int device = wake_udp(rig, VAN);
    device_expect_datagram(device, "reboot,0#");
    expect_step(rig, VAN, "reboot", "sent", "{'transport':'udp'}");
    answer(rig, device, VAN, "reboot=Success!");
    finish(rig);
}

// Only the silence after its first report says who it is.
Test(command_queue, goes_out_after_a_report_without_a_terminator) {
    struct rig *rig = rig_up(NULL);
    queue(rig, VAN, "reboot", REBOOT);
    int device = rig_tcp(rig);
    device_send(device, "MT;6;" VAN ";R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113");
    device_expect(device, "reboot,0#");
    answer(rig, device, VAN, "reboot=Success!");
    finish(rig);
}

Test(command_queue, of_the_channels_topic_waits_too) {
    struct rig *rig = rig_up("{'unknown_devices':'channel'}");
    rig_publish(rig, "command/gw/channels/1/" VAN, REBOOT);
    rig_expect(rig, "state/gw/channels/1/" VAN "/commands-queue/+", "{'state':'queued','ident':'" VAN "'}");
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!\r\n");
    rig_expect(rig, "log/gw/channels/1/" VAN "/commands-queue/reboot/processed", "{'executed':true}");
    check_lives(rig, false);
    rig_expect_none_retained(rig, "state/gw/channels/+/+/commands-queue/+");
    rig_finish(rig);
}

Test(command_queue, over_udp_goes_out_only_to_whom_was_heard_lately) {
    struct rig *rig = rig_up("{'commands':{'udp_reachable':1}}");
    int device = wake_udp(rig, VAN);
    rig_wait_until(rig_clock() + 1100);
    queue(rig, VAN, "reboot", REBOOT);
    expect_passed(rig);
    cr_assert(!device_has_bytes(device));
    talk(rig, device, VAN);
    device_expect_datagram(device, "reboot,0#");
    answer(rig, device, VAN, "reboot=Success!");
    finish(rig);
}

Test(command_queue, of_a_device_that_leaves_before_it_answers_goes_out_again) {
    struct rig *rig = rig_up(NULL);
    queue(rig, VAN, "rconf", "{\"name\":\"rconf\"}");
    for (int attempt = 1; attempt <= 2; attempt++) {
        int device = wake(rig, VAN);
        device_expect(device, "rconf,1#");
        close(device);
        rig_expect(rig, "log/gw/devices/" VAN "/disconnected", NULL);
    }
    int device = wake(rig, VAN);
    device_expect(device, "rconf,1#");
    device_send(device, "rconf=a,b,c,1,6,30,V1,GSM\r\n");
    expect_step(rig, VAN, "rconf", "processed", "{'executed':true,'attempts':3}");
    expect_steps(rig, VAN, "sent", 3);
    finish(rig);
}

Test(command_queue, ends_when_the_device_is_silent_through_all_attempts) {
    struct rig *rig = rig_up(NULL);
    queue(rig, VAN, "reboot", REBOOT_FAST(2));
    for (int attempt = 1; attempt <= 2; attempt++) {
        int device = wake(rig, VAN);
        device_expect(device, "reboot,0#");
        close(device);
        rig_expect(rig, "log/gw/devices/" VAN "/disconnected", NULL);
    }
    expect_step(rig, VAN, "reboot", "processed",
                "{'executed':false,'response':null,'reason':'no answer to 2 attempts'}");
    int device = wake(rig, VAN);
    talk(rig, device, VAN);
    finish(rig);
    device_expect_no_more(device);
}

// --- answers at odd times ---

Test(command_queue, takes_an_answer_that_is_late) {
    struct rig *rig = rig_up("{'commands':{'udp_reachable':1}}");
    int64_t id = queue(rig, VAN, "reboot", REBOOT_FAST(3));
    int device = wake_udp(rig, VAN);
    device_expect_datagram(device, "reboot,0#");
    expect_entry(rig, VAN, id, "{'state':'queued','attempts':1}"); // the time is out, and it is not reachable
    answer(rig, device, VAN, "reboot=Success!");
    talk(rig, device, VAN);
    expect_steps(rig, VAN, "sent", 1);
    finish(rig);
    device_expect_no_more(device);
}

Test(command_queue, takes_an_answer_that_is_late_after_a_restart) {
    struct rig *rig = rig_up("{'commands':{'udp_reachable':1}}");
    int64_t id = queue(rig, VAN, "reboot", REBOOT_FAST(3));
    int device = wake_udp(rig, VAN);
    device_expect_datagram(device, "reboot,0#");
    expect_entry(rig, VAN, id, "{'state':'queued','attempts':1}");
    rig_gateway_kill(rig);
    start_gateway(rig);
    device = rig_udp(rig);
    char text[256];
    snprintf(text, sizeof text, VAN " reboot=Success!\r\n%s", report(VAN, 9)); // in one datagram
    device_send(device, text);
    expect_step(rig, VAN, "reboot", "processed", "{'executed':true,'attempts':1}");
    finish(rig);
}

Test(command_queue, takes_an_answer_to_an_earlier_attempt) {
    struct rig *rig = rig_up(NULL);
    queue(rig, VAN, "reboot", "{\"name\":\"reboot\",\"timeout\":1,\"max_attempts\":50}");
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#reboot,0#");
    answer(rig, device, VAN, "reboot=Success!\r\n");
    device_send(device, "reboot=Success!\r\n"); // the answer to the second attempt
    rig_expect_log(rig, "unexpected answer to 'reboot'");
    finish(rig);
}

Test(command_queue, is_not_ended_by_other_answers) {
    struct rig *rig = rig_up(NULL);
    queue(rig, VAN, "reboot", REBOOT);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    device_send(device, "netlock=Success!\r\nmode=Fail!\r\n");
    rig_expect_log(rig, "unexpected answer to 'netlock'");
    rig_expect_log(rig, "unexpected answer to 'mode'");
    expect_steps(rig, VAN, "processed", 0);
    answer(rig, device, VAN, "reboot=Success!\r\n");
    finish(rig);
}

Test(command_queue, keeps_devices_apart) {
    struct rig *rig = rig_up(NULL);
    queue(rig, VAN, "reboot", REBOOT);
    queue(rig, CAR, "rconf", "{\"name\":\"rconf\"}");
    int car = wake(rig, CAR), van = wake(rig, VAN);
    device_expect(van, "reboot,0#");
    device_expect(car, "rconf,1#");
    device_send(van, "rconf=a,b,c,1,6,30,V1,GSM\r\n"); // not what it was asked
    rig_expect_log(rig, "device " VAN ": unexpected answer to 'rconf'");
    device_send(car, "rconf=a,b,c,1,6,30,V1,GSM\r\n");
    expect_step(rig, CAR, "rconf", "processed", "{'executed':true,'response':{'port':1,'network':'GSM'}}");
    device_send(van, "---Reboot =fail!\r\n");
    expect_step(rig, VAN, "reboot", "processed",
                "{'executed':false,'reason':'the device said that it failed'}");
    finish(rig);
}

Test(command_queue, goes_by_priority_and_then_by_age) {
    struct rig *rig = rig_up(NULL);
    static const char *const order[] = {"mode,7,10#", "mode,7,11#", "mode,7,12#", "mode,7,13#"};
    queue(rig, VAN, "custom", "mode,7,12#");
    queue(rig, VAN, "custom",
          "[{\"name\":\"custom\",\"properties\":{\"payload\":\"mode,7,13#\"},\"priority\":-1},"
          "{\"name\":\"custom\",\"properties\":{\"payload\":\"mode,7,10#\"},\"priority\":9},"
          "{\"name\":\"custom\",\"properties\":{\"payload\":\"mode,7,11#\"},\"priority\":9}]");
    int device = wake(rig, VAN);
    for (size_t i = 0; i < 4; i++) {
        device_expect(device, order[i]);
        talk(rig, device, VAN);
        cr_assert(!device_has_bytes(device)); // one at a time
        answer(rig, device, VAN, "mode=Success!\r\n");
    }
    finish(rig);
}

// --- Magicyo: answers carry the number of the frame ---

#define MAGICYO_CHANNEL                                                                                      \
    "{'channels':[{'id':2,'name':'magicyo','protocol':'magicyo','tcp':'127.0.0.1:0'}],"                      \
    "'commands':{'timeout':60}}"
#define HEARTBEAT "5555001e3836343836373032323531313031350c00c100002ce703f4aaaa"

Test(command_queue, of_a_protocol_with_numbers_is_sent_without_waiting) {
    struct rig *rig = rig_up(MAGICYO_CHANNEL);
    rig_publish(rig, "command/gw/devices/" LORRY,
                "[{\"name\":\"accelerometer.calibrate\",\"meta\":{\"n\":1}},"
                "{\"name\":\"accelerometer.calibrate\",\"meta\":{\"n\":2}}]");
    int64_t second = expect_step(rig, LORRY, "+", "queued", "{'meta':{'n':2}}");
    expect_entry(rig, LORRY, second, "{'state':'queued'}");
    int device = rig_tcp_to(rig, "magicyo");
    device_send_hex(device, HEARTBEAT);
    device_expect_hex(device, "5555001e3836343836373032323531313031350d00c100002cec03f5aaaa");
    device_expect_hex(device, "555500203836343836373032323531313031350300010002f10732ed0427aaaa");
    device_expect_hex(device, "555500203836343836373032323531313031350300020002f10732f20428aaaa");
    expect_step(rig, LORRY, "+", "sent", "{'meta':{'n':2}}");
    // The answer to frame 2 comes first.
    device_send_hex(device, "555500203836343836373032323531313031350400020002f10732f90429aaaa");
    expect_step(rig, LORRY, "+", "processed", "{'executed':true,'meta':{'n':2}}");
    expect_steps(rig, LORRY, "processed", 1);
    device_send_hex(device, "555500203836343836373032323531313031350400010002f10732f40428aaaa");
    expect_step(rig, LORRY, "+", "processed", "{'executed':true,'meta':{'n':1}}");
    finish(rig);
}

// --- ends without an answer ---

Test(command_queue, expires) {
    struct rig *rig = rig_up(NULL);
    int64_t id = queue(rig, VAN, "reboot", "{\"name\":\"reboot\",\"ttl\":1,\"meta\":{\"a\":[1,2]}}");
    expect_step(
        rig, VAN, "reboot", "expired",
        "{'event_code':333,'executed':false,'reason':'the device did not talk in time','meta':{'a':[1,2]}}");
    expect_entry(rig, VAN, id, NULL);
    int device = wake(rig, VAN);
    talk(rig, device, VAN);
    finish(rig);
    device_expect_no_more(device);
}

// Whoever sends three commands a second to one device.
struct busy_user {
    struct rig *rig;
    int64_t next; // by rig_clock()
};

static bool has_expired_meanwhile(void *context) {
    struct busy_user *user = context;
    if (rig_clock() >= user->next) {
        rig_publish(user->rig, TO_CAR, "where?");
        user->next = rig_clock() + 300;
    }
    return rig_count(user->rig, "log/gw/devices/" VAN "/commands-queue/reboot/expired") > 0;
}

// A reconnection settles although commands come all the time: it is what the broker retains that has to come to an end.
Test(command_queue, expires_while_others_come_all_the_time) {
    struct rig *rig = up_with(RIG_BROKER_KEEPS, NULL);
    struct busy_user user = {.rig = rig};
    queue(rig, VAN, "reboot", "{\"name\":\"reboot\",\"ttl\":1}");
    restart_broker(rig, RIG_BROKER_KEEPS, false);
    cr_assert(rig_wait(has_expired_meanwhile, &user, RIG_DEADLINE), "the command does not expire");
    rig_finish(rig);
}

Test(command_queue, expires_while_the_gateway_is_down) {
    struct rig *rig = rig_up(NULL);
    queue(rig, VAN, "reboot", "{\"name\":\"reboot\",\"ttl\":60}");
    rig_gateway_kill(rig);
    rig->clock = "+61s"; // so long was it down
    rig_gateway_start(rig, NULL);
    int device = rig_tcp(rig); // at once, perhaps before the gateway has looked
    device_send(device, report(VAN, 3));
    expect_step(rig, VAN, "reboot", "expired", NULL);
    finish(rig);
    device_expect_no_more(device);
}

Test(command_queue, is_canceled_while_it_waits) {
    struct rig *rig = rig_up(NULL);
    int64_t id = queue(rig, VAN, "reboot", REBOOT);
    cancel(rig, VAN, id);
    expect_step(rig, VAN, "reboot", "canceled", "{'event_code':331,'executed':false}");
    int device = wake(rig, VAN);
    talk(rig, device, VAN);
    finish(rig);
    device_expect_no_more(device);
}

Test(command_queue, is_canceled_while_it_is_under_way) {
    struct rig *rig = rig_up(NULL);
    int64_t id = queue(rig, VAN, "reboot", REBOOT);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    expect_step(rig, VAN, "reboot", "sent", NULL);
    cancel(rig, VAN, id);
    expect_step(rig, VAN, "reboot", "canceled", NULL);
    device_send(device, "reboot=Success!\r\n");
    rig_expect_log(rig, "unexpected answer to 'reboot'");
    queue(rig, VAN, "rconf", "{\"name\":\"rconf\"}"); // it holds up nothing
    device_expect(device, "rconf,1#");
    answer(rig, device, VAN, "rconf=a,b,c,1,6,30,V1,GSM\r\n");
    finish(rig);
}

Test(command_queue, is_canceled_while_the_gateway_is_down) {
    struct rig *rig = rig_up(NULL);
    int64_t id = queue(rig, VAN, "reboot", REBOOT);
    rig_gateway_kill(rig);
    cancel(rig, VAN, id);
    rig_gateway_start(rig, NULL);
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 3));
    expect_step(rig, VAN, "reboot", "canceled", NULL);
    talk(rig, device, VAN);
    finish(rig);
    device_expect_no_more(device);
}

// --- the gateway is killed ---

Test(command_queue, survives_the_gateway_while_it_waits) {
    struct rig *rig = rig_up(NULL);
    queue(rig, VAN, "reboot", REBOOT);
    queue(rig, CAR, "rconf", "{\"name\":\"rconf\"}");
    rig_gateway_kill(rig);
    start_gateway(rig);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    answer(rig, device, VAN, "reboot=Success!\r\n");
    device = wake(rig, CAR);
    device_expect(device, "rconf,1#");
    answer(rig, device, CAR, "rconf=a,b,c,1,6,30,V1,GSM\r\n");
    expect_steps(rig, "+", "sent", 2);
    finish(rig);
}

Test(command_queue, survives_the_gateway_while_it_is_under_way) {
    struct rig *rig = rig_up(NULL);
    int64_t id = queue(rig, VAN, "reboot", REBOOT);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    expect_entry(rig, VAN, id, "{'state':'sent'}");
    rig_gateway_kill(rig);
    start_gateway(rig);
    device = wake(rig, VAN);
    cr_assert(!device_has_bytes(device)); // its answer may be on the way
    answer(rig, device, VAN, "reboot=Success!\r\n");
    expect_steps(rig, VAN, "sent", 1);
    finish(rig);
}

// The device has lost its connection too: it does not wait for an answer any more.
Test(command_queue, under_way_when_the_gateway_was_killed_goes_out_again_at_once) {
    struct rig *rig = rig_up(NULL);
    int64_t id = queue(rig, VAN, "rconf", "{\"name\":\"rconf\",\"timeout\":3600}");
    int device = wake(rig, VAN);
    device_expect(device, "rconf,1#");
    expect_entry(rig, VAN, id, "{'state':'sent'}");
    rig_gateway_kill(rig);
    start_gateway(rig);
    device = wake(rig, VAN);
    device_expect(device, "rconf,1#");
    answer(rig, device, VAN, "rconf=a,b,c,1,6,30,V1,GSM\r\n");
    check_lives(rig, true);
    rig_finish(rig);
}

// The gateway alone reads its store. But what it has committed stands as text in the log of the database: the
// row is on one page, and the mark of the commit in front of it.
static bool has_end_on_disk(void *context) {
    static const char end[] = "\"state\":\"processed\"";
    static char bytes[1 << 20];
    char path[128];
    snprintf(path, sizeof path, "%s/store.db-wal", ((const struct rig *)context)->directory);
    FILE *file = fopen(path, "r");
    size_t length = file != NULL ? fread(bytes, 1, sizeof bytes, file) : 0;
    if (file != NULL)
        fclose(file);
    return memmem(bytes, length, end, sizeof end - 1) != NULL;
}

// The answer reaches the gateway and its disk, but not the broker.
static void answer_unheard(struct rig *rig, bool frozen) {
    queue(rig, VAN, "reboot", REBOOT);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    expect_step(rig, VAN, "reboot", "sent", NULL);
    if (frozen)
        rig_broker_freeze(rig);
    else
        rig_broker_kill(rig);
    device_send(device, "reboot=Success!\r\n");
    rig_expect_log(rig, "command reboot executed");
    cr_assert(rig_wait(has_end_on_disk, rig, RIG_DEADLINE), "the end of the command is not on disk");
    rig_gateway_kill(rig);
}

// The answer is published, and the command is not sent again.
static void expect_answered(struct rig *rig) {
    expect_step(rig, VAN, "reboot", "processed", "{'executed':true,'response':'reboot=Success!'}");
    int device = wake(rig, VAN);
    talk(rig, device, VAN);
    expect_steps(rig, VAN, "sent", 1);
    check_lives(rig, true);
    rig_finish(rig);
    device_expect_no_more(device);
}

Test(command_queue, answered_while_the_broker_is_frozen_is_not_sent_again) {
    struct rig *rig = rig_up(NULL);
    answer_unheard(rig, true);
    rig_broker_thaw(rig);
    start_gateway(rig);
    expect_answered(rig);
}

Test(command_queue, answered_while_the_broker_is_down_is_not_sent_again) {
    struct rig *rig = up_with(RIG_BROKER_KEEPS, NULL);
    answer_unheard(rig, false);
    rig_broker_start(rig, RIG_BROKER_KEEPS);
    start_gateway(rig);
    expect_answered(rig);
}

Test(command_queue, answered_before_the_broker_lost_all_is_not_sent_again) {
    struct rig *rig = up_with(RIG_BROKER_KEEPS, NULL);
    answer_unheard(rig, true);
    restart_broker(rig, RIG_BROKER_KEEPS, true);
    start_gateway(rig);
    expect_answered(rig);
}

// --- the broker is killed ---

static void expect_reboot_and_finish(struct rig *rig) {
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    answer(rig, device, VAN, "reboot=Success!\r\n");
    finish(rig);
}

Test(command_queue, is_given_back_to_a_broker_that_lost_it) {
    struct rig *rig = up_with(RIG_BROKER_KEEPS, NULL);
    int64_t id = queue(rig, VAN, "reboot", REBOOT);
    restart_broker(rig, RIG_BROKER_KEEPS, true);
    expect_entry(rig, VAN, id, "{'state':'queued'}");
    rig_expect_log(rig, "1 pending command was missing at the broker, publishing again");
    expect_reboot_and_finish(rig);
}

Test(command_queue, survives_a_broker_that_keeps_it) {
    struct rig *rig = up_with(RIG_BROKER_KEEPS, NULL);
    queue(rig, VAN, "reboot", REBOOT);
    restart_broker(rig, RIG_BROKER_KEEPS, false);
    expect_reboot_and_finish(rig);
}

static void restart_under_way(bool wiped) {
    struct rig *rig = up_with(RIG_BROKER_KEEPS, NULL);
    int64_t id = queue(rig, VAN, "reboot", REBOOT);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    expect_entry(rig, VAN, id, "{'state':'sent'}");
    restart_broker(rig, RIG_BROKER_KEEPS, wiped);
    if (wiped)
        expect_entry(rig, VAN, id, "{'state':'sent'}");
    talk(rig, device, VAN);
    answer(rig, device, VAN, "reboot=Success!\r\n");
    expect_steps(rig, VAN, "sent", 1);
    finish(rig);
}

Test(command_queue, under_way_is_given_back_to_a_broker_that_lost_it) {
    restart_under_way(true);
}

Test(command_queue, under_way_survives_a_broker_that_keeps_it) {
    restart_under_way(false);
}

static void answer_while_down(bool wiped) {
    struct rig *rig = up_with(RIG_BROKER_KEEPS, NULL);
    int64_t id = queue(rig, VAN, "reboot", REBOOT);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    expect_entry(rig, VAN, id, "{'state':'sent'}");
    rig_broker_kill(rig);
    device_send(device, "reboot=Success!\r\n");
    rig_expect_log(rig, "command reboot executed");
    if (wiped)
        rig_broker_wipe(rig);
    rig_broker_start(rig, RIG_BROKER_KEEPS);
    expect_answered(rig);
}

Test(command_queue, answered_while_a_broker_that_keeps_it_is_down_is_said_later) {
    answer_while_down(false);
}

Test(command_queue, answered_while_a_broker_that_forgets_is_down_is_said_later) {
    answer_while_down(true);
}

// Both at once, and the broker has lost everything.
Test(command_queue, is_given_back_by_a_gateway_that_was_killed_too) {
    struct rig *rig = up_with(RIG_BROKER_KEEPS, NULL);
    int64_t id = queue(rig, VAN, "reboot", REBOOT);
    rig_expect(rig, INSTANCE "/queue", NULL); // behind it: its disk has it too
    rig_gateway_kill(rig);
    restart_broker(rig, RIG_BROKER_KEEPS, true);
    start_gateway(rig);
    expect_entry(rig, VAN, id, "{'state':'queued'}");
    expect_reboot_and_finish(rig);
}

// The command is on the gateway's disk only: the broker fell back to a state in which it has older ones.
Test(command_queue, that_never_came_to_the_broker_is_not_taken_for_canceled) {
    struct rig *rig = up_with(RIG_BROKER_KEEPS, NULL);
    int64_t old = queue(rig, CAR, "rconf", "{\"name\":\"rconf\"}");
    rig_expect(rig, INSTANCE "/queue", NULL);
    int64_t id = queue(rig, VAN, "reboot", REBOOT);
    // The broker falls back to when it had only the older one.
    rig_gateway_kill(rig);
    cancel(rig, VAN, id);
    rig_broker_kill(rig);
    rig_broker_wipe(rig);
    rig_broker_start(rig, RIG_BROKER_KEEPS);
    const struct rig_message *entry = rig_message_at(rig, "state/gw/devices/" CAR "/commands-queue/+", 0);
    char topic[128], marker[160];
    snprintf(topic, sizeof topic, "state/gw/devices/" CAR "/commands-queue/%lld", (long long)old);
    rig_publish_retained(rig, topic, entry->payload);
    json_t *said = json_of(rig_message_at(rig, INSTANCE "/queue", rig_count(rig, INSTANCE "/queue") - 1));
    snprintf(marker, sizeof marker, "{\"store\":\"%s\",\"through\":%lld}",
             json_string_value(json_object_get(said, "store")), (long long)old);
    json_decref(said);
    rig_publish_retained(rig, INSTANCE "/queue", marker);
    start_gateway(rig);
    int device = wake(rig, CAR);
    device_expect(device, "rconf,1#");
    answer(rig, device, CAR, "rconf=a,b,c,1,6,30,V1,GSM\r\n");
    expect_reboot_and_finish(rig);
}

// A broker that falls back to an older state still holds commands that have ended since.
Test(command_queue, that_has_ended_does_not_rise_from_an_old_broker) {
    struct rig *rig = rig_up(NULL);
    int64_t id = queue(rig, VAN, "reboot", REBOOT);
    char topic[128];
    snprintf(topic, sizeof topic, ENTRY_OF_VAN "/%lld", (long long)id);
    const struct rig_message *entry = rig_message_at(rig, topic, 0);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    answer(rig, device, VAN, "reboot=Success!\r\n");
    expect_entry(rig, VAN, id, NULL);
    check_lives(rig, false);
    rig_gateway_stop(rig);
    rig_publish_retained(rig, topic, entry->payload);
    start_gateway(rig);
    rig_expect_log(rig, "but the broker still retained it; clearing it");
    device = wake(rig, VAN);
    talk(rig, device, VAN);
    finish(rig);
    device_expect_no_more(device);
}

// --- results for the publisher ---

Test(command_queue, answers_the_publisher_after_a_restart) {
    struct rig *rig = rig_up(NULL);
    rig_request(rig, TO_VAN, "{\"name\":\"reboot\",\"meta\":{\"by\":\"night shift\"}}", "answers/42",
                "number 42");
    expect_step(rig, VAN, "reboot", "queued", NULL);
    rig_expect(rig, ALL_PENDING, "{'response_topic':'answers/42'}");
    rig_gateway_kill(rig);
    start_gateway(rig);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!\r\n");
    const struct rig_message *log =
        rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/reboot/processed", "{'executed':true}");
    const struct rig_message *result = rig_expect(rig, "/answers/42", "{'meta':{'by':'night shift'}}");
    cr_assert_str_eq(result->correlation, "number 42");
    json_t *a = json_of(log), *b = json_of(result);
    json_object_del(a, "timestamp"), json_object_del(b, "timestamp");
    cr_assert(json_equal(a, b), "the log says %s, the publisher was told %s", log->payload, result->payload);
    json_decref(a), json_decref(b);
    finish(rig);
}

Test(command_queue, answers_mosquitto_rr_when_the_device_wakes) {
    struct rig *rig = rig_up(NULL);
    FILE *process = rig_mosquitto_rr(rig, TO_VAN, "{\"name\":\"rconf\"}");
    expect_step(rig, VAN, "rconf", "queued", NULL);
    int device = wake(rig, VAN);
    device_expect(device, "rconf,1#");
    answer(rig, device, VAN, "rconf=m2m,,113.98.254.179,7700,6,30,V1,NB-IoT\r\n");
    const char *said = rig_mosquitto_rr_answer(process);
    cr_assert(strstr(said, "\"host\":\"113.98.254.179\"") != NULL, "%s", said);
    finish(rig);
}

Test(command_queue, says_expiry_to_the_publisher) {
    struct rig *rig = rig_up(NULL);
    rig_request(rig, TO_VAN, "{\"name\":\"reboot\",\"ttl\":1}", "answers/1", NULL);
    rig_expect(rig, "/answers/1", "{'event_code':333,'executed':false}");
    finish(rig);
}

struct retained_count {
    struct rig *rig;
    const char *filter;
    size_t count, came;
};

static bool are_retained(void *context) {
    struct retained_count *retained = context;
    retained->came = rig_count_retained(retained->rig, retained->filter);
    return retained->came == retained->count;
}

// The entry of a command is published behind its log entry: the last one may still be on its way.
static void expect_retained_count(struct rig *rig, const char *filter, size_t count) {
    struct retained_count retained = {.rig = rig, .filter = filter, .count = count};
    cr_assert(rig_wait(are_retained, &retained, RIG_DEADLINE),
              "the broker retains %zu messages on %s, expected %zu", retained.came, filter, count);
}

// --- many ---

static char *array_of(size_t count, const char *command) {
    char *text = malloc(count * (strlen(command) + 1) + 3), *end = text;
    *end++ = '[';
    for (size_t i = 0; i < count; i++)
        end += sprintf(end, "%s%s", i > 0 ? "," : "", command);
    strcpy(end, "]");
    return text;
}

Test(command_queue, holds_1000_for_a_device) {
    struct rig *rig = rig_up(NULL);
    char *commands = array_of(1000, "{\"name\":\"reboot\",\"ttl\":40}"), topic[96];
    rig_publish(rig, TO_VAN, commands);
    free(commands);
    rig_publish(rig, TO_VAN, "{\"name\":\"rconf\"}");
    expect_step(
        rig, VAN, "rconf", "processed",
        "{'executed':false,'reason':'as many commands as may wait for one device wait already (1000)'}");
    rig_expect_count(rig, "log/gw/devices/" VAN "/commands-queue/reboot/queued", 1000); // said once on disk
    queue(rig, CAR, "rconf", "{\"name\":\"rconf\",\"ttl\":1}"); // others are not held up
    snprintf(topic, sizeof topic, ALL_PENDING);
    expect_step(rig, CAR, "rconf", "expired", NULL);
    expect_retained_count(rig, "state/gw/devices/" VAN "/commands-queue/+", 1000);
    rig_finish(rig);
}

Test(command_queue, takes_no_array_of_more_than_1000) {
    struct rig *rig = rig_up(NULL);
    char *commands = array_of(1001, REBOOT);
    rig_publish(rig, TO_VAN, commands);
    free(commands);
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/+/processed",
               "{'executed':false,'reason':'an array may hold 1 to 1000 commands, this one holds 1001'}");
    rig_finish(rig);
}

static const char *number(size_t i) {
    static char texts[16][24];
    static unsigned next;
    char *text = texts[next++ % 16];
    snprintf(text, sizeof texts[0], "8664%011zu", i);
    return text;
}

static void queue_for_many(struct rig *rig, size_t devices) {
    char topic[96];
    for (size_t i = 0; i < devices; i++) {
        snprintf(topic, sizeof topic, "command/gw/devices/%s", number(i));
        rig_publish_soon(rig, topic, REBOOT);
        if ((i + 1) % 250 == 0) // a broker drops what a client does not take
            rig_expect_count(rig, "log/gw/devices/+/commands-queue/reboot/queued", i + 1);
    }
}

#define AT_ONCE 200 // connections

// Wakes AT_ONCE devices from first on; each is sent its command and answers it.
static void answer_some(struct rig *rig, int port, size_t first) {
    int devices[AT_ONCE];
    for (size_t i = 0; i < AT_ONCE; i++) {
        devices[i] = rig_tcp_at("127.0.0.1", port);
        device_send(devices[i], report(number(first + i), 1));
    }
    for (size_t i = 0; i < AT_ONCE; i++)
        device_expect(devices[i], "reboot,0#");
    for (size_t i = 0; i < AT_ONCE; i++)
        device_send(devices[i], "reboot=Success!\r\n");
    rig_expect_count(rig, "log/gw/devices/+/commands-queue/reboot/processed", first + AT_ONCE);
    for (size_t i = 0; i < AT_ONCE; i++) {
        cr_assert(!device_has_bytes(devices[i]));
        close(devices[i]);
    }
}

Test(command_queue, serves_10000_devices, .timeout = 400) {
    const size_t devices = 10000;
    struct rig *rig = rig_up("{'messages':['devices'],'limits':{'unknown_devices':1000000}}");
    queue_for_many(rig, devices);
    expect_retained_count(rig, ALL_PENDING, devices);
    int port = rig_tcp_port(rig, "mictrack");
    for (size_t first = 0; first < devices; first += AT_ONCE)
        answer_some(rig, port, first);
    cr_assert(rig_count(rig, "log/gw/devices/+/commands-queue/+/sent") == devices);
    cr_assert(rig_count(rig, "log/gw/devices/+/commands-queue/+/processed") == devices);
    rig_expect_none_retained(rig, ALL_PENDING);
    rig_finish(rig);
}

// Mosquitto queues 1000 messages for a client unless told otherwise, and drops the others: it delivers only
// some of the entries.
Test(command_queue, outlives_the_limits_of_the_broker) {
    const size_t devices = 3000;
    struct rig *rig = up_with(RIG_BROKER_LIMITS, NULL);
    queue_for_many(rig, devices);
    rig_gateway_kill(rig);
    start_gateway(rig);
    int device = wake(rig, number(devices - 1));
    device_expect(device, "reboot,0#");
    answer(rig, device, number(devices - 1), "reboot=Success!\r\n");
    expect_none(rig, "log/gw/devices/+/commands-queue/+/canceled");
    expect_retained_count(rig, ALL_PENDING, devices - 1);
    rig_finish(rig);
}

// --- bad input ---

Test(command_queue, refuses_what_is_wrong_and_says_what) {
    static const struct {
        const char *payload, *reason; // parts of the reason are parted by |
    } bad[] = {
        {"{\"name\":\"fly\"}", "no command|fly"},
        {"{\"name\":\"mode\",\"properties\":{\"mode\":2,\"interval\":60}}",
         "properties.mode|2|0, 1, 4, 5, 6 or 7"},
        {"{\"name\":\"mode\",\"properties\":{\"mode\":1,\"interval\":2}}", "properties.interval|2|3"},
        {"{\"name\":\"mode\",\"properties\":{\"mode\":1}}", "properties|interval|required"},
        {"{\"name\":\"mode\",\"properties\":{\"mode\":4,\"interval\":5}}", "properties.interval"},
        {"{\"name\":\"data\",\"properties\":{\"host\":\"a.example\",\"port\":70000}}",
         "properties.port|70000|65535"},
        {"{\"name\":\"data\",\"properties\":{\"port\":7700}}", "properties|host|required"},
        {"{\"name\":\"light\",\"properties\":{\"enabled\":\"yes\"}}", "properties.enabled|yes|true or false"},
        {"{\"name\":\"reboot\",\"ttl\":0}", "command.ttl|0|1"},
        {"{\"name\":\"reboot\",\"ttl\":-5}", "command.ttl|-5|1"},
        {"{\"name\":\"reboot\",\"ttl\":315360000}", "command.ttl|315360000|31536000"},
        {"{\"name\":\"reboot\",\"max_attempts\":101}", "command.max_attempts|101|100"},
        {"{\"name\":\"reboot\",\"priority\":1e9}", "command.priority"},
        {"{\"name\":\"reboot\",\"meta\":[]}", "command.meta|object"},
        {"{\"name\":\"custom\",\"properties\":{\"payload\":\"reboot,0#\\r\\nmode,4#\"}}",
         "properties.payload"},
    };
    struct rig *rig = rig_up(NULL);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        rig_publish(rig, TO_VAN, bad[i].payload);
        const struct rig_message *result = rig_expect(
            rig, "log/gw/devices/" VAN "/commands-queue/+/processed", "{'executed':false,'response':null}");
        json_t *entry = json_of(result);
        char parts[160];
        strcpy(parts, bad[i].reason);
        for (char *rest = parts, *part; (part = strsep(&rest, "|")) != NULL;)
            cr_assert(strstr(json_string_value(json_object_get(entry, "reason")), part) != NULL,
                      "%s: no '%s' in %s", bad[i].payload, part, result->payload);
        json_decref(entry);
    }
    expect_steps(rig, VAN, "queued", 0);
    finish(rig);
}

Test(command_queue, refuses_what_is_too_large_or_too_deep) {
    struct rig *rig = rig_up(NULL);
    static char text[1100000], deep[20000];
    char name[64];
    sprintf(text, "{\"name\":\"reboot\",\"meta\":{\"a\":\"%*s\"}}", 1000000, "x");
    rig_publish(rig, TO_VAN, text);
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/+/processed",
               "{'executed':false,'reason':'the payload has more than 262144 bytes'}");
    sprintf(text, "{\"name\":\"reboot\",\"meta\":{\"a\":\"%*s\"}}", 17000, "x");
    rig_publish(rig, TO_VAN, text);
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/+/processed",
               "{'executed':false,'reason':'the command has more than 16384 bytes'}");
    char *end = deep + sprintf(deep, "{\"name\":\"reboot\",\"meta\":{\"a\":");
    end = (char *)memset(end, '[', 2000) + 2000;
    end = (char *)memset(end, ']', 2000) + 2000;
    strcpy(end, "}}");
    rig_publish(rig, TO_VAN, deep);
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/+/processed",
               "{'reason':'the command has more than 64 levels of objects and arrays in each other'}");
    sprintf(text, "{\"name\":\"%0*d\"}", 2000, 0);
    rig_publish(rig, TO_VAN, text);
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/invalid/processed", "{'executed':false}");
    snprintf(name, sizeof name, "command/gw/devices/%lld", 1LL << 53);
    rig_request(rig, name, "reboot,0#", "answers/1", NULL);
    rig_expect(rig, "/answers/1",
               "{'executed':false,'reason':'it is neither a device.id, which is a number, nor the ident of a "
               "device in the registry'}");
    finish(rig);
}

// A meta of almost the largest size comes back whole, even after a restart.
Test(command_queue, keeps_a_large_meta) {
    struct rig *rig = rig_up(NULL);
    static char text[20000];
    sprintf(text, "{\"name\":\"reboot\",\"meta\":{\"a\":\"%0*d\"}}", 16000, 0);
    queue(rig, VAN, "reboot", text);
    rig_gateway_kill(rig);
    start_gateway(rig);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!\r\n");
    const struct rig_message *result =
        rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/reboot/processed", "{'executed':true}");
    cr_assert(result->length > 16000);
    finish(rig);
}

Test(command_queue, ignores_response_topics_that_are_none) {
    struct rig *rig = rig_up(NULL);
    char call[256];
    // The rig's library does not publish this, and a broker may reject it: then nothing arrives at all.
    snprintf(call, sizeof call,
             "timeout 5 mosquitto_pub -V 5 -q 1 -h 127.0.0.1 -p %d -t trackbus/" TO_VAN
             " -m 'reboot,0#' -D publish response-topic 'answers/#' >/dev/null 2>&1",
             rig->broker_port);
    int status = system(call);
    queue(rig, CAR, "reboot", "{\"name\":\"reboot\",\"ttl\":1}"); // behind it
    expect_step(rig, CAR, "reboot", "expired", NULL);
    if (status == 0)
        rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/+/processed", "{'executed':false}");
    expect_steps(rig, VAN, "queued", 0);
    finish(rig);
}

#define FORGED(id, name, properties, rest)                                                                   \
    "{\"id\":" id ",\"name\":\"" name "\",\"properties\":" properties                                        \
    ",\"created\":1700000000,\"expires\":4000000000,\"max_attempts\":3,\"state\":\"queued\"," rest "}"
#define OF_VAN "\"device_id\":" VAN

Test(command_queue, ignores_entries_that_are_none) {
    static const struct {
        const char *topic, *payload;
    } forged[] = {
        {ENTRY_OF_VAN "/1", "no JSON"},
        {ENTRY_OF_VAN "/2", "{}"},
        {ENTRY_OF_VAN "/3", "[]"},
        {ENTRY_OF_VAN "/4", "\xFF\xFE"},
        {ENTRY_OF_VAN "/5", FORGED("5", "custom", "{\"payload\":\"mode,4#\\r\\nreboot,0#\"}", OF_VAN)},
        {ENTRY_OF_VAN "/6", FORGED("6", "fly", "{}", OF_VAN)},
        {ENTRY_OF_VAN "/7", FORGED("8", "reboot", "{}", OF_VAN)},
        {ENTRY_OF_VAN "/9", FORGED("9", "reboot", "{}", "\"device_id\":" CAR)},
        {ENTRY_OF_VAN "/10", FORGED("10", "reboot", "{}", "\"ident\":\"" VAN "\"")},
        {ENTRY_OF_VAN "/11", FORGED("11", "mode", "{\"mode\":2}", OF_VAN)},
        {ENTRY_OF_VAN "/12", FORGED("12", "reboot", "{}", OF_VAN ",\"extra\":1")},
        {ENTRY_OF_VAN "/13", FORGED("13", "reboot", "{}", OF_VAN ",\"response_topic\":\"a/#\"")},
        {ENTRY_OF_VAN "/14", FORGED("14", "reboot", "{}", OF_VAN ",\"attempts\":-1")},
        {ENTRY_OF_VAN "/x", FORGED("15", "reboot", "{}", OF_VAN)},
        {ENTRY_OF_VAN "/-16", FORGED("16", "reboot", "{}", OF_VAN)},
        {"state/gw/channels/1/" VAN "/commands-queue/17", FORGED("17", "reboot", "{}", OF_VAN)},
        {"state/gw/devices/v an/commands-queue/18", FORGED("18", "reboot", "{}", OF_VAN)},
    };
    const size_t count = sizeof forged / sizeof forged[0];
    rig_share_key(); // whoever has the key may still be wrong
    struct rig *rig = rig_with_broker(NULL);
    for (size_t i = 0; i < count; i++)
        rig_publish_retained(rig, forged[i].topic, signed_entry(forged[i].topic, forged[i].payload));
    start_gateway(rig);
    for (size_t i = 0; i < count; i++) {
        char text[160];
        snprintf(text, sizeof text, "trackbus/%s: ignored: ", forged[i].topic);
        rig_expect_log(rig, text);
    }
    cr_assert(!rig_log_has(rig, "not signed with the key"));
    int device = wake(rig, VAN);
    queue(rig, CAR, "reboot", REBOOT);
    int car = wake(rig, CAR);
    device_expect(car, "reboot,0#");
    answer(rig, car, CAR, "reboot=Success!\r\n");
    talk(rig, device, VAN);
    rig_finish(rig);
    device_expect_no_more(device);
}

// The largest id that there is: ours would not grow any more.
Test(command_queue, of_another_writer_does_not_move_the_ids_of_ours) {
    static const char topic[] = ENTRY_OF_VAN "/9007199254740991";
    rig_share_key();
    struct rig *rig = rig_with_broker(NULL);
    rig_publish_retained(rig, topic, signed_entry(topic, FORGED("9007199254740991", "rconf", "{}", OF_VAN)));
    start_gateway(rig);
    queue(rig, CAR, "reboot", REBOOT); // behind it
    rig_gateway_stop(rig);
    start_gateway(rig);
    int64_t id = queue(rig, CAR, "rconf", "{\"name\":\"rconf\"}");
    cr_assert(id < 9007199254740991, "the id %lld is behind that of the other", (long long)id);
    rig_gateway_stop(rig); // its own are known again
    start_gateway(rig);
    cr_assert(queue(rig, CAR, "rconf", "{\"name\":\"rconf\"}") > id);
    rig_finish(rig);
}

// A valid entry is a command, whoever has the key and wrote it.
Test(command_queue, takes_up_a_good_entry) {
    rig_share_key();
    struct rig *rig = rig_with_broker(NULL);
    rig_publish_retained(rig, ENTRY_OF_VAN "/77",
                         signed_entry(ENTRY_OF_VAN "/77", FORGED("77", "reboot", "{}", OF_VAN)));
    start_gateway(rig);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    answer(rig, device, VAN, "reboot=Success!\r\n");
    finish(rig);
}
