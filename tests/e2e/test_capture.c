// Captures, end to end: whose bytes are published, which of them, and for how long.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/bytes.h"
#include "tests/e2e/command_life.h"
#include "tests/e2e/rig.h"

TestSuite(capture, .fini = rig_clean, .timeout = 60);

#define REQUEST  "request/gw/capture"
#define STARTED  "log/gw/captures/started"
#define ENDED    "log/gw/captures/ended"
#define REFUSED  "log/gw/captures/refused"
#define CHUNKS   "log/gw/channels/+/connections/+/"
#define RECEIVED CHUNKS "recv"
#define SENT     CHUNKS "send"

static void ask(struct rig *rig, const char *request, const char *topic, const char *subset) {
    json_t *json = rig_json(request);
    char *text = json_dumps(json, JSON_COMPACT);
    rig_publish(rig, REQUEST, text);
    rig_expect(rig, topic, subset);
    free(text);
    json_decref(json);
}

// A chunk with these bytes, and what else it says.
static void expect_bytes(struct rig *rig, const char *filter, const void *bytes, size_t length,
                         const char *more) {
    char packet[4096], subset[8192];
    for (size_t i = 0; i < length; i++)
        sprintf(packet + 2 * i, "%02x", ((const uint8_t *)bytes)[i]);
    snprintf(subset, sizeof subset, "{'packet':'%s'%s%s}", packet, more != NULL ? "," : "",
             more != NULL ? more : "");
    rig_expect(rig, filter, subset);
}

static void expect_text(struct rig *rig, const char *filter, const char *text, const char *more) {
    expect_bytes(rig, filter, text, strlen(text), more);
}

// The gateway has read so many bytes on its channel.
static void expect_read(struct rig *rig, size_t bytes) {
    char text[48];
    snprintf(text, sizeof text, " %zu bytes, ", bytes);
    rig_expect_counters(rig, text);
}

// A device that has not said who it is sends a report in three chunks.
static int report_in_pieces(struct rig *rig) {
    int device = rig_tcp(rig);
    device_send(device, "MT;6;8664");
    expect_read(rig, 9);
    device_send(device, "25031361423;R0;");
    expect_read(rig, 24);
    device_send(device, "10+190109091803+22.63827+114.02922+2.14+69+2+3744+113\r\n");
    return device;
}

#define OF_VAN "'ident':'" VAN "','transport':'tcp','protocol_name':'mictrack','instance':'trackbus'"

static void expect_pieces(struct rig *rig) {
    expect_text(rig, RECEIVED, "MT;6;8664", OF_VAN ",'offset':0");
    expect_text(rig, RECEIVED, "25031361423;R0;", OF_VAN ",'offset':9");
    expect_text(rig, RECEIVED, "10+190109091803+22.63827+114.02922+2.14+69+2+3744+113\r\n",
                OF_VAN ",'offset':24");
}

// From its first byte, though it says who it is in the second chunk, and again when it comes back; commands and
// answers too, and nothing of another device.
Test(capture, has_all_bytes_of_a_device_also_when_it_comes_back) {
    struct rig *rig = rig_up(NULL);
    ask(rig, "{'device':'" VAN "','seconds':60,'by':'me'}", STARTED,
        "{'device':'" VAN "','seconds':60,'by':'me','instance':'trackbus'}");
    int device = report_in_pieces(rig);
    expect_pieces(rig);
    wake(rig, CAR);
    rig_publish(rig, TO_VAN, "mode,6,60#");
    device_expect(device, "mode,6,60#");
    expect_text(rig, SENT, "mode,6,60#", OF_VAN ",'offset':0,'by':['me']");
    device_send(device, "mode=Success!\r\n");
    expect_text(rig, RECEIVED, "mode=Success!\r\n", OF_VAN ",'offset':79");
    close(device);
    rig_expect(rig, "log/gw/channels/1/connections/+/closed", "{'ident':'" VAN "'}");
    device = wake(rig, VAN);
    rig_expect(rig, RECEIVED, "{'offset':0,'ident':'" VAN "'}");
    ask(rig, "{'device':'" VAN "','seconds':0,'by':'me'}", ENDED, "{'by':'me','left_out':0}");
    talk(rig, device, VAN);
    expect_handed_over(rig);
    cr_assert(rig_count(rig, RECEIVED) == 5, "%zu", rig_count(rig, RECEIVED));
    rig_finish(rig);
}

// Whoever asks for the channel has them at once, and does not keep them from who asks for the device.
Test(capture, of_a_channel_leaves_a_device_its_first_bytes) {
    struct rig *rig = rig_up(NULL);
    ask(rig, "{'channel':'mictrack','by':'all'}", STARTED, NULL);
    ask(rig, "{'device':'" VAN "','by':'one'}", STARTED, NULL);
    int device = rig_tcp(rig);
    device_send(device, "MT;6;8664");
    expect_text(rig, RECEIVED, "MT;6;8664", "'offset':0,'by':['all']");
    device_send(device, "25031361423;R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113\r\n");
    rig_expect(rig, RECEIVED, "{'offset':9,'by':['all']}");
    expect_text(rig, RECEIVED, "MT;6;8664", "'offset':0,'by':['one']");
    rig_expect(rig, RECEIVED, "{'offset':9,'by':['one']}");
    device_send(rig_udp(rig), report(CAR, 1));
    expect_text(rig, RECEIVED, report(CAR, 1), "'transport':'udp','by':['all']");
    ask(rig, "{'device':'" CAR "','by':'two'}", STARTED, NULL);
    device_send(rig_udp(rig), report(CAR, 2));
    expect_text(rig, RECEIVED, report(CAR, 2), "'transport':'udp','by':['two']");
    cr_assert(rig_count(rig, RECEIVED) == 7, "%zu", rig_count(rig, RECEIVED));
    rig_finish(rig);
}

// By id and name, over UDP, junk too; by channel and address.
Test(capture, finds_a_device_by_id_and_name_and_takes_channels_and_addresses) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42,'name':'Van 1'}]}");
    ask(rig, "{'device':42,'seconds':60,'by':'id'}", STARTED, NULL);
    ask(rig, "{'device':'Van 1','by':'name'}", STARTED, "{'seconds':600}");
    int device = rig_udp(rig);
    device_send(device, report(VAN, 1));
    expect_text(rig, RECEIVED, report(VAN, 1), "'transport':'udp','device_id':42,'by':['id','name']");
    rig_publish(rig, REQUEST, "");
    rig_expect(rig, ENDED, "{'by':'id'}");
    rig_expect(rig, ENDED, "{'by':'name'}");
    ask(rig, "{'address':'127.0.0.1','seconds':99999}", STARTED, "{'seconds':3600}");
    int stranger = rig_tcp(rig);
    device_send(stranger, "\x01\xff junk");
    expect_text(rig, RECEIVED, "\x01\xff junk", "'transport':'tcp','offset':0");
    rig_publish(rig, REQUEST, "");
    ask(rig, "{'channel':'mictrack'}", STARTED, NULL);
    device_send(stranger, "more");
    expect_text(rig, RECEIVED, "more", "'offset':7");
    rig_finish(rig);
}

Test(capture, refuses_what_it_does_not_understand) {
    static const char *const requests[] = {
        "[1]",
        "{'seconds':5}",
        "{'device':'a','channel':'b'}",
        "{'device':''}",
        "{'device':true}",
        "{'address':'example.org'}",
        "{'device':'a','seconds':'5'}",
        "{'device':'a','seconds':-1}",
        "{'device':'a','second':5}",
    };
    struct rig *rig = rig_up(NULL);
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++)
        ask(rig, requests[i], REFUSED, "{'instance':'trackbus'}");
    rig_publish(rig, REQUEST, "{");
    rig_expect(rig, REFUSED, "{'reason':'a request is a JSON object'}");
    expect_none(rig, STARTED);
    rig_finish(rig);
}

// It ends by itself, and each instance takes part.
Test(capture, ends_when_its_time_is_over_in_every_gateway) {
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig);
    rig_gateway_start(second, "{'mqtt':{'client_id':'second'},'commands':{'intake':false}}");
    rig_expect(rig, "state/gw/instances/second", "{'state':'online'}");
    rig_publish(rig, REQUEST, "{\"device\":\"" VAN "\",\"seconds\":1}");
    rig_expect(rig, STARTED, "{'instance':'trackbus'}");
    rig_expect(rig, STARTED, "{'instance':'second'}");
    int device = rig_tcp(second);
    device_send(device, report(VAN, 1));
    expect_text(rig, RECEIVED, report(VAN, 1), "'instance':'second'");
    rig_expect(rig, ENDED, "{'instance':'trackbus','bytes':0}");
    rig_expect(rig, ENDED, "{'instance':'second'}");
    rig_finish(rig);
}

// 64 KiB of a device in a minute; the offset shows what is missing, and the end says how much.
Test(capture, is_bounded) {
    static char junk[40000];
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    size_t before = strlen(report(VAN, 1));
    device_send(device, report(VAN, 1));
    rig_expect(rig, "message/gw/devices/" VAN, NULL);
    memset(junk, '\n', sizeof junk);
    ask(rig, "{'device':'" VAN "','by':'me'}", STARTED, NULL);
    device_send_bytes(device, junk, sizeof junk);
    device_send_bytes(device, junk, sizeof junk);
    expect_read(rig, before + 2 * sizeof junk);
    rig_expect_log(rig, ". A device may have 64 KiB a minute");
    ask(rig, "{'device':'" VAN "','by':'me','seconds':0}", ENDED, "{'bytes':65536,'left_out':14464}");
    rig_finish(rig);
}

// --- trackbus capture ---

struct program {
    FILE *out; // what it says on both outputs
    pid_t process;
    char said[8192];
};

// Starts it with these arguments, of a shell, and waits until the gateway takes part.
__attribute__((format(printf, 2, 3))) static struct program *start(struct rig *rig, const char *format, ...) {
    char arguments[512], call[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(arguments, sizeof arguments, format, list);
    va_end(list);
    snprintf(call, sizeof call,
             "cd %s && echo $$ && exec env TRACKBUS_MQTT_URL=mqtt://127.0.0.1:%d " TRACKBUS_BINARY
             " capture %s 2>&1",
             rig->directory, rig->broker_port, arguments);
    struct program *program = calloc(1, sizeof *program);
    program->out = popen(call, "r");
    cr_assert(program->out != NULL && fgets(program->said, sizeof program->said, program->out) != NULL);
    program->process = (pid_t)atoi(program->said);
    return program;
}

static void await_line(struct program *program, const char *text) {
    while (fgets(program->said, sizeof program->said, program->out) != NULL)
        if (strstr(program->said, text) != NULL)
            return;
    cr_assert(false, "it does not say '%s'", text);
}

static void expect_end(struct program *program, int code, const char *text) {
    size_t length = fread(program->said, 1, sizeof program->said - 1, program->out);
    program->said[length] = '\0';
    int status = pclose(program->out);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == code, "exit code %d, expected %d: %s",
              WEXITSTATUS(status), code, program->said);
    cr_assert(strstr(program->said, text) != NULL, "it does not say '%s': %s", text, program->said);
    free(program);
}

// What decode prints of that file, without what differs with the time; its exit code must be this.
static char *decode(struct rig *rig, const char *name, const char *more, int code) {
    static char texts[4][16384];
    static unsigned next;
    char call[512], *text = texts[next++ % 4];
    snprintf(call, sizeof call, "cd %s && " TRACKBUS_BINARY " decode %s %s", rig->directory, name, more);
    FILE *process = popen(call, "r");
    size_t length = fread(text, 1, sizeof texts[0] - 1, process);
    text[length] = '\0';
    int status = pclose(process);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == code, "decode ends with %d: %s",
              WEXITSTATUS(status), text);
    return text;
}

static char *read_file(struct rig *rig, const char *name) {
    static char text[16384];
    char path[160];
    snprintf(path, sizeof path, "%s/%s", rig->directory, name);
    FILE *file = fopen(path, "r");
    cr_assert(file != NULL, "%s is not there", path);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

// A report in pieces, a command and its answer, junk; then a report over UDP.
static void play(struct rig *rig) {
    int device = report_in_pieces(rig);
    rig_expect(rig, "message/gw/devices/42", NULL);
    rig_publish(rig, "command/gw/devices/42", "mode,6,60#");
    device_expect(device, "mode,6,60#");
    device_send(device, "mode=Success!\r\n\x01\xffjunk\r\n");
    rig_expect(rig, "log/gw/channels/1/error", NULL);
    device_send(rig_udp(rig), report(VAN, 7));
    rig_expect(rig, "message/gw/devices/42", "{'message.seqnum':7}");
}

static void check_file(struct rig *rig) {
    const char *text = read_file(rig, "c");
    cr_assert(strncmp(text, "# trackbus capture\n# device Van 1, from ", 40) == 0, "%s", text);
    cr_assert(strstr(text, " channel=1 protocol=mictrack source=127.0.0.1:") != NULL, "%s", text);
    text = decode(rig, "c", "2>/dev/null", 1);
    cr_assert(strstr(text, "\"ident\":\"" VAN "\",\"message.seqnum\":113") != NULL, "%s", text);
    cr_assert(strstr(text, "{\"command.reply\":\"mode=Success!\",\"ident\":\"" VAN "\"}") != NULL, "%s",
              text);
    cr_assert(strstr(text, "\"message.seqnum\":7") != NULL, "%s", text);
    text = decode(rig, "c", "2>&1 >/dev/null", 1);
    cr_assert(strstr(text, " recv tcp 9 bytes, trackbus/1: the beginning of more\n") != NULL, "%s", text);
    cr_assert(strstr(text, " recv tcp 55 bytes, trackbus/1: 1 message\n") != NULL, "%s", text);
    cr_assert(strstr(text, " send tcp 10 bytes, trackbus/1: a command, or ") != NULL, "%s", text);
    cr_assert(strstr(text, "offset 94: JUNK: ") != NULL && strstr(text, "\n  01 ff \n  ^^\n") != NULL, "%s",
              text);
    cr_assert(strstr(text, " recv udp ") != NULL, "%s", text);
}

// No digit of the IMEI in it, and the same messages.
static void check_anonymous(struct rig *rig) {
    char hex[2 * sizeof VAN];
    const char *text = read_file(rig, "a");
    bytes_hex(VAN, strlen(VAN), hex);
    cr_assert(strstr(text, hex) == NULL && strstr(text, VAN) == NULL && strstr(text, "127.0.0.1") == NULL,
              "%s", text);
    char *was = decode(rig, "c", "2>/dev/null", 1), *is = decode(rig, "a", "2>/dev/null", 1), *at;
    while ((at = strstr(was, VAN)) != NULL)
        memcpy(at, "001000000000017", strlen(VAN));
    cr_assert_str_eq(is, was);
}

Test(capture, program_writes_a_file_that_decode_reads) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42,'name':'Van 1'}]}");
    struct program *program = start(rig, "-o c 'Van 1'"), *anonymous = start(rig, "--anonymize 42 -o a");
    await_line(program, "gateway trackbus captures for 600 s");
    await_line(anonymous, "gateway trackbus captures for 600 s");
    play(rig);
    await_line(program, "udp");
    await_line(anonymous, "udp");
    kill(program->process, SIGINT);
    kill(anonymous->process, SIGINT);
    expect_end(program, 0, "6 chunks of 2 connections");
    expect_end(anonymous, 0, "6 chunks of 2 connections");
    check_file(rig);
    check_anonymous(rig);
    rig_expect(rig, ENDED, "{'device':'Van 1'}");
    rig_expect(rig, ENDED, "{'device':'42'}");
    rig_finish(rig);
}

Test(capture, program_says_that_nothing_came_and_what_is_wrong) {
    struct rig *rig = rig_up(NULL);
    struct program *program = start(rig, "nobody");
    await_line(program, "no device 'nobody' is known so far; waiting for one with this ident");
    kill(program->process, SIGINT);
    expect_end(program, 1, "nothing came");
    rig_write_file(rig, "before", "of yesterday");
    expect_end(start(rig, "-o before 'Van 9'"), 1, "there is no device 'Van 9'");
    cr_assert_str_eq(read_file(rig, "before"), "of yesterday");
    expect_end(start(rig, "--channel nix"), 1, "there is no channel 'nix'; there are: mictrack");
    rig_expect(rig, ENDED, "{'channel':'nix'}");
    expect_end(start(rig, "--address example.org"), 1,
               "gateway trackbus refuses: address is not an IP address");
    expect_end(start(rig, "-o /nowhere/c " VAN), 1, "cannot write /nowhere/c: No such file or directory");
    expect_end(start(rig, "%s", ""), 2, "whose bytes?");
    expect_end(start(rig, VAN " --channel x"), 2, "one of DEVICE, --channel and --address");
    expect_end(start(rig, VAN " --seconds 3601"), 2, "from 1 to 3600");
    rig_finish(rig);
}
