// Positions without GPS: reports without coordinates get those that a geolocation service says, and nobody waits for a
// service that does not.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/state.h"
#include "tests/geo_service.h"

TestSuite(positions, .fini = rig_clean);

#define REPORTS "message/gw/channels/1/+"
#define OF_VAN  "message/gw/channels/1/" VAN
#define OF_CAR  "message/gw/channels/1/" CAR
#define BY_WIFI                                                                                              \
    "'position.latitude':22.5431234,'position.longitude':114.05795,'position.accuracy':35,'position.source'" \
    ":'wifi'"
#define BY_CELLS                                                                                             \
    "'position.latitude':22.5431234,'position.longitude':114.05795,'position.accuracy':35,'position.source'" \
    ":'cell'"
#define R0(seq) "R0;10+190109091803+21.5+114.02922+2.14+69+2+3744+" #seq
// One access point, whose address ends with that.
#define R1(end, seq) "R1;181129081017+b0:b2:dc:bd:43:" end ",-91+3+3831+" #seq

static struct geo_service *service;

// Asks that service; more is JSON behind a comma, of the configuration.
static const char *asking(const char *geolocation, const char *more) {
    static char text[1024];
    snprintf(text, sizeof text,
             "{'telemetry_interval':0,'geolocation':{'url':'http://localhost:%d/v1/geolocate'%s}%s}",
             geo_service_port(service), geolocation, more);
    return text;
}

static void send_report(int device, const char *ident, const char *items) {
    char text[512];
    snprintf(text, sizeof text, "MT;6;%s;%s\r\n", ident, items);
    device_send(device, text);
}

static void expect_asked(size_t count) {
    cr_assert_eq(geo_service_count(service), count, "it was asked %zu times instead of %zu",
                 geo_service_count(service), count);
}

static bool is_asked(void *context) {
    return geo_service_count(service) >= *(size_t *)context;
}

static void wait_until_asked(size_t count) {
    cr_assert(rig_wait(is_asked, &count, RIG_DEADLINE), "it is not asked");
}

// The message of that number has come, without a position.
static void expect_nowhere(struct rig *rig, int seqnum) {
    char subset[64];
    snprintf(subset, sizeof subset, "{'message.seqnum':%d}", seqnum);
    json_t *json = json_of(rig_expect(rig, REPORTS, subset));
    cr_assert(json_object_get(json, "position.latitude") == NULL, "message %d has a position", seqnum);
    json_decref(json);
}

static void expect_numbers(struct rig *rig, const char *filter, const int *numbers, size_t count) {
    rig_expect_count(rig, filter, count);
    for (size_t i = 0; i < count; i++)
        cr_assert_eq(seqnum_of(rig_message_at(rig, filter, i)), numbers[i], "the %zuth message is another",
                     i);
}

static void reload(struct rig *rig, const char *changes) {
    char path[128];
    size_t before = rig_log_count(rig, "is read again");
    rig_write_config(rig, changes, path, sizeof path);
    rig_gateway_signal(rig, SIGHUP);
    rig_expect_log_times(rig, "is read again", before + 1);
}

#define WIFI_3  "b0:b2:dc:bd:43:0f,-91,6a:db:54:5a:79:6d,-91,00:9a:cd:a2:e6:21,-94"
#define CELLS_2 "0,11010,22022,460"
#define CELLS_3 "0,11010,22022,460,88"

static const struct {
    const char *items, *message, *asked; // a part of the question
} kinds[] = {
    {"R1;181129081017+" WIFI_3 "+3+3831+1", BY_WIFI,
     "\"macAddress\":\"6a:db:54:5a:79:6d\",\"signalStrength\":-91"},
    {"R2;181129081017+" CELLS_2 "+3+3831+2", BY_CELLS,
     "\"mobileCountryCode\":460,\"mobileNetworkCode\":0,\"radioType\":\"gsm\""},
    {"R3;181129081017+" CELLS_3 "+3+3831+3", BY_CELLS, "\"cellId\":11010,\"locationAreaCode\":22022"},
    {"R12;181129081017+" WIFI_3 "+" CELLS_2 "+3+3831+4", BY_WIFI, "cellTowers"},
    {"R13;181129081017+" WIFI_3 "+" CELLS_3 "+3+3831+5", BY_WIFI, "wifiAccessPoints"},
};
#define KINDS (sizeof kinds / sizeof kinds[0])

// Over TCP, and what was seen once over UDP. Nobody is asked before the configuration says who, nor about coordinates.
Test(positions, come_from_what_a_device_sees) {
    char subset[256], question[GEO_QUESTION_MAX], key[128];
    service = geo_service_start(NULL, NULL);
    struct rig *rig = rig_up("{'telemetry_interval':0}");
    int device = rig_tcp(rig), datagrams = rig_udp(rig);
    say(rig, device, VAN, kinds[0].items);
    rig_write_file(rig, "key", "a key\n");
    snprintf(key, sizeof key, ",'timeout':60,'key_file':'%s/key'", rig->directory);
    reload(rig, asking(key, ""));
    expect_asked(0);
    say(rig, device, VAN, R0(9));
    for (size_t i = 0; i < KINDS; i++) {
        say(rig, device, VAN, kinds[i].items);
        snprintf(subset, sizeof subset, "{'message.seqnum':%zu,%s}", i + 1, kinds[i].message);
        rig_expect(rig, OF_VAN, subset);
        geo_service_last(service, question);
        cr_expect(strstr(question, kinds[i].asked) != NULL, "%s", question);
        cr_expect(strstr(question, "/v1/geolocate?key=a key {") == question, "%s", question);
    }
    say(rig, datagrams, CAR, kinds[4].items);
    rig_expect(rig, OF_CAR, "{" BY_WIFI "}");
    json_decref(rig_expect_standing_json(rig, CAR_STATE "/telemetry/position",
                                         "{'latitude':22.5431234,'gps_accuracy':35,'source':'wifi'}"));
    expect_asked(KINDS);
    rig_finish(rig);
    geo_service_stop(service);
}

// Of a device, what was said later waits as well; nobody else does. A device that closes its connection is there until it
// is out.
Test(positions, keep_the_order_of_a_device) {
    service = geo_service_start(NULL, NULL);
    geo_service_fall_silent(service);
    struct rig *rig = rig_up(asking(",'timeout':60", ""));
    int van = rig_tcp(rig), car = rig_tcp(rig);
    send_report(van, VAN, R1("01", 1));
    send_report(van, VAN, R0(2));
    send_report(van, VAN, R1("02", 3));
    close(van);
    wait_until_asked(2);
    say(rig, car, CAR, R0(4));
    cr_expect_eq(rig_count(rig, OF_VAN), 0);
    geo_service_speak(service);
    rig_expect(rig, VAN_STATE "/connected", "false");
    expect_numbers(rig, OF_VAN, (const int[]){1, 2, 3}, 3);
    rig_expect(rig, OF_VAN, "{'message.seqnum':3," BY_WIFI "}");
    rig_finish(rig);
    geo_service_stop(service);
}

// The connection that it has closed keeps it from nothing, though what it said there waits.
Test(positions, do_not_keep_a_device_that_comes_back_out) {
    service = geo_service_start(NULL, NULL);
    geo_service_fall_silent(service);
    struct rig *rig = rig_up(asking(",'timeout':60", ",'limits':{'takeover':'keep'}"));
    int device = rig_tcp(rig);
    send_report(device, VAN, R1("01", 1));
    wait_until_asked(1);
    close(device);
    device = rig_tcp(rig);
    send_report(device, VAN, R0(2));
    rig_expect(rig, "log/gw/channels/1/connections/+/closed", "{'close_code':2,'msgs':1}");
    geo_service_speak(service);
    expect_numbers(rig, OF_VAN, (const int[]){1, 2}, 2);
    rig_finish(rig);
    geo_service_stop(service);
}

static const char *acknowledging(void) {
    return asking(",'timeout':60", ",'channels':[{'id':1,'name':'mictrack','protocol':'mictrack',"
                                   "'tcp':'127.0.0.1:0','udp':'127.0.0.1:0','udp_ack':'ACK,{seq}#'}]");
}

// A gateway that is killed while it asks loses nothing that it has acknowledged.
Test(positions, are_acknowledged_with_their_report) {
    service = geo_service_start(NULL, NULL);
    geo_service_fall_silent(service);
    struct rig *rig = rig_up(acknowledging());
    int van = rig_udp(rig), car = rig_udp(rig);
    send_report(van, VAN, R1("01", 1));
    wait_until_asked(1);
    send_report(car, CAR, R0(2));
    device_expect_datagram(car, "ACK,2#");
    cr_expect(!device_has_bytes(van), "it is acknowledged before it is safe");
    rig_gateway_kill(rig);
    cr_expect_eq(rig_count(rig, OF_VAN), 0);
    close(van);
    rig_gateway_start(rig, acknowledging());
    van = rig_udp(rig);
    send_report(van, VAN, R1("01", 1));
    wait_until_asked(2);
    geo_service_speak(service);
    device_expect_datagram(van, "ACK,1#");
    rig_expect(rig, OF_VAN, "{'message.seqnum':1," BY_WIFI "}");
    rig_finish(rig);
    geo_service_stop(service);
}

// All with the same surroundings, from a relay.
Test(positions, are_asked_for_once) {
    char ident[16];
    service = geo_service_start(NULL, NULL);
    geo_service_fall_silent(service);
    struct rig *rig = rig_up(asking(",'timeout':60", ""));
    int relay = rig_tcp(rig);
    for (int i = 0; i < 50; i++) {
        snprintf(ident, sizeof ident, "86642503136%04d", i);
        send_report(relay, ident, R1("01", 1));
    }
    say(rig, relay, VAN, R0(2)); // so all before it have been read
    wait_until_asked(1);
    geo_service_speak(service);
    rig_expect_count(rig, REPORTS, 51);
    for (int i = 0; i < 50; i++)
        rig_expect(rig, REPORTS, "{" BY_WIFI "}");
    expect_asked(1);
    rig_finish(rig);
    geo_service_stop(service);
}

// What stands in the store is known after a restart; what is too inaccurate is left out until it no longer is.
Test(positions, are_remembered) {
    service = geo_service_start(NULL, NULL);
    struct rig *rig = rig_up(asking(",'timeout':60,'max_accuracy':30", ""));
    int device = rig_tcp(rig);
    say(rig, device, VAN, R1("01", 1));
    expect_nowhere(rig, 1);
    reload(rig, asking(",'timeout':60,'max_accuracy':35", ""));
    say(rig, device, VAN, R1("01", 2));
    rig_expect(rig, OF_VAN, "{'message.seqnum':2," BY_WIFI "}");
    geo_service_say(service, 404, "{\"error\":{\"code\":404,\"message\":\"Not found\"}}");
    say(rig, device, VAN, R1("02", 3));
    expect_nowhere(rig, 3);
    rig_gateway_stop(rig);
    geo_service_say(service, 200, GEO_FOUND);
    rig_gateway_start(rig, asking(",'timeout':60", ""));
    device = rig_tcp(rig);
    say(rig, device, VAN, R1("01", 4));
    rig_expect(rig, OF_VAN, "{'message.seqnum':4," BY_WIFI "}");
    say(rig, device, VAN, R1("02", 5));
    expect_nowhere(rig, 5);
    expect_asked(2);
    rig_finish(rig);
    geo_service_stop(service);
}

static const struct {
    unsigned status;
    const char *body, *why;
    unsigned questions; // until it is left alone
} failures[] = {
    {429, "{}", "it answers HTTP 429 (too many requests); reports go out without a position, retrying in", 1},
    {404, "<html>", "it answers HTTP 404 (geolocation.url); reports go out without a position, retrying in",
     3},
    {503, "", "it answers HTTP 503; reports go out without a position, retrying in", 3},
    {302, "", "it answers HTTP 302 (redirects are not followed); reports go out", 3},
    {200, "<html>", "its answer is not JSON; reports go out", 3},
    {200, NULL, "its answer is longer than 64 KiB; reports go out", 3},
};

static char *long_text(void) {
    char *text = malloc(70001);
    memset(text, ' ', 70000);
    text[70000] = '\0';
    return text;
}

// The number of a report is that of the access point too.
static void report_nowhere(struct rig *rig, int device, int number) {
    char items[128];
    snprintf(items, sizeof items, "R1;181129081017+b0:b2:dc:bd:43:%02x,-91+3+3831+%d", (unsigned)number,
             number);
    say(rig, device, VAN, items);
    expect_nowhere(rig, number);
}

// One that fails is left alone; one that was left alone is asked again, here because the configuration was read again.
Test(positions, are_left_out_when_the_service_fails) {
    service = geo_service_start(NULL, NULL);
    struct rig *rig = rig_up(asking(",'timeout':60", ""));
    int device = rig_tcp(rig), number = 1;
    char *text = long_text();
    for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++) {
        size_t asked = geo_service_count(service);
        geo_service_say(service, failures[i].status, failures[i].body != NULL ? failures[i].body : text);
        reload(rig, asking(",'timeout':60", ""));
        for (unsigned question = 0; question < failures[i].questions; question++)
            report_nowhere(rig, device, number++);
        expect_asked(asked + failures[i].questions);
        rig_expect_log(rig, failures[i].why);
    }
    free(text);
    geo_service_say(service, 200, GEO_FOUND);
    reload(rig, asking(",'timeout':60", ""));
    say(rig, device, VAN, R1("ff", 99));
    rig_expect(rig, OF_VAN, "{'message.seqnum':99," BY_WIFI "}");
    rig_finish(rig);
    geo_service_stop(service);
}

// A report waits for geolocation.timeout, and no longer.
Test(positions, are_left_out_when_the_service_is_silent) {
    service = geo_service_start(NULL, NULL);
    geo_service_fall_silent(service);
    struct rig *rig = rig_up(asking(",'timeout':0.5", ""));
    int device = rig_tcp(rig);
    for (int number = 1; number <= 3; number++)
        report_nowhere(rig, device, number);
    rig_expect_log(rig, "it does not answer in time; reports go out without a position, retrying in");
    geo_service_speak(service);
    rig_finish(rig);
    geo_service_stop(service);
}

static void read_text(const char *path, char *text, size_t capacity) {
    FILE *file = fopen(path, "r");
    cr_assert(file != NULL, "%s", path);
    text[fread(text, 1, capacity - 1, file)] = '\0';
    fclose(file);
}

// Nobody is there, or nobody who can prove who he is.
Test(positions, are_not_taken_from_a_stranger) {
    char command[512], path[128], changes[256], certificate[8192] = "", key[8192] = "";
    struct rig *rig = rig_with_broker(NULL);
    snprintf(command, sizeof command,
             "cd %s && openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj "
             "/CN=localhost -addext subjectAltName=DNS:localhost 2>openssl.log",
             rig->directory);
    cr_assert(system(command) == 0, "openssl fails");
    snprintf(path, sizeof path, "%s/cert.pem", rig->directory);
    read_text(path, certificate, sizeof certificate);
    snprintf(path, sizeof path, "%s/key.pem", rig->directory);
    read_text(path, key, sizeof key);
    service = geo_service_start(certificate, key);
    snprintf(changes, sizeof changes, "{'geolocation':{'url':'https://localhost:%d/','timeout':60}}",
             geo_service_port(service));
    rig_gateway_start(rig, changes);
    int device = rig_tcp(rig);
    for (int number = 1; number <= 3; number++)
        report_nowhere(rig, device, number);
    rig_expect_log(rig, "SSL peer certificate");
    snprintf(changes, sizeof changes, "{'geolocation':{'url':'http://127.0.0.1:%d/','timeout':60}}",
             rig_free_port());
    reload(rig, changes);
    for (int number = 4; number <= 6; number++)
        report_nowhere(rig, device, number);
    expect_asked(0);
    rig_finish(rig);
    geo_service_stop(service);
}

#define POSITION        VAN_STATE "/telemetry/position."
#define WIFI_AT(minute) "R1;1901090918" minute "+b0:b2:dc:bd:43:0f,-91+3+3831+1"
#define GPS_AT(minute)  "R0;10+1901090918" minute "+21.5+114.02922+2.14+69+2+3744+2"

// What a service said of a place is not said of the next one, which is by GPS; also after a restart.
Test(positions, by_gps_leave_nothing_of_those_without) {
    service = geo_service_start(NULL, NULL);
    struct rig *rig = rig_up(asking("", ""));
    int device = rig_tcp(rig);
    say(rig, device, VAN, WIFI_AT("01"));
    rig_expect_standing(rig, POSITION "accuracy", "35");
    rig_expect_standing(rig, POSITION "source", "\"wifi\"");
    say(rig, device, VAN, GPS_AT("02"));
    rig_expect_none_retained(rig, POSITION "accuracy");
    rig_expect_none_retained(rig, POSITION "source");
    rig_expect_standing(rig, POSITION "satellites", "10");
    say(rig, device, VAN, WIFI_AT("03"));
    rig_expect_standing(rig, POSITION "accuracy", "35");
    rig_gateway_stop(rig);
    rig_gateway_start(rig, asking("", ""));
    rig_expect_log(rig, ": connected");
    device = rig_tcp(rig);
    say(rig, device, VAN, GPS_AT("04")); // before the broker has told what it retains
    rig_expect_none_retained(rig, POSITION "accuracy");
    rig_expect_none_retained(rig, POSITION "source");
    say(rig, device, VAN, WIFI_AT("05"));
    rig_expect_standing(rig, POSITION "accuracy", "35");
    rig_gateway_stop(rig);
    rig_gateway_start(rig, asking("", ""));
    rig_expect_state(rig);
    say(rig, rig_tcp(rig), VAN, GPS_AT("06"));
    rig_expect_none_retained(rig, POSITION "accuracy");
    rig_expect_none_retained(rig, POSITION "source");
    rig_finish(rig);
    geo_service_stop(service);
}
