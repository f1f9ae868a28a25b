// The registry of devices: the configuration's and a file's that is read again on SIGHUP.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/state.h"

TestSuite(registry, .fini = rig_clean);

#define DEVICES   "devices.json"
#define THIRD     "866425031379169"
#define STATE_42  "state/gw/devices/42"
#define STATE_43  "state/gw/devices/43"
#define VAN_IS_42 "[{'ident':'" VAN "','id':42,'name':'Van 1','type_id':825}]"
#define VAN_IS_43 "[{'ident':'" VAN "','id':43,'name':'Van 2','type_id':821}]"

#define REPORT_AT(minute) "R0;10+1901091200" minute "+22.63827+114.02922+2.14+69+2+3744+113"

static void reload(struct rig *rig, const char *devices) {
    rig_write_json(rig, DEVICES, devices);
    rig_gateway_signal(rig, SIGHUP);
}

// Starts the gateway with the file as it stands; changes are members of the configuration, or "".
static void spawn(struct rig *rig, const char *changes) {
    char all[512];
    snprintf(all, sizeof all, "{'devices_file':'%s/" DEVICES "'%s%s}", rig->directory,
             *changes != '\0' ? "," : "", changes);
    rig_gateway_spawn(rig, all);
}

// The broker runs: once the gateway is connected, it listens too.
static void start(struct rig *rig, const char *changes) {
    spawn(rig, changes);
    rig_expect_log(rig, ": connected");
}

static struct rig *up_with(const char *devices, const char *changes) {
    struct rig *rig = rig_with_broker(NULL);
    rig_write_json(rig, DEVICES, devices);
    start(rig, changes);
    return rig;
}

// VAN on a connection, with a first report that has come through.
static int reporting_van(struct rig *rig) {
    int device = rig_tcp(rig);
    say(rig, device, VAN, REPORT_AT("00"));
    return device;
}

static void expect_gone(struct rig *rig, const char *state) {
    char filter[96];
    rig_expect_standing(rig, state, NULL);
    snprintf(filter, sizeof filter, "%s/#", state);
    rig_expect_none_retained(rig, filter);
}

static void expect_device(struct rig *rig, const char *topic, const char *subset, const char *connected) {
    char below[96];
    json_decref(rig_expect_standing_json(rig, topic, subset));
    snprintf(below, sizeof below, "%s/connected", topic);
    rig_expect_standing(rig, below, connected);
}

// --- ids that pass on ---

struct emptying {
    struct rig *rig;
    const char *topic;
};

static bool is_emptied(void *context) {
    const struct emptying *emptying = context;
    for (size_t i = 0; i < rig_count(emptying->rig, emptying->topic); i++)
        if (rig_message_at(emptying->rig, emptying->topic, i)->length == 0)
            return true;
    return false;
}

static void expect_emptied(struct rig *rig, const char *topic) {
    struct emptying emptying = {rig, topic};
    cr_assert(rig_wait(is_emptied, &emptying, RIG_DEADLINE), "%s is not emptied", topic);
}

// Its own timestamp is not emptied with what the device before has left.
Test(registry, id_that_passes_on_while_it_is_cleared) {
    struct rig *rig = up_with("[{'ident':'" VAN "','id':42},{'ident':'" CAR "','id':43}]", "");
    say(rig, rig_tcp(rig), VAN, "R2;190109120000+0,21681,20616,460+4+3976+3");
    rig_expect_standing(rig, STATE_42 "/telemetry/timestamp", "1547035200");
    int car = rig_tcp(rig);
    say(rig, car, CAR, REPORT_AT("00"));
    rig_expect_standing(rig, STATE_43 "/telemetry/position.speed", "2.14");
    reload(rig, "[{'ident':'" CAR "','id':44}]");
    reload(rig, "[{'ident':'" CAR "','id':44},{'ident':'" LORRY "','id':42}]");
    expect_emptied(rig, STATE_42 "/telemetry/gsm.cellid");
    say(rig, rig_tcp(rig), LORRY, "R0;10+190109120200+22.63827+114.02922+2.14+69+2+3744+1");
    expect_emptied(rig, STATE_42 "/telemetry/timestamp");
    rig_expect_standing(rig, STATE_42 "/telemetry/timestamp", "1547035320");
    rig_expect_none_retained(rig, STATE_42 "/telemetry/gsm.cellid");
    rig_finish(rig);
}

// --- a good file ---

Test(registry, of_a_file_and_of_the_configuration) {
    struct rig *rig = up_with(VAN_IS_42, "'devices':[{'ident':'" CAR "','id':5,'name':'Car'}]");
    expect_device(rig, STATE_42, "{'id':42,'name':'Van 1','ident':'" VAN "','device_type_id':825}", "false");
    expect_device(rig, "state/gw/devices/5", "{'id':5,'name':'Car','ident':'" CAR "','device_type_id':0}",
                  "false");
    reporting_van(rig);
    rig_expect(rig, "message/gw/devices/42", "{'device.id':42,'device.name':'Van 1','device.type.id':825}");
    reload(rig, VAN_IS_43);
    expect_device(rig, STATE_43, "{'id':43}", "true");
    expect_device(rig, "state/gw/devices/5", "{'name':'Car'}", "false"); // is not the file's
    rig_finish(rig);
}

Test(registry, changes_a_connected_device_at_once) {
    struct rig *rig = up_with(VAN_IS_42, "");
    int device = reporting_van(rig);
    expect_device(rig, STATE_42, "{'id':42,'name':'Van 1'}", "true");
    rig_expect_standing(rig, STATE_42 "/telemetry/battery.voltage", "3.744");
    reload(rig, VAN_IS_43);
    expect_device(rig, STATE_43,
                  "{'id':43,'name':'Van 2','ident':'" VAN "','device_type_id':821,'protocol_id':1}", "true");
    expect_gone(rig, STATE_42);
    say(rig, device, VAN, REPORT_AT("01"));
    rig_expect(rig, "message/gw/devices/43", "{'device.id':43,'device.name':'Van 2','device.type.id':821}");
    rig_expect(rig, "message/gw/channels/1/" VAN, "{'device.id':43}");
    cr_assert(rig_count(rig, "message/gw/devices/42") == 1);
    // Values that have not changed are published under the new id all the same.
    rig_expect_standing(rig, STATE_43 "/telemetry/battery.voltage", "3.744");
    rig_expect_standing(rig, STATE_43 "/telemetry/position.latitude", "22.63827");
    json_decref(rig_expect_standing_json(rig, STATE_43 "/telemetry/position", "{'latitude':22.63827}"));
    expect_gone(rig, STATE_42);
    cr_assert(!device_has_bytes(device), "the connection stays");
    close(device);
    rig_expect_standing(rig, STATE_43 "/connected", "false");
    rig_expect(rig, "log/gw/devices/43/disconnected", "{'device_id':43,'ident':'" VAN "'}");
    expect_gone(rig, STATE_42);
    rig_finish(rig);
}

Test(registry, changes_where_commands_go) {
    struct rig *rig = up_with(VAN_IS_42, "");
    int device = reporting_van(rig);
    reload(rig, VAN_IS_43);
    expect_device(rig, STATE_43, "{'id':43}", "true");
    rig_publish(rig, "command/gw/devices/43", "mode,6,60#");
    device_expect(device, "mode,6,60#");
    device_send(device, "mode=Success!\r\n");
    rig_expect(rig, "log/gw/devices/43/commands-queue/custom/processed", "{'executed':true}");
    rig_finish(rig);
}

// Anyone may claim an ident that reads like a listed device's id. It gets no identity, and takes nothing
// away.
Test(registry, keeps_the_id_of_a_listed_device_from_others) {
    struct rig *rig = up_with(VAN_IS_42, "");
    int device = rig_tcp(rig), other = rig_tcp(rig);
    say(rig, device, VAN, REPORT_AT("00"));
    device_send(other, report("000000000000042", 1));
    rig_expect(rig, "message/gw/channels/1/000000000000042", "{'ident':'000000000000042'}");
    rig_publish(rig, "command/gw/devices/42", "netlock,2,3,0#");
    device_expect(device, "netlock,2,3,0#");
    device_send(device, "netlock=Success!\r\n");
    rig_expect(rig, "log/gw/devices/42/commands-queue/custom/processed", "{'executed':true}");
    reload(rig, VAN_IS_43);
    expect_device(rig, STATE_43, "{'id':43}", "true");
    expect_device(rig, STATE_42, "{'id':42,'ident':'000000000000042'}", "true");
    rig_publish(rig, "command/gw/devices/42", "mode,6,60#");
    device_expect(other, "mode,6,60#");
    rig_finish(rig);
}

Test(registry, changes_a_device_over_udp_at_once) {
    struct rig *rig = up_with(VAN_IS_42, "");
    int device = rig_udp(rig);
    say(rig, device, VAN, REPORT_AT("00"));
    expect_device(rig, STATE_42, "{'id':42}", "true");
    reload(rig, VAN_IS_43);
    expect_device(rig, STATE_43, "{'id':43}", "true");
    expect_gone(rig, STATE_42);
    say(rig, device, VAN, REPORT_AT("01"));
    rig_expect(rig, "message/gw/devices/43", "{'device.name':'Van 2'}");
    rig_finish(rig);
}

Test(registry, changes_a_name_and_nothing_else) {
    struct rig *rig = up_with(VAN_IS_42, "");
    int device = reporting_van(rig);
    expect_device(rig, STATE_42, "{'name':'Van 1'}", "true");
    rig_expect_standing(rig, STATE_42 "/telemetry/battery.voltage", "3.744");
    reload(rig, "[{'ident':'" VAN "','id':42,'name':'Köln \\\"1\\\"','type_id':1}]");
    expect_device(rig, STATE_42, "{'id':42,'name':'Köln \\\"1\\\"','device_type_id':1}", "true");
    say(rig, device, VAN, REPORT_AT("01"));
    rig_expect(rig, "message/gw/devices/42", "{'device.name':'Köln \\\"1\\\"','device.type.id':1}");
    rig_expect_standing(rig, STATE_42 "/telemetry/battery.voltage", "3.744");
    rig_expect_standing(rig, STATE_42 "/connected", "true");
    expect_none(rig, "log/gw/devices/42/disconnected");
    rig_finish(rig);
}

Test(registry, changes_a_device_that_is_away) {
    struct rig *rig = up_with(VAN_IS_42, "");
    int device = reporting_van(rig);
    close(device);
    expect_device(rig, STATE_42, "{'id':42}", "false");
    rig_expect_standing(rig, STATE_42 "/telemetry/battery.voltage", "3.744");
    reload(rig, VAN_IS_43);
    expect_device(rig, STATE_43, "{'id':43,'name':'Van 2','ident':'" VAN "'}", "false");
    expect_gone(rig, STATE_42);
    rig_finish(rig);
}

// Each has the id of the other now.
Test(registry, changes_two_ids_for_each_other) {
    struct rig *rig = up_with("[{'ident':'" VAN "','id':42},{'ident':'" CAR "','id':43}]", "");
    int van = rig_tcp(rig), car = rig_tcp(rig);
    say(rig, van, VAN, "R0;10+190109120000+1+2+2.14+69+2+3100+113");
    say(rig, car, CAR, "R1;190109120000+6a:db:54:5a:79:6d,-91+3+3200+0");
    rig_expect_standing(rig, STATE_42 "/telemetry/battery.voltage", "3.1");
    rig_expect_standing(rig, STATE_43 "/telemetry/battery.voltage", "3.2");
    close(car);
    rig_expect_standing(rig, STATE_43 "/connected", "false");
    reload(rig, "[{'ident':'" VAN "','id':43},{'ident':'" CAR "','id':42}]");
    expect_device(rig, STATE_43, "{'id':43,'ident':'" VAN "'}", "true");
    expect_device(rig, STATE_42, "{'id':42,'ident':'" CAR "'}", "false");
    say(rig, van, VAN, "R0;10+190109120100+1+2+2.14+69+2+3100+114");
    rig_expect(rig, "message/gw/devices/43", "{'ident':'" VAN "','message.seqnum':114}");
    rig_expect_standing(rig, STATE_43 "/telemetry/battery.voltage", "3.1");
    rig_expect_standing(rig, STATE_43 "/telemetry/position.latitude", "1");
    rig_expect_standing(rig, STATE_42 "/telemetry/position.latitude", NULL);
    car = rig_tcp(rig);
    say(rig, car, CAR, "R1;190109120100+6a:db:54:5a:79:6d,-91+3+3200+1");
    rig_expect_standing(rig, STATE_42 "/telemetry/battery.voltage", "3.2");
    rig_expect_standing(rig, STATE_42 "/connected", "true");
    rig_expect_standing(rig, STATE_43 "/connected", "true");
    rig_finish(rig);
}

Test(registry, takes_in_a_device_that_is_connected) {
    struct rig *rig = up_with("[]", "");
    int device = wake(rig, VAN);
    expect_device(rig, VAN_STATE, "{'id':" VAN "}", "true");
    reload(rig, VAN_IS_42);
    expect_device(rig, STATE_42, "{'id':42,'name':'Van 1'}", "true");
    expect_gone(rig, VAN_STATE);
    say(rig, device, VAN, REPORT_AT("01"));
    rig_expect(rig, "message/gw/devices/42", "{'device.name':'Van 1'}");
    rig_finish(rig);
}

Test(registry, takes_in_a_device_that_never_came) {
    struct rig *rig = up_with("[]", "");
    reload(rig, VAN_IS_42);
    expect_device(rig, STATE_42, "{'id':42,'name':'Van 1','ident':'" VAN "','device_type_id':825}", "false");
    rig_finish(rig);
}

Test(registry, removes_a_device_that_never_came) {
    struct rig *rig = up_with(VAN_IS_42, "");
    expect_device(rig, STATE_42, "{'id':42}", "false");
    reload(rig, "[]");
    expect_gone(rig, STATE_42);
    rig_finish(rig);
}

Test(registry, removes_a_device_that_is_away) {
    struct rig *rig = up_with(VAN_IS_42, "");
    int device = reporting_van(rig);
    close(device);
    expect_device(rig, STATE_42, "{'id':42}", "false");
    rig_expect_standing(rig, STATE_42 "/telemetry/battery.voltage", "3.744");
    reload(rig, "[]");
    expect_gone(rig, STATE_42);
    rig_finish(rig);
}

Test(registry, removes_a_connected_device_that_goes_on_as_an_unknown_one) {
    struct rig *rig = up_with(VAN_IS_42, "");
    int device = reporting_van(rig);
    expect_device(rig, STATE_42, "{'id':42}", "true");
    reload(rig, "[]");
    expect_gone(rig, STATE_42);
    say(rig, device, VAN, REPORT_AT("01"));
    rig_expect(rig, "message/gw/devices/" VAN,
               "{'device.id':" VAN ",'device.name':'" VAN "','device.type.id':0}");
    expect_device(rig, VAN_STATE, "{'id':" VAN ",'name':'" VAN "','device_type_id':0}", "true");
    cr_assert(rig_count(rig, "message/gw/devices/42") == 1);
    rig_finish(rig);
}

Test(registry, removes_a_connected_device_that_goes_on_on_the_channel_topic) {
    struct rig *rig = up_with(VAN_IS_42, "'unknown_devices':'channel'");
    int device = reporting_van(rig);
    expect_device(rig, STATE_42, "{'id':42}", "true");
    reload(rig, "[]");
    expect_gone(rig, STATE_42);
    say(rig, device, VAN, REPORT_AT("01"));
    json_t *message = json_of(rig_message_at(rig, "message/gw/channels/1/" VAN, 1));
    cr_assert(json_object_get(message, "device.id") == NULL);
    cr_assert(json_object_get(message, "device.name") == NULL);
    json_decref(message);
    stop_and_hear(rig);
    cr_assert(rig_count(rig, "message/gw/devices/+") == 1);
    expect_gone(rig, STATE_42);
    rig_expect_none_retained(rig, "state/gw/devices/#");
    rig->finished = true;
}

Test(registry, closes_the_connection_of_a_device_that_is_no_longer_allowed) {
    struct rig *rig =
        up_with("[{'ident':'" VAN "','id':42},{'ident':'" CAR "','id':43}]", "'unknown_devices':'reject'");
    int van = rig_tcp(rig), car = rig_tcp(rig);
    say(rig, van, VAN, REPORT_AT("00"));
    say(rig, car, CAR, REPORT_AT("00"));
    expect_device(rig, STATE_42, "{'id':42}", "true");
    reload(rig, "[{'ident':'" CAR "','id':43}]");
    device_expect_closed(van);
    rig_expect(rig, "log/gw/channels/1/connections/+/closed", "{'close_code':13,'ident':'" VAN "'}");
    expect_gone(rig, STATE_42);
    say(rig, car, CAR, REPORT_AT("01"));
    van = rig_tcp(rig);
    device_send(van, report(VAN, 1)); // nor may it come again
    device_expect_closed(van);
    reload(rig, "[{'ident':'" VAN "','id':42},{'ident':'" CAR "','id':43}]");
    expect_device(rig, STATE_42, "{'id':42}", "false");
    van = rig_tcp(rig);
    say(rig, van, VAN, REPORT_AT("02"));
    rig_expect_standing(rig, STATE_42 "/connected", "true");
    rig_finish(rig);
}

Test(registry, takes_no_more_datagrams_of_a_device_that_is_no_longer_allowed) {
    struct rig *rig =
        up_with("[{'ident':'" VAN "','id':42},{'ident':'" CAR "','id':43}]", "'unknown_devices':'reject'");
    int van = rig_udp(rig), car = rig_udp(rig);
    say(rig, van, VAN, REPORT_AT("00"));
    expect_device(rig, STATE_42, "{'id':42}", "true");
    reload(rig, "[{'ident':'" CAR "','id':43}]");
    expect_gone(rig, STATE_42);
    device_send(van, report(VAN, 1));
    say(rig, car, CAR, REPORT_AT("00"));
    stop_and_hear(rig);
    cr_assert(rig_count(rig, "message/gw/channels/1/" VAN) == 1);
    expect_gone(rig, STATE_42);
    rig->finished = true;
}

Test(registry, is_read_again_each_time) {
    struct rig *rig = up_with("[]", "");
    int device = wake(rig, VAN);
    for (int i = 1; i <= 12; i++) {
        char devices[96], topic[48], subset[32];
        snprintf(devices, sizeof devices, "[{'ident':'" VAN "','id':%d,'name':'Van %d'}]", i, i);
        reload(rig, devices);
        snprintf(topic, sizeof topic, "state/gw/devices/%d", i);
        snprintf(subset, sizeof subset, "{'name':'Van %d'}", i);
        expect_device(rig, topic, subset, "true");
    }
    say(rig, device, VAN, REPORT_AT("01"));
    rig_expect(rig, "message/gw/devices/12", "{'device.name':'Van 12'}");
    rig_expect_standing(rig, "state/gw/devices/12/telemetry/battery.voltage", "3.744");
    cr_assert(rig_count_retained(rig, "state/gw/devices/+") == 1);
    rig_finish(rig);
}

// As far as the gateway can tell from what it has published itself.
Test(registry, changes_while_the_gateway_is_away) {
    struct rig *rig = up_with("[{'ident':'" VAN "','id':42},{'ident':'" CAR "','id':5}]", "");
    reporting_van(rig);
    rig_expect_standing(rig, STATE_42 "/telemetry/battery.voltage", "3.744");
    rig_expect_standing(rig, "state/gw/devices/5/connected", "false");
    kill_and_hear(rig);
    rig_write_json(rig, DEVICES, VAN_IS_43);
    start(rig, "");
    expect_device(rig, STATE_43, "{'id':43,'name':'Van 2','ident':'" VAN "'}", "false");
    expect_gone(rig, STATE_42);
    expect_gone(rig, "state/gw/devices/5");
    rig_finish(rig);
}

// Nothing that clears it was with the broker when we ended: the next run knows that it left the configuration, and is
// no stranger of an earlier run, whose entities would stay in Home Assistant.
Test(registry, what_left_while_the_broker_was_away_is_cleared_by_the_next_run) {
    struct rig *rig = rig_with_broker(RIG_BROKER_KEEPS);
    rig_write_json(rig, DEVICES, "[{'ident':'" VAN "'},{'ident':'" CAR "'}]");
    start(rig, "'home_assistant':{'enabled':true}");
    reporting_van(rig);
    rig_expect_standing(rig, "state/gw/devices/" VAN "/telemetry/battery.voltage", "3.744");
    json_decref(rig_expect_standing_json(
        rig, "/homeassistant/device_tracker/trackbus_" VAN "/position/config", "{}"));
    rig_broker_kill(rig);
    rig_expect_log(rig, "retrying in");
    reload(rig, "[{'ident':'" CAR "'}]");
    rig_expect_log(rig, "the configuration is read again");
    rig_gateway_stop(rig);
    rig_broker_start(rig, RIG_BROKER_KEEPS);
    start(rig, "'home_assistant':{'enabled':true}");
    rig_expect_standing(rig, "state/gw/devices/" CAR "/connected", "false");
    rig_expect_none_retained(rig, "/homeassistant/+/trackbus_" VAN "/#");
    expect_gone(rig, "state/gw/devices/" VAN);
    rig_finish(rig);
}

// What changed while the broker was away is right when it is back, even when it has lost everything.
static void change_while_away(const char *broker) {
    struct rig *rig = rig_with_broker(broker);
    rig_write_json(rig, DEVICES, VAN_IS_42);
    start(rig, "");
    int device = reporting_van(rig);
    expect_device(rig, STATE_42, "{'id':42}", "true");
    rig_expect_standing(rig, STATE_42 "/telemetry/battery.voltage", "3.744");
    rig_broker_kill(rig);
    rig_expect_log(rig, "retrying in");
    reload(rig, VAN_IS_43);
    rig_expect_counters(rig, "outbox: "); // so that the signal before was taken, too
    rig_broker_start(rig, broker);
    expect_device(rig, STATE_43, "{'id':43,'name':'Van 2'}", "true");
    expect_gone(rig, STATE_42);
    say(rig, device, VAN, REPORT_AT("01"));
    rig_expect(rig, "message/gw/devices/43", "{'device.id':43}");
    expect_gone(rig, STATE_42);
    rig_finish(rig);
}

Test(registry, changes_while_a_broker_is_away_that_loses_all) {
    change_while_away(NULL);
}

Test(registry, changes_while_a_broker_is_away_that_keeps_all) {
    change_while_away(RIG_BROKER_KEEPS);
}

// --- a faulty file ---

struct line {
    struct rig *rig;
    const char *reason;
};

// An error that names the file or its place, and the reason.
static bool has_error_line(void *context) {
    const struct line *wanted = context;
    char line[4096];
    bool found = false;
    FILE *log = fopen(wanted->rig->log_path, "r");
    while (log != NULL && !found && fgets(line, sizeof line, log) != NULL)
        found = strstr(line, " error ") != NULL && strstr(line, "devices") != NULL &&
                strstr(line, wanted->reason) != NULL;
    if (log != NULL)
        fclose(log);
    return found;
}

static void expect_error(struct rig *rig, const char *reason) {
    struct line line = {.rig = rig, .reason = reason};
    cr_assert(rig_wait(has_error_line, &line, RIG_DEADLINE),
              "the log has no line with error, the file or its place, and: %s", reason);
}

static const struct {
    const char *text; // NULL: there is no file
    const char *reason;
} faulty[] = {
    {"[{\"ident\":\"" VAN "\",\"id\":43}", "line 1"},
    {"", "line 1"},
    {"{\"ident\":\"" VAN "\",\"id\":43}", "array"},
    {"[{\"ident\":\"" VAN "\",\"id\":43},{\"name\":\"" CAR "\"}]", "ident"},
    {"[{\"ident\":\"" VAN "\",\"id\":43,\"nam\":\"x\"}]", "nam"},
    {"[{\"ident\":\"" VAN "/+#\",\"id\":43}]", "ident"},
    {"[{\"ident\":\"" VAN "\",\"id\":-1}]", "id"},
    {"[{\"ident\":\"" VAN "\",\"id\":43},{\"ident\":\"" VAN "\",\"id\":44}]",
     "devices.json[1] have the ident " VAN ", expected an ident for each"},
    {"[{\"ident\":\"" VAN "\",\"id\":43},{\"ident\":\"" CAR "\",\"id\":43}]",
     "devices.json[1] have the id 43, expected an id for each"},
    {"[{\"ident\":\"" THIRD "\",\"id\":43}]",
     "devices.json[0] have the ident " THIRD ", expected an ident for each"}, // is in the configuration
    {NULL, "No such file"},
};

// The old registry is kept, whole.
static void expect_refused(const char *text, const char *reason) {
    struct rig *rig = up_with(VAN_IS_42, "'devices':[{'ident':'" THIRD "','id':7}]");
    int device = reporting_van(rig);
    expect_device(rig, STATE_42, "{'id':42,'name':'Van 1'}", "true");
    rig_expect_standing(rig, "state/gw/devices/7/connected", "false");
    char path[96];
    snprintf(path, sizeof path, "%s/" DEVICES, rig->directory);
    if (text != NULL)
        rig_write_file(rig, DEVICES, text);
    else
        remove(path);
    rig_gateway_signal(rig, SIGHUP);
    expect_error(rig, reason);
    say(rig, device, VAN, REPORT_AT("01"));
    rig_expect(rig, "message/gw/devices/42", "{'device.id':42,'device.name':'Van 1','device.type.id':825}");
    expect_device(rig, STATE_42, "{'id':42,'name':'Van 1'}", "true");
    cr_assert(rig_count_retained(rig, "state/gw/devices/+") == 2);
    reload(rig, VAN_IS_43); // and a good one is taken again
    expect_device(rig, STATE_43, "{'name':'Van 2'}", "true");
    expect_gone(rig, STATE_42);
    rig_finish(rig);
}

#define REFUSED(number, name)                                                                                \
    Test(registry, refuses_##name) {                                                                         \
        expect_refused(faulty[number].text, faulty[number].reason);                                          \
    }

REFUSED(0, json_that_is_cut_off)
REFUSED(1, an_empty_file)
REFUSED(2, a_single_device)
REFUSED(3, a_device_without_an_ident)
REFUSED(4, an_unknown_key)
REFUSED(5, an_ident_that_would_be_a_wildcard)
REFUSED(6, an_id_below_zero)
REFUSED(7, an_ident_twice)
REFUSED(8, an_id_twice)
REFUSED(9, an_ident_of_the_configuration)
REFUSED(10, a_file_that_is_missing)

// --- the whole configuration, read again ---

static void reconfigure(struct rig *rig, const char *changes) {
    char path[128];
    rig_write_config(rig, changes, path, sizeof path);
    rig_gateway_signal(rig, SIGHUP);
}

Test(registry, of_the_configuration_is_read_again) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42,'name':'Van 1'}]}");
    int device = reporting_van(rig);
    reconfigure(rig, "{'devices':[{'ident':'" VAN "','id':42,'name':'Van 2'},{'ident':'" CAR "'}]}");
    expect_device(rig, STATE_42, "{'name':'Van 2'}", "true");
    // Without an id it has the one that it would have outside the registry.
    expect_device(rig, "state/gw/devices/" CAR, "{'id':" CAR ",'name':'" CAR "'}", "false");
    say(rig, device, VAN, REPORT_AT("01"));
    rig_expect(rig, "message/gw/devices/42", "{'device.name':'Van 2'}");
    rig_finish(rig);
}

Test(registry, changes_with_what_else_can_change_while_running) {
    struct rig *rig = rig_up("{'limits':{'idle_timeout':3600},'messages':['channels']}");
    int silent = rig_tcp(rig), device = reporting_van(rig);
    rig_expect(rig, "message/gw/channels/1/" VAN, NULL);
    reconfigure(rig, "{'limits':{'identify_timeout':1},'messages':['devices'],'log':{'level':'debug'}}");
    rig_expect_log(rig, "the configuration is read again");
    device_expect_closed(silent);
    device_send(device, report(VAN, 2));
    rig_expect(rig, "message/gw/devices/" VAN, NULL);
    cr_assert(rig_count(rig, "message/gw/channels/1/" VAN) == 1);
    cr_assert(!rig_log_has(rig, "needs a restart"));
    reconfigure(rig, "{'unknown_devices':'reject'}");
    device_expect_closed(device);
    rig_finish(rig);
}

Test(registry, names_what_needs_a_restart) {
    struct rig *rig = rig_up(NULL);
    reconfigure(
        rig,
        "{'mqtt':{'inflight':7,'password':'not "
        "shown'},'channels':[{'id':2,'protocol':'mictrack','tcp':'127.0.0.1:0'}],'log':{'level':'debug'}}");
    rig_expect_log(rig, " warning needs a restart: channels, mqtt.inflight, mqtt.password\n");
    cr_assert(!rig_log_has(rig, "not shown"));
    rig_finish(rig);
}

Test(registry, is_as_it_was_when_anything_is_wrong) {
    struct rig *rig = rig_up(NULL);
    int device = reporting_van(rig);
    reconfigure(rig, "{'unknown_devices':'reject','limits':{'idle_timeout':-1}}");
    rig_expect_log(rig, "$.limits.idle_timeout: is -1");
    rig_expect_log(rig, "the configuration is unchanged");
    say(rig, device, VAN, REPORT_AT("01"));
    rig_expect(rig, "message/gw/devices/" VAN, "{'ident':'" VAN "'}");
    rig_finish(rig);
}

// --- devices outside the registry ---

#define STRANGERS 40 // idents of one attack
#define FIRST     866425090000000

// They come over one connection, as from somebody who makes up IMEIs.
static void attack(struct rig *rig, int from, int count) {
    int device = rig_tcp(rig);
    for (int i = from; i < from + count; i++) {
        char ident[16];
        snprintf(ident, sizeof ident, "%lld", (long long)FIRST + i);
        device_send(device, report(ident, i));
    }
}

// The same over UDP, one after another: a burst may be lost on the way.
static void attack_over_udp(struct rig *rig, int from, int count) {
    int device = rig_udp(rig);
    for (int i = from; i < from + count; i++) {
        char ident[16], topic[64];
        snprintf(ident, sizeof ident, "%lld", (long long)FIRST + i);
        snprintf(topic, sizeof topic, "message/gw/channels/1/%s", ident);
        device_send(device, report(ident, i));
        rig_expect(rig, topic, NULL);
    }
}

// What a stranger can do is bounded, whatever he says, and others do not notice.
Test(registry, strangers_do_not_fill_the_broker) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42}],'limits':{'unknown_devices':10},"
                             "'home_assistant':{'enabled':true}}");
    attack_over_udp(rig, 0, 20);
    attack(rig, 20, STRANGERS - 20);
    rig_expect_count(rig, "message/gw/channels/1/+", STRANGERS);
    rig_expect_log(rig, "limits.unknown_devices");
    reporting_van(rig);
    rig_expect_standing(rig, STATE_42 "/telemetry/battery.voltage", "3.744");
    rig_expect_standing(rig, STATE_42 "/connected", "true");
    cr_assert(rig_count(rig, "message/gw/devices/+") == 10 + 1);
    cr_assert(rig_count_retained(rig, "state/gw/devices/+") == 10 + 1);
    cr_assert(rig_log_count(rig, "limits.unknown_devices") == 1, "once a minute at most");
    // Home Assistant hears of the device of the registry alone; the log says how to adopt another.
    rig_expect_count(rig, "/homeassistant/+/trackbus_42/+/config", 1);
    cr_assert(rig_count(rig, "/homeassistant/+/trackbus_866425090000000/+/config") == 0);
    rig_expect_log(rig, "to adopt it, add {\"ident\":\"866425090000000\"");
    rig_finish(rig);
}

#define WAVES 20 // of reports of strangers
#define WAVE  100

static void send_wave(int device, int from) {
    static char text[WAVE * 100];
    char ident[16], *end = text;
    for (int i = from; i < from + WAVE; i++) {
        snprintf(ident, sizeof ident, "%lld", (long long)FIRST + i);
        end = stpcpy(end, report(ident, i));
    }
    device_send(device, text);
}

// All that they report comes, over TCP and UDP, and they stay connected.
Test(registry, devices_do_not_notice_an_attack_of_strangers) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42},{'ident':'" LORRY "','id':7}],"
                             "'limits':{'unknown_devices':10}}");
    int van = rig_tcp(rig), lorry = rig_udp(rig), strangers = rig_tcp(rig);
    for (int i = 0; i < WAVES; i++) {
        char subset[40];
        snprintf(subset, sizeof subset, "{'message.seqnum':%d}", i);
        send_wave(strangers, i * WAVE);
        device_send(van, report(VAN, i));
        device_send(lorry, report(LORRY, i));
        rig_expect(rig, "message/gw/devices/42", subset);
        rig_expect(rig, "message/gw/devices/7", subset);
    }
    rig_expect_count(rig, "message/gw/channels/1/+", WAVES * (WAVE + 2));
    cr_expect_eq(rig_count(rig, "message/gw/devices/42"), WAVES);
    cr_expect_eq(rig_count(rig, "message/gw/devices/7"), WAVES);
    cr_expect_eq(rig_count(rig, "message/gw/devices/+"), 2 * WAVES + 10);
    cr_expect_eq(rig_count(rig, "log/gw/devices/42/connected") + rig_count(rig, "log/gw/devices/7/connected"),
                 2);
    cr_expect_eq(rig_count(rig, "log/gw/devices/42/disconnected"), 0);
    cr_expect_eq(rig_count(rig, "log/gw/devices/7/disconnected"), 0);
    rig_finish(rig);
}

Test(registry, strangers_from_one_address_come_in_slowly) {
    struct rig *rig =
        rig_up("{'limits':{'unknown_devices':100}}"); // of which ten from an address in a minute
    attack(rig, 0, STRANGERS);
    rig_expect_count(rig, "message/gw/channels/1/+", STRANGERS);
    rig_expect_log(rig, "came from its address in this minute");
    cr_assert(rig_count(rig, "message/gw/devices/+") <= 20); // a minute may have ended
    rig_finish(rig);
}

// --- places ---

#define PLACES 8

// Those that say nothing make way for one that comes, and those that have said who they are leave it one place.
Test(registry, strangers_do_not_keep_its_devices_out) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN
                             "','id':42}],'limits':{'connections':8,'forget_unknown_after':60}}");
    int strangers[PLACES];
    for (int i = 0; i < PLACES; i++)
        strangers[i] = rig_tcp(rig);
    rig_expect_log(rig, "connection 8 accepted\n");
    int van = reporting_van(rig);
    device_expect_closed(strangers[0]);
    rig_expect(rig, "log/gw/channels/1/connections/1/closed", "{'close_code':20}");
    close(van);
    rig_expect(rig, "log/gw/devices/42/disconnected", NULL);
    strangers[0] = rig_tcp(rig);
    for (int i = 0; i < PLACES; i++) {
        char ident[16];
        snprintf(ident, sizeof ident, "%lld", (long long)FIRST + i);
        device_send(strangers[i], report(ident, i));
        rig_expect(rig, "message/gw/channels/1/+", NULL);
    }
    rig_expect_log(rig, "the places that are left are for devices of the registry (limits.connections)");
    device_expect_closed(strangers[PLACES - 1]);
    device_send(rig_tcp(rig), report(VAN, 9));
    rig_expect(rig, "message/gw/devices/42", "{'message.seqnum':9}");
    rig_finish(rig);
}

#define STRANGE "state/gw/devices/" CAR

Test(registry, a_silent_stranger_is_forgotten_and_makes_room) {
    struct rig *rig = rig_up("{'limits':{'unknown_devices':1,'forget_unknown_after':1}}");
    int car = rig_tcp(rig), van = rig_tcp(rig);
    device_send(car, report(CAR, 1));
    rig_expect(rig, "log/gw/devices/" CAR "/created", "{'event_code':1,'ident':'" CAR "'}");
    rig_expect_standing(rig, STRANGE "/connected", "true");
    device_send(van, report(VAN, 1));
    rig_expect(rig, "message/gw/channels/1/" VAN, NULL);
    close(car);
    rig_expect(rig, "log/gw/devices/" CAR "/deleted", "{'event_code':3,'ident':'" CAR "'}");
    expect_gone(rig, STRANGE);
    // The other one, which is still connected, has the place now.
    rig_expect_standing(rig, "state/gw/devices/" VAN "/connected", "true");
    rig_finish(rig);
}

// Killed, so that it clears nothing. The second report says the same, behind half of the time, and that is published.
Test(registry, of_strangers_the_broker_forgets_telemetry_by_itself) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42}],'limits':{'forget_unknown_after':3}}");
    int car = rig_tcp(rig), van = reporting_van(rig);
    for (int i = 0; i < 2; i++) {
        device_send(car, report(CAR, 1));
        rig_expect(rig, "message/gw/devices/" CAR, "{'ident':'" CAR "'}");
        rig_expect(rig, STRANGE "/telemetry/ident", NULL);
        rig_wait_until(rig_clock() + 1600);
    }
    rig_gateway_kill(rig);
    rig_expect_none_retained(rig, STRANGE "/telemetry/#");
    cr_assert(rig_count_retained(rig, STATE_42 "/telemetry/ident") == 1, "a listed device's stays");
    close(van);
}

Test(registry, changes_are_told) {
    struct rig *rig = up_with("[]", "");
    rig_expect_state(rig);
    reload(rig, VAN_IS_42);
    rig_expect(rig, "log/gw/devices/42/created", "{'event_code':1,'ident':'" VAN "','name':'Van 1'}");
    reload(rig, "[{'ident':'" VAN "','id':42,'name':'Van 3','type_id':825}]");
    rig_expect(rig, "log/gw/devices/42/updated", "{'event_code':2,'name':'Van 3'}");
    reload(rig, VAN_IS_43);
    rig_expect(rig, "log/gw/devices/42/deleted", "{'event_code':3,'ident':'" VAN "'}");
    rig_expect(rig, "log/gw/devices/43/created", "{'name':'Van 2'}");
    rig_gateway_stop(rig);
    start(rig, ""); // knows what an earlier run has said
    reload(rig, "[{'ident':'" CAR "','id':44}]");
    rig_expect(rig, "log/gw/devices/43/deleted", "{'ident':'" VAN "'}");
    rig_expect(rig, "log/gw/devices/44/created", "{'ident':'" CAR "'}");
    cr_assert(rig_count(rig, "log/gw/devices/+/created") == 3);
    rig_finish(rig);
}

Test(registry, without_a_file_the_signal_changes_nothing) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42,'name':'Van 1'}]}");
    int device = reporting_van(rig);
    rig_gateway_signal(rig, SIGHUP);
    rig_expect_counters(rig, "outbox: ");
    say(rig, device, VAN, REPORT_AT("01"));
    expect_device(rig, STATE_42, "{'name':'Van 1'}", "true");
    rig_finish(rig);
}

Test(registry, that_did_not_change_changes_nothing) {
    struct rig *rig = up_with("[{'ident':'" VAN "','id':42,'name':'Van 1'},{'ident':'" CAR "','id':43}]", "");
    int device = reporting_van(rig);
    rig_expect(rig, STATE_42 "/connected", "true");
    rig_expect(rig, STATE_43 "/connected", "false");
    reload(rig, "[{'ident':'" VAN "','id':42,'name':'Van 1'},{'ident':'" CAR "','id':43},"
                "{'ident':'" THIRD "','id':44}]");
    rig_expect(rig, "state/gw/devices/44/connected", "false");
    say(rig, device, VAN, REPORT_AT("01"));
    stop_and_hear(rig);
    static const char *const topics[] = {STATE_42, STATE_43, STATE_43 "/connected",
                                         STATE_42 "/telemetry/battery.voltage"};
    for (size_t i = 0; i < sizeof topics / sizeof topics[0]; i++) {
        const struct rig_message *message;
        for (size_t next = 0; (message = rig_next(rig, topics[i], &next)) != NULL;)
            cr_assert(message->length > 0, "%s was removed in between", topics[i]);
    }
    cr_assert(rig_count(rig, "log/gw/devices/42/disconnected") == 1, "at the end");
    rig->finished = true;
}

// --- many ---

#define MANY      20000
#define MANY_TIME 60000 // milliseconds

static void write_many(struct rig *rig, int first, int last, const char *name) {
    json_t *devices = json_array();
    for (int i = first; i <= last; i++) {
        char ident[24], text[32];
        snprintf(ident, sizeof ident, "86%013d", i);
        snprintf(text, sizeof text, "%s %d", name, i);
        json_array_append_new(devices, json_pack("{s:s, s:i, s:s}", "ident", ident, "id", i, "name", text));
    }
    char *text = json_dumps(devices, 0);
    rig_write_file(rig, DEVICES, text);
    free(text);
    json_decref(devices);
}

struct many {
    struct rig *rig;
    const char *filter, *payload; // or part of it
    size_t expected, came;
};

static bool are_retained(void *context) {
    struct many *many = context;
    json_t *retained = rig_retained(many->rig, many->filter), *value;
    const char *topic;
    many->came = 0;
    json_object_foreach(retained, topic, value) many->came +=
        strstr(json_string_value(value), many->payload) != NULL;
    bool all = many->came == many->expected && json_object_size(retained) == many->expected;
    json_decref(retained);
    return all;
}

static void expect_many(struct rig *rig, const char *filter, const char *payload, size_t count) {
    struct many many = {.rig = rig, .filter = filter, .payload = payload, .expected = count};
    cr_assert(rig_wait(are_retained, &many, MANY_TIME), "%zu with %s are retained on %s, expected %zu",
              many.came, payload, filter, count);
}

Test(registry, of_20000_devices) {
    struct rig *rig = rig_with_broker(NULL);
    write_many(rig, 1, MANY, "First");
    spawn(rig, ""); // which may take its time
    expect_many(rig, "state/gw/devices/+", "\"First ", MANY);
    expect_many(rig, "state/gw/devices/+/connected", "false", MANY);
    int device = rig_tcp(rig);
    say(rig, device, "860000000012345", REPORT_AT("00"));
    rig_expect(rig, "message/gw/devices/12345", "{'device.name':'First 12345'}");
    rig_expect_standing(rig, "state/gw/devices/12345/connected", "true");
    write_many(rig, 101, MANY + 100, "Second"); // 100 go, 100 come
    rig_gateway_signal(rig, SIGHUP);
    expect_many(rig, "state/gw/devices/+", "\"Second ", MANY);
    rig_expect_standing(rig, "state/gw/devices/100", NULL);
    rig_expect_standing(rig, "state/gw/devices/100/connected", NULL);
    rig_expect_standing(rig, "state/gw/devices/20100/connected", "false");
    rig_expect_standing(rig, "state/gw/devices/12345/connected", "true");
    say(rig, device, "860000000012345", REPORT_AT("01"));
    rig_expect(rig, "message/gw/devices/12345", "{'device.name':'Second 12345'}");
    reload(rig, "[]"); // and what goes does not come all at once over the broker
    rig_expect_message(rig, "state/gw/devices/860000000012345", "{'ident':'860000000012345'}",
                       4 * RIG_DEADLINE);
    expect_many(rig, "state/gw/devices/+", "\"860000000012345\"", 1);
    expect_many(rig, "state/gw/devices/+/connected", "true", 1);
    cr_assert(!rig_log_has(rig, "it is slower than the devices"));
    rig_finish(rig);
}

// Sends the first bytes of a report and keeps the gateway busy. False when it took so long that the gateway
// may have been idle and have taken them for a whole report.
static bool reload_within(struct rig *rig, int device, size_t length, size_t *sent) {
    char counter[48];
    int64_t begin = rig_clock();
    device_send_bytes(device, report(VAN, 12345), length);
    snprintf(counter, sizeof counter, "1 connections, %zu bytes", *sent += length);
    rig_expect_counters(rig, counter);
    rig_gateway_signal(rig, SIGHUP);
    return rig_clock() - begin < 150;
}

static void device_send_in_pieces(struct rig *rig, int device, const char *text) {
    device_send_bytes(device, text, 10);
    rig_expect_counters(rig, "1 connections, 10 bytes");
    device_send(device, text + 10);
    rig_expect(rig, "message/gw/devices/" VAN, NULL);
}

// The rest of a report comes while the gateway reads the registry: it must not take that for silence.
Test(registry, that_takes_long_to_read_cuts_no_report) {
    struct rig *rig = rig_with_broker(NULL);
    write_many(rig, 1, MANY, "First");
    start(rig, "");
    int device = rig_tcp(rig);
    size_t half = strlen(report(VAN, 12345)) - strlen("345\r\n"), sent = strlen(report(VAN, 12344));
    device_send_in_pieces(rig, device, report(VAN, 12344)); // so that it is waited for long enough
    while (!reload_within(rig, device, half, &sent)) {
        device_send(device, "\r\n");
        sent += 2;
    }
    rig_wait_until(rig_clock() + 20); // it has begun
    device_send(device, "345\r\n");
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':12345}");
    rig_finish(rig);
}

// --- telemetry of those that are gone ---

static void leave_telemetry(struct rig *rig, const char *id) {
    char topic[96];
    snprintf(topic, sizeof topic, "state/gw/devices/%s/telemetry/timestamp", id);
    rig_publish_retained(rig, topic, "1547025483");
    snprintf(topic, sizeof topic, "state/gw/devices/%s/telemetry/battery.voltage", id);
    rig_publish_retained(rig, topic, "3.7");
}

// An earlier run ended in the middle of removing 4711. 4712 is another gateway's.
Test(registry, telemetry_without_an_identity_is_cleared_at_the_start) {
    struct rig *rig = rig_with_broker(NULL);
    leave_telemetry(rig, "4711");
    leave_telemetry(rig, "4712");
    rig_publish_retained(rig, "state/gw/devices/4712", "{\"id\":4712,\"ident\":\"" CAR "\"}");
    rig_write_json(rig, DEVICES, "[]");
    start(rig, "");
    rig_expect_none_retained(rig, "state/gw/devices/4711/#");
    cr_assert(rig_count_retained(rig, "state/gw/devices/4712/#") == 3);
    rig_finish(rig);
}

#define GOING 300

// They go together, and not twenty at a time.
Test(registry, many_that_are_removed_leave_nothing) {
    struct rig *rig = rig_with_broker(NULL);
    char devices[GOING * 48] = "[", id[16];
    for (int i = 0; i < GOING; i++) {
        snprintf(id, sizeof id, "%d", 5000 + i);
        leave_telemetry(rig, id);
        sprintf(devices + strlen(devices), "%s{'ident':'%s','id':%s}", i > 0 ? "," : "", id, id);
    }
    rig_write_json(rig, DEVICES, strcat(devices, "]"));
    start(rig, "");
    rig_expect_standing(rig, "state/gw/devices/5299/connected", "false");
    reload(rig, "[]");
    rig_expect_none_retained(rig, "state/gw/devices/#");
    rig_finish(rig);
}

// It answers after two seconds, and what it says then counts.
Test(registry, a_broker_that_answers_late_is_waited_for) {
    struct rig *rig = up_with(VAN_IS_42, "");
    int device = reporting_van(rig);
    rig_expect_standing(rig, STATE_42 "/telemetry/battery.voltage", "3.744");
    close(device);
    rig_expect_standing(rig, STATE_42 "/connected", "false");
    rig_broker_freeze(rig);
    reload(rig, "[]");
    rig_expect_log(rig, "the registry has 0 devices");
    rig_wait_until(rig_clock() + 1800);
    rig_broker_thaw(rig);
    expect_gone(rig, STATE_42);
    rig_finish(rig);
}

// What is told of it is what it was, not what its ident says.
Test(registry, what_left_while_the_gateway_was_away_goes_as_it_was) {
    struct rig *rig = rig_with_broker(NULL);
    rig_write_json(rig, DEVICES, VAN_IS_42);
    start(rig, "");
    json_decref(rig_expect_standing_json(rig, STATE_42, "{'name':'Van 1'}"));
    rig_gateway_stop(rig);
    rig_write_json(rig, DEVICES, "[]");
    start(rig, "");
    rig_expect(rig, "log/gw/devices/42/deleted",
               "{'ident':'" VAN "','name':'Van 1','old':{'name':'Van 1','device_type_id':825}}");
    rig_finish(rig);
}
