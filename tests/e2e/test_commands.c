// Commands end to end: published to a command topic, bytes at the device, its answer back at the broker.
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/command_life.h"
#include "tests/e2e/rig.h"

TestSuite(commands, .fini = rig_clean);

#define TO_VAN     "command/gw/devices/" VAN
#define TO_VAN_CH  "command/gw/channels/1/" VAN
#define LOG_OF_VAN "log/gw/devices/" VAN "/commands-queue"
#define REPORTS    "message/gw/devices/+"

// A device that the gateway knows by now.
static int identified(struct rig *rig, int device, const char *ident) {
    char subset[64];
    snprintf(subset, sizeof subset, "{'ident':'%s'}", ident);
    device_send(device, report(ident, 1));
    rig_expect(rig, REPORTS, subset);
    return device;
}

static int van(struct rig *rig) {
    return identified(rig, rig_tcp(rig), VAN);
}

// Waits until the command is processed with a result that contains this.
static void expect_life(struct rig *rig, const char *name, const char *result) {
    static const char *const events[] = {"queued", "sent", "processed"};
    for (size_t i = 0; i < 3; i++) {
        char topic[128];
        snprintf(topic, sizeof topic, LOG_OF_VAN "/%s/%s", name, events[i]);
        rig_expect(rig, topic, i == 2 ? result : NULL);
    }
}

Test(commands, text_over_the_devices_topic) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    rig_publish(rig, TO_VAN, "mode,6,60#");
    device_expect(device, "mode,6,60#");
    device_send(device, "mode=Success!");
    rig_expect(rig, LOG_OF_VAN "/custom/queued", "{'event_code':330,'properties':{'payload':'mode,6,60#'}}");
    rig_expect(rig, LOG_OF_VAN "/custom/sent",
               "{'event_code':334,'ident':'" VAN "','channel_id':1,'device_id':" VAN "}");
    rig_expect(rig, LOG_OF_VAN "/custom/processed",
               "{'event_code':332,'executed':true,'response':'mode=Success!'}");
    rig_finish(rig);
    device_expect_no_more(device);
}

#define RCONF_RESULT                                                                                         \
    "{'executed':true,'response':{'apn':'m2m','username':'','host':'113.98.254.179','port':7700,'mode':6,"   \
    "'interval':30,'version':'MT825_MICTRACK_B1.08V3.8_20200814','network':'NB-IoT'}}"

static const struct exchange {
    const char *topic, *command; // that is published
    const char *bytes, *answer;  // at the device
    const char *name, *result;   // of the command, in its log entries
} exchanges[] = {
    {TO_VAN_CH, "netlock,2,3,0#", "netlock,2,3,0#", "netlock=Success!\r\n", "custom",
     "{'executed':true,'response':'netlock=Success!'}"},
    {TO_VAN, "{\"name\":\"mode\",\"properties\":{\"mode\":6,\"interval\":60},\"meta\":{\"order\":17}}",
     "mode,6,60#", "Mode = Success!", "mode",
     "{'executed':true,'response':'Mode = Success!','meta':{'order':17}}"},
    {TO_VAN_CH, "{\"name\":\"netlock\",\"properties\":{\"network\":\"gsm\"}}", "netlock,1,1,2#",
     "netlock=Fail!", "netlock", "{'executed':false,'response':'netlock=Fail!'}"},
    // Answers with the IMEI in front.
    {TO_VAN, "netlock,2,3,0#", "netlock,2,3,0#", VAN " netlock=Success!", "custom",
     "{'executed':true,'response':'netlock=Success!'}"},
    {TO_VAN, "{\"name\":\"rconf\"}", "rconf,1#",
     VAN "\r\nrconf=m2m,,113.98.254.179,7700,6,30,MT825_MICTRACK_B1.08V3.8_20200814,NB-IoT", "rconf",
     RCONF_RESULT},
};
#define EXCHANGES (sizeof exchanges / sizeof exchanges[0])

ParameterizedTestParameters(commands, are_answered) {
    return cr_make_param_array(size_t, rig_rows(EXCHANGES), EXCHANGES);
}

ParameterizedTest(size_t *row, commands, are_answered) {
    const struct exchange *it = &exchanges[*row];
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    rig_publish(rig, it->topic, it->command);
    device_expect(device, it->bytes);
    device_send(device, it->answer);
    expect_life(rig, it->name, it->result);
    rig_finish(rig);
}

Test(commands, of_an_array_go_out_one_after_the_other) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    rig_publish(rig, TO_VAN,
                "[{\"name\":\"reboot\"},{\"name\":\"light\",\"properties\":{\"enabled\":true}}]");
    device_expect(device, "reboot,0#");
    rig_expect(rig, LOG_OF_VAN "/light/queued", NULL);
    expect_passed(rig);
    cr_assert(!device_has_bytes(device)); // answers carry no id: the second waits
    device_send(device, "reboot=Success!");
    device_expect(device, "light,1#");
    device_send(device, "---light =success!");
    expect_life(rig, "reboot", "{'executed':true}");
    rig_expect(rig, LOG_OF_VAN "/light/processed", "{'executed':true}");
    rig_finish(rig);
}

Test(commands, of_higher_priority_wait_for_the_one_under_way) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    rig_publish(rig, TO_VAN, "{\"name\":\"reboot\"}");
    device_expect(device, "reboot,0#");
    rig_publish(rig, TO_VAN, "{\"name\":\"light\",\"properties\":{\"enabled\":true}}");
    rig_publish(rig, TO_VAN, "{\"name\":\"rconf\",\"priority\":5}");
    rig_expect(rig, LOG_OF_VAN "/rconf/queued", NULL);
    expect_none(rig, LOG_OF_VAN "/rconf/sent");
    expect_passed(rig);
    cr_assert(!device_has_bytes(device));
    device_send(device, "reboot=Success!");
    device_expect(device, "rconf,1#");
    device_send(device, "rconf=a,b,c,1,6,30,V1,GSM\r\n");
    device_expect(device, "light,1#");
    device_send(device, "light=Success!");
    rig_expect(rig, LOG_OF_VAN "/light/processed", "{'executed':true}");
    rig_finish(rig);
}

Test(commands, over_udp) {
    struct rig *rig = rig_up(NULL);
    int device = identified(rig, rig_udp(rig), VAN);
    rig_publish(rig, TO_VAN, "mode,6,60#");
    device_expect_datagram(device, "mode,6,60#");
    device_send(device, "mode=Success!");
    expect_life(rig, "custom", "{'executed':true,'response':'mode=Success!'}");
    rig_finish(rig);
}

Test(commands, over_ipv6_udp) {
    if (!rig_has_ipv6())
        cr_skip_test("no IPv6 here");
    struct rig *rig =
        rig_up("{'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','udp':'[::]:0'}]}");
    int device = identified(rig, rig_udp_at("::1", rig_udp_port(rig, "mictrack")), VAN);
    rig_publish(rig, TO_VAN, "mode,6,60#");
    device_expect_datagram(device, "mode,6,60#");
    device_send(device, "mode=Success!");
    expect_life(rig, "custom", "{'executed':true}");
    rig_finish(rig);
}

Test(commands, go_to_their_own_device) {
    struct rig *rig = rig_up(NULL);
    int one = van(rig), other = identified(rig, rig_tcp(rig), CAR);
    rig_publish(rig, "command/gw/devices/" CAR, "mode,6,60#");
    rig_publish(rig, TO_VAN, "mode,7,10#");
    device_expect(one, "mode,7,10#");
    device_expect(other, "mode,6,60#");
    device_send(other, "mode=Fail!");
    rig_expect(rig, "log/gw/devices/" CAR "/commands-queue/custom/processed", "{'executed':false}");
    device_send(one, "mode=Success!");
    expect_life(rig, "custom", "{'executed':true}");
    rig_finish(rig);
}

Test(commands, by_the_id_of_the_registry) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42}]}");
    int device = identified(rig, rig_tcp(rig), VAN);
    rig_publish(rig, "command/gw/devices/42", "reboot,0#");
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!");
    rig_expect(rig, "log/gw/devices/42/commands-queue/custom/processed",
               "{'executed':true,'device_id':42,'ident':'" VAN "'}");
    rig_finish(rig);
}

// README's example: the device has the id 42, and people know its IMEI.
Test(commands, by_the_ident_of_a_device_of_the_registry) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42},{'ident':'van-1','id':43}]}");
    int device = identified(rig, rig_tcp(rig), VAN);
    rig_publish(rig, TO_VAN, "mode,6,60#");
    device_expect(device, "mode,6,60#");
    device_send(device, "mode=Success!");
    rig_expect(rig, "log/gw/devices/42/commands-queue/custom/processed",
               "{'executed':true,'device_id':42,'ident':'" VAN "'}");
    rig_publish(rig, "command/gw/devices/van-1", "mode,6,60#");
    const struct rig_message *queued =
        rig_expect(rig, "log/gw/devices/43/commands-queue/custom/queued", "{'device_id':43}");
    cr_assert(strstr(queued->payload, "known") == NULL, "%s", queued->payload);
    rig_finish(rig);
}

Test(commands, for_a_device_that_nobody_knows_wait_and_say_so) {
    struct rig *rig = rig_up(NULL);
    rig_publish(rig, TO_VAN, "mode,6,60#");
    rig_expect(rig, LOG_OF_VAN "/custom/queued", "{'known':false}");
    rig_expect_log(rig,
                   "devices/" VAN ": command custom queued for a device that is neither in the registry");
    int device = van(rig);
    device_expect(device, "mode,6,60#");
    device_send(device, "mode=Success!");
    close(device);
    rig_expect(rig, "log/gw/devices/" VAN "/disconnected", NULL);
    rig_gateway_stop(rig);
    rig_gateway_start(rig, NULL);
    rig_expect_state(rig);
    rig_publish(rig, TO_VAN, "mode,7,60#"); // it was heard before the restart
    const struct rig_message *queued =
        rig_expect(rig, LOG_OF_VAN "/custom/queued", "{'properties':{'payload':'mode,7,60#'}}");
    cr_assert(strstr(queued->payload, "known") == NULL, "%s", queued->payload);
    rig_finish(rig);
}

Test(commands, answers_between_reports) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    char text[512];
    rig_publish(rig, TO_VAN, "mode,6,60#");
    device_expect(device, "mode,6,60#");
    snprintf(text, sizeof text, "%smode=Success!%s", report(VAN, 2), report(VAN, 3));
    device_send(device, text);
    expect_life(rig, "custom", "{'executed':true,'response':'mode=Success!'}");
    rig_expect(rig, REPORTS, "{'message.seqnum':2}");
    rig_expect(rig, REPORTS, "{'message.seqnum':3}");
    rig_finish(rig);
}

Test(commands, where_is_answered_by_the_next_position) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    rig_publish(rig, TO_VAN, "where?");
    device_expect(device, "where?");
    device_send(device, "MT;4;" VAN ";RH;5+190116112648+0+0+0+0+11+3954+1\r\n");
    rig_expect(rig, REPORTS, "{'message.type':'RH'}");
    expect_none(rig, LOG_OF_VAN "/+/processed"); // a heart beat is no position
    device_send(device, report(VAN, 77));
    expect_life(rig, "custom",
                "{'executed':true,'response':{'message.type':'R0','message.seqnum':77,'position.latitude':22."
                "63827}}");
    rig_expect(rig, REPORTS, "{'message.seqnum':77}");
    rig_finish(rig);
}

// What a tracker says whenever it comes back is no answer: it may be the position of hours ago.
Test(commands, a_position_of_a_device_that_comes_back_answers_nothing) {
    struct rig *rig = rig_up(NULL);
    int device = identified(rig, rig_tcp(rig), VAN);
    rig_publish(rig, TO_VAN, "where?");
    device_expect(device, "where?");
    close(device);
    rig_expect(rig, "log/gw/devices/" VAN "/disconnected", NULL);
    device = rig_tcp(rig);
    device_send(device, report(VAN, 2));
    device_expect(device, "where?"); // again, and it is not done
    cr_assert_eq(rig_count(rig, "log/gw/devices/" VAN "/commands-queue/custom/processed"), 0);
    device_send(device, report(VAN, 3));
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/custom/processed", "{'executed':true}");
    rig_finish(rig);
}

#define OTASTART                                                                                             \
    "{\"name\":\"otastart\",\"properties\":{\"host\":\"173.230.147.117\",\"port\":21,\"username\":\"ota\","  \
    "\"password\":\"ota\",\"firmware\":\"MT825.bin\"}}"

static int begin_update(struct rig *rig) {
    int device = van(rig);
    rig_publish(rig, TO_VAN, OTASTART);
    device_expect(device, "otastart,173.230.147.117:21,ota,ota,MT825.bin,1#");
    device_send(device, "otastart =Success!\r\n");
    rig_expect_log(rig, "command otastart started");
    expect_none(rig, LOG_OF_VAN "/+/processed");
    return device;
}

Test(commands, otastart_ends_with_its_second_answer) {
    struct rig *rig = rig_up(NULL);
    device_send(begin_update(rig), "OTADONE\r\n");
    expect_life(rig, "otastart", "{'executed':true,'response':'OTADONE'}");
    rig_finish(rig);
}

Test(commands, otastart_that_fails) {
    struct rig *rig = rig_up(NULL);
    device_send(begin_update(rig), "ota=Fail! OTAFAILED\r\n");
    expect_life(rig, "otastart", "{'executed':false,'response':'ota=Fail! OTAFAILED'}");
    rig_finish(rig);
}

Test(commands, answers_that_nobody_asked_for_are_logged) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    device_send(device, "apn=Success!\r\n");
    rig_expect_log(rig, "device " VAN ": unexpected answer to 'apn'");
    rig_publish(rig, TO_VAN, "mode,6,60#");
    device_expect(device, "mode,6,60#");
    device_send(device, "apn=Success!\r\nmode=Success!\r\n"); // the wrong one ends nothing
    expect_life(rig, "custom", "{'executed':true,'response':'mode=Success!'}");
    rig_finish(rig);
}

// --- what comes back to the publisher ---

Test(commands, result_goes_to_the_response_topic) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    rig_request(rig, TO_VAN, "{\"name\":\"reboot\"}", "answers/17", "number 17");
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!");
    const struct rig_message *answer =
        rig_expect(rig, "/answers/17", "{'executed':true,'response':'reboot=Success!','name':'reboot'}");
    cr_assert_str_eq(answer->correlation, "number 17");
    rig_finish(rig);
}

Test(commands, refusal_goes_to_the_response_topic) {
    struct rig *rig = rig_up(NULL);
    van(rig);
    rig_request(rig, TO_VAN, "{\"name\":\"fly\"}", "answers/18", NULL);
    const struct rig_message *answer = rig_expect(rig, "/answers/18", "{'executed':false,'response':null}");
    cr_assert(answer->correlation == NULL);
    cr_assert(strstr(answer->payload, "\"reason\":\"mictrack has no command \\\"fly\\\"") != NULL, "%s",
              answer->payload);
    rig_finish(rig);
}

Test(commands, mosquitto_rr_gets_the_result) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    FILE *process = rig_mosquitto_rr(rig, TO_VAN, "mode,6,60#");
    device_expect(device, "mode,6,60#");
    device_send(device, "mode=Success!");
    const char *answer = rig_mosquitto_rr_answer(process);
    cr_assert(strstr(answer, "\"executed\":true") != NULL, "%s", answer);
    rig_finish(rig);
}

// Mosquitto closes the connection at a topic of more than 200 levels, and would do so after each reconnection. From 2.0.21 on it
// does not even take such a response topic from whoever sends the command, so this one has fewer.
Test(commands, with_a_response_topic_that_no_broker_takes_are_refused) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    char topic[512] = "answers/";
    for (int i = 0; i < 150; i++)
        strcat(topic, "a/");
    rig_request(rig, TO_VAN, "{\"name\":\"reboot\"}", topic, NULL);
    rig_expect(rig, LOG_OF_VAN "/invalid/processed",
               "{'executed':false,'response':null,"
               "'reason':'the response topic has 152 levels, expected at most 100'}");
    rig_expect_log(rig, "command rejected: the response topic has 152 levels");
    device_send(device, report(VAN, 2));
    rig_expect(rig, REPORTS, "{'message.seqnum':2}");
    cr_assert(rig_log_count(rig, ": connected") == 1, "the broker has closed the connection");
    rig_finish(rig);
    device_expect_no_more(device);
}

Test(commands, do_not_speak_in_the_gateways_name) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    rig_request(rig, TO_VAN, "{\"name\":\"reboot\"}", "trackbus/message/gw/devices/7", NULL);
    rig_expect(rig, LOG_OF_VAN "/invalid/processed",
               "{'executed':false,'reason':'the response topic belongs to the gateway'}");
    expect_none(rig, "message/gw/devices/7");
    rig_finish(rig);
    device_expect_no_more(device);
}

// --- silence and absence ---

Test(commands, without_an_answer_are_sent_again) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    rig_publish(rig, TO_VAN, "{\"name\":\"reboot\",\"timeout\":1,\"max_attempts\":2}");
    device_expect(device, "reboot,0#");
    device_expect(device, "reboot,0#");
    rig_expect(rig, LOG_OF_VAN "/reboot/sent", NULL);
    expect_life(rig, "reboot", "{'executed':false,'response':null,'reason':'no answer to 2 attempts'}");
    rig_finish(rig);
    device_expect_no_more(device);
}

Test(commands, answered_at_the_second_attempt) {
    struct rig *rig = rig_up("{'commands':{'timeout':1,'max_attempts':3}}");
    int device = van(rig);
    rig_publish(rig, TO_VAN, "mode,4,0#");
    device_expect(device, "mode,4,0#");
    device_expect(device, "mode,4,0#");
    device_send(device, "mode=Success!");
    expect_life(rig, "custom", "{'executed':true}");
    rig_finish(rig);
}

Test(commands, behind_one_without_an_answer_go_out) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    rig_publish(rig, TO_VAN, "[{\"name\":\"reboot\",\"timeout\":1,\"max_attempts\":1},{\"name\":\"rconf\"}]");
    device_expect(device, "reboot,0#rconf,1#");
    rig_expect(rig, LOG_OF_VAN "/reboot/processed", "{'executed':false}");
    rig_finish(rig);
}

Test(commands, of_a_device_that_goes_away_wait_for_it) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    rig_publish(rig, TO_VAN, "{\"name\":\"reboot\",\"timeout\":1,\"max_attempts\":5}");
    device_expect(device, "reboot,0#");
    close(device);
    device = rig_tcp(rig);
    device_send(device, report(VAN, 2));
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!");
    expect_life(rig, "reboot", "{'executed':true,'attempts':2}");
    rig_finish(rig);
}

Test(commands, answered_on_another_connection_of_the_device) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    rig_publish(rig, TO_VAN, "reboot,0#");
    device_expect(device, "reboot,0#");
    close(device);
    device = rig_tcp(rig);
    device_send(device, report(VAN, 2));
    device_send(device, "reboot=Success!\r\n");
    expect_life(rig, "custom", "{'executed':true}");
    rig_finish(rig);
}

Test(commands, to_another_channel_than_that_of_the_device) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    rig_publish(rig, "command/gw/channels/2/" VAN, "mode,6,60#");
    rig_expect(rig, LOG_OF_VAN "/+/processed",
               "{'executed':false,'reason':'there is no channel of that id','ident':'" VAN "'}");
    rig_publish(rig, TO_VAN, "reboot,0#");
    device_expect(device, "reboot,0#");
    rig_finish(rig);
}

Test(commands, published_while_the_gateway_restarts) {
    struct rig *rig = rig_up(NULL);
    rig_gateway_stop(rig);
    rig_publish(rig, TO_VAN, "mode,6,60#");
    rig_gateway_start(rig, NULL);
    rig_expect(rig, LOG_OF_VAN "/custom/+", NULL);
    rig_finish(rig);
}

Test(commands, are_not_taken_in_by_an_instance_that_is_told_not_to) {
    struct rig *rig = rig_up("{'commands':{'intake':false}}");
    int device = van(rig);
    rig_publish(rig, TO_VAN, "mode,6,60#");
    device_send(device, report(VAN, 2));
    rig_expect(rig, REPORTS, "{'message.seqnum':2}");
    rig_finish(rig);
    device_expect_no_more(device);
}

Test(commands, under_way_end_when_the_gateway_stops) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    rig_publish(rig, TO_VAN, "[{\"name\":\"reboot\"},{\"name\":\"rconf\"}]");
    device_expect(device, "reboot,0#");
    rig_finish(rig);
}

// --- what is no command: rejected with a reason, and never sent to the device ---

static const struct refused {
    const char *payload;
    size_t length;      // 0: that of the text
    const char *reason; // a part of it
} refused[] = {
    {"mode,6,60#\n", 0, "properties.payload"},
    {"mode,6,60#\r\nreboot,0#", 0, "properties.payload"},
    {"mode,6,60#\0", 11, "not text in UTF-8"},
    {"m\xC3\xB6"
     "de,6,60#",
     0, "properties.payload"},
    {"\xFF\xFE", 0, "not text in UTF-8"},
    {"{\"name\":\"mode\"", 0, "not valid JSON: line 1"},
    {"{\"name\":\"mode\",\"name\":\"rconf\"}", 0, "not valid JSON"},
    {"{}", 0, "name"},
    {"[]", 0, "an array may hold 1 to 1000 commands"},
    {"[5]", 0, "command"},
    {"[\"rconf\"]", 0, "command"},
    {"[[{\"name\":\"rconf\"}]]", 0, "command"},
    {"{\"name\":5}", 0, "command.name"},
    {"{\"name\":\"fly\"}", 0, "no command"},
    {"{\"name\":\"../../x/#\"}", 0, "no command"},
    {"{\"name\":\"mode\",\"properties\":{\"mode\":9}}", 0, "properties.mode"},
    {"{\"name\":\"mode\",\"properties\":{\"mode\":6,\"interval\":5}}", 0, "properties.interval"},
    {"{\"name\":\"mode\",\"properties\":{\"mode\":6}}", 0, "interval"},
    {"{\"name\":\"mode\",\"properties\":{\"mode\":6,\"interval\":60,\"x\":1}}", 0, "properties.x"},
    {"{\"name\":\"mode\",\"properties\":[6,60]}", 0, "properties"},
    {"{\"name\":\"rconf\",\"timeout\":0}", 0, "command.timeout"},
    {"{\"name\":\"rconf\",\"ttl\":\"long\"}", 0, "command.ttl"},
    {"{\"name\":\"rconf\",\"colour\":1}", 0, "command.colour"},
    {"{\"name\":\"custom\",\"properties\":{\"payload\":\"\"}}", 0, "properties.payload"},
    {"{\"name\":\"custom\",\"properties\":{\"payload\":\"a\\u0000b\"}}", 0, "not valid JSON"},
    {"{\"name\":\"data\",\"properties\":{\"host\":\"a,b\",\"port\":7700}}", 0, "properties.host"},
    {"\"a\\nb\"", 0, "properties.payload"},
    {"\"a\\u0000b\"", 0, "not a valid JSON string"},
    {"\"\"", 0, "properties.payload"},
    {"", 0, "empty"},
};

Test(commands, that_are_none_are_refused) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const struct refused *it = &refused[i];
        rig_publish_bytes(rig, TO_VAN, it->payload, it->length > 0 ? it->length : strlen(it->payload));
        const struct rig_message *result =
            rig_expect(rig, LOG_OF_VAN "/+/processed", "{'executed':false,'response':null}");
        const char *reason = strstr(result->payload, "\"reason\":");
        cr_assert(reason != NULL && strstr(reason, it->reason) != NULL, "%s: expected '%s', came %s",
                  it->payload, it->reason, result->payload);
    }
    expect_none(rig, LOG_OF_VAN "/+/sent");
    cr_assert(rig_log_count(rig, "command rejected: ") >= 20); // in a second, about one topic
    rig_publish(rig, TO_VAN, "reboot,0#");                     // only what comes now reaches the device
    device_expect(device, "reboot,0#");
    rig_finish(rig);
}

Test(commands, of_300_bytes_are_refused_and_of_255_are_not) {
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    char text[301];
    memset(text, 'x', 300);
    text[300] = '\0';
    rig_publish(rig, TO_VAN, text);
    rig_expect(rig, LOG_OF_VAN "/custom/processed", "{'executed':false}");
    text[255] = '\0';
    rig_publish(rig, TO_VAN, text);
    device_expect(device, text);
    rig_finish(rig);
}

// A number is plain text, and a JSON string means the text inside.
Test(commands, that_are_a_number_or_a_string_are_text) {
    struct rig *rig = rig_up("{'commands':{'timeout':1,'max_attempts':1}}");
    int device = van(rig);
    rig_publish(rig, TO_VAN, "5");
    device_expect(device, "5");
    rig_publish(rig, TO_VAN, " \"mode,6\\u002c60#\"\n");
    device_expect(device, "mode,6,60#");
    rig_publish(rig, TO_VAN, "\"open");
    device_expect(device, "\"open");
    rig_finish(rig);
}

Test(commands, to_topics_that_are_none) {
    static const char *const topics[] = {
        "command/gw/devices/van",
        "command/gw/devices/",
        "command/gw/devices/-5",
        "command/gw/devices/12x",
        "command/gw/devices/" VAN "/x",
        "command/gw/channels/1/",
        "command/gw/channels/1/van/1",
        "command/gw/channels/1/v an",
        "command/gw/channels/1/v\xC3\xA4n",
        "command/gw/channels/1/$van",
        "command/gw/channels/x/" VAN,
        "command/gw/channels/" VAN,
        "command/gw/channels/1/123456789012345678901234567890123",
        "command/gw/vans/1",
        "command/gw/99999999999999999999999999",
    };
    struct rig *rig = rig_up(NULL);
    int device = van(rig);
    for (size_t i = 0; i < sizeof topics / sizeof topics[0]; i++) {
        rig_request(rig, topics[i], "mode,6,60#", "answers/none", NULL);
        const struct rig_message *answer = rig_expect(rig, "/answers/none", "{'executed':false}");
        cr_assert(strstr(answer->payload, "\"reason\":\"") != NULL, "%s: %s", topics[i], answer->payload);
    }
    rig_publish(rig, "command/gw/devices/99999999999999999999999", "mode,6,60#"); // a number, but too large
    rig_publish(rig, "command/gw", "mode,6,60#");
    rig_expect_log(rig, "trackbus/command/gw/devices/van: command rejected: it is neither a device.id");
    rig_publish(rig, TO_VAN, "reboot,0#");
    device_expect(device, "reboot,0#");
    rig_finish(rig);
}
