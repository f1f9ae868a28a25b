// The command line as its users call it: output, messages, exit codes.
#include <criterion/criterion.h>
#include <jansson.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/e2e/rig.h"

TestSuite(cli, .fini = rig_clean);

#define REPORT "MT;6;866425031361423;R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113"
#define SECOND "MT;6;866425031361423;R0;10+190109091804+22.63827+114.02922+2.14+69+2+3744+114"
#define MESSAGE                                                                                              \
    "{\"battery.voltage\":3.744,\"custom.work.mode\":6,\"event.enum\":2,\"ident\":\"866425031361423\","      \
    "\"message.seqnum\":113,\"message.type\":\"R0\",\"position.direction\":69,\"position.latitude\":22."     \
    "63827,\"position.longitude\":114.02922,\"position.satellites\":10,\"position.speed\":2.14,\"position."  \
    "valid\":true,\"protocol.id\":1,\"server.timestamp\":1600000000,\"timestamp\":1547025483}\n"

struct outcome {
    int code;
    char out[65536], err[8192];
};

static struct rig *files; // its directory

static void read_output(const char *name, char *text, size_t capacity) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", files->directory, name);
    FILE *file = fopen(path, "r");
    text[file != NULL ? fread(text, 1, capacity - 1, file) : 0] = '\0';
    if (file != NULL)
        fclose(file);
}

static void put_file(const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", files->directory, name);
    FILE *file = fopen(path, "w");
    fputs(text, file);
    fclose(file);
}

// Runs `trackbus ARGUMENTS`, as a shell reads them, in the directory of the files, with input on its standard
// input.
static const struct outcome *call(const char *arguments, const char *input) {
    static struct outcome outcome;
    char line[4096];
    if (files == NULL) {
        files = rig_new();
        files->finished = true; // there is no log to show
    }
    put_file("in", input);
    snprintf(line, sizeof line, "cd %s && exec " TRACKBUS_BINARY " %s <in >out 2>err", files->directory,
             arguments);
    int status = system(line);
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    read_output("out", outcome.out, sizeof outcome.out);
    read_output("err", outcome.err, sizeof outcome.err);
    return &outcome;
}

#define expect_code(outcome, expected)                                                                       \
    cr_assert((outcome)->code == (expected), "exit code %d; %s%s", (outcome)->code, (outcome)->out,          \
              (outcome)->err)
#define expect_in(text, part) cr_assert(strstr(text, part) != NULL, "no '%s' in: %s", part, text)

Test(cli, workers_are_a_number) {
    static const char *const wrong[] = {"0", "65", "x", "2x", "''", "-1", "1000000000000"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char arguments[64];
        snprintf(arguments, sizeof arguments, "run --workers %s", wrong[i]);
        const struct outcome *it = call(arguments, "");
        expect_code(it, 2);
        expect_in(it->err, "expected 1 to 64");
    }
    expect_code(call("run --workers", ""), 2);
    expect_code(call("check -c in --workers 2", "{}"), 2);
}

Test(cli, help_and_version) {
    static const char *const calls[] = {
        "--help",    "-h",          "run --help",    "run -h",    "check -h",     "decode -h",
        "encode -h", "describe -h", "decode --help", "watch -h",  "store -h",     "send -h",
        "help",      "help send",   "help run",      "help help", "help version", "help --help"};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        const struct outcome *it = call(calls[i], "");
        expect_code(it, 0);
        expect_in(it->out, "trackbus ");
        cr_assert_str_empty(it->err);
    }
    expect_in(call("--help", "")->out, "trackbus decode -p PROTOCOL");
    const struct outcome *version = call("--version", "");
    expect_code(version, 0);
    cr_assert(strncmp(version->out, "trackbus ", 9) == 0 && version->out[9] >= '0' && version->out[9] <= '9');
}

// What it quotes may come from anywhere.
Test(cli, a_terminal_obeys_nothing_that_is_quoted) {
    static const char *const calls[] = {"decode -p", "encode -p mictrack", "describe fields",   "help",
                                        "run",       "store drop",         "decode -p mictrack"};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        char line[128];
        snprintf(line, sizeof line, "%s \"$(printf 'a\\033[31m\\302\\233')\"", calls[i]);
        const struct outcome *it = call(line, "");
        cr_expect(it->code > 0, "'%s' ends with %d", calls[i], it->code);
        cr_expect(strchr(it->err, '\033') == NULL && strstr(it->err, "\302\233") == NULL, "'%s' says '%s'",
                  calls[i], it->err);
        cr_expect(strstr(it->err, "[31m") != NULL, "'%s' says '%s'", calls[i], it->err);
    }
}

Test(cli, wrong_usage_says_what_is_wrong) {
    static const struct {
        const char *call, *says;
    } wrong[] = {
        {"", "trackbus run"},
        {"fly", "fly"},
        {"--fly", "--fly"},
        {"run --fly", "--fly"},
        {"run x", "x"},
        {"run -c", "-c"},
        {"check", "-c"},
        {"decode", "-p"},
        {"decode -p", "-p"},
        {"decode -p nothing", "nothing"},
        {"decode -p mictrack --now soon", "soon"},
        {"decode -p mictrack a b", "FILE"},
        {"decode -p mictrack no-such-file", "no-such-file"},
        {"decode -p mictrack --fly", "--fly"},
        {"encode -p mictrack", "COMMAND"},
        {"encode rconf", "-p"},
        {"encode -p nothing x", "nothing"},
        {"encode -p mictrack reboot 0", "COMMAND"},
        {"watch --fly", "--fly"},
        {"watch -c", "-c"},
        {"watch a b", "DEVICE"},
        {"describe", "fields"},
        {"describe everything", "fields"},
        {"describe commands", "-p"},
        {"describe commands -p nothing", "protocol"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const struct outcome *it = call(wrong[i].call, "");
        cr_assert(it->code == 2, "%s: exit code %d", wrong[i].call, it->code);
        cr_assert(strstr(it->err, wrong[i].says) != NULL, "%s: %s", wrong[i].call, it->err);
        cr_assert_str_empty(it->out);
    }
}

// --- decode ---

Test(cli, decode_prints_messages) {
    const struct outcome *it = call("decode -p mictrack --now 1600000000", REPORT "\r\n");
    expect_code(it, 0);
    cr_assert_str_eq(it->out, MESSAGE);
    cr_assert_str_empty(it->err);
    cr_assert_str_eq(call("decode -p mictrack --now 1600000000", REPORT)->out, MESSAGE); // without an end
}

// What comes from outside is shown so that no terminal obeys it, in JSON as JSON.
Test(cli, nothing_from_outside_reaches_the_terminal_raw) {
    const struct outcome *it = call("decode -p mictrack", "MT;6;866425031361423;ZZ;a\xc2\x9b"
                                                          "31mRED\u202e\u2028\x7f\r\n");
    expect_code(it, 0);
    expect_in(it->out, "a\\u009b31mRED\\u202e\\u2028\\u007f");
    cr_assert(strpbrk(it->out, "\x7f\x9b\xe2") == NULL);
    put_file("strange.json", "{\"a\xc2\x9b"
                             "31m\u202e\": 1}");
    it = call("check -c strange.json", "");
    expect_code(it, 1);
    expect_in(it->out, "a\\u009b31m\\u202e");
    cr_assert(strpbrk(it->out, "\x9b\xe2") == NULL);
    put_file("strange.json", "{\"channels\": [{\"id\": 1, \"protocol\": \"mic\xc2\x9b"
                             "31m\", \"tcp\": \"\xc2\x9b"
                             "\"}]}");
    it = call("check -c strange.json", "");
    expect_code(it, 1);
    cr_assert(strpbrk(it->out, "\x9b") == NULL);
}

Test(cli, decode_reads_files_and_hexadecimal) {
    char hex[512] = "";
    for (const char *c = REPORT; *c != '\0'; c++)
        snprintf(hex + strlen(hex), 12, "%02X%s", (unsigned)*c, c - REPORT == 20 ? "\n" : "");
    call("--version", "");
    put_file("capture", REPORT "\n");
    cr_assert_str_eq(call("decode -p mictrack --now 1600000000 capture", "")->out, MESSAGE);
    const struct outcome *it = call("decode --protocol mictrack --hex --now 1600000000", hex);
    expect_code(it, 0);
    cr_assert_str_eq(it->out, MESSAGE);
    it = call("decode -p mictrack --hex", "4D 54 3B X");
    expect_code(it, 1);
    expect_in(it->err, "offset 9: BAD_VALUE: ");
}

Test(cli, decode_says_what_was_rejected_and_where) {
    const struct outcome *it =
        call("decode -p mictrack --now 1600000000", "junk\r\n" REPORT "\r\nMT;6;123;R0;1\r\n" SECOND "\r\n");
    expect_code(it, 1);
    expect_in(it->err, "offset 0: JUNK: ");
    expect_in(it->err, "offset 90: BAD_VALUE: ");
    expect_in(it->out, "\"message.seqnum\":113");
    expect_in(strchr(it->out, '\n'), "\"message.seqnum\":114");
}

Test(cli, decode_explains_bytes) {
    const struct outcome *it = call("decode -p mictrack --now 1600000000 --explain", REPORT "\r\n");
    cr_assert_eq(it->code, 0, "%s", it->err);
    expect_in(it->out, MESSAGE "frame at offset 0, 77 bytes: OK\n");
    expect_in(it->out, "\n  40         32322e3633383237               position.latitude                  "
                       "22.63827               "
                       "22.63827                 known    layouts R0 item 3\n");
    it = call(
        "decode -p magicyo --hex --explain",
        "55550030383634383637303232353131303135030056001204015f5e10000106000212340abcde01004b854206b5aaaa");
    cr_assert_eq(it->code, 0, "%s", it->err);
    expect_in(it->out, "assumed  records 04/01 item 4\n");
    expect_in(it->out, " 383634383637303232353131303135 ident   "); // an IMEI fits into its column
    expect_in(it->out, "reply once its messages are safe: 5555");
    it = call("decode -p magicyo --hex --explain",
              "5555001e3836343836373032323531313031350c00a500002c6c0327aaaa");
    cr_assert_eq(it->code, 1);
    expect_in(it->err,
              "\n  55 55 00 1e 38 36 34 38 36 37 30 32 32 35 31 31 30 31 35 0c 00 a5 00 00 2c 6c 03 27 aa aa "
              "\n                                                                          ^^\n");
}

Test(cli, decode_says_which_value_was_left_out) {
    const struct outcome *it =
        call("decode -p mictrack", "MT;6;866425031361423;R0;10+190109091803+95+114.02922+2.14+69+2+3744+113");
    expect_code(it, 1);
    expect_in(it->err, "offset 0: BAD_VALUE: position.latitude");
    expect_in(it->err, "95");
    expect_in(it->out, "\"message.seqnum\":113");
}

Test(cli, decode_judges_times_by_its_now) {
    const struct outcome *it = call("decode -p mictrack --now 1546939083", REPORT); // a day before
    expect_code(it, 0);
    expect_in(it->out, "\"timestamp\":1547025483");
    it = call("decode -p mictrack --now 1546939082", REPORT);
    expect_code(it, 1);
    expect_in(it->err, "offset 0: BAD_VALUE: timestamp is left out: '190109091803' is more than a day ahead");
    expect_in(it->out, "\"timestamp\":1546939082");
    it = call("decode -p mictrack --now 600", REPORT); // a clock that is not set
    expect_code(it, 0);
    expect_in(it->out, "\"timestamp\":1547025483");
}

Test(cli, decode_takes_lines_for_datagrams) {
    const struct outcome *it =
        call("decode -p mictrack --udp --now 1600000000", REPORT "\nMT;6;86642\n" SECOND "\n");
    expect_code(it, 1);
    expect_in(it->out, "\"message.seqnum\":113");
    expect_in(it->out, "\"message.seqnum\":114");
    expect_in(it->err, "offset 88: SHORT: ");
}

Test(cli, decode_prints_answers) {
    const struct outcome *it = call("decode -p mictrack", "867035041390699 netlock=Success!\r\n");
    expect_code(it, 0);
    cr_assert_str_eq(it->out, "{\"command.reply\":\"netlock=Success!\",\"ident\":\"867035041390699\"}\n");
    it = call("decode -p mictrack", REPORT "\nrconf=m2m,,1.2.3.4,7700,6,30,V1,GSM\n");
    expect_code(it, 0);
    expect_in(it->out, "\n{\"command.reply\":{\"apn\":\"m2m\",");
}

Test(cli, decode_of_nothing) {
    const struct outcome *it = call("decode -p mictrack", "");
    expect_code(it, 0);
    cr_assert_str_empty(it->out);
    cr_assert_str_empty(it->err);
}

// --- encode ---

Test(cli, encode) {
    const struct outcome *it = call("encode -p mictrack 'netlock,2,3,0#'", "");
    expect_code(it, 0);
    cr_assert_str_eq(it->out, "netlock,2,3,0#\n");
    it = call("encode -p mictrack '{\"name\":\"mode\",\"properties\":{\"mode\":6,\"interval\":60}}'", "");
    expect_code(it, 0);
    cr_assert_str_eq(it->out, "mode,6,60#\n");
    cr_assert_str_eq(call("encode -p mictrack --hex 'where?'", "")->out, "77686572653f\n");
    cr_assert_str_eq(call("encode -p mictrack '[{\"name\":\"rconf\"},{\"name\":\"reboot\"}]'", "")->out,
                     "rconf,1#\nreboot,0#\n");
}

Test(cli, encode_says_why_a_command_is_not_valid) {
    static const struct {
        const char *command, *says;
    } wrong[] = {
        {"'{\"name\":\"mode\",\"properties\":{\"mode\":6,\"interval\":5}}'", "interval"},
        {"'{\"name\":\"mode\"'", "JSON"},
        {"'{\"name\":\"fly\"}'", "fly"},
        {"''", "empty"},
        {"\"$(printf 'a\\nb')\"", "payload"},
        {"\"$(printf '%0300d' 0)\"", "255"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char line[256];
        snprintf(line, sizeof line, "encode -p mictrack %s", wrong[i].command);
        const struct outcome *it = call(line, "");
        expect_code(it, 1);
        expect_in(it->err, wrong[i].says);
        cr_assert_str_empty(it->out);
    }
}

// --- check ---

Test(cli, check_of_valid_configurations) {
    const struct outcome *it = call("check -c in", "{}");
    expect_code(it, 0);
    expect_in(it->out, "valid");
    it = call("check --config in", "{\"devices\":[{\"ident\":\"866425031361423\",\"id\":42}]}");
    expect_code(it, 0);
    expect_in(it->out, " 1 device\n");
}

Test(cli, check_notes_what_does_not_work_with_mqtt_3_1_1) {
    const struct outcome *it = call("check -c in", "{\"mqtt\":{\"version\":\"3.1.1\"}}");
    expect_code(it, 0);
    expect_in(it->out, "is valid");
    expect_in(it->out, "note: $.mqtt.version: \"3.1.1\" has no response topics");
    expect_in(it->out, "user properties");
    it = call("check -c in", "{\"mqtt\":{\"version\":\"3.1.1\"},\"commands\":{\"intake\":false}}");
    expect_code(it, 0);
    cr_assert_null(strstr(it->out, "response topics"), "no commands come");
    it = call("check -c in", "{\"mqtt\":{\"version\":\"5\",\"url\":\"mqtt://127.0.0.1:9\"}}"); // no broker
    cr_assert_null(strstr(it->out, "note"));
}

// Those that the configurations below name.
static void put_files(void) {
    char large[70001], path[128];
    call("version", ""); // makes the directory
    put_file("devices.json", "[{\"ident\":\"b\",\"id\":1},{\"ident\":\"c\",\"id\":\"x\"}]");
    put_file("nothing", "\nsecret\n");
    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    put_file("large", large);
    snprintf(path, sizeof path, "%s/nul", files->directory);
    FILE *file = fopen(path, "w");
    fwrite("sec\0ret\n", 1, 8, file);
    fclose(file);
}

static const struct {
    const char *config, *path;
} faulty[] = {
    {"{\"mqtt\":{\"urll\":\"x\"}}", "$.mqtt.urll: "},
    {"{\"mqtt\":{\"url\":\"http://x\"}}", "$.mqtt.url: "},
    {"{\"mqtt\":{\"qos\":2}}", "$.mqtt.qos: "},
    {"{\"mqtt\":{\"topic_prefix\":\"a/#\"}}", "$.mqtt.topic_prefix: "},
    {"{\"mqtt\":{\"password_file\":\"/no/such\"}}", "$.mqtt.password_file: "},
    {"{\"channels\":[{\"id\":1,\"protocol\":\"x\",\"tcp\":\"0.0.0.0:1\"}]}", "$.channels[0]: "},
    {"{\"channels\":[{\"id\":1,\"protocol\":\"mictrack\",\"tcp\":\"0.0.0.0\"}]}", "$.channels[0].tcp: "},
    {"{\"channels\":[{\"id\":1,\"protocol\":\"mictrack\"}]}", "$.channels[0]: "},
    {"{\"limits\":{\"connections\":\"many\"}}", "$.limits.connections: "},
    {"{\"messages\":[]}", "$.messages: "},
    {"{\"devices\":[{\"ident\":\"a b\",\"id\":1}]}", "$.devices[0].ident: "},
    {"{\"devices\":[{\"ident\":\"a\",\"id\":1},{\"ident\":\"b\",\"id\":1}]}",
     "$.devices[1]: $.devices[0] and $.devices[1] have the id 1, expected"},
    {"{\"devices\":[{\"ident\":\"a\",\"id\":1}],\"devices_file\":\"devices.json\"}",
     "devices.json[0]: $.devices[0] and devices.json[0] have the id 1, expected"},
    {"{\"devices\":[{\"ident\":\"a\",\"id\":1}],\"devices_file\":\"devices.json\"}",
     "devices.json[1].id: is \"x\", expected integer"},
    {"{\"channels\":[{\"id\":1,\"protocol\":\"mictrack\",\"tcp\":\"127.0.0.1:7700\",\"battery\":[[3.5,0],[3."
     "4,100]]}]}",
     "$.channels[0]: has a battery whose points do not rise"},
    {"{\"channels\":[{\"id\":1,\"protocol\":\"mictrack\",\"tcp\":\"127.0.0.1:7700\",\"battery\":[[3.5,0],[4."
     "2,90]]}]}",
     "$.channels[0]: has a battery whose points do not rise"},
    {"{\"channels\":[]}", "$.channels: has 0 entries, expected at least 1"},
    {"{\"channels\":[{\"id\":1,\"protocol\":\"mictrack\",\"tcp\":\"127.0.0.1:7700\"},"
     "{\"id\":2,\"protocol\":\"magicyo\",\"tcp\":\"0.0.0.0:7700\"}]}",
     "$.channels[1].tcp: is \"0.0.0.0:7700\", but $.channels[0].tcp is \"127.0.0.1:7700\""},
    {"{\"channels\":[{\"id\":1,\"protocol\":\"mictrack\",\"udp\":\"127.0.0.1:7700\"},"
     "{\"id\":2,\"protocol\":\"magicyo\",\"udp\":\"[::]:7700\"}]}",
     "$.channels[1].udp: is \"[::]:7700\", but $.channels[0].udp is \"127.0.0.1:7700\""},
    {"{\"web\":{\"listen\":\"127.0.0.1:7701\"}}",
     "$.web.listen: is \"127.0.0.1:7701\", but $.channels[1].tcp is \"0.0.0.0:7701\", expected a port of its "
     "own"},
    {"{\"mqtt\":{\"client_id\":\"a\\u0085\"}}", "$.mqtt.client_id: has the character U+0085"},
    {"{\"mqtt\":{\"username\":\"a\\u0001\"}}", "$.mqtt.username: has the character U+0001"},
    {"{\"mqtt\":{\"topic_prefix\":\"a\\u007f\"}}", "$.mqtt.topic_prefix: has the character U+007F"},
    {"{\"home_assistant\":{\"prefix\":\"a\\ufffe\"}}", "$.home_assistant.prefix: has the character U+FFFE"},
    {"{\"owntracks\":{\"prefix\":\"a\\ufffe\"}}", "$.owntracks.prefix: has the character U+FFFE"},
    {"{\"mqtt\":{\"password_file\":\".\"}}", "cannot be read: Is a directory"},
    {"{\"mqtt\":{\"password_file\":\"nul\"}}", "it has a NUL byte"},
    {"{\"mqtt\":{\"password_file\":\"large\"}}",
     "$.mqtt.password_file: has 70000 bytes, expected at most 65535"},
    {"{\"mqtt\":{\"password_file\":\"nothing\"}}", "its first line is empty"},
    {"{\"mqtt\":{\"password_file\":\"/no/such\"}}", "cannot be read: No such file or directory"},
    {"{\"geolocation\":{\"key_file\":\"/no/such\"}}",
     "$.geolocation.key_file: is \"/no/such\", which cannot be read: No such file or directory"},
    {"{\"geolocation\":{\"key_file\":\"nothing\"}}", "its first line is empty, expected the key"},
    {"{\"geolocation\":{\"url\":\"ftp://example.org/\"}}", "$.geolocation.url: is no URL, expected http"},
    {"{\"geolocation\":{\"url\":\"https://\"}}", "$.geolocation.url: is no URL"},
    {"{\"commands\":{\"key_file\":\"/no/such\"}}",
     "$.commands.key_file: is \"/no/such\", which is no key: No such file or directory"},
    {"{\"commands\":{\"key_file\":\".\"}}", "which is no key: Is a directory"},
    {"{\"commands\":{\"key_file\":\"nothing\"}}",
     "it is too short, expected 16 to 4096 bytes that nobody can guess"},
    {"{\"commands\":{\"key_file\":\"large\"}}", "which is no key: it is too long"},
    {"{\"mqtt\":{\"ca_file\":\".\"}}", "$.mqtt.ca_file: is \".\", which cannot be read: Is a directory"},
    {"{\"devices_file\":\"/no/such\"}", "$.devices_file: "},
    {"{\"unknown_devices\":\"maybe\"}", "$.unknown_devices: "},
    {"[]", "$: "},
    {"{", "$: in, line 1, column 1: string or '}' expected near end of file\n"},
    {"", "$: in, line 1"},
};

// check, run and watch say the same; check on standard output.
static void expect_fault(const char *command, const char *config, const char *path) {
    const struct outcome *it = call(command, config);
    const char *output = strncmp(command, "check", strlen("check")) == 0 ? it->out : it->err;
    cr_assert(it->code == 1, "%s, %s: exit code %d", command, config, it->code);
    cr_assert(strstr(output, path) != NULL, "%s, %s: %s%s", command, config, it->out, it->err);
}

// watch does not need it.
static bool is_file_of_the_gateway_alone(const char *config) {
    return strstr(config, "{\"commands\":{\"key_file\"") != NULL ||
           strstr(config, "{\"geolocation\":{\"key_file\"") != NULL ||
           strstr(config, "\"devices_file\"") != NULL;
}

Test(cli, check_names_each_fault_with_its_path) {
    put_files();
    for (size_t i = 0; i < sizeof faulty / sizeof faulty[0]; i++) {
        expect_fault("check -c in", faulty[i].config, faulty[i].path);
        expect_fault("run -c in", faulty[i].config, faulty[i].path);
        if (!is_file_of_the_gateway_alone(faulty[i].config))
            expect_fault("watch -c in", faulty[i].config, faulty[i].path);
    }
}

Test(cli, check_names_unknown_keys_and_a_file_that_is_not_there) {
    const struct outcome *it = call("check -c in", "{\"a\":1,\"mqtt\":{\"b\":2},\"limits\":{\"c\":3}}");
    expect_in(it->out, "$.a: ");
    expect_in(it->out, "$.mqtt.b: ");
    expect_in(it->out, "$.limits.c: ");
    expect_code(call("check -c no-such-file", ""), 1);
    expect_in(call("check -c no-such-file", "")->out, "no-such-file");
}

// One hides no other, whatever finds it.
Test(cli, check_names_all_faults_at_once) {
    put_files();
    const struct outcome *it =
        call("check -c in",
             "{\"mqtt\":{\"qos\":7,\"url\":\"http://x\",\"client_id\":\"a\\u0085\",\"key_file\":\"/no\"},"
             "\"messages\":[5],"
             "\"channels\":[{\"id\":\"x\",\"protocol\":\"fly\",\"tcp\":\"nowhere\"},7,"
             "{\"id\":2,\"protocol\":\"mictrack\",\"tcp\":\"0.0.0.0:7700\"},"
             "{\"id\":2,\"protocol\":\"mictrack\",\"tcp\":\"0.0.0.0:7700\"}],"
             "\"devices\":[{\"ident\":\"c\"},{\"ident\":\"c\",\"id\":4},{\"name\":\"d\"}],\"devices_file\":"
             "\"devices.json\"}");
    static const char *const faults[] = {
        "$.mqtt.qos: is 7",
        "$.mqtt.url: is \"http://x\"",
        "$.mqtt.client_id: has the character",
        "$.mqtt.key_file: ",
        "$.mqtt: has one of cert_file and key_file",
        "$.messages[0]: is 5",
        "$.channels[0].id: is \"x\"",
        "$.channels[0]: has the protocol \"fly\"",
        "$.channels[0].tcp: is \"nowhere\"",
        "$.channels[1]: is 7, expected object",
        "$.channels[3]: has the id 2",
        "$.channels[3].tcp: is \"0.0.0.0:7700\"",
        "$.devices[2]: has no \"ident\"",
        "$.devices[1]: $.devices[0] and $.devices[1] have the ident c, expected",
        "devices.json[1].id: is \"x\"",
    };
    expect_code(it, 1);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        expect_in(it->out, faults[i]);
    cr_assert(strstr(it->out, "has the id 0") == NULL, "an id that is missing is none: %s", it->out);
}

// Neither on the screen nor in the log.
Test(cli, check_shows_no_password) {
    static const char *const wrong[] = {"{\"mqtt\":{\"url\":\"mqtt://me:se:cr@et@host\"}}",
                                        "{\"mqtt\":{\"url\":[\"me:se:cr@et@host\"]}}",
                                        "{\"mqtt\":{\"url\":{\"a\":\"cr@et\"}}}",
                                        "{\"mqtt\":{\"password\":[\"cr@et\"]}}",
                                        "{\"mqtt\":[\"cr@et\"]}",
                                        "[{\"mqtt\":{\"password\":\"cr@et\"}}]",
                                        "{\"mqtt\":{\"password\":\"cr@et\n",
                                        "{\"mqtt\":{\"password\":cr@et}}",
                                        "{\"mqtt\":{\"password\":\"x\" \"cr@et\"}}"};
    static const char *const calls[] = {"check -c in", "run -c in"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        for (size_t j = 0; j < sizeof calls / sizeof calls[0]; j++) {
            const struct outcome *it = call(calls[j], wrong[i]);
            expect_code(it, 1);
            cr_assert(strstr(it->out, "cr@et") == NULL && strstr(it->err, "cr@et") == NULL, "%s: %s%s",
                      wrong[i], it->out, it->err);
        }
    expect_in(call("check -c in", wrong[0])->out,
              "$.mqtt.url: is \"mqtt://me:***@host\", expected mqtt://HOST:PORT");
}

Test(cli, check_notes_what_is_hardly_meant) {
    put_files();
    put_file("password", "secret\n");
    const struct outcome *it =
        call("check -c in",
             "{\"unknown_devices\":\"reject\",\"mqtt\":{\"qos\":0,\"password_file\":\"password\"}}");
    expect_code(it, 0);
    expect_in(it->out, "note: $.unknown_devices: is \"reject\", and no device is listed");
    expect_in(it->out, "note: $.mqtt.qos: is 0");
    expect_in(it->out, "note: $.mqtt.password_file: everybody may read \"password\" (mode 644)");
}

// As `run` will need it.
Test(cli, check_tries_the_store_and_the_ports) {
    char config[256];
    const struct outcome *it = call("check -c in", "{\"store\":{\"path\":\"no/such/folder/x.db\"}}");
    expect_code(it, 1);
    expect_in(it->out, "$.store.path: is \"no/such/folder/x.db\", but there is no folder \"no/such/folder\"");
    expect_in(call("check -c in", "{\"store\":{\"path\":\".\"}}")->out,
              "$.store.path: is \".\", which is no file");
    it = call("check -c in", "{\"store\":{\"path\":\"folder/\"}}");
    expect_code(it, 1);
    expect_in(it->out, "$.store.path: is \"folder/\", where the user ");
    it = call("check -c in", "{\"store\":{\"path\":\"/proc/x.db\"}}");
    expect_code(it, 1);
    expect_in(it->out, "$.store.path: is \"/proc/x.db\", where the user ");
    it = call("check -c in",
              "{\"channels\":[{\"id\":1,\"protocol\":\"mictrack\",\"tcp\":\"203.0.113.7:7700\"}]}");
    expect_code(it, 1);
    expect_in(it->out, "$.channels[0].tcp: is \"203.0.113.7:7700\", where the user ");
    rig_broker_start(files, NULL);
    snprintf(config, sizeof config,
             "{\"channels\":[{\"id\":1,\"protocol\":\"mictrack\",\"tcp\":\"127.0.0.1:%d\"}]}",
             files->broker_port);
    it = call("check -c in", config);
    expect_code(it, 0);
    expect_in(it->out, "is in use, perhaps by the gateway itself");
    expect_in(it->out, "warning: $.channels[0].");
    expect_in(it->out, "in is valid for the user ");
}

// The service checks before each start, and what waits in a store that is there is to be sent.
Test(cli, check_finds_no_fault_with_a_store_on_a_full_disk) {
    char disk[128];
    call("version", ""); // makes the directory
    snprintf(disk, sizeof disk, "%s/disk", files->directory);
    cr_assert_eq(mkdir(disk, 0700), 0);
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", disk, "tmpfs", 0, "nr_inodes=2") != 0)
        cr_skip_test("cannot mount a small disk");
    put_file("disk/store.db", "");
    const struct outcome *it = call("check -c in", "{\"store\":{\"path\":\"disk/store.db\"}}");
    expect_code(it, 0);
    it = call("check -c in", "{\"store\":{\"path\":\"disk/another.db\"}}");
    expect_code(it, 1);
    expect_in(it->out, "cannot write: No space left on device");
    umount2(disk, MNT_DETACH);
}

static const struct outcome *check_with_broker(const char *url, int port, const char *more) {
    char config[400];
    snprintf(config, sizeof config, "{\"mqtt\":{\"url\":\"%s:%d\"%s}}", url, port, more);
    return call("check -c in", config);
}

// A broker that is away is no fault: the gateway waits for it.
Test(cli, check_tries_the_broker) {
    char says[200];
    call("version", ""); // makes the directory
    rig_broker_reserve(files);
    const struct outcome *it = check_with_broker("mqtt://127.0.0.1", files->broker_port, "");
    expect_code(it, 0);
    snprintf(says, sizeof says,
             "warning: $.mqtt.url: the broker 127.0.0.1:%d cannot be used now: Connection refused",
             files->broker_port);
    expect_in(it->out, says);
    rig_broker_start(files, rig_broker_password_lines(files));
    it = check_with_broker("mqtt://127.0.0.1", files->broker_port, ",\"username\":\"nobody\"");
    expect_in(it->out, "cannot be used now: Not authorized: look at mqtt.username, ");
    it = check_with_broker("mqtt://127.0.0.1", files->broker_port,
                           ",\"username\":\"" RIG_USER "\",\"password\":\"" RIG_PASSWORD "\"");
    expect_code(it, 0);
    cr_assert_null(strstr(it->out, "warning"), "%s", it->out);
}

Test(cli, check_regards_the_environment) {
    setenv("TRACKBUS_MQTT_URL", "nonsense", 1);
    const struct outcome *it = call("check -c in", "{}");
    expect_code(it, 1);
    expect_in(it->out, "$.mqtt.url: ");
    setenv("TRACKBUS_MQTT_URL", "mqtt://localhost", 1);
    expect_code(call("check -c in", "{\"mqtt\":{\"url\":\"nonsense\"}}"), 0);
}

Test(cli, every_key_can_be_set_by_the_environment) {
    setenv("TRACKBUS_HOME_ASSISTANT__ENABLED", "true", 1);
    setenv("TRACKBUS_LIMITS__CONNECTIONS", "many", 1);
    setenv("TRACKBUS_MQTT__QOS", "2", 1);
    setenv("TRACKBUS_MQTT__CLIENT_ID", "12", 1); // a text, as the schema says
    setenv("TRACKBUS_MESSAGES", "[\"channels\"]", 1);
    setenv("TRACKBUS_TELEMETRY", "", 1); // as if it were not set
    const struct outcome *it = call("check -c in", "{\"home_assistant\":{\"prefix\":\"x\"}}");
    expect_code(it, 1);
    expect_in(it->out, "note: $.home_assistant.enabled: is what TRACKBUS_HOME_ASSISTANT__ENABLED says");
    expect_in(it->out, "note: $.messages: is what TRACKBUS_MESSAGES says");
    expect_in(it->out, "\n$.limits.connections: is \"many\"");
    expect_in(it->out, "\n$.mqtt.qos: is 2");
    cr_assert(strstr(it->out, "client_id: is \"12\"") == NULL && strstr(it->out, "telemetry") == NULL, "%s",
              it->out);
    unsetenv("TRACKBUS_LIMITS__CONNECTIONS");
    setenv("TRACKBUS_MQTT__QOS", "0", 1);
    setenv("TRACKBUS_CHANNELS", "[{\"id\":7,\"protocol\":\"mictrack\",\"tcp\":\"127.0.0.1:0\"}]", 1);
    it = call("check -c in", "{\"mqtt\":{\"qos\":1}}");
    expect_code(it, 0);
    expect_in(it->out, ": 1 channel, 0 devices");
}

Test(cli, the_environment_is_told_apart_and_checked) {
    setenv("TRACKBUS_MQTT__USRENAME", "x", 1);
    setenv("TRACKBUS_PORT_7700_TCP", "Kubernetes says such things", 1);
    const struct outcome *it = call("check -c in", "{}");
    expect_code(it, 1);
    expect_in(it->out, "$: the environment's TRACKBUS_MQTT__USRENAME names no key, expected a name such as "
                       "TRACKBUS_MQTT__URL");
    cr_assert_null(strstr(it->out, "7700_TCP"));
    unsetenv("TRACKBUS_MQTT__USRENAME");
    setenv("TRACKBUS_MQT_URL", "x", 1); // may be another's
    it = call("check -c in", "{}");
    expect_code(it, 0);
    expect_in(it->out, "note: $: the environment's TRACKBUS_MQT_URL names no key and is ignored");
    cr_assert_null(strstr(it->out, "7700_TCP"));
    expect_in(call("watch -c nowhere", "")->err, "note: $: the environment's TRACKBUS_MQT_URL names no key");
    unsetenv("TRACKBUS_MQT_URL");
    setenv("TRACKBUS_MQTT_URL", "mqtt://localhost", 1);
    setenv("TRACKBUS_MQTT__URL", "[\"mqtt://localhost\"]", 1);
    expect_in(call("check -c in", "{}")->out,
              "$.mqtt.url: is set by TRACKBUS_MQTT_URL and by TRACKBUS_MQTT__URL");
    unsetenv("TRACKBUS_MQTT_URL");
    expect_code(call("check -c in", "{}"), 0);
    setenv("TRACKBUS_MQTT__PASSWORD", "secret", 1); // instead of what the file says
    it = call("check -c in", "{\"mqtt\":{\"username\":\"u\",\"password_file\":\"nowhere\"}}");
    expect_code(it, 0);
    cr_assert_null(strstr(it->out, "secret"));
}

Test(cli, credentials_are_there_in_a_service_alone) {
    const struct outcome *it = call("check -c in", "{\"mqtt\":{\"password_file\":\"%d/mqtt\"}}");
    expect_code(it, 1);
    expect_in(it->out, "$.mqtt.password_file: is \"%d/mqtt\", but there are no credentials");
    setenv("CREDENTIALS_DIRECTORY", "/nowhere", 1);
    expect_in(call("check -c in", "{\"mqtt\":{\"password_file\":\"%d/mqtt\"}}")->out, "\"/nowhere/mqtt\"");
}

// By hand, root reads what systemd would hand to the service.
Test(cli, credentials_outside_a_service_are_beside_the_configuration) {
    static const char text[] = "{\"mqtt\":{\"username\":\"u\",\"password_file\":\"%d/secrets_mqtt\"}}";
    const struct outcome *it = call("check -c in", text);
    expect_code(it, 1);
    expect_in(it->out, "outside the service the file \"./secrets/mqtt\", which cannot be read: No such file");
    expect_in(it->out, "expected root (sudo), or TRACKBUS_MQTT_USERNAME and TRACKBUS_MQTT_PASSWORD");
    char folder[128];
    snprintf(folder, sizeof folder, "%s/secrets", files->directory);
    cr_assert_eq(mkdir(folder, 0700), 0);
    put_file("secrets/mqtt", "");
    expect_in(call("check -c in", text)->out, "is \"./secrets/mqtt\", which cannot be read: it is empty");
    put_file("secrets/mqtt", "hidden\n");
    expect_code(call("check -c in", text), 0);
    char call_with_path[256];
    snprintf(call_with_path, sizeof call_with_path, "check -c %s/in", files->directory);
    expect_code(call(call_with_path, text), 0);
}

// The file of users is made by the command that adds one, also where the service gets a copy.
Test(cli, credentials_that_are_users_are_made) {
    static const char text[] = "{\"web\":{\"users_file\":\"%d/secrets_users\"}}";
    char path[128];
    const struct outcome *it = call("check -c in", text);
    snprintf(path, sizeof path, "%s/secrets", files->directory);
    cr_assert_eq(mkdir(path, 0700), 0);
    expect_code(it, 1);
    expect_in(it->out, "the file \"./secrets/users\", which cannot be read: No such file");
    it = call("web -c in --add-user eve", text); // the password is the first line of the same text
    expect_code(it, 0);
    expect_in(it->out, "eve may log in; ./secrets/users has the hash");
    expect_code(call("check -c in", text), 0);
}

// Root makes it for the service, which owns the folder and must be able to read it.
Test(cli, users_belong_to_who_has_their_folder) {
    static const char text[] = "{\"web\":{\"users_file\":\"owned/users\"}}";
    char path[128];
    struct stat status;
    if (geteuid() != 0)
        cr_skip_test("only root can make a file for somebody else");
    expect_code(call("check -c in", text), 1);
    snprintf(path, sizeof path, "%s/owned", files->directory);
    cr_assert(mkdir(path, 0755) == 0 && chown(path, 7700, 7701) == 0);
    expect_code(call("web -c in --add-user eve", text), 0);
    snprintf(path, sizeof path, "%s/owned/users", files->directory);
    cr_assert_eq(stat(path, &status), 0);
    cr_assert(status.st_uid == 7700 && status.st_gid == 7701 && (status.st_mode & 07777) == 0600);
}

// Of a file that a command does not use, nothing needs to be there.
Test(cli, files_that_a_command_does_not_use_are_not_read) {
    static const char text[] =
        "{\"mqtt\":{\"url\":\"mqtt://127.0.0.1:1\",\"username\":\"u\",\"password_file\":\"%d/secrets_mqtt\"},"
        "\"commands\":{\"key_file\":\"%d/secrets_key\"},\"devices_file\":\"nowhere\","
        "\"web\":{\"users_file\":\"users\"},\"store\":{\"path\":\"store\"}}";
    const struct outcome *it = call("store -c in list", text);
    expect_code(it, 1);
    expect_in(it->err, "there is no store store");
    it = call("web -c in --add-user eve", text); // the password is the first line of the same text
    expect_code(it, 0);
    expect_in(it->out, "eve may log in");
    it = call("watch -c in", text);
    expect_code(it, 1);
    expect_in(it->err, "$.mqtt.password_file: ");
    cr_assert(strstr(it->err, "key_file") == NULL && strstr(it->err, "devices_file") == NULL, "%s", it->err);
    setenv("TRACKBUS_MQTT_PASSWORD", "x", 1);
    it = call("capture -c in --seconds 1 866425031361423", text);
    expect_code(it, 1);
    cr_assert(strstr(it->err, "_file") == NULL, "%s", it->err);
}

// --- describe ---

static json_t *described(const char *arguments) {
    const struct outcome *it = call(arguments, "");
    expect_code(it, 0);
    json_t *json = json_loads(it->out, 0, NULL);
    cr_assert(json != NULL, "no JSON: %s", it->out);
    return json;
}

Test(cli, describe) {
    expect_in(call("describe fields", "")->out, "\nposition.latitude ");
    expect_in(call("describe protocols", "")->out, "\nmictrack ");
    const struct outcome *it = call("describe commands -p mictrack", "");
    expect_code(it, 0);
    expect_in(it->out, "{\"name\": \"mode\", \"properties\": {\"mode\": 6, \"interval\": 60}}");
}

// A word filters the fields, in whatever case, by name, unit or meaning.
Test(cli, describe_fields_with_a_word) {
    const struct outcome *it = call("describe fields Latitude", "");
    expect_code(it, 0);
    expect_in(it->out, "\nposition.latitude ");
    cr_assert(strstr(it->out, "battery.voltage") == NULL, "%s", it->out);
    it = call("describe fields km/h", "");
    expect_in(it->out, "\nposition.speed ");
    cr_assert(strstr(it->out, "position.latitude") == NULL, "%s", it->out);
    json_t *fields = described("describe fields battery.voltage --json");
    cr_assert_eq(json_array_size(fields), 1);
    json_decref(fields);
    it = call("describe fields nonsense", "");
    expect_code(it, 1);
    expect_in(it->err, "no field has 'nonsense'");
    expect_code(call("describe protocols battery", ""), 2);
    expect_code(call("describe fields battery voltage", ""), 2);
}

Test(cli, describe_for_machines) {
    json_t *fields = described("describe fields --json"), *protocols = described("describe protocols --json");
    json_t *commands = described("describe commands -p mictrack --json");
    cr_assert(json_array_size(fields) > 20);
    cr_assert(json_is_string(json_object_get(json_array_get(fields, 0), "type")));
    cr_assert(json_is_string(json_object_get(json_array_get(protocols, 0), "name")));
    cr_assert(json_is_object(json_object_get(json_object_get(commands, "$defs"), "mode")));
    json_decref(fields);
    json_decref(protocols);
    json_decref(commands);
}

// Every example of a command is one that can be sent.
Test(cli, describe_gives_examples_that_encode) {
    const struct outcome *it = call("describe commands -p mictrack", "");
    char *text = strdup(it->out);
    int count = 0;
    for (char *rest = text, *line; (line = strsep(&rest, "\n")) != NULL;) {
        char arguments[512];
        const char *example = strstr(line, "    {\"name\"");
        if (example == NULL)
            continue;
        snprintf(arguments, sizeof arguments, "encode -p mictrack '%s'", example + 4);
        it = call(arguments, "");
        expect_code(it, 0);
        count++;
    }
    free(text);
    cr_assert(count >= 12);
}
